//! One segment file of the log: a header, then frames, then the pre-written rest. See FORMAT.md.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes before the first frame.
pub(super) const HEADER: u64 = 4096;
const HEADER_USED: usize = 36;
const MAGIC: &[u8; 8] = b"KUTTRLOG";
const VERSION: u32 = 1;
/// Starts a frame. 0xff never occurs in JSON text.
const FRAME_MAGIC: [u8; 4] = [0xff, b'K', b'F', 0xff];
/// Frame header: magic, crc, payload length, count of records, first revision.
pub(super) const FRAME_HEADER: usize = 24;
const ALIGN: u64 = 8;
/// What the header counts the size of a segment in, in bytes.
const UNIT: u64 = 4096;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub path: PathBuf,
    pub file: File,
    pub sequence: u64,
    pub salt: u64,
    /// Length of the file, all of it written.
    pub size: u64,
    /// Where the next frame goes.
    pub end: u64,
    /// The last revision in it or before it.
    pub last: u64,
}

/// The path of a segment.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016}.log"))
}

/// The sequence number in a segment's file name.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}

fn header(sequence: u64, salt: u64, size: u64) -> [u8; HEADER_USED] {
    let mut out = [0; HEADER_USED];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&((size / UNIT) as u32).to_le_bytes());
    out[16..24].copy_from_slice(&sequence.to_le_bytes());
    out[24..32].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&out[..32]);
    out[32..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Why a segment's header is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("header is damaged")]
    Damaged,
    #[error("format version {0} is not known; it was written by a later version")]
    Version(u32),
    #[error("file is cut short: it should have {0} bytes")]
    Cut(u64),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Checks the header of a segment's bytes and gives (sequence, salt).
pub(super) fn read_header(bytes: &[u8]) -> Result<(u64, u64), HeaderError> {
    let used = bytes.get(..HEADER_USED).ok_or(HeaderError::Damaged)?;
    if &used[..8] != MAGIC || crc32fast::hash(&used[..32]) != u32_at(used, 32) {
        return Err(HeaderError::Damaged);
    }
    let version = u32_at(used, 8);
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    let size = u64::from(u32_at(used, 12)) * UNIT;
    if (bytes.len() as u64) < size {
        return Err(HeaderError::Cut(size));
    }
    Ok((u64_at(used, 16), u64_at(used, 24)))
}

impl Segment {
    /// Makes a segment of `size` bytes, all written and synced, so that commits change no metadata. Reuses
    /// `spare`, whose old frames the new salt makes invalid.
    pub fn create(dir: &Path, sequence: u64, size: u64, spare: Option<&Path>) -> io::Result<Self> {
        let salt = rand::random();
        let path = path(dir, sequence);
        let size = size.next_multiple_of(UNIT);
        let building = dir.join("building");
        if let Some(spare) = spare {
            std::fs::rename(spare, &building)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&building)?;
        let made = prepare(&file, sequence, salt, size, spare.is_some());
        let made = made.and_then(|()| std::fs::rename(&building, &path));
        if let Err(error) = made.and_then(|()| File::open(dir)?.sync_all()) {
            // Half a segment would keep space that a full disk needs.
            let _ = std::fs::remove_file(&building);
            return Err(error);
        }
        let size = file.metadata()?.len();
        Ok(Self { path, file, sequence, salt, size, end: HEADER, last: 0 })
    }

    /// Opens an existing segment whose header says `salt`.
    pub fn open(path: &Path, sequence: u64, salt: u64, end: u64, last: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.into(), file, sequence, salt, size, end, last })
    }

    /// Whether a frame of this many bytes fits.
    pub fn fits(&self, length: usize) -> bool {
        self.end + length as u64 <= self.size
    }

    /// Writes a frame of no records where the next frame will go and overwrite it. Nobody waits for it.
    pub fn mark(&self, frame: &[u8]) {
        if self.fits(frame.len()) {
            // Without it the frame before is only not vouched for.
            let _ = self.file.write_all_at(frame, self.end);
        }
    }

    /// Writes a finished frame and makes it durable.
    pub fn append(&mut self, frame: &[u8], last: u64) -> io::Result<()> {
        self.file.write_all_at(frame, self.end)?;
        // Never "full": after a failed sync nobody knows what is on the disk.
        self.file.sync_data().map_err(|error| io::Error::other(format!("fdatasync: {error}")))?;
        self.end += (frame.len() as u64).next_multiple_of(ALIGN);
        self.last = last;
        Ok(())
    }
}

fn prepare(file: &File, sequence: u64, salt: u64, size: u64, reused: bool) -> io::Result<()> {
    if !reused {
        file.set_len(0)?;
    }
    let length = file.metadata()?.len();
    write_zeros(file, length, size)?;
    file.write_all_at(&header(sequence, salt, size.max(length)), 0)?;
    file.sync_all()
}

/// Writes zeros from `at` up to `size`.
fn write_zeros(file: &File, mut at: u64, size: u64) -> io::Result<()> {
    const CHUNK: usize = 256 << 10;
    const SYNC_EVERY: u64 = 1 << 20;
    if at >= size {
        return Ok(());
    }
    let zeros = vec![0; CHUNK];
    while at < size {
        let count = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        file.write_all_at(&zeros[..count], at)?;
        at += count as u64;
        // In small steps, so that a commit's sync never waits for all of it.
        if at % SYNC_EVERY < CHUNK as u64 {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Whether a file holds that many bytes of the disk.
pub(super) fn holds(path: &Path, size: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() >= size)
}

/// Keeps `size` bytes of the disk in a file, for when it is full.
pub(super) fn hold(path: &Path, size: u64) -> io::Result<()> {
    if holds(path, size) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let held = write_zeros(&file, 0, size).and_then(|()| file.sync_all());
    if held.is_err() {
        let _ = std::fs::remove_file(path);
    }
    held
}

/// Makes room for a frame's header.
pub(super) fn begin_frame(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEADER, 0);
}

/// Fills in the header of a frame whose payload is complete. Gives false if it is too long.
pub(super) fn seal_frame(frame: &mut [u8], salt: u64, count: u32, first: u64) -> bool {
    let Ok(length) = u32::try_from(frame.len() - FRAME_HEADER) else { return false };
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    frame[12..16].copy_from_slice(&count.to_le_bytes());
    frame[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = checksum(salt, &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    true
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A valid frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub offset: u64,
    pub count: u32,
    pub first: u64,
    pub payload: &'a [u8],
    /// Where the next one starts.
    pub next: u64,
}

/// The frame at `offset` of a segment's bytes, if a valid one is there.
pub(super) fn frame(bytes: &[u8], salt: u64, offset: u64) -> Option<Frame<'_>> {
    let at = usize::try_from(offset).ok()?;
    let rest = bytes.get(at..)?;
    if rest.get(..4)? != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(rest, 8) as usize;
    let whole = rest.get(..FRAME_HEADER.checked_add(length)?)?;
    if checksum(salt, &whole[8..]) != u32_at(whole, 4) {
        return None;
    }
    let next = offset + (whole.len() as u64).next_multiple_of(ALIGN);
    let (count, first) = (u32_at(whole, 12), u64_at(whole, 16));
    Some(Frame { offset, count, first, payload: &whole[FRAME_HEADER..], next })
}

/// The offset of the first valid frame at or after `offset`.
pub(super) fn seek(bytes: &[u8], salt: u64, offset: u64) -> Option<u64> {
    let start = offset.next_multiple_of(ALIGN);
    (start..bytes.len() as u64).step_by(ALIGN as usize).find(|at| frame(bytes, salt, *at).is_some())
}
