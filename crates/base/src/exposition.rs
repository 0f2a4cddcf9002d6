//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

/// A document under way.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family of series.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One number.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.series(name, labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    /// One number as it was at a time, in milliseconds since 1970; 0 if that is not known.
    pub fn sample_at(&mut self, name: &str, labels: &[(&str, &str)], value: f64, millis: i64) {
        match millis {
            0 => self.sample(name, labels, value),
            _ => {
                self.series(name, labels, None);
                let _ = writeln!(self.0, " {value} {millis}");
            }
        }
    }

    /// A histogram: how many were in each bucket by itself (one more than there are bounds), and the sum of all.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut total = 0;
        let bounds = bounds.iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            self.series(&format!("{name}_bucket"), labels, Some(&bound));
            let _ = writeln!(self.0, " {total}");
        }
        for (part, value) in [("sum", sum), ("count", total as f64)] {
            self.sample(&format!("{name}_{part}"), labels, value);
        }
    }

    /// The whole document.
    pub fn done(self) -> String {
        self.0
    }

    fn series(&mut self, name: &str, labels: &[(&str, &str)], bound: Option<&str>) {
        self.0.push_str(name);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in all {
            let _ = write!(self.0, "{separator}{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
    }
}

/// A bound as upstream's library writes it: `1e+06` from a million on.
fn number(bound: f64) -> String {
    if bound < 1e6 {
        return bound.to_string();
    }
    let text = format!("{bound:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}e+{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_as_scrapers_read_them() {
        let mut out = Text::default();
        out.family("a", "gauge", "What.");
        out.sample("a", &[("x", "q\"\\\n"), ("y", "")], 1.5);
        out.sample_at("a", &[], 2.0, 1700);
        out.sample_at("a", &[], 3.0, 0);
        out.histogram("h", &[], &[0.5, 1e6], &[1, 1, 1], 2_000_001.25);
        let want = "# HELP a What.\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\",y=\"\"} 1.5\na 2 1700\na 3\n\
            h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1e+06\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 2000001.25\nh_count 3\n";
        assert_eq!(out.done(), want);
    }
}
