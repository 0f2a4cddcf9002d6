//! The query of a request, parsed once.

use crate::info::decode;
use crate::status::Status;

/// Key-value pairs of a query string, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes; `+` is a space.
    pub fn parse(text: Option<&str>) -> Self {
        let text = text.unwrap_or("");
        let part = |text: &str| match text.contains('+') {
            true => decode(&text.replace('+', " ")),
            false => decode(text),
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (part(key), part(value))
                })
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a key, or the empty text.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// A flag: present and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// A whole number, absent when missing or empty.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }

    /// Whether `dryRun=All` is asked for.
    pub fn dry_run(&self) -> Result<bool, Status> {
        let mut values = self.all("dryRun").filter(|value| !value.is_empty()).peekable();
        let asked = values.peek().is_some();
        match values.find(|value| *value != "All") {
            Some(_) => Err(options_invalid(
                "dryRun",
                format!(
                    "Unsupported value: {:?}: supported values: \"All\"",
                    self.all("dryRun").collect::<Vec<_>>()
                ),
                "FieldValueNotSupported",
            )),
            None => Ok(asked),
        }
    }
}

fn options_invalid(field: &str, message: String, reason: &'static str) -> Status {
    let cause = crate::status::Cause::field(reason, field, message);
    Status::invalid("meta.k8s.io", "CreateOptions", "", vec![cause])
}
