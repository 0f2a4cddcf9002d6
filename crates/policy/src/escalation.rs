//! Nobody gives away rights that they do not have: which rules of a role the giver lacks. Follows upstream's
//! `pkg/registry/rbac/validation` (`Covers`, `ConfirmNoEscalation`).

use std::collections::BTreeSet;

use crate::rbac::Rule;

/// The refusal, or `None` when the rules of the giver cover all that is given.
pub fn refusal(user: &str, groups: &[String], own: &[Rule], given: &[Rule]) -> Option<String> {
    let mut missing: Vec<Rule> = Vec::new();
    for part in given.iter().flat_map(parts).filter(|part| !own.iter().any(|rule| covers(rule, part))) {
        let same = |known: &&mut Rule| {
            (&known.groups, &known.resources, &known.names, &known.paths)
                == (&part.groups, &part.resources, &part.names, &part.paths)
        };
        match missing.iter_mut().find(same) {
            Some(known) if !known.verbs.contains(&part.verbs[0]) => known.verbs.extend(part.verbs),
            Some(_) => {}
            None => missing.push(part),
        }
    }
    let lines: BTreeSet<String> = missing.iter().map(describe).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    (!lines.is_empty()).then(|| {
        format!(
            "user {user:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            quoted(groups),
            lines.join("\n")
        )
    })
}

/// A rule as rules of one verb, group, resource and object each.
fn parts(rule: &Rule) -> Vec<Rule> {
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.paths {
            all.push(Rule { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Rule::default() });
        }
        for group in &rule.groups {
            for resource in &rule.resources {
                let one = Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                match rule.names.as_slice() {
                    [] => all.push(one),
                    names => {
                        all.extend(
                            names.iter().map(|name| Rule { names: vec![name.clone()], ..one.clone() }),
                        );
                    }
                }
            }
        }
    }
    all
}

/// Whether `own` allows all that `part` (of one verb, group, resource and object) does.
fn covers(own: &Rule, part: &Rule) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|own| own == "*" || own == wanted);
    if !part.verbs.iter().all(|verb| has(&own.verbs, verb)) {
        return false;
    }
    if let [path] = part.paths.as_slice() {
        return own.paths.iter().any(|own| match own.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => own == path,
        });
    }
    let resource = |wanted: &String| {
        has(&own.resources, wanted)
            || wanted.split_once('/').is_some_and(|(_, sub)| has(&own.resources, &format!("*/{sub}")))
    };
    part.groups.iter().all(|group| has(&own.groups, group))
        && part.resources.iter().all(resource)
        && (own.names.is_empty()
            || (!part.names.is_empty() && part.names.iter().all(|name| own.names.contains(name))))
}

fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn describe(rule: &Rule) -> String {
    let lists = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.paths),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| -> Vec<String> {
            text.split(',').filter(|w| *w != "-").map(str::to_string).collect()
        };
        Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            ..Rule::default()
        }
    }

    #[test]
    fn only_held_rights_are_given() {
        // own verbs/groups/resources/names, given …, covered
        let table = [
            (["*", "*", "*", "-"], ["get", "", "pods", "-"], true),
            (["get,list", "", "pods", "-"], ["get", "", "pods", "a"], true),
            (["get", "", "pods", "a"], ["get", "", "pods", "-"], false),
            (["get", "", "pods", "a,b"], ["get", "", "pods", "b"], true),
            (["get", "", "pods", "-"], ["get,watch", "", "pods", "-"], false),
            (["get", "", "pods", "-"], ["get", "", "pods/log", "-"], false),
            (["get", "", "*/log", "-"], ["get", "", "pods/log", "-"], true),
            (["get", "apps", "deployments", "-"], ["get", "*", "deployments", "-"], false),
        ];
        for (own, given, covered) in table {
            let of = |r: [&str; 4]| vec![rule(r[0], r[1], r[2], r[3])];
            let refused = refusal("u", &["g".to_string()], &of(own), &of(given));
            assert_eq!(refused.is_none(), covered, "{own:?} {given:?} {refused:?}");
        }
        let refused =
            refusal("u", &["g".to_string(), "h".to_string()], &[], &[rule("get,list", "", "pods", "-")]);
        let wanted = "user \"u\" (groups=[\"g\" \"h\"]) is attempting to grant RBAC permissions not currently \
                      held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}";
        assert_eq!(refused.as_deref(), Some(wanted));
    }
}
