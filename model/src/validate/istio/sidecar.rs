//! Sidecar: listeners and what may be reached.

use std::collections::{BTreeMap, BTreeSet};

use super::host::{self, Protocol};
use super::{Report, at, tls, traffic_policy, virtual_service};
use crate::istio::{
    CaptureMode, EgressListener, IngressListener, OutboundTrafficMode, OutboundTrafficPolicy,
    ServerTlsMode, SidecarPort, SidecarSpec,
};

pub fn check(spec: &SidecarSpec, namespace: &str, report: &mut Report) {
    if let Some(selector) = &spec.workload_selector {
        host::selector(&selector.labels, "spec.workloadSelector.labels", report);
        if selector.labels.is_empty() {
            report.warn(
                "spec.workloadSelector",
                "sidecar: workload selector specified without labels, will be applied to all services in namespace",
            );
        }
    }
    if spec.egress.is_empty()
        && spec.ingress.is_empty()
        && spec.outbound_traffic_policy.is_none()
        && spec.inbound_connection_pool.is_none()
    {
        return report.required("spec", "sidecar: empty configuration provided");
    }
    let mut numbers = BTreeSet::new();
    for (index, listener) in spec.ingress.iter().enumerate() {
        ingress(
            listener,
            &mut numbers,
            &at("spec", "ingress", index),
            report,
        );
    }
    traffic_policy::connection_pool(
        spec.inbound_connection_pool.as_ref(),
        "spec.inboundConnectionPool",
        report,
    );
    egress_listeners(&spec.egress, namespace, report);
    outbound(spec.outbound_traffic_policy.as_ref(), report);
}

fn port(port: &SidecarPort, path: &str, report: &mut Report) {
    if port.target_port > 0 {
        let detail = "targetPort has no impact on Sidecars";
        report.forbidden(format!("{path}.targetPort"), detail);
    }
    if !port.name.is_empty() {
        let name = port.name.as_str();
        report.check(&format!("{path}.name"), name, host::port_name(name));
    }
    let protocol = port.protocol.as_str();
    report.check(
        &format!("{path}.protocol"),
        protocol,
        host::protocol(protocol),
    );
}

fn number(port: &SidecarPort, numbers: &mut BTreeSet<u32>, path: &str, report: &mut Report) {
    let field = format!("{path}.number");
    report.check(&field, port.number, host::port(port.number.into()));
    if !numbers.insert(port.number) {
        let detail = "sidecar: ports on IP bound listeners must be unique";
        report.invalid(field, port.number, detail);
    }
}

fn bind(bind: &str, path: &str, report: &mut Report) {
    if !bind.is_empty() {
        report.check(&format!("{path}.bind"), bind, host::address(bind));
    }
}

fn ingress(
    listener: &IngressListener,
    numbers: &mut BTreeSet<u32>,
    path: &str,
    report: &mut Report,
) {
    let Some(own) = &listener.port else {
        let detail = "sidecar: port is required for ingress listeners";
        return report.required(format!("{path}.port"), detail);
    };
    port(own, &format!("{path}.port"), report);
    number(own, numbers, &format!("{path}.port"), report);
    bind(&listener.bind, path, report);
    if !listener.default_endpoint.is_empty() {
        default_endpoint(&listener.default_endpoint, path, report);
    }
    if let Some(settings) = &listener.tls {
        let field = format!("{path}.tls");
        for (name, given, detail) in [
            (
                "subjectAltNames",
                !settings.subject_alt_names.is_empty(),
                "sidecar: subjectAltNames is not supported in ingress tls",
            ),
            (
                "httpsRedirect",
                settings.https_redirect,
                "sidecar: httpsRedirect is not supported",
            ),
            (
                "credentialName",
                !settings.credential_name.is_empty(),
                "sidecar: credentialName is not currently supported",
            ),
            (
                "credentialNames",
                !settings.credential_names.is_empty(),
                "sidecar: credentialNames is not currently supported",
            ),
            (
                "tlsCertificates",
                !settings.tls_certificates.is_empty(),
                "sidecar: tls_certificates is not currently supported",
            ),
        ] {
            if given {
                report.forbidden(format!("{field}.{name}"), detail);
            }
        }
        let mode = match settings.mode {
            ServerTlsMode::IstioMutual => Some("ISTIO_MUTUAL"),
            ServerTlsMode::AutoPassthrough => Some("AUTO_PASSTHROUGH"),
            _ => None,
        };
        if let Some(mode) = mode {
            let detail = format!("cannot set mode to {mode} in sidecar ingress tls");
            report.invalid(format!("{field}.mode"), mode, detail);
        }
        if Protocol::parse(&own.protocol) != Some(Protocol::Tls) {
            let detail = "server cannot have TLS settings for non HTTPS/TLS ports";
            report.forbidden(field.as_str(), detail);
        }
        tls::server(settings, &field, report);
    }
    let pool = listener.connection_pool.as_ref();
    traffic_policy::connection_pool(pool, &format!("{path}.connectionPool"), report);
    if pool.is_some_and(|pool| pool.http.is_some())
        && Protocol::parse(&own.protocol) != Some(Protocol::Http)
    {
        let detail = format!(
            "sidecar: HTTP connection pool settings are configured for port {} ({:?}) but its protocol is not HTTP ({}); only TCP settings will apply",
            own.number, own.name, own.protocol
        );
        report.warn(&format!("{path}.connectionPool.http"), detail);
    }
}

fn default_endpoint(endpoint: &str, path: &str, report: &mut Report) {
    let field = format!("{path}.defaultEndpoint");
    if let Some(file) = endpoint.strip_prefix("unix://") {
        return report.check(&field, endpoint, host::unix_path(file));
    }
    let Some((own, port)) = endpoint.rsplit_once(':') else {
        let detail = format!("address {endpoint}: missing port in address");
        return report.invalid(field, endpoint, detail);
    };
    if !matches!(own, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]") {
        let detail = "sidecar: defaultEndpoint must be of form 127.0.0.1:<port>,0.0.0.0:<port>,[::1]:port,[::]:port,unix://filepath or unset";
        report.invalid(&field, endpoint, detail);
    }
    match port.parse::<i64>() {
        Ok(number) => report.check(&field, endpoint, host::port(number)),
        Err(error) => {
            let detail = format!("sidecar: defaultEndpoint port ({port}) is not a number: {error}");
            report.invalid(field, endpoint, detail);
        }
    }
}

fn egress_listeners(listeners: &[EgressListener], namespace: &str, report: &mut Report) {
    let mut numbers = BTreeSet::new();
    let mut sockets = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = at("spec", "egress", index);
        match &listener.port {
            None if index + 1 < listeners.len() => {
                let detail = "sidecar: the egress listener with empty port should be the last listener in the list";
                report.required(format!("{path}.port"), detail);
            }
            None => {}
            Some(own) => {
                let field = format!("{path}.port");
                port(own, &field, report);
                if own.number == 0 {
                    unix_listener(listener, &mut sockets, &path, report);
                } else {
                    number(own, &mut numbers, &field, report);
                    bind(&listener.bind, &path, report);
                }
            }
        }
        hosts(listener, namespace, &path, report);
    }
}

fn unix_listener<'a>(
    listener: &'a EgressListener,
    sockets: &mut BTreeSet<&'a str>,
    path: &str,
    report: &mut Report,
) {
    let bind = listener.bind.as_str();
    let field = format!("{path}.bind");
    match bind.strip_prefix("unix://") {
        Some(file) => report.check(&field, bind, host::unix_path(file)),
        None => {
            let detail = "sidecar: ports with 0 value must have a unix domain socket bind address";
            report.invalid(&field, bind, detail);
        }
    }
    if listener.capture_mode == CaptureMode::Iptables {
        let detail = "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners";
        report.invalid(format!("{path}.captureMode"), "IPTABLES", detail);
    }
    if !sockets.insert(bind) {
        let detail = "sidecar: unix domain socket values for listeners must be unique";
        report.invalid(field, bind, detail);
    }
}

fn hosts(listener: &EgressListener, namespace: &str, path: &str, report: &mut Report) {
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (index, entry) in listener.hosts.iter().enumerate() {
        let path = at(path, "hosts", index);
        host::host_entry(entry, false, &path, report);
        let Some((own, name)) = entry.split_once('/') else {
            continue;
        };
        if own.starts_with('~') {
            continue;
        }
        let own = if own == "." { namespace } else { own };
        let names = seen.entry(own).or_default();
        let duplicate = if name == "*" {
            !names.is_empty()
        } else {
            names.contains(name) || names.contains("*")
        };
        if duplicate {
            report.warn(&path, format!("duplicated egress host: {entry}"));
        }
        names.insert(name);
    }
    if seen.len() > 1 && seen.get("*").is_some_and(|names| names.contains("*")) {
        let detail = "`*/*` host select all resources, no other hosts can be added";
        report.warn(&format!("{path}.hosts"), detail);
    }
}

fn outbound(policy: Option<&OutboundTrafficPolicy>, report: &mut Report) {
    let Some(policy) = policy else { return };
    let Some(proxy) = &policy.egress_proxy else {
        return;
    };
    let path = "spec.outboundTrafficPolicy.egressProxy";
    if policy.mode != OutboundTrafficMode::AllowAny {
        let detail =
            "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode";
        return report.forbidden(path, detail);
    }
    if proxy.port.is_none() {
        report.required(
            format!("{path}.port"),
            "sidecar: egress_proxy port must be non-nil",
        );
    }
    virtual_service::destination(proxy, path, report);
}
