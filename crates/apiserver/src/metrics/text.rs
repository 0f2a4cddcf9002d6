//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use super::histogram::Histogram;

/// A document under way.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family of series.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One number.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    /// The buckets, sum and count of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let (counts, sum) = histogram.read();
        let mut total = 0;
        let bounds = histogram.bounds().iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.0, " {total}");
        }
        for (part, value) in [("sum", sum), ("count", total as f64)] {
            let _ = write!(self.0, "{name}_{part}");
            self.labels(labels, None);
            let _ = writeln!(self.0, " {value}");
        }
    }

    /// The whole document.
    pub fn done(self) -> String {
        self.0
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
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
        static BOUNDS: [f64; 2] = [0.5, 1e6];
        let histogram = Histogram::new(&BOUNDS);
        [0.25, 1.0, 2e6].iter().for_each(|value| histogram.observe(*value));
        let mut out = Text::default();
        out.family("a", "gauge", "What.");
        out.sample("a", &[("x", "q\"\\\n")], 1.5);
        out.histogram("h", &[], &histogram);
        let want = "# HELP a What.\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\"} 1.5\n\
            h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1e+06\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 2000001.25\nh_count 3\n";
        assert_eq!(out.done(), want);
    }
}
