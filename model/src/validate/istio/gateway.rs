//! Gateway: its servers.

use std::collections::BTreeSet;

use super::host::{self, Protocol};
use super::{Report, at, tls};
use crate::istio::{Gateway, Port, Server, ServerTlsMode};

pub fn check(gateway: &Gateway, report: &mut Report) {
    let name = gateway.name();
    if !name.is_empty() && !host::is_dns_label(name) {
        report.invalid(
            "metadata.name",
            name,
            format!("invalid gateway name: {name:?}"),
        );
    }
    let servers = &gateway.spec.servers;
    if servers.is_empty() {
        report.required("spec.servers", "gateway must have at least one server");
    }
    let mut names = BTreeSet::new();
    for (index, each) in servers.iter().enumerate() {
        let path = at("spec", "servers", index);
        server(each, &path, report);
        let Some(port) = &each.port else { continue };
        if !names.insert(port.name.as_str()) {
            let detail = format!(
                "port names in servers must be unique: duplicate name {}",
                port.name
            );
            report.invalid(format!("{path}.port.name"), port.name.as_str(), detail);
        }
        let redirects = each.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if redirects && Protocol::parse(&port.protocol) != Some(Protocol::Http) {
            let field = format!("{path}.tls.httpsRedirect");
            report.warn(
                &field,
                "tls.httpsRedirect should only be used with http servers",
            );
        }
    }
}

fn server(server: &Server, path: &str, report: &mut Report) {
    for (index, entry) in server.hosts.iter().enumerate() {
        host::host_entry(entry, true, &at(path, "hosts", index), report);
    }
    bind(server, path, report);
    if let Some(settings) = &server.tls {
        tls::server(settings, &format!("{path}.tls"), report);
    }
    let Some(own) = &server.port else { return };
    let before = report.errors.len();
    port(own, &server.bind, &format!("{path}.port"), report);
    if report.errors.len() > before {
        return;
    }
    let field = format!("{path}.tls");
    match (Protocol::parse(&own.protocol), &server.tls) {
        (Some(Protocol::Tls), None) => {
            report.required(
                field,
                "server must have TLS settings for HTTPS/TLS protocols",
            );
        }
        (Some(Protocol::Http), Some(tls)) => {
            let plain = matches!(
                tls.mode,
                ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
            );
            let files = [
                &tls.ca_certificates,
                &tls.private_key,
                &tls.server_certificate,
            ];
            if !plain || files.iter().any(|file| !file.is_empty()) {
                let detail = "server cannot have TLS settings for plain text HTTP ports";
                report.forbidden(field, detail);
            }
        }
        (Some(Protocol::Tls), Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            let detail = "server cannot have TLS settings for non HTTPS/TLS ports";
            report.forbidden(field, detail);
        }
    }
}

fn port(port: &Port, bind: &str, path: &str, report: &mut Report) {
    if Protocol::parse(&port.protocol).is_none() {
        let detail = format!(
            "invalid protocol {:?}, supported protocols are HTTP, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP",
            port.protocol
        );
        report.invalid(format!("{path}.protocol"), port.protocol.as_str(), detail);
    }
    if port.number > 0 || !bind.starts_with("unix://") {
        let fault = host::port(port.number.into());
        report.check(&format!("{path}.number"), port.number, fault);
    }
    if port.target_port > 0 {
        let detail = "targetPort has no impact on Gateways";
        report.forbidden(format!("{path}.targetPort"), detail);
    }
}

fn bind(server: &Server, path: &str, report: &mut Report) {
    let bind = server.bind.as_str();
    let field = format!("{path}.bind");
    if let Some(file) = bind.strip_prefix("unix://") {
        report.check(&field, bind, host::unix_path(file));
        if server.port.as_ref().is_some_and(|port| port.number != 0) {
            let detail = "port number must be 0 for unix domain socket";
            report.forbidden(format!("{path}.port.number"), detail);
        }
    } else if !bind.is_empty() {
        report.check(&field, bind, host::address(bind));
    }
}
