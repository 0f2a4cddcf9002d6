//! Log files as CRI defines them: `TIME STREAM F|P LINE`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// A line longer than this is cut into partial ones.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// The log file of one container.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    pending: [Vec<u8>; 2],
    out: Vec<u8>,
}

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl Log {
    /// Opens `path` for appending; an empty path or one that cannot be opened drops what is written.
    pub fn open(path: PathBuf) -> Self {
        let mut log = Self { path, file: None, pending: [vec![], vec![]], out: vec![] };
        // The container runs without its log rather than not at all; `reopen` reports.
        let _ = log.reopen();
        log
    }

    /// Opens the path anew.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        self.file = Some(
            std::os::unix::fs::OpenOptionsExt::mode(
                std::fs::OpenOptions::new().append(true).create(true),
                0o640,
            )
            .open(&self.path)?,
        );
        Ok(())
    }

    /// Takes what the container wrote.
    pub fn write(&mut self, output: Output, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = timestamp(crate::proto::now());
        let mut pending = std::mem::take(&mut self.pending[output as usize]);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.line(&time, output, &mut pending, &rest[..end], b'F');
            rest = &rest[end + 1..];
        }
        while pending.len() + rest.len() >= LINE_BYTES_MAX {
            let (now, later) = rest.split_at(LINE_BYTES_MAX.saturating_sub(pending.len()).min(rest.len()));
            self.line(&time, output, &mut pending, now, b'P');
            rest = later;
        }
        pending.extend_from_slice(rest);
        if pending.is_empty() {
            pending = vec![];
        }
        self.pending[output as usize] = pending;
        self.flush();
    }

    /// Writes what is left without a line end.
    pub fn finish(&mut self) {
        for output in [Output::Stdout, Output::Stderr] {
            let mut pending = std::mem::take(&mut self.pending[output as usize]);
            if !pending.is_empty() {
                self.line(&timestamp(crate::proto::now()), output, &mut pending, &[], b'P');
            }
        }
        self.flush();
    }

    fn line(&mut self, time: &str, output: Output, pending: &mut Vec<u8>, last: &[u8], tag: u8) {
        let mut whole = std::mem::take(pending);
        whole.extend_from_slice(last);
        let mut rest = &whole[..];
        loop {
            let (part, later) = rest.split_at(rest.len().min(LINE_BYTES_MAX));
            let tag = if later.is_empty() { tag } else { b'P' };
            self.out.extend_from_slice(time.as_bytes());
            self.out.extend_from_slice(match output {
                Output::Stdout => b" stdout ",
                Output::Stderr => b" stderr ",
            });
            self.out.extend_from_slice(&[tag, b' ']);
            self.out.extend_from_slice(part);
            self.out.push(b'\n');
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            // A full disk loses lines, never the container.
            let _ = file.write_all(&self.out);
        }
        self.out = vec![];
    }
}

/// RFC 3339 with nanoseconds, UTC.
pub fn timestamp(nanos: i64) -> String {
    let seconds = nanos.div_euclid(1_000_000_000);
    let (days, day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970, counted in years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (day / 3600, day / 60 % 60, day % 60);
    let nano = nanos.rem_euclid(1_000_000_000);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (nanos, want) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_475_712_000_999_999_999, "2016-10-06T00:00:00.999999999Z"),
        ] {
            assert_eq!(timestamp(nanos), want);
        }
    }

    #[test]
    fn lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/0.log");
        let mut log = Log::open(path.clone());
        log.write(Output::Stdout, b"one\ntw");
        log.write(Output::Stderr, b"err\n");
        log.write(Output::Stdout, b"o\n\n");
        log.write(Output::Stdout, &vec![b'x'; LINE_BYTES_MAX + 3]);
        log.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(&lines[..4], &["stdout F one", "stderr F err", "stdout F two", "stdout F "]);
        assert_eq!(lines[4].len(), "stdout P ".len() + LINE_BYTES_MAX);
        assert_eq!(lines[5], "stdout P xxx");
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.reopen().unwrap();
        log.write(Output::Stdout, b"new\n");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("stdout F new\n"));
    }
}
