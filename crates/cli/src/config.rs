//! The configuration file: values for flags that neither the command line nor the environment gives.
//!
//! The file is YAML. Flags that every command takes stand at the top; the flags of a command stand below its name,
//! those of `kutter nodepool add` below `nodepool` and `add`. Keys are the flags' long names without the dashes:
//!
//! ```yaml
//! data-dir: /srv/kutter
//! up:
//!   nodes: 3
//! nodepool:
//!   add:
//!     label: [team=a, disk=ssd]
//! ```
//!
//! What a key may be comes from the same definitions that parse the command line: a value of the file becomes the
//! default of its flag, so that help shows it and everything else outranks it. The whole file is checked each time,
//! whatever the command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

/// Read when no other file is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/kutter/config.yaml";

/// The environment variable that names the file; empty for none.
pub const VARIABLE: &str = "KUTTER_CONFIG";

/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("failed to read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("configuration file {path}: {why}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What, where, and what to write instead.
        why: String,
    },
}

/// The values of a file, by the path of the command and the id of the flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<(Vec<String>, String), Vec<String>>);

/// The command with the values of the configuration file as defaults of its flags. Which file: `--config`, or
/// `variable` (the value of [`VARIABLE`]), or [`DEFAULT_FILE`] if it exists.
pub fn layered(
    command: Command,
    arguments: &[OsString],
    variable: Option<OsString>,
) -> Result<Command, ConfigError> {
    let Some((path, asked)) = file_of(&command, arguments, variable) else { return Ok(command) };
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(error) if !asked && error.kind() == std::io::ErrorKind::NotFound => return Ok(command),
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    let settings = Settings::read(&command, &text).map_err(|why| ConfigError::Wrong { path, why })?;
    Ok(settings.applied(command, arguments))
}

/// The file to read, and whether somebody asked for it.
fn file_of(command: &Command, arguments: &[OsString], variable: Option<OsString>) -> Option<(PathBuf, bool)> {
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(arguments);
    let told = lenient.ok().and_then(|m| {
        let told = matches!(m.value_source("config"), Some(ValueSource::CommandLine));
        m.try_get_one::<PathBuf>("config").ok().flatten().filter(|_| told).cloned()
    });
    match told.or(variable.map(PathBuf::from)) {
        Some(path) if path.as_os_str().is_empty() => None,
        Some(path) => Some((path, true)),
        None => Some((PathBuf::from(DEFAULT_FILE), false)),
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > BYTES_MAX {
        true => Err(std::io::Error::other(format!("it is larger than {BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

impl Settings {
    /// Reads a file's text. Everything in it must be a flag of `command` or of a command below it, with a value that
    /// the flag takes; the reason why not is a sentence fragment.
    pub fn read(command: &Command, text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(settings);
        }
        let value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        settings.section(command, &[], &value)?;
        Ok(settings)
    }

    fn section(&mut self, command: &Command, path: &[String], value: &Value) -> Result<(), String> {
        let entries = match value {
            Value::Object(entries) => entries,
            Value::Null => return Ok(()),
            _ if path.is_empty() => return Err("it has no keys: write `flag: value` lines".into()),
            _ => return Err(format!("{} is a command: write its flags below it", path.join("."))),
        };
        for (key, value) in entries {
            let place = [path, std::slice::from_ref(key)].concat();
            if let Some(arg) = flags(command).find(|a| a.get_long() == Some(key)) {
                let values = values(arg, value).map_err(|why| format!("{}: {why}", place.join(".")))?;
                self.0.insert((path.to_vec(), arg.get_id().to_string()), values);
            } else if let Some(sub) = command.get_subcommands().find(|s| s.get_name() == key) {
                self.section(sub, &place, value)?;
            } else {
                return Err(unknown(command, path, key));
            }
        }
        no_conflicts(command, path, entries)
    }

    /// The command with these values as defaults, but for those that `arguments` exclude.
    fn applied(mut self, command: Command, arguments: &[OsString]) -> Command {
        let first = self.apply(command.clone(), &[]);
        let Ok(matches) = first.clone().try_get_matches_from(arguments) else { return first };
        let before = self.0.len();
        self.drop_excluded(&command, &matches);
        if self.0.len() == before { first } else { self.apply(command, &[]) }
    }

    fn apply(&self, mut command: Command, path: &[String]) -> Command {
        for ((_, id), values) in self.0.iter().filter(|((at, _), _)| at == path) {
            command = command.mut_arg(id, |arg| with_default(arg, values));
        }
        let below: Vec<String> = command.get_subcommands().map(|s| s.get_name().to_owned()).collect();
        for name in below {
            let place = [path, std::slice::from_ref(&name)].concat();
            if self.0.keys().any(|(at, _)| at.starts_with(&place)) {
                command = command.mut_subcommand(name, |sub| self.apply(sub, &place));
            }
        }
        command
    }

    /// Forgets what cannot stand together with something that was given by hand.
    fn drop_excluded(&mut self, command: &Command, matches: &ArgMatches) {
        let (mut command, mut matches, mut path) = (command, matches, Vec::new());
        while let Some((name, below)) = matches.subcommand() {
            let Some(sub) = command.find_subcommand(name) else { return };
            path.push(name.to_owned());
            (command, matches) = (sub, below);
        }
        let by_hand = |a: &Arg| {
            let source = matches.value_source(a.get_id().as_str());
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        let given: Vec<&Arg> = command.get_arguments().filter(|a| by_hand(a)).collect();
        self.0.retain(|(at, id), _| {
            let Some(arg) = command.get_arguments().find(|a| a.get_id() == id.as_str()) else { return true };
            *at != path || !given.iter().any(|g| g.get_id() != arg.get_id() && exclude(command, arg, g))
        });
    }
}

/// The flags of a command that a file may set.
pub fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let settable = |a: &&Arg| {
        let acts = matches!(a.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue);
        acts && a.get_long().is_some_and(|l| l != "config")
    };
    command.get_arguments().filter(settable)
}

fn exclude(command: &Command, a: &Arg, b: &Arg) -> bool {
    let names = |x: &Arg, y: &Arg| command.get_arg_conflicts_with(x).iter().any(|c| c.get_id() == y.get_id());
    names(a, b) || names(b, a)
}

fn no_conflicts(command: &Command, path: &[String], entries: &Map<String, Value>) -> Result<(), String> {
    let here: Vec<&Arg> =
        flags(command).filter(|a| a.get_long().is_some_and(|l| entries.contains_key(l))).collect();
    for (i, a) in here.iter().enumerate() {
        if let Some(b) = here[i + 1..].iter().find(|b| exclude(command, a, b)) {
            let name = |a: &Arg| [path, &[a.get_long().unwrap_or_default().to_owned()]].concat().join(".");
            return Err(format!("{} and {} exclude each other: keep one", name(a), name(b)));
        }
    }
    Ok(())
}

/// Makes the values the flag's default. A switch that is on can be turned off with `--flag=false`.
fn with_default(arg: Arg, values: &[String]) -> Arg {
    let arg = arg.required(false);
    match arg.get_action() {
        ArgAction::SetTrue if values == ["false"] => arg,
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .value_parser(clap::value_parser!(bool))
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("true"),
        _ => arg.default_values(values.to_vec()),
    }
}

/// The texts that stand for a value of the file, if the flag takes them.
fn values(arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let on = value.as_bool().ok_or("write true or false")?;
        return Ok(vec![on.to_string()]);
    }
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut texts = items.iter().map(text).collect::<Result<Vec<String>, String>>()?;
    if let Some(delimiter) = arg.get_value_delimiter() {
        texts = texts.iter().flat_map(|t| t.split(delimiter)).map(str::to_owned).collect();
    }
    check(arg, &texts)?;
    Ok(texts)
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        Value::Null => Err("it has no value: write one, or remove the key".into()),
        _ => Err("write a text, a number, or a list of them".into()),
    }
}

/// Parses the values with a command that has the flag alone.
fn check(arg: &Arg, texts: &[String]) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default().to_owned();
    let mut alone = Arg::new("value")
        .long(long.clone())
        .allow_hyphen_values(true)
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    let together = arg.get_num_args().filter(|n| n.min_values() > 1);
    let mut line = vec!["kutter".to_owned()];
    match together {
        Some(count) => {
            alone = alone.num_args(count);
            line.push(format!("--{long}"));
            line.extend(texts.iter().cloned());
        }
        None => line.extend(texts.iter().map(|t| format!("--{long}={t}"))),
    }
    let command = Command::new("kutter").no_binary_name(false).disable_help_flag(true).arg(alone);
    let error = match command.try_get_matches_from(line) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if error.kind() == clap::error::ErrorKind::ArgumentConflict {
        return Err("it takes one value, not a list".into());
    }
    let whole = error.to_string();
    let said = whole.split("\n\n").next().unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    Err(lines.join(" ").trim_start_matches("error: ").to_owned())
}

fn unknown(command: &Command, path: &[String], key: &str) -> String {
    let flags = flags(command).filter_map(Arg::get_long);
    let names = flags.chain(command.get_subcommands().map(Command::get_name));
    let near = names
        .map(|n| (strsim::jaro_winkler(n, key), n))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let place = [path, &[key.to_owned()]].concat().join(".");
    let words = ["kutter".to_owned()].iter().chain(path).cloned().collect::<Vec<_>>().join(" ");
    match near {
        Some((_, name)) => format!("unknown key {place:?}: did you mean {name:?}?"),
        None => format!("unknown key {place:?}: see `{words} --help` for what there is"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        globals: crate::Globals,
        #[command(subcommand)]
        command: crate::Command,
    }

    fn parse(file: &str, line: &str) -> Result<Cli, String> {
        use clap::{CommandFactory, FromArgMatches};
        let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let command = Cli::command();
        let command = Settings::read(&command, file)?.applied(command, &arguments);
        let matches = command.try_get_matches_from(arguments).map_err(|e| e.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|e| e.to_string())
    }

    fn up(file: &str, line: &str) -> crate::commands::Up {
        match parse(file, line).unwrap().command {
            crate::Command::Up(up) => up,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_stands_below_the_command_line() {
        let file = "data-dir: /srv/kutter\nup:\n  nodes: 3\n  demo: true\n  timeout: 7\n";
        let cli = parse(file, "kutter up").unwrap();
        assert_eq!(cli.globals.data_dir, PathBuf::from("/srv/kutter"));
        let args = up(file, "kutter up");
        assert_eq!((args.nodes, args.demo, args.timeout), (Some(3), true, 7));
        let args = up(file, "kutter up --nodes 5 --demo=false");
        assert_eq!((args.nodes, args.demo, args.timeout), (Some(5), false, 7));
        assert!(up("up:\n  demo: false\n", "kutter up --demo").demo);
        assert_eq!(up("# nothing\n", "kutter up").nodes, None);
    }

    #[test]
    fn lists_fill_flags_that_repeat() {
        let file = "nodepool: {add: {label: [a=b, c=d], taint: x=y:NoSchedule}}";
        let crate::Command::Nodepool(crate::commands::Nodepool::Add { labels, taints, .. }) =
            parse(file, "kutter nodepool add big").unwrap().command
        else {
            panic!("another command")
        };
        assert_eq!((labels.join(" "), taints.join(" ")), ("a=b c=d".into(), "x=y:NoSchedule".into()));
    }

    #[test]
    fn what_is_given_by_hand_drops_what_it_excludes() {
        let file = "restore: {to: /srv/store}";
        let cluster = |line: &str| match parse(file, line).unwrap().command {
            crate::Command::Restore(args) => (args.to.is_some(), args.cluster),
            other => panic!("{other:?}"),
        };
        assert_eq!(cluster("kutter restore F"), (true, "default".into()));
        assert_eq!(cluster("kutter restore F --cluster c"), (false, "c".into()));
    }

    #[test]
    fn refusals_by_table() {
        let table = [
            ("uq: {}", "unknown key \"uq\": did you mean \"up\"?"),
            ("up: {node: 3}", "unknown key \"up.node\": did you mean \"nodes\"?"),
            ("up: {zzzz: 3}", "unknown key \"up.zzzz\": see `kutter up --help` for what there is"),
            ("up: 3", "up is a command: write its flags below it"),
            ("up: {nodes: three}", "up.nodes: invalid value 'three' for '--nodes"),
            ("up: {nodes: [1, 2]}", "up.nodes: it takes one value, not a list"),
            ("up: {nodes: }", "up.nodes: it has no value"),
            ("up: {demo: often}", "up.demo: write true or false"),
            (
                "output: xml",
                "output: invalid value 'xml' for '--output <value>' [possible values: table, json]",
            ),
            ("restore: {to: /a, cluster: b}", "restore.cluster and restore.to exclude each other"),
            ("config: /a", "unknown key \"config\""),
            ("- a", "it has no keys"),
        ];
        for (file, expected) in table {
            let refusal = parse(file, "kutter status").unwrap_err();
            assert!(refusal.starts_with(expected), "{file}: {refusal}");
        }
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        use clap::CommandFactory;
        let line = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        let missing = layered(Cli::command(), &line("kutter up --config /nowhere/c.yaml"), None);
        assert!(missing.unwrap_err().to_string().contains("/nowhere/c.yaml"));
        assert!(layered(Cli::command(), &line("kutter up"), Some("/nowhere/c.yaml".into())).is_err());
        assert!(layered(Cli::command(), &line("kutter up"), Some(OsString::new())).is_ok());
    }
}
