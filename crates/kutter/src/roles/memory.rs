//! What a role that stays does to weigh little: no huge pages, no more of its program mapped than it uses, no heap
//! kept for the start.

use std::time::Duration;

/// How long after it is at work, and then after that, a role gives back what only its start needed: what it needed
/// to get there, what its first rounds need, and what comes with the first pods and objects.
const SETTLED_AFTER: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1500), Duration::from_secs(28)];

/// Says whether the kernel may back this process with huge pages where it does so unasked. Roles that stay refuse:
/// each of the heap's regions would be resident whole, twice what an idle process needs. The flag survives fork and
/// exec, so whoever starts containers takes it back, for their sake.
pub fn allow_huge_pages(allow: bool) {
    if let Err(error) = nix::sys::prctl::set_thp_disable(!allow) {
        tracing::debug!(%error, "the use of huge pages stays as it is");
    }
}

/// Gives back, once the role is at work, what only its start needed. Not later: to see whether the role rests it would
/// have to be looked at again and again. Needs a tokio runtime.
pub fn settle_soon() {
    tokio::spawn(async {
        for pause in SETTLED_AFTER {
            tokio::time::sleep(pause).await;
            unmap_program();
        }
    });
}

/// Lets go of the pages of the program itself. They stay in the page cache, where the kernel may now take them;
/// those that are needed come back with a fault that reads nothing from the disk.
pub fn unmap_program() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    // Both are symbols of the linker; only their addresses are used.
    let (start, end) = (&raw const __executable_start, &raw const etext);
    // SAFETY: asks for a constant of the system.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let first = start.map_addr(|at| at.next_multiple_of(page));
    let length = (end.addr() & !(page - 1)).saturating_sub(first.addr());
    if length == 0 {
        return;
    }
    // SAFETY: the range holds the constants and the code, mapped from the file and never written, because the
    // linker puts all that is written or relocated after `etext`. A page that is touched again is read again.
    if unsafe { libc::madvise(first.cast_mut().cast(), length, libc::MADV_DONTNEED) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the program stays mapped");
    }
}
