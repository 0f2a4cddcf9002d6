//! The libraries of Kubernetes: quantities, versions, addresses, URLs, formats, the authorizer.

use std::cmp::Ordering;
use std::sync::Arc;

use base::quantity::Quantity;

use super::{Native, mismatch};
use crate::authorizer::{Authorizer, Check, Decision, Question};
use crate::error::EvalError;
use crate::eval::Out;
use crate::formats::Format;
use crate::net::{Cidr, Ip};
use crate::opaque::Opaque;
use crate::semver::Semver;
use crate::url::Url;
use crate::value::{Key, Map, Value};

pub(super) fn native(name: &str) -> Option<Native> {
    Some(match name {
        "quantity" | "isQuantity" | "sign" | "asApproximateFloat" | "asInteger" | "isInteger" | "add"
        | "sub" => quantity,
        "isGreaterThan" | "isLessThan" | "compareTo" => compare,
        "semver" | "isSemver" | "major" | "minor" | "patch" => semver,
        "ip"
        | "isIP"
        | "ip.isCanonical"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => ip,
        "cidr" | "isCIDR" | "containsIP" | "containsCIDR" | "prefixLength" | "masked" => cidr,
        "url" | "isURL" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath"
        | "getQuery" => url,
        "format.named" | "validate" => format,
        name if name.starts_with("format.") => format,
        "path" | "group" | "serviceAccount" | "resource" | "subresource" | "namespace" | "name"
        | "fieldSelector" | "labelSelector" | "check" => question,
        "allowed" | "reason" | "error" | "errored" => decision,
        _ => return None,
    })
}

fn quantity<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let of = |q: Quantity| Ok(Value::Opaque(Opaque::Quantity(q)));
    let whole = |q: &Quantity| {
        (q.nanos() % 1_000_000_000 == 0).then(|| i64::try_from(q.nanos() / 1_000_000_000).ok()).flatten()
    };
    match (name, args) {
        ("quantity", [Value::String(text)]) => text
            .parse()
            .map_err(|e: base::quantity::QuantityError| EvalError::new(e.to_string()))
            .and_then(of),
        ("isQuantity", [Value::String(text)]) => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
        ("sign", [Value::Opaque(Opaque::Quantity(q))]) => Ok(Value::Int(i64::from(q.sign()))),
        ("asApproximateFloat", [Value::Opaque(Opaque::Quantity(q))]) => Ok(Value::Double(q.to_f64())),
        ("isInteger", [Value::Opaque(Opaque::Quantity(q))]) => Ok(Value::Bool(whole(q).is_some())),
        ("asInteger", [Value::Opaque(Opaque::Quantity(q))]) => {
            whole(q).map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }
        ("add" | "sub", [Value::Opaque(Opaque::Quantity(a)), other]) => {
            let b = match other {
                Value::Opaque(Opaque::Quantity(b)) => *b,
                Value::Int(units) => Quantity::from_units(*units),
                _ => return mismatch(name),
            };
            of(if name == "add" { a.plus(b) } else { a.minus(b) })
        }
        _ => mismatch(name),
    }
}

fn compare<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let order = match args {
        [Value::Opaque(Opaque::Quantity(a)), Value::Opaque(Opaque::Quantity(b))] => a.nanos().cmp(&b.nanos()),
        [Value::Opaque(Opaque::Semver(a)), Value::Opaque(Opaque::Semver(b))] => a.order(b),
        _ => return mismatch(name),
    };
    Ok(match name {
        "isGreaterThan" => Value::Bool(order == Ordering::Greater),
        "isLessThan" => Value::Bool(order == Ordering::Less),
        _ => Value::Int(order as i64),
    })
}

fn semver<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let number = |n: u64| Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    let (text, normalize) = match args {
        [Value::String(text)] => (text, false),
        [Value::String(text), Value::Bool(normalize)] => (text, *normalize),
        [Value::Opaque(Opaque::Semver(v))] => {
            return match name {
                "major" => number(v.major),
                "minor" => number(v.minor),
                "patch" => number(v.patch),
                _ => mismatch(name),
            };
        }
        _ => return mismatch(name),
    };
    match (name, Semver::parse(text, normalize)) {
        ("isSemver", parsed) => Ok(Value::Bool(parsed.is_ok())),
        (_, Ok(version)) => Ok(Value::Opaque(Opaque::Semver(Arc::new(version)))),
        (_, Err(why)) => Err(EvalError::new(why)),
    }
}

fn parse_ip(text: &str) -> Result<Ip, EvalError> {
    Ip::parse(text).map_err(EvalError::new)
}

fn ip<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let of = |ip| Ok(Value::Opaque(Opaque::Ip(ip)));
    let ip = match (name, args) {
        ("ip", [Value::String(text)]) => return parse_ip(text).and_then(of),
        ("isIP", [Value::String(text)]) => return Ok(Value::Bool(Ip::parse(text).is_ok())),
        ("ip.isCanonical", [Value::String(text)]) => {
            return parse_ip(text).map(|ip| Value::Bool(ip.to_string() == **text));
        }
        ("ip", [Value::Opaque(Opaque::Cidr(cidr))]) => return of(Ip(cidr.addr)),
        (_, [Value::Opaque(Opaque::Ip(ip))]) => *ip,
        _ => return mismatch(name),
    };
    Ok(match name {
        "family" => Value::Int(if ip.0.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Value::Bool(ip.0.is_unspecified()),
        "isLoopback" => Value::Bool(ip.0.is_loopback()),
        "isLinkLocalMulticast" => Value::Bool(ip.link_local_multicast()),
        "isLinkLocalUnicast" => Value::Bool(ip.link_local_unicast()),
        "isGlobalUnicast" => Value::Bool(ip.global_unicast()),
        _ => return mismatch(name),
    })
}

fn parse_cidr(text: &str) -> Result<Cidr, EvalError> {
    let message = |why| format!("network address parse error during conversion from string: {why}");
    Cidr::parse(text).map_err(|why| EvalError::new(message(why)))
}

fn cidr<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let of = |cidr| Ok(Value::Opaque(Opaque::Cidr(cidr)));
    Ok(Value::Bool(match (name, args) {
        ("cidr", [Value::String(text)]) => return parse_cidr(text).and_then(of),
        ("masked", [Value::Opaque(Opaque::Cidr(cidr))]) => return of(cidr.masked()),
        ("prefixLength", [Value::Opaque(Opaque::Cidr(cidr))]) => return Ok(Value::Int(i64::from(cidr.bits))),
        ("isCIDR", [Value::String(text)]) => Cidr::parse(text).is_ok(),
        ("containsIP", [Value::Opaque(Opaque::Cidr(cidr)), Value::String(text)]) => {
            cidr.contains(parse_ip(text)?)
        }
        ("containsIP", [Value::Opaque(Opaque::Cidr(cidr)), Value::Opaque(Opaque::Ip(ip))]) => {
            cidr.contains(*ip)
        }
        ("containsCIDR", [Value::Opaque(Opaque::Cidr(cidr)), Value::String(text)]) => {
            cidr.covers(parse_cidr(text)?)
        }
        ("containsCIDR", [Value::Opaque(Opaque::Cidr(a)), Value::Opaque(Opaque::Cidr(b))]) => a.covers(*b),
        _ => return mismatch(name),
    }))
}

fn url<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let url = match (name, args) {
        ("url", [Value::String(text)]) => {
            let message = |why| format!("URL parse error during conversion from string: {why}");
            return match Url::parse(text) {
                Ok(url) => Ok(Value::Opaque(Opaque::Url(Arc::new(url)))),
                Err(why) => Err(EvalError::new(message(why))),
            };
        }
        ("isURL", [Value::String(text)]) => return Ok(Value::Bool(Url::parse(text).is_ok())),
        (_, [Value::Opaque(Opaque::Url(url))]) => url,
        _ => return mismatch(name),
    };
    Ok(Value::text(match name {
        "getScheme" => url.scheme.as_str(),
        "getHost" => &url.host,
        "getHostname" => url.hostname(),
        "getPort" => url.port(),
        "getEscapedPath" => &url.path,
        "getQuery" => {
            let entry = |(name, values): (String, Vec<String>)| {
                (Key::String(name.into()), Value::list(values.into_iter().map(Value::text).collect()))
            };
            return Ok(Value::Map(Map::Own(Arc::new(url.parameters().into_iter().map(entry).collect()))));
        }
        _ => return mismatch(name),
    }))
}

fn format<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let of = |format| Value::Opaque(Opaque::Format(format));
    match (name, args) {
        ("format.named", [Value::String(text)]) => {
            Ok(Format::named(text).map_or(Value::Optional(None), |f| Value::some(of(f))))
        }
        ("validate", [Value::Opaque(Opaque::Format(format)), Value::String(text)]) => {
            let faults = format.faults(text);
            if faults.is_empty() {
                return Ok(Value::Optional(None));
            }
            Ok(Value::some(Value::list(faults.into_iter().map(Value::text).collect())))
        }
        (name, []) => match name.strip_prefix("format.").and_then(Format::named) {
            Some(format) => Ok(of(format)),
            None => mismatch(name),
        },
        _ => mismatch(name),
    }
}

fn question<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let making = |authorizer: &Authorizer<'a>, question| {
        let authorizer = authorizer.clone();
        Ok(Value::Opaque(Opaque::Check(Arc::new(Check { authorizer, question }))))
    };
    match args {
        [Value::Opaque(Opaque::Authorizer(authorizer)), Value::String(namespace), Value::String(account)]
            if name == "serviceAccount" =>
        {
            for (what, faults) in [
                ("namespace", base::names::dns1123_label(namespace)),
                ("name", base::names::dns1123_subdomain(account)),
            ] {
                if let Some(fault) = faults.first() {
                    return Err(EvalError::new(format!("Invalid service account {what}: {fault}")));
                }
            }
            let account = Some(Arc::new((namespace.to_string(), account.to_string())));
            let authorizer = Authorizer { hook: authorizer.hook, service_account: account };
            Ok(Value::Opaque(Opaque::Authorizer(authorizer)))
        }
        [Value::Opaque(Opaque::Authorizer(authorizer)), Value::String(text)] => {
            let mut question = Question {
                service_account: authorizer.service_account.as_deref().cloned(),
                ..Question::default()
            };
            match name {
                "path" if text.is_empty() => return Err(EvalError::new("path must not be empty")),
                "path" => question.path = Some(text.to_string()),
                "group" => question.group = text.to_string(),
                _ => return mismatch(name),
            }
            making(authorizer, question)
        }
        [Value::Opaque(Opaque::Check(check)), Value::String(text)] => {
            let mut question = check.question.clone();
            let text = text.to_string();
            match name {
                "resource" if text.is_empty() => return Err(EvalError::new("resource must not be empty")),
                "resource" => question.resource = text,
                "subresource" => question.subresource = text,
                "namespace" => question.namespace = text,
                "name" => question.name = text,
                "fieldSelector" => question.field_selector = Some(text),
                "labelSelector" => question.label_selector = Some(text),
                "check" => {
                    question.verb = text;
                    let answer = check.authorizer.hook.authorize(&question);
                    return Ok(Value::Opaque(Opaque::Decision(Arc::new(answer))));
                }
                _ => return mismatch(name),
            }
            making(&check.authorizer, question)
        }
        _ => mismatch(name),
    }
}

fn decision<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::Opaque(Opaque::Decision(decision))] = args else { return mismatch(name) };
    let Decision { allowed, reason, error } = &**decision;
    Ok(match name {
        "allowed" => Value::Bool(*allowed),
        "reason" => Value::text(reason.as_str()),
        "errored" => Value::Bool(error.is_some()),
        _ => Value::text(error.as_deref().unwrap_or_default()),
    })
}
