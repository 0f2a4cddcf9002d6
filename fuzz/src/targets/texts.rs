//! Short texts with a grammar of their own, each named by its first line.

use apiserver::query::Query;
use apiserver::selector::{FieldSelector, LabelSelector};
use base::quantity::Quantity;

use super::{Run, Target, split_line};

/// Selectors, list options, quantities, times, schedules, references and more.
pub const TEXT: Target = Target { name: "text", what: "selectors, options, quantities, names", seeds, start };

/// Grammar, then examples.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("labels", &["a=b", "a==b,c!=d", "x in (a, b),!y", "z notin (), k", "k>3,k<7", "a.b/c=,d"]),
    ("fields", &["metadata.name=a", "a!=b,c==d", r"a=x\=y\,z\\"]),
    (
        "query",
        &["labelSelector=a%3Db&limit=5&watch&continue=abc", "a=1&a=2&b+c=%zz", "dryRun=All&timeoutSeconds=1"],
    ),
    (
        "path",
        &[
            "/api/v1/namespaces/a/pods/b/log",
            "/apis/apps/v1/deployments",
            "/api/v1/watch/pods",
            "/healthz/%2F",
        ],
    ),
    ("quantity", &["1", "0.5", "-1500m", "1Ki", "1e3", "3E", "12345678901234567890", ".001n", "1_000"]),
    ("duration", &["1h2m3s", "1.5ms", "-2us", "100ns", "µs"]),
    ("time", &["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901+02:00"]),
    ("cron", &["*/5 * * * *", "0 0 1-7 jan mon", "@daily", "@every 1h30m", "TZ=UTC 5/15 * ? * *"]),
    ("reference", &["nginx", "a.b:5000/c/d:tag@sha256:00", "localhost/x@sha256:"]),
    ("cidr", &["10.0.0.0/8", "fd00::/64", "::ffff:1.2.3.4/120"]),
    ("resolv", &["nameserver 1.1.1.1\nsearch a b\noptions ndots:5", "nameserver fe80::1%eth0"]),
    ("mountinfo", &["36 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"]),
    ("name", &["a", "a.b-c/d_e", "*.example.com", "A_b", "x-y-z.123", "-"]),
    ("node-query", &["command=sh&command=-c&stdin=true&tty=1", "follow=true&tailLines=3&sinceTime=x"]),
    ("mask", &["*", "~1", "a~0b"]),
];

fn seeds() -> Vec<Vec<u8>> {
    let each = |(kind, texts): &(&str, &[&str])| -> Vec<Vec<u8>> {
        texts.iter().map(|text| format!("{kind}\n{text}").into_bytes()).collect()
    };
    EXAMPLES.iter().flat_map(each).collect()
}

fn start() -> Run {
    Box::new(|input| {
        let Some((kind, rest)) = split_line(input) else { return };
        if let Ok(text) = std::str::from_utf8(rest) {
            read(kind, text);
        }
    })
}

fn read(kind: &str, text: &str) {
    match kind {
        "labels" => drop(LabelSelector::parse(text)),
        "fields" => drop(FieldSelector::parse(text)),
        "query" => {
            let query = Query::parse(Some(text));
            drop(query.dry_run());
            for key in ["limit", "timeoutSeconds"] {
                drop(query.number(key));
            }
        }
        "path" => {
            for watch in [false, true] {
                drop(apiserver::info::RequestInfo::parse(&http::Method::GET, text, watch));
            }
        }
        "quantity" => quantity(text),
        "duration" => {
            if let Ok(nanos) = schema::duration::parse(text) {
                let again = schema::duration::format(nanos);
                assert_eq!(schema::duration::parse(&again), Ok(nanos), "{text} and {again}");
            }
        }
        "time" => drop(base::time::parse(text).map(base::time::format_micros)),
        "cron" => drop(base::cron::parse(text)),
        "reference" => {
            if let Ok(first) = oci::images::Reference::parse(text) {
                let name = first.tagged().unwrap_or_else(|| first.name());
                assert!(oci::images::Reference::parse(&name).is_ok(), "{name:?} of {text:?}");
            }
        }
        "cidr" => {
            if let Ok(first) = text.parse::<netplan::Cidr>() {
                assert_eq!(first.to_string().parse::<netplan::Cidr>().ok(), Some(first), "{text}");
            }
        }
        "resolv" => {
            drop(pods::dns::parse(text));
            drop(net::dns::nameservers(text, &[]));
        }
        "name" => names(text),
        "node-query" => drop(node::server::Query::parse(text).all("command")),
        _ => {}
    }
}

/// A quantity's canonical text is the same quantity.
fn quantity(text: &str) {
    let Ok(first) = text.parse::<Quantity>() else { return };
    let canonical = first.to_string();
    let second: Quantity = canonical.parse().unwrap_or_else(|error| panic!("{canonical} of {text}: {error}"));
    assert_eq!(second.nanos(), first.nanos(), "{text} and {canonical}");
    assert_eq!(second.to_string(), canonical, "{text}");
    let _ = (first.units(), first.millis(), first.plus(second).to_string(), first.minus(second).to_string());
}

fn names(text: &str) {
    use base::names;
    for check in [
        names::dns1123_label,
        names::dns1123_subdomain,
        names::dns1123_subdomain_with_underscore,
        names::http_header_name,
        names::dns1035_label,
        names::wildcard_dns1123_subdomain,
        names::qualified_name,
        names::label_value,
        names::config_key,
        names::env_var_name,
        names::path_segment,
        names::port_name,
    ] {
        drop(check(text));
    }
}
