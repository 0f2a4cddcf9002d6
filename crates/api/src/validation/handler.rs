//! Probes and lifecycle hooks of containers.

use base::names;

use super::check::At;

/// Hooks at the start and end of a container.
pub fn lifecycle(at: &At<'_>, spec: &At<'_>) {
    for hook in ["postStart", "preStop"] {
        let here = at.get(hook);
        if here.is_set() {
            handler(&here, spec);
        }
    }
    let signal = at.get("stopSignal");
    if signal.is_set() {
        match spec.get("os").get("name").text() {
            "" => signal.forbidden("may not be set for containers with empty `spec.os.name`"),
            "windows" => signal.one_of(&["SIGKILL", "SIGTERM"]),
            _ => {}
        }
    }
}

/// Whether a container lives; it may not ask for several successes.
pub fn liveness(at: &At<'_>, spec: &At<'_>) {
    probe(at, spec);
    if at.is_set() && at.get("successThreshold").int() != 1 {
        let threshold = at.get("successThreshold");
        threshold.invalid_as(threshold.int(), "must be 1");
    }
}

/// Whether a container is ready; it has no grace period of its own.
pub fn readiness(at: &At<'_>, spec: &At<'_>) {
    probe(at, spec);
    if at.get("terminationGracePeriodSeconds").is_set() {
        at.get("terminationGracePeriodSeconds").invalid("must not be set for readinessProbes");
    }
}

fn probe(at: &At<'_>, spec: &At<'_>) {
    if !at.is_set() {
        return;
    }
    handler(at, spec);
    let counts =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for field in counts {
        at.get(field).not_negative();
    }
    let grace = at.get("terminationGracePeriodSeconds");
    if grace.is_set() && grace.int() <= 0 {
        grace.invalid("must be greater than 0");
    }
}

fn handler(at: &At<'_>, spec: &At<'_>) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let here = at.get(kind);
        if !here.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            here.forbidden("may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" => {
                here.get("command").need();
            }
            "httpGet" => http_get(&here),
            "tcpSocket" => here.get("port").port_or_name(),
            "grpc" => here.get("port").port(),
            _ => sleep(&here, spec),
        }
    }
    if count == 0 {
        at.required("must specify a handler type");
    }
}

fn http_get(at: &At<'_>) {
    at.get("path").need();
    at.get("port").port_or_name();
    at.get("scheme").one_of(&["HTTP", "HTTPS"]);
    for header in at.get("httpHeaders").items() {
        for what in names::http_header_name(header.get("name").text()) {
            at.get("httpHeaders").invalid_as(header.get("name").text(), &what);
        }
    }
}

fn sleep(at: &At<'_>, spec: &At<'_>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    let seconds = at.get("seconds").int();
    if grace.is_set() && !(0..=grace.int()).contains(&seconds) {
        let what =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({})", grace.int());
        at.invalid_as(seconds, &what);
    }
}
