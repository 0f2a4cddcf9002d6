//! Named formats of texts: `format.dns1123Label().validate(…)`.

use base::names;

/// A named format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(&'static str);

/// Names, and how long a regular expression the check is worth.
const FORMATS: [(&str, u64); 13] = [
    ("dns1123Label", 30),
    ("dns1123Subdomain", 60),
    ("dns1035Label", 30),
    ("qualifiedName", 60),
    ("dns1123LabelPrefix", 30),
    ("dns1123SubdomainPrefix", 60),
    ("dns1035LabelPrefix", 30),
    ("labelValue", 40),
    ("uri", 1104),
    ("uuid", 72),
    ("byte", 84),
    ("date", 72),
    ("datetime", 72),
];

impl Format {
    /// A format by its name.
    pub fn named(name: &str) -> Option<Format> {
        FORMATS.iter().find(|(n, _)| *n == name).map(|(n, _)| Format(n))
    }

    /// The format's name.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// What the check costs, as the length of a regular expression.
    pub(crate) fn weight(self) -> u64 {
        FORMATS.iter().find(|(n, _)| *n == self.0).map_or(128, |(_, weight)| *weight)
    }

    /// What is wrong with a text; nothing if it has the format.
    pub fn faults(self, text: &str) -> Vec<String> {
        let one = |valid: bool, message: &str| if valid { Vec::new() } else { vec![message.to_string()] };
        match self.0 {
            "dns1123Label" => names::dns1123_label(text),
            "dns1123LabelPrefix" => names::dns1123_label(&prefix(text)),
            "dns1123Subdomain" => names::dns1123_subdomain(text),
            "dns1123SubdomainPrefix" => names::dns1123_subdomain(&prefix(text)),
            "dns1035Label" => names::dns1035_label(text),
            "dns1035LabelPrefix" => names::dns1035_label(&prefix(text)),
            "qualifiedName" => names::qualified_name(text),
            "labelValue" => names::label_value(text),
            "uri" => crate::url::Url::parse(text).err().into_iter().collect(),
            "uuid" => one(uuid(text), "does not match the UUID format"),
            "byte" => one(base64(text), "invalid base64"),
            "date" => one(crate::times::timestamp(&format!("{text}T00:00:00Z")).is_some(), "invalid date"),
            _ => one(crate::times::timestamp(text).is_some(), "invalid datetime"),
        }
    }
}

/// What a name generator would add to a prefix that ends in a dash.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => text.into(),
    }
}

fn uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let dashes: Vec<usize> = text.match_indices('-').map(|(i, _)| i).collect();
    let places = dashes.is_empty() || dashes == [8, 13, 18, 23];
    hex.len() == 32 && places && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}
