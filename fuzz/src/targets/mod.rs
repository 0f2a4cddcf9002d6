//! What is fuzzed: a name, seeds, and a function that must come to an end with every input.

mod objects;

/// Takes one input. It panics when something holds that must not.
pub type Run = Box<dyn FnMut(&[u8])>;

/// One target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub what: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes what is needed once.
    pub start: fn() -> Run,
}

/// All targets.
pub const ALL: &[Target] = &[objects::JSON, objects::OBJECT];

/// The target of a name.
pub fn find(name: &str) -> Result<&'static Target, String> {
    ALL.iter().find(|target| target.name == name).ok_or_else(|| format!("there is no target {name}"))
}

/// The named targets; all for no name.
pub fn choose(names: &[String]) -> Result<Vec<&'static Target>, String> {
    match names {
        [] => Ok(ALL.iter().collect()),
        names => names.iter().map(|name| find(name)).collect(),
    }
}

/// The first line, if it is text, and what follows it.
fn split_line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&input[..end]).ok()?, &input[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every seed and everything that ever broke a target goes through.
    #[test]
    fn seeds_and_findings_pass() {
        let findings = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("findings");
        for target in ALL {
            let mut run = (target.start)();
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            seeds.iter().for_each(|seed| run(seed));
            for entry in std::fs::read_dir(findings.join(target.name)).into_iter().flatten() {
                let path = entry.expect("a finding").path();
                println!("{}", path.display());
                run(&std::fs::read(&path).expect("read a finding"));
            }
        }
    }
}
