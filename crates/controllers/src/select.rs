//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// Whether the selector selects objects with these labels. An absent selector selects nothing, an empty one
/// everything, one with an unknown operator nothing.
#[must_use]
pub fn matches(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let none = Labels::new();
    let labels = labels.unwrap_or(&none);
    let exact = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    exact
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = || value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
            match e.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector selects everything.
#[must_use]
pub fn is_empty(selector: Option<&LabelSelector>) -> bool {
    selector.is_none_or(|s| {
        s.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    })
}

/// Whether the labels have all of these pairs; no pairs select nothing.
#[must_use]
pub fn matches_map(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector.filter(|s| !s.is_empty()) else { return false };
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// The selector in its text form, as `status.selector` of scales has it.
#[must_use]
pub fn text(selector: &LabelSelector) -> String {
    let exact = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}"));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.clone().unwrap_or_default().join(",");
        match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "Exists" => e.key.clone(),
            _ => format!("!{}", e.key),
        }
    });
    exact.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects() -> Result<(), serde_json::Error> {
        let labels =
            Labels::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "1".to_owned())]);
        let cases = [
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"db"}}"#, false),
            (r#"{}"#, true),
            (r#"{"matchExpressions":[{"key":"tier","operator":"In","values":["1","2"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"tier","operator":"NotIn","values":["1"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"x","operator":"NotIn","values":["1"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"x","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"x","operator":"DoesNotExist"}]}"#, true),
        ];
        for (selector, want) in cases {
            let parsed: LabelSelector = serde_json::from_str(selector)?;
            assert_eq!(matches(Some(&parsed), Some(&labels)), want, "{selector}");
        }
        assert!(!matches(None, Some(&labels)));
        Ok(())
    }
}
