//! Walks every flag of every command: each can be set in the configuration file, and the command line outranks it.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use cli::config::{Settings, flags, layered};

/// Texts of which every flag takes one.
const SAMPLES: [&[&str]; 8] = [
    &["7"],
    &["127.0.0.1:1"],
    &["10.9.0.0/16"],
    &["10.9.0.1"],
    &["table"],
    &["embedded"],
    &["a=b:NoSchedule"],
    &["127.0.0.1:80", "127.0.0.1:443"],
];

struct Case {
    path: Vec<String>,
    arg: Arg,
}

fn collect(command: &Command, path: &[String], out: &mut Vec<Case>) {
    out.extend(flags(command).map(|a| Case { path: path.to_vec(), arg: a.clone() }));
    for sub in command.get_subcommands() {
        collect(sub, &[path, &[sub.get_name().to_owned()]].concat(), out);
    }
}

fn file(case: &Case, value: &str) -> String {
    let mut text = String::new();
    for (depth, name) in case.path.iter().enumerate() {
        text.push_str(&format!("{}{name}:\n", "  ".repeat(depth)));
    }
    let long = case.arg.get_long().unwrap();
    text.push_str(&format!("{}{long}: {value}\n", "  ".repeat(case.path.len())));
    text
}

/// What the command needs besides the flag in question: its positionals, and its other flags that are required.
fn needed(root: &Command, case: &Case) -> Vec<String> {
    let command = case.path.iter().fold(root, |c, name| c.find_subcommand(name).unwrap());
    let others = command.get_arguments().filter(|a| a.is_required_set() && a.get_id() != case.arg.get_id());
    let mut line = Vec::new();
    for other in others.filter(|a| !a.is_last_set()) {
        if let Some(long) = other.get_long() {
            line.push(format!("--{long}"));
            line.extend(sample(root, &Case { path: case.path.clone(), arg: other.clone() }).1);
        } else {
            let known = other.get_possible_values().first().map(|p| p.get_name().to_owned());
            line.push(known.unwrap_or_else(|| "7".to_owned()));
        }
    }
    if command.get_arguments().any(Arg::is_last_set) {
        line.extend(["--".to_owned(), "x".to_owned()]);
    }
    line
}

fn leaf<'a>(matches: &'a ArgMatches, path: &[String]) -> &'a ArgMatches {
    path.iter().fold(matches, |m, name| m.subcommand_matches(name).unwrap())
}

fn parse(case: &Case, text: &str, given: &[String]) -> ArgMatches {
    let work = tempfile::tempdir().unwrap();
    let config = work.path().join("config.yaml");
    std::fs::write(&config, text).unwrap();
    let command = crate::Cli::command();
    let mut line = vec!["kutter".to_owned()];
    line.extend(case.path.iter().cloned());
    if case.path.is_empty() {
        line.push("version".into());
    }
    line.extend(given.iter().cloned());
    line.extend(needed(&command, case));
    let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
    let command = layered(command, &line, Some(config.into_os_string())).unwrap();
    command.try_get_matches_from(&line).unwrap_or_else(|e| panic!("{line:?} with\n{text}{e}"))
}

fn raw(matches: &ArgMatches, id: &str) -> Vec<String> {
    let values = matches.get_raw(id).into_iter().flatten();
    values.map(|v| v.to_string_lossy().into_owned()).collect()
}

/// A value of the file that the flag takes, and the texts it stands for.
fn sample(command: &Command, case: &Case) -> (String, Vec<String>) {
    if matches!(case.arg.get_action(), ArgAction::SetTrue) {
        return ("true".into(), vec!["true".into()]);
    }
    let candidates = case.arg.get_possible_values().first().map(|p| vec![p.get_name().to_owned()]);
    let known = SAMPLES.iter().map(|s| s.iter().map(|t| (*t).to_owned()).collect());
    let mut all = candidates.into_iter().chain(known);
    let fits = |texts: &Vec<String>| Settings::read(command, &file(case, &list(texts))).is_ok();
    let texts = all.find(fits).unwrap_or_else(|| panic!("no sample for {}", file(case, "?")));
    (list(&texts), texts)
}

fn list(texts: &[String]) -> String {
    match texts {
        [one] => format!("\"{one}\""),
        many => format!("[\"{}\"]", many.join("\", \"")),
    }
}

#[test]
fn every_flag_can_be_set_in_the_file() {
    let command = crate::Cli::command();
    let mut cases = Vec::new();
    collect(&command, &[], &mut cases);
    assert!(cases.len() > 80, "{} flags", cases.len());
    for case in &cases {
        let id = case.arg.get_id().as_str();
        let (value, texts) = sample(&command, case);
        let text = file(case, &value);
        // A flag that another one requires is still a flag of the file.
        let matches = parse(case, &text, &[]);
        let at = leaf(&matches, &case.path);
        assert_eq!(raw(at, id), texts, "{text}");
        assert_eq!(at.value_source(id), Some(ValueSource::DefaultValue), "{text}");
        let long = format!("--{}", case.arg.get_long().unwrap());
        let by_hand: Vec<String> = match case.arg.get_action() {
            ArgAction::SetTrue => vec![format!("{long}=false")],
            _ => std::iter::once(long).chain(texts.iter().cloned()).collect(),
        };
        let requires = ["network"].contains(&id);
        if !requires {
            let matches = parse(case, &text, &by_hand);
            let source = leaf(&matches, &case.path).value_source(id);
            assert_eq!(source, Some(ValueSource::CommandLine), "{text}");
        }
    }
}

#[test]
fn a_switch_of_the_file_can_be_turned_off() {
    let case = Case { path: vec!["up".into()], arg: Arg::new("demo").long("demo") };
    let matches = parse(&case, "up: {demo: true}", &["--demo=false".to_owned()]);
    assert!(!leaf(&matches, &case.path).get_flag("demo"));
}

#[test]
fn no_flag_of_all_commands_is_named_like_a_command() {
    let command = crate::Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    assert!(flags(&command).all(|a| a.get_long().is_none_or(|l| !names.contains(&l))));
}
