//! Probes and lifecycle handlers.

use serde_json::Value;

use super::{Errors, items, name, not_negative, one_of, text};
use crate::status::FieldError;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

fn handler(handler: &Value, path: &str, allowed: &[&str], errors: &mut Errors) {
    let given: Vec<&str> = HANDLERS
        .into_iter()
        .filter(|kind| allowed.contains(kind) && !handler[*kind].is_null())
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 handler type",
        ));
    }
    let Some(kind) = given.first() else { return };
    let path = format!("{path}.{kind}");
    let details = &handler[*kind];
    match *kind {
        "exec" if items(&details["command"]).is_empty() => {
            errors.push(FieldError::required(format!("{path}.command"), ""));
        }
        "httpGet" => {
            if text(details, "path").is_empty() {
                errors.push(FieldError::required(format!("{path}.path"), ""));
            }
            port_reference(&details["port"], &format!("{path}.port"), errors);
            one_of(details, &path, "scheme", &["HTTP", "HTTPS"], errors);
            for (index, header) in items(&details["httpHeaders"]).iter().enumerate() {
                let header = text(header, "name");
                for fault in name::http_header(header) {
                    errors.push(FieldError::invalid(
                        format!("{path}.httpHeaders[{index}]"),
                        header,
                        fault,
                    ));
                }
            }
        }
        "tcpSocket" | "grpc" => port_reference(&details["port"], &format!("{path}.port"), errors),
        _ => {}
    }
}

/// A port by number or name.
pub fn port_reference(port: &Value, path: &str, errors: &mut Errors) {
    let faults = match port {
        Value::String(text) => name::port_name(text),
        other => name::port_number(other.as_i64().unwrap_or(0)),
    };
    let shown = if port.is_null() {
        Value::from(0)
    } else {
        port.clone()
    };
    for fault in faults {
        errors.push(FieldError::invalid(path, shown.clone(), fault));
    }
}

pub fn probe(probe: &Value, path: &str, kind: &str, errors: &mut Errors) {
    handler(
        probe,
        path,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        errors,
    );
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    not_negative(probe, path, &numbers, errors);
    if kind != "readinessProbe"
        && let Some(threshold) = probe["successThreshold"]
            .as_i64()
            .filter(|threshold| *threshold != 1)
    {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            threshold,
            "must be 1",
        ));
    }
    if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64() {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "must not be set for readinessProbes",
            ));
        } else if seconds <= 0 {
            errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
        }
    }
}

pub fn lifecycle(lifecycle: &Value, path: &str, errors: &mut Errors) {
    for moment in ["postStart", "preStop"] {
        if !lifecycle[moment].is_null() {
            let allowed = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(
                &lifecycle[moment],
                &format!("{path}.{moment}"),
                &allowed,
                errors,
            );
        }
    }
}
