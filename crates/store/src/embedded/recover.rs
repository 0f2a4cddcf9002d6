//! Reads the log back: every frame checked, every gap named, only a torn last write dropped.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::log::{Finished, Log, Sizes};
use super::segment::{self, Frame, Segment};
use crate::api::StoreError;

/// What to do about a damaged file.
pub(super) const ADVICE: &str = "nothing was changed; put the file back from a copy, or move the data directory away and \
                      run `kutter restore` with a backup";

/// The error for a damaged file.
pub(super) fn damaged(path: &Path, offset: u64, why: impl Display) -> StoreError {
    StoreError::Unavailable(format!("{} at offset {offset}: {why}; {ADVICE}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}

/// Where reading stopped in a segment.
struct Stop {
    path: PathBuf,
    offset: u64,
}

struct Scan<'a> {
    last: Option<u64>,
    base: u64,
    stop: Option<Stop>,
    apply: &'a mut dyn FnMut(&Frame<'_>) -> Result<(), String>,
}

impl Scan<'_> {
    /// Reads one segment; gives its end and whether it had frames.
    fn segment(&mut self, path: &Path, bytes: &[u8], salt: u64) -> Result<(u64, bool), StoreError> {
        let mut offset = segment::HEADER;
        let mut any = false;
        while let Some(frame) = segment::frame(bytes, salt, offset) {
            self.follow(path, &frame)?;
            (self.apply)(&frame).map_err(|why| damaged(path, offset, why))?;
            self.last = Some(frame.first + u64::from(frame.count) - 1);
            offset = frame.next;
            any = true;
        }
        if let Some(valid) = segment::seek(bytes, salt, offset + 1) {
            let why = format!("bad record, yet a valid one follows at offset {valid}");
            return Err(damaged(path, offset, why));
        }
        Ok((offset, any))
    }

    /// Checks that a frame continues where the last one ended.
    fn follow(&mut self, path: &Path, frame: &Frame<'_>) -> Result<(), StoreError> {
        if frame.first == 0 {
            return Err(damaged(path, frame.offset, "revision 0 in a record"));
        }
        match (self.last, &self.stop) {
            (None, _) if frame.first <= self.base + 1 => Ok(()),
            (None, _) => {
                let why = format!(
                    "log begins with revision {}, but the checkpoint ends with {}; an older segment or the \
                     checkpoint is missing",
                    frame.first, self.base
                );
                Err(damaged(path, frame.offset, why))
            }
            (Some(last), _) if frame.first == last + 1 => Ok(()),
            (Some(last), stop) => {
                let (path, offset) =
                    stop.as_ref().map_or((path, frame.offset), |stop| (&stop.path, stop.offset));
                let why = format!(
                    "bad record: revision {} should be here, yet valid ones from {} follow",
                    last + 1,
                    frame.first
                );
                Err(damaged(path, offset, why))
            }
        }
    }
}

/// The log files in a directory, by sequence number.
fn files(dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        files.extend(segment::sequence(&path).map(|sequence| (sequence, path)));
    }
    files.sort();
    Ok(files)
}

/// Opens the log behind a checkpoint at `base`, calling `apply` for every frame in order. Gives the log and the
/// last revision.
pub(super) fn recover(
    dir: &Path,
    sizes: Sizes,
    base: u64,
    apply: &mut dyn FnMut(&Frame<'_>) -> Result<(), String>,
) -> Result<(Log, u64), StoreError> {
    super::log::clean(dir);
    let files = files(dir).map_err(|error| unreadable(dir, &error))?;
    if files.is_empty() {
        return start(dir, sizes, base);
    }
    let mut scan = Scan { last: None, base, stop: None, apply };
    let mut segments: Vec<Segment> = Vec::new();
    // Segments from here on are empty, made ahead.
    let mut used = 0;
    for (at, (sequence, path)) in files.iter().enumerate() {
        let expected = files[0].0 + at as u64;
        if *sequence != expected {
            return Err(damaged(
                &segment::path(dir, expected),
                0,
                "segment is missing, though later ones exist",
            ));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        let (named, salt) = segment::read_header(&bytes).map_err(|error| damaged(path, 0, error))?;
        if named != *sequence {
            return Err(damaged(path, 0, format!("header says segment {named}")));
        }
        let (end, any) = scan.segment(path, &bytes, salt)?;
        let last = scan.last.unwrap_or(0);
        if any {
            used = at;
        }
        // An empty segment does not move the place where a missing record belongs.
        if any || scan.stop.is_none() {
            scan.stop = Some(Stop { path: path.clone(), offset: end });
        }
        segments
            .push(Segment::open(path, *sequence, salt, end, last).map_err(|error| unreadable(path, &error))?);
    }
    finish(dir, sizes, base, scan.last, segments, used)
}

fn start(dir: &Path, sizes: Sizes, base: u64) -> Result<(Log, u64), StoreError> {
    if base > 0 {
        let why = format!("the log is missing, though a checkpoint of revision {base} exists");
        return Err(damaged(dir, 0, why));
    }
    let active = Segment::create(dir, 1, sizes.first, None).map_err(|error| unreadable(dir, &error))?;
    Ok((Log::new(dir, sizes, active, Vec::new(), None), 0))
}

fn finish(
    dir: &Path,
    sizes: Sizes,
    base: u64,
    last: Option<u64>,
    mut segments: Vec<Segment>,
    used: usize,
) -> Result<(Log, u64), StoreError> {
    let last = last.unwrap_or(0);
    if last < base {
        let (path, offset) = (&segments[used].path, segments[used].end);
        let why = format!("log ends with revision {last}, but the checkpoint has {base}");
        return Err(damaged(path, offset, why));
    }
    let mut ahead = segments.split_off(used + 1).into_iter();
    let Some(active) = segments.pop() else { return start(dir, sizes, base) };
    // What was read may have been only in the page cache: it counts as acknowledged from now on.
    active.file.sync_data().map_err(|error| unreadable(&active.path, &error))?;
    let next = ahead.next();
    for extra in ahead {
        std::fs::remove_file(&extra.path).map_err(|error| unreadable(&extra.path, &error))?;
    }
    let finished =
        segments.into_iter().map(|old| Finished { path: old.path, last: old.last, size: old.size }).collect();
    Ok((Log::new(dir, sizes, active, finished, next), last))
}
