//! What a container may do that asks for `RuntimeDefault`: the calls that container runtimes agree on.
//!
//! Everything else fails with EPERM; `clone3` with ENOSYS, so that libraries fall back to `clone`, whose flags can
//! be looked at.

use std::collections::BTreeMap;

use super::calls;
use super::program::{Compare, Condition, Rule, Rules};
use crate::caps;

/// Allowed to everybody.
const ALLOWED: &str = "\
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown \
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range \
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync \
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex \
    futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu \
    getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp \
    getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname \
    getsockopt gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit \
    ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self \
    lchown lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek \
    lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat \
    mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock \
    munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv \
    preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 \
    pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages \
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile \
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid \
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid \
    setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
    signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range \
    syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink \
    unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev \
";

/// Allowed to who has the capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime settimeofday"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
/// The execution domains that may be chosen; the last asks for the present one.
const DOMAINS: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const VSOCK: u64 = 40;

fn allow(conditions: Vec<Condition>) -> Rule {
    Rule { conditions, action: libc::SECCOMP_RET_ALLOW }
}

fn first(compare: Compare, value: u64) -> Vec<Condition> {
    vec![Condition { index: 0, compare, value }]
}

/// The rules for a process with these capabilities.
pub fn rules(capabilities: u64) -> Rules {
    let fails = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
    let mut calls = BTreeMap::new();
    let mut add = |name: &str, rules: Vec<Rule>| {
        if let Some(number) = calls::number(name) {
            calls.insert(number, rules);
        }
    };
    add("clone", vec![allow(first(Compare::MaskedEqual(NAMESPACES), 0))]);
    add("clone3", vec![Rule { conditions: Vec::new(), action: fails(libc::ENOSYS) }]);
    add("personality", DOMAINS.iter().map(|domain| allow(first(Compare::Equal, *domain))).collect());
    add("socket", vec![allow(first(Compare::NotEqual, VSOCK))]);
    ALLOWED.split_whitespace().for_each(|name| add(name, vec![allow(Vec::new())]));
    for (capability, names) in BY_CAPABILITY {
        if caps::bit(capability).is_some_and(|bit| capabilities & bit != 0) {
            names.split_whitespace().for_each(|name| add(name, vec![allow(Vec::new())]));
        }
    }
    Rules { calls, otherwise: fails(libc::EPERM) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_number() {
        let all =
            ALLOWED.split_whitespace().chain(BY_CAPABILITY.iter().flat_map(|(_, n)| n.split_whitespace()));
        let unknown: Vec<&str> = all.filter(|name| calls::number(name).is_none()).collect();
        // Calls of one architecture alone are unknown to the others.
        assert!(cfg!(not(target_arch = "x86_64")) || unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn capabilities_open_their_calls() {
        let mount = calls::number("mount").expect("mount");
        assert!(!rules(0).calls.contains_key(&mount));
        assert!(rules(1 << 21).calls.contains_key(&mount), "CAP_SYS_ADMIN");
        let clone = calls::number("clone").expect("clone");
        assert_eq!(rules(0).calls[&clone][0].conditions.len(), 1);
        assert!(rules(1 << 21).calls[&clone][0].conditions.is_empty());
    }
}
