//! The log as a row of segments: appending, rotating, preparing ahead, and removing what a checkpoint covers.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::segment::{self, Segment};

/// How large segments are, in bytes. They grow fourfold from first to most, so that an idle store stays tiny.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub first: u64,
    pub most: u64,
    /// Kept for a full disk.
    pub reserve: u64,
}

impl Sizes {
    fn after(self, size: u64) -> u64 {
        size.saturating_mul(4).clamp(self.first, self.most)
    }
}

/// A finished segment.
#[derive(Debug)]
pub(super) struct Finished {
    pub path: PathBuf,
    pub last: u64,
    pub size: u64,
}

#[derive(Debug)]
enum Next {
    Absent,
    Preparing(JoinHandle<io::Result<Segment>>),
    Ready(Segment),
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    sizes: Sizes,
    active: Segment,
    finished: Vec<Finished>,
    next: Next,
    /// The disk is full: what is kept for that may be used.
    pressed: bool,
}

/// Retired segments kept to be used again, which saves writing zeros.
const SPARES_MAX: usize = 4;

/// What is kept of the disk, to become a segment when nothing else can.
fn reserve(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Where retired segments wait.
fn spares(dir: &Path) -> [PathBuf; SPARES_MAX] {
    std::array::from_fn(|at| dir.join(format!("spare-{at}")))
}

impl Log {
    /// A log that continues `active`.
    pub fn new(
        dir: &Path,
        sizes: Sizes,
        active: Segment,
        finished: Vec<Finished>,
        next: Option<Segment>,
    ) -> Self {
        let next = next.map_or(Next::Absent, Next::Ready);
        Self { dir: dir.into(), sizes, active, finished, next, pressed: false }
    }

    /// The newest segment and the offset where the next frame goes.
    pub fn position(&self) -> (&Path, u64) {
        (&self.active.path, self.active.end)
    }

    /// Completes the frame's header and makes the frame durable.
    pub fn append(&mut self, frame: &mut [u8], count: u32, first: u64) -> io::Result<()> {
        if !self.active.fits(frame.len()) {
            self.rotate(frame.len())?;
        }
        if !segment::seal_frame(frame, self.active.salt, count, first) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.active.append(frame, (first + u64::from(count)).saturating_sub(1))?;
        if matches!(self.next, Next::Absent) && self.active.end > self.active.size / 2 {
            self.prepare();
        }
        Ok(())
    }

    /// Starts making the next segment in the background.
    fn prepare(&mut self) {
        let (dir, sequence) = (self.dir.clone(), self.active.sequence + 1);
        let (size, kept) = (self.sizes.after(self.active.size), self.sizes.reserve);
        let make = move || {
            // A disk that is full already is found so by the next that needs it.
            for path in [reserve(&dir), dir.with_file_name("reserve")] {
                let _ = segment::hold(&path, kept);
            }
            make(&dir, sequence, size)
        };
        if let Ok(thread) = std::thread::Builder::new().name("store-segment".into()).spawn(make) {
            self.next = Next::Preparing(thread);
        }
    }

    fn rotate(&mut self, length: usize) -> io::Result<()> {
        let need = segment::HEADER + length as u64;
        let ready = match std::mem::replace(&mut self.next, Next::Absent) {
            Next::Ready(segment) => Some(segment),
            // A failure is found again just below, where it can be told.
            Next::Preparing(thread) => thread.join().ok().and_then(Result::ok),
            Next::Absent => None,
        };
        let next = match ready {
            Some(segment) if segment.fits(length) => segment,
            _ => {
                let size = self.sizes.after(self.active.size).max(need.next_multiple_of(4096));
                self.make_now(size, need)?
            }
        };
        let done = std::mem::replace(&mut self.active, next);
        self.active.last = done.last;
        self.finished.push(Finished { path: done.path, last: done.last, size: done.size });
        Ok(())
    }

    /// Makes the next segment; on a full disk from what is kept for that.
    fn make_now(&self, size: u64, need: u64) -> io::Result<Segment> {
        let sequence = self.active.sequence + 1;
        let made = make(&self.dir, sequence, size);
        match made {
            Err(error) if self.pressed && super::is_full(&error) => {
                let kept = reserve(&self.dir);
                let size = self.sizes.reserve.min(std::fs::metadata(&kept).map_or(0, |file| file.len()));
                if size < need {
                    return Err(error);
                }
                Segment::create(&self.dir, sequence, size, Some(&kept))
            }
            made => made,
        }
    }

    /// The disk is full: gives back what is only kept to be fast, and lets what is kept for this be used.
    pub fn press(&mut self) {
        self.pressed = true;
        for spare in spares(&self.dir) {
            let _ = std::fs::remove_file(spare);
        }
    }

    /// Keeps space again and makes the next segment, if the disk has room for these and `also` bytes.
    pub fn ease(&mut self, also: u64) -> io::Result<bool> {
        if let Next::Preparing(thread) = std::mem::replace(&mut self.next, Next::Absent) {
            self.next = thread.join().ok().and_then(Result::ok).map_or(Next::Absent, Next::Ready);
        }
        let (size, kept) = (self.sizes.after(self.active.size), reserve(&self.dir));
        let ahead = if matches!(self.next, Next::Ready(_)) { 0 } else { size };
        let missing = if segment::holds(&kept, self.sizes.reserve) { 0 } else { self.sizes.reserve };
        if free_bytes(&self.dir)? < ahead + missing + also {
            return Ok(false);
        }
        segment::hold(&kept, self.sizes.reserve)?;
        if ahead > 0 {
            self.next = Next::Ready(make(&self.dir, self.active.sequence + 1, size)?);
        }
        self.pressed = false;
        Ok(true)
    }

    /// Vouches for the last frame while nothing comes after it. `frame` is empty.
    pub fn vouch(&self, frame: &mut [u8], first: u64) {
        if self.active.end > segment::HEADER && segment::seal_frame(frame, self.active.salt, 0, first) {
            self.active.mark(frame);
        }
    }

    /// Removes segments that hold nothing after `revision`.
    pub fn retire(&mut self, revision: u64) -> io::Result<()> {
        if self.active.end == segment::HEADER {
            // The newest finished segment still says where the log stands.
            return Ok(());
        }
        let keep_spare = self.sizes.most;
        for old in self.finished.extract_if(.., |old| old.last <= revision) {
            let free = spares(&self.dir).into_iter().find(|spare| !spare.exists());
            if let Some(spare) = free.filter(|_| old.size == keep_spare && !self.pressed) {
                std::fs::rename(&old.path, &spare)?;
            } else {
                std::fs::remove_file(&old.path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Next::Preparing(thread) = std::mem::replace(&mut self.next, Next::Absent) {
            let _ = thread.join();
        }
    }
}

/// Bytes of the file system that nothing has.
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found.blocks_free() * found.fragment_size())
}

fn make(dir: &Path, sequence: u64, size: u64) -> io::Result<Segment> {
    let fits = |spare: &PathBuf| std::fs::metadata(spare).is_ok_and(|file| file.len() == size);
    let spare = spares(dir).into_iter().find(fits);
    Segment::create(dir, sequence, size, spare.as_deref())
}

/// Removes what is not part of the log.
pub(super) fn clean(dir: &Path) {
    for leftover in spares(dir).into_iter().chain([dir.join("building")]) {
        let _ = std::fs::remove_file(leftover);
    }
}
