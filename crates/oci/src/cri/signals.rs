//! Signals as CRI numbers them.

/// In the order of their numbers, from 1; the real-time signals follow.
const NAMES: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
/// The number of `SIGRTMIN`; 15 follow it, then `SIGRTMAX-14` up to `SIGRTMAX`.
const RTMIN: i32 = 35;
const RTMAX: i32 = 65;

/// The number of a signal's name; 0, the image's own, for what is none.
pub fn number(name: &str) -> i32 {
    if let Some(at) = NAMES.iter().position(|n| *n == name) {
        return i32::try_from(at).map_or(0, |n| n + 1);
    }
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text[1..].parse::<i32>().ok() };
    let (base, sign, rest, most) = match (name.strip_prefix("SIGRTMIN"), name.strip_prefix("SIGRTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => (RTMIN, 1, rest, 15),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => (RTMAX, -1, rest, 14),
        _ => return 0,
    };
    offset(rest).filter(|n| (0..=most).contains(n)).map_or(0, |n| base + sign * n)
}

/// The name of a number; empty for the image's own.
pub fn name(number: i32) -> String {
    match number {
        RTMIN => "SIGRTMIN".into(),
        RTMAX => "SIGRTMAX".into(),
        n if (RTMIN..=RTMIN + 15).contains(&n) => format!("SIGRTMIN+{}", n - RTMIN),
        n if (RTMIN + 16..RTMAX).contains(&n) => format!("SIGRTMAX-{}", RTMAX - n),
        n => {
            let at = usize::try_from(n - 1).unwrap_or(usize::MAX);
            NAMES.get(at).map(|s| (*s).to_owned()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let known = [
            ("SIGTERM", 23),
            ("SIGABRT", 1),
            ("SIGXFSZ", 34),
            ("SIGRTMIN", 35),
            ("SIGRTMIN+15", 50),
            ("SIGRTMAX-14", 51),
            ("SIGRTMAX", 65),
        ];
        for (text, n) in known {
            assert_eq!((number(text), name(n).as_str()), (n, text));
        }
        for odd in ["", "TERM", "SIGRTMIN+16", "SIGRTMAX+1", "SIGRTMIN-"] {
            assert_eq!(number(odd), 0, "{odd}");
        }
        assert_eq!((name(0), name(66)), (String::new(), String::new()));
    }
}
