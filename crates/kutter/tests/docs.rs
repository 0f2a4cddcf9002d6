//! Every command the documentation shows is run as it stands there, against one cluster; what it shows is compared.
//!
//! A fenced block says by its language what it is: `sh` holds commands, `console` a transcript (`$ ` before each
//! command, what it prints below), anything else no commands. `sh not-run: WHY` is not run, for the reason given. In
//! a transcript numbers stand for any numbers, and `…` alone in a line for any lines. Commands within a sentence or
//! a table must at least be commands the program has.

mod namespaces;

use std::fmt::Write;
use std::path::Path;

/// Places of the reader's machine, and what stands for them.
const PLACES: &[(&str, &str)] = &[("/usr/local/", "$WORK/local/"), ("/etc/", "$WORK/etc/")];

/// What the commands find when they start.
const START: &str = r#"
mkdir -p "$WORK/bin" "$WORK/etc/bash_completion.d" "$WORK/local/bin" "$WORK/local/share/man/man1" "$WORK/here"
ln -s "$KUTTER" "$WORK/bin/kutter"
ln -s "$(command -v "${KUTTER_KUBECTL:-kubectl}")" "$WORK/bin/kubectl"
export PATH="$WORK/bin:$PATH"
cd "$WORK/here"
# The address that the pages give this machine.
ip addr add 10.0.0.5/32 dev lo
run() {
    say "$1: $2"
    printf '%s\n' "$2" > "$WORK/command"
    if ! bash "$WORK/command" > "$WORK/out" 2>&1; then cat "$WORK/out"; echo "$1: failed: $2"; exit 1; fi
}
shown() {
    if ! python3 "$TESTS/shown.py" "$WORK/out" "$WORK/want"; then echo "$1: shows something else"; exit 1; fi
}
"#;

/// A command and where it stands; with what it prints, if that is shown.
#[derive(Debug, PartialEq)]
struct Step {
    place: String,
    command: String,
    shown: Option<String>,
}

/// The steps of a text, or what is wrong with its marks.
fn steps(name: &str, text: &str) -> Result<Vec<Step>, String> {
    let mut found: Vec<Step> = Vec::new();
    let mut inside: Option<&str> = None;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            inside = match inside {
                Some(_) => None,
                None => Some(language(&place, mark)?),
            };
            continue;
        }
        let step = |command: &str, shown| Step { place: place.clone(), command: command.into(), shown };
        match inside {
            Some("sh") if !line.trim().is_empty() => found.push(step(line.trim(), None)),
            Some("console") => match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push(step(command, Some(String::new()))),
                (None, Some(Step { shown: Some(shown), .. })) => shown.extend([line, "\n"]),
                (None, _) => return Err(format!("{place}: output without a command")),
            },
            Some("text") if is_command(line) => return Err(format!("{place}: a command in a block of text")),
            _ => {}
        }
    }
    Ok(found)
}

fn is_command(line: &str) -> bool {
    let line = line.trim_start_matches("$ ");
    ["kutter ", "kubectl ", "./"].iter().any(|begin| line.starts_with(begin)) && !line.contains('─')
}

/// The language of a block; `skip` for one that is not run, which says why.
fn language<'a>(place: &str, mark: &'a str) -> Result<&'a str, String> {
    let (language, rest) = mark.trim().split_once(' ').unwrap_or((mark.trim(), ""));
    match (language, rest.trim().strip_prefix("not-run:").map(str::trim)) {
        ("", _) => Err(format!("{place}: a block without a language")),
        (_, Some("")) => Err(format!("{place}: not-run without a reason")),
        (_, Some(_)) => Ok("skip"),
        (_, None) if rest.is_empty() => Ok(language),
        (_, None) => Err(format!("{place}: {rest:?} is not known")),
    }
}

/// `kutter` commands in backquotes: the words before the first that is not plain, alternatives apart.
fn mentioned(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let spans = line.split('`').skip(1).step_by(2).filter(|_| !fenced);
        for words in spans.filter_map(|span| span.strip_prefix("kutter ")) {
            let mut lists: Vec<Vec<String>> = vec![Vec::new()];
            for word in words.split_whitespace() {
                let options: Vec<&str> = word.split('|').map(|w| w.trim_end_matches('\\')).collect();
                let plain = |w: &&str| !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                if !options.iter().all(plain) || word.starts_with('-') {
                    break;
                }
                let longer = |list: &Vec<String>, word: &&str| [&list[..], &[word.to_string()]].concat();
                lists = lists.iter().flat_map(|list| options.iter().map(|w| longer(list, w))).collect();
            }
            all.extend(lists);
        }
    }
    all
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What stands for the reader's places.
fn placed(command: &str) -> String {
    PLACES.iter().fold(command.to_owned(), |text, (place, ours)| text.replace(place, ours))
}

/// The README, then the pages by name.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).expect("docs");
    let mut names: Vec<String> =
        docs.map(|entry| format!("docs/{}", entry.expect("entry").file_name().to_string_lossy())).collect();
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    names.insert(0, "README.md".into());
    let read = |name: String| {
        let text = std::fs::read_to_string(root.join(&name)).expect("a page");
        (name, text)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn every_command_of_the_documentation_works() {
    let pages = pages();
    let steps: Vec<Step> =
        pages.iter().flat_map(|(name, text)| steps(name, text).unwrap_or_else(|e| panic!("{e}"))).collect();
    assert!(steps.len() >= 15, "only {} commands were found", steps.len());
    let mut script = START.to_owned();
    for step in &steps {
        let command = placed(&step.command);
        let _ = writeln!(script, "run {} {}", quoted(&step.place), quoted(&command));
        if let Some(shown) = &step.shown {
            let _ = writeln!(
                script,
                "cat > \"$WORK/want\" << 'SHOWN'\n{shown}SHOWN\nshown {}",
                quoted(&step.place)
            );
        }
    }
    script.push_str("kutter delete --yes > /dev/null\nsay 'done'\n");
    namespaces::run(&script, |_| {});
}

#[test]
fn every_mentioned_command_is_one() {
    let mut wrong = Vec::new();
    // The roadmap speaks of commands to come.
    for (name, text) in pages().into_iter().filter(|(name, _)| name != "docs/roadmap.md") {
        for words in mentioned(&text) {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kutter"));
            let told = command.args(&words).arg("--help").output().expect("kutter runs");
            if !told.status.success() {
                wrong.push(format!("{name}: kutter {}", words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn marks_are_read() {
    let text = "```sh\na b   # why\n```\n```console\n$ x\nout\n\n$ y\n```\n```sh not-run: needs two machines\nz\n```\n";
    let found = steps("p", text).expect("steps");
    let short: Vec<_> = found.iter().map(|s| (s.command.as_str(), s.shown.as_deref())).collect();
    assert_eq!(short, [("a b   # why", None), ("x", Some("out\n\n")), ("y", Some(""))]);
    for bad in
        ["```\nkutter up\n```", "```sh not-run:\nx\n```", "```sh later\nx\n```", "```text\nkutter up\n```"]
    {
        assert!(steps("p", bad).is_err(), "{bad}");
    }
    let words = mentioned("see `kutter pool add\\|list NAME` and `kutter up [X]`\n```\n`kutter no`\n```");
    assert_eq!(words, [vec!["pool", "add"], vec!["pool", "list"], vec!["up"]]);
}
