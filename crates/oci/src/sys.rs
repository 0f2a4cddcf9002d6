//! The system calls that libraries do not wrap: the new mount calls, clone3, pidfd, file descriptor passing.
//!
//! All `unsafe` of the runtime lives here and in the few calls of `supervisor::child`.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path for the kernel.
pub fn cstr(path: impl AsRef<Path>) -> io::Result<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path holds a zero byte"))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| io::Error::other("descriptor out of range"))?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Resolve as if the directory were `/`.
pub const RESOLVE_IN_ROOT: u64 = 0x10;
/// Never follow a link of /proc.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

/// `openat2`.
pub fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let how = OpenHow {
        flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
        mode: u64::from(mode),
        resolve: resolve | RESOLVE_NO_MAGICLINKS,
    };
    for _ in 0..64 {
        // SAFETY: all pointers live through the call and the size is that of the struct.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        match owned(result) {
            // A rename elsewhere raced with the walk; the kernel asks to try again.
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: i32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// A detached copy of the mounts at `path`; with `recursive` also of those below.
pub fn open_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    let flags = if recursive { flags | AT_RECURSIVE.cast_unsigned() } else { flags };
    // SAFETY: the path lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// A detached copy of the mount that `fd` stands on.
pub fn open_tree_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH | AT_RECURSIVE).cast_unsigned();
    // SAFETY: the empty path is a constant.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a detached tree at the place `to` stands on.
pub fn move_mount(tree: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the empty paths are constants.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// `MOUNT_ATTR_RDONLY` of `mount_setattr`.
pub const ATTR_RDONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`.
pub const ATTR_NOSUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`.
pub const ATTR_NODEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`.
pub const ATTR_NOEXEC: u64 = 8;

/// Sets attributes and propagation (0: as it is) of a mount.
pub fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, set: u64, propagation: u64) -> io::Result<()> {
    change_mount(tree, recursive, &MountAttr { set, propagation, ..MountAttr::default() })
}

fn change_mount(tree: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = if recursive { libc::AT_EMPTY_PATH | AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    // SAFETY: all pointers live through the call and the size is that of the struct.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Maps the ids of files in a detached tree as the user namespace does.
pub fn map_ids(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let userns = u64::try_from(users.as_raw_fd()).unwrap_or(u64::MAX);
    change_mount(tree, true, &MountAttr { set: ATTR_IDMAP, userns, ..MountAttr::default() })
}

/// A detached mount of a new file system of `kind` with `options` and mount attributes.
pub fn new_mount(kind: &str, source: &str, options: &[(&str, &str)], attrs: u64) -> io::Result<OwnedFd> {
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    let set = |fs: &OwnedFd, command: u32, key: Option<&CString>, value: Option<&CString>| {
        let pointer = |s: Option<&CString>| s.map_or(std::ptr::null(), |s| s.as_ptr());
        // SAFETY: the strings live through the call.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, pointer(key), pointer(value), 0)
        })
    };
    let kind = cstr(kind)?;
    // SAFETY: the name lives through the call; 1 is FSOPEN_CLOEXEC.
    let fs = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    set(&fs, FSCONFIG_SET_STRING, Some(&cstr("source")?), Some(&cstr(source)?))?;
    for (key, value) in options {
        set(&fs, FSCONFIG_SET_STRING, Some(&cstr(key)?), Some(&cstr(value)?))?;
    }
    set(&fs, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: plain numbers; 1 is FSMOUNT_CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attrs) })
}

/// What `clone` gave: the child, or that this is the child.
pub enum Forked {
    /// This is the child.
    Child,
    /// The child's process id here, and its pidfd.
    Parent(i32, OwnedFd),
}

/// Forks into the namespaces of `flags` (`CLONE_NEW…`).
///
/// # Safety
/// The caller must be single-threaded: the child goes on with a copy of its memory and may allocate.
pub unsafe fn fork(flags: i32) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = [0u64; 11];
    args[0] = u64::from(flags.cast_unsigned()) | libc::CLONE_PIDFD as u64;
    args[1] = (&raw mut pidfd) as u64;
    args[4] = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has its own stack; the struct and its size agree.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of::<[u64; 11]>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(i32::try_from(pid).unwrap_or(-1), pidfd))
}

/// A pidfd of a process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal through a pidfd.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0)
    })
    .map(drop)
}

/// Wait status of a process that ended and was reaped by someone else, on kernels that keep it (6.15).
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const INFO_EXIT: u64 = 1 << 3;
    const SIZE: usize = 64;
    // _IOWR(0xFF, 11, struct pidfd_info) with the size of the first published layout.
    const GET_INFO: libc::c_ulong = 0xC000_0000 | ((SIZE as libc::c_ulong) << 16) | (0xFF << 8) | 11;
    let mut info = [0u64; SIZE / 8];
    info[0] = INFO_EXIT;
    // SAFETY: the buffer is as long as the request says.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, info.as_mut_ptr()) };
    // mask u64, cgroupid u64, then u32: pid tgid ppid ruid rgid euid egid suid sgid fsuid fsgid exit_code.
    (result == 0 && info[0] & INFO_EXIT != 0).then(|| (info[7] >> 32) as u32 as i32)
}

/// Enters namespaces: `fd` a namespace file or, with several `kinds`, a pidfd.
pub fn setns(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(i64::from(unsafe { libc::setns(fd.as_raw_fd(), kinds) })).map(drop)
}

/// Sends `bytes` with descriptors beside the first of them; answers how many bytes went.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let iov = [io::IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let rights: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket.as_raw_fd(), &iov, rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes and appends the descriptors that came beside them, at most eight.
pub fn receive_with_fds(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut iov = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(got) = part {
            // SAFETY: the kernel installed these descriptors for us alone.
            fds.extend(got.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

/// Sets the size of a terminal.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct lives through the call.
    check(i64::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }))
        .map(drop)
}

/// Brings `lo` of the thread's network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the struct lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Ok(nix::errno::Errno::result(result).map(drop)?)
}
