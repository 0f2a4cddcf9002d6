//! Unpacking a layer: decompression, its digest, whiteouts as the overlay file system knows them.
//!
//! Nothing leaves the directory: names that lead out of it are refused, and links are followed within it
//! only, because it is the root of the thread that unpacks.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";
/// Entries of one layer.
const ENTRIES_MAX: usize = 4_000_000;

/// Bytes of the headers of one entry: long names, extended attributes.
const HEADERS_MAX: u64 = 4 << 20;

/// Unpacks `blob` into the directory `to`; gives the digest of the tar. It may unpack to `bytes_max`.
pub fn layer(blob: impl Read + Send, to: &Path, bytes_max: u64) -> io::Result<String> {
    // A thread of its own, because its root directory becomes the layer's: links lead nowhere else.
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("unpack".into());
        let worker = worker.spawn_scoped(scope, || confined(blob, to, bytes_max))?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the layer's reader broke down")))
    })
}

fn confined(blob: impl Read, to: &Path, bytes_max: u64) -> io::Result<String> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    match nix::unistd::chroot(to) {
        Ok(()) => {
            nix::unistd::chdir("/")?;
            unpack(blob, Path::new("/"), bytes_max)
        }
        // Without the privilege, names and links are still checked one by one.
        Err(nix::Error::EPERM) => unpack(blob, to, bytes_max),
        Err(e) => Err(e.into()),
    }
}

/// Whether content that begins like this is compressed in a way that is known here.
pub fn is_compressed(magic: &[u8]) -> bool {
    magic.starts_with(GZIP) || magic.starts_with(ZSTD)
}

/// What compressed or plain content holds.
pub fn decompressed<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let magic = blob.fill_buf()?;
    Ok(if magic.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(blob))
    } else if magic.starts_with(ZSTD) {
        Box::new(zstd::stream::read::Decoder::with_buffer(blob)?)
    } else {
        Box::new(blob)
    })
}

fn unpack(blob: impl Read, to: &Path, bytes_max: u64) -> io::Result<String> {
    let plain = decompressed(BufReader::with_capacity(1 << 18, blob))?;
    let room = Room { left: Cell::new(bytes_max), header: Cell::new(None), whole: bytes_max };
    let mut hashing = Hashing { inner: plain, hash: Sha256::new(), room: &room };
    let mut archive = tar::Archive::new(&mut hashing);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    // What is written may be more than what is read: holes in sparse files.
    let mut written = 0u64;
    let mut entries = archive.entries()?;
    for count in 0.. {
        room.header.set(Some(HEADERS_MAX));
        let Some(entry) = entries.next() else { break };
        room.header.set(None);
        let mut entry = entry?;
        written = written.saturating_add(entry.size());
        if written > bytes_max {
            return Err(room.full());
        }
        if count > ENTRIES_MAX {
            return Err(io::Error::other("the layer has too many files"));
        }
        one(&mut entry, to)?;
        io::copy(&mut entry, &mut io::sink())?;
    }
    room.header.set(None);
    // What comes after the last entry counts for the digest.
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.digest())
}

/// What may still be read: of the layer, and of the headers of one entry.
struct Room {
    left: Cell<u64>,
    header: Cell<Option<u64>>,
    whole: u64,
}

impl Room {
    fn take(&self, n: u64) -> io::Result<()> {
        self.left.set(self.left.get().checked_sub(n).ok_or_else(|| self.full())?);
        if let Some(header) = self.header.get() {
            let left = header.checked_sub(n);
            let left = left
                .ok_or_else(|| io::Error::other(format!("a file's headers are over {HEADERS_MAX} bytes")))?;
            self.header.set(Some(left));
        }
        Ok(())
    }

    fn full(&self) -> io::Error {
        io::Error::other(format!(
            "the layer unpacks to more than {} bytes, too many for its size",
            self.whole
        ))
    }
}

fn one<R: Read>(entry: &mut tar::Entry<'_, R>, to: &Path) -> io::Result<()> {
    let path = entry.path()?.into_owned();
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(io::Error::other(format!("{} leads out of the layer", path.display())));
    }
    let Some(name) = path.file_name() else { return Ok(()) };
    let name = name.as_bytes();
    if name == OPAQUE {
        return opaque(&inside(to, path.parent().unwrap_or(Path::new("")))?);
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        let parent = inside(to, path.parent().unwrap_or(Path::new("")))?;
        return device(&parent.join(std::ffi::OsStr::from_bytes(gone)), SFlag::S_IFCHR, 0, 0, 0);
    }
    let header = entry.header();
    let kind = header.entry_type();
    let special = match kind {
        tar::EntryType::Char => SFlag::S_IFCHR,
        tar::EntryType::Block => SFlag::S_IFBLK,
        tar::EntryType::Fifo => SFlag::S_IFIFO,
        _ => return put(entry, to, &path),
    };
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    let parent = inside(to, path.parent().unwrap_or(Path::new("")))?;
    device(&parent.join(std::ffi::OsStr::from_bytes(name)), special, header.mode()?, major, minor)
}

fn put<R: Read>(entry: &mut tar::Entry<'_, R>, to: &Path, path: &Path) -> io::Result<()> {
    if entry.unpack_in(to)? {
        return Ok(());
    }
    Err(io::Error::other(format!("{} leads out of the layer", path.display())))
}

/// The directory `path` below `to`, made if missing; refused if links lead it elsewhere.
fn inside(to: &Path, path: &Path) -> io::Result<std::path::PathBuf> {
    let mut whole = to.to_path_buf();
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        whole.push(part);
        match std::fs::symlink_metadata(&whole) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(io::Error::other(format!("{} is not a directory", path.display()))),
            Err(_) => std::fs::create_dir(&whole)?,
        }
    }
    Ok(whole)
}

fn device(path: &Path, kind: SFlag, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let number = makedev(u64::from(major), u64::from(minor));
    Ok(mknod(path, kind, Mode::from_bits_truncate(mode & 0o7777), number)?)
}

fn opaque(dir: &Path) -> io::Result<()> {
    let path = crate::sys::cstr(dir)?;
    let value = b"y";
    // SAFETY: both names end in NUL, and the value is as long as said.
    let done = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            c"trusted.overlay.opaque".as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A reader that hashes and counts what passes.
struct Hashing<'a, R> {
    inner: R,
    hash: Sha256,
    room: &'a Room,
}

impl<R> Hashing<'_, R> {
    fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.room.take(n as u64)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *content).expect("append");
        }
        builder.into_inner().expect("finish")
    }

    #[test]
    fn a_compressed_layer_has_the_digest_of_its_tar() {
        let tar = tar_of(&[("etc/motd", b"hello")]);
        let zst = zstd::encode_all(tar.as_slice(), 1).expect("compress");
        for blob in [tar.clone(), zst] {
            let dir = tempfile::tempdir().expect("dir");
            let got = layer(blob.as_slice(), dir.path(), 1 << 20).expect("unpack");
            assert_eq!(got, super::super::digest(&tar));
            assert_eq!(std::fs::read(dir.path().join("etc/motd")).expect("read"), b"hello");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["../evil", "a/../../evil", "../.wh.evil"] {
            let inner = dir.path().join("layer");
            std::fs::create_dir_all(&inner).expect("create");
            assert!(layer(tar_of(&[(name, b"x")]).as_slice(), &inner, 1 << 20).is_err(), "{name}");
        }
        assert!(!dir.path().join("evil").exists());
    }
}
