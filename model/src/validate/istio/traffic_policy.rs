//! Traffic policies: of rules, subsets and ports.

use super::{Report, at, host, load_balancer, tls};
use crate::istio::{
    ConnectionPoolSettings, H2UpgradePolicy, OutlierDetection, PortTrafficPolicy, RetryBudget,
    TrafficPolicy, TunnelSettings,
};

pub fn check(policy: Option<&TrafficPolicy>, path: &str, report: &mut Report) {
    let Some(policy) = policy else { return };
    if *policy == TrafficPolicy::default() {
        return report.required(path, "traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        let detail = "tunnel and proxyProtocol must not be set together";
        return report.forbidden(format!("{path}.proxyProtocol"), detail);
    }
    outlier_detection(policy.outlier_detection.as_ref(), path, report);
    connection_pool(
        policy.connection_pool.as_ref(),
        &format!("{path}.connectionPool"),
        report,
    );
    load_balancer::check(
        policy.load_balancer.as_ref(),
        policy.outlier_detection.is_some(),
        path,
        report,
    );
    tls::client(policy.tls.as_ref(), path, report);
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        port_policy(port, &at(path, "portLevelSettings", index), report);
    }
    tunnel(policy.tunnel.as_ref(), path, report);
    retry_budget(policy.retry_budget.as_ref(), path, report);
}

fn port_policy(policy: &PortTrafficPolicy, path: &str, report: &mut Report) {
    match &policy.port {
        None => report.required(
            format!("{path}.port"),
            "portTrafficPolicy must have valid port",
        ),
        Some(port) => {
            let number = port.number;
            let field = format!("{path}.port.number");
            report.check(&field, number, host::port(number.into()));
        }
    }
    if policy.outlier_detection.is_none()
        && policy.connection_pool.is_none()
        && policy.load_balancer.is_none()
        && policy.tls.is_none()
    {
        let detail = "port traffic policy must have at least one field";
        return report.required(path, detail);
    }
    outlier_detection(policy.outlier_detection.as_ref(), path, report);
    connection_pool(
        policy.connection_pool.as_ref(),
        &format!("{path}.connectionPool"),
        report,
    );
    load_balancer::check(
        policy.load_balancer.as_ref(),
        policy.outlier_detection.is_some(),
        path,
        report,
    );
    tls::client(policy.tls.as_ref(), path, report);
}

fn outlier_detection(outlier: Option<&OutlierDetection>, path: &str, report: &mut Report) {
    let Some(outlier) = outlier else { return };
    let path = format!("{path}.outlierDetection");
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0);
    if !outlier.split_external_local_origin_errors && local > 0 {
        let detail = "outlier detection consecutive local origin failures is specified, but split external local origin errors is set to false";
        report.invalid(
            format!("{path}.consecutiveLocalOriginFailures"),
            local,
            detail,
        );
    }
    for (field, percent) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if !(0..=100).contains(&percent) {
            let detail = format!("percentage {percent} is not in range 0..100");
            report.invalid(format!("{path}.{field}"), percent, detail);
        }
    }
}

pub fn connection_pool(settings: Option<&ConnectionPoolSettings>, path: &str, report: &mut Report) {
    let Some(settings) = settings else { return };
    if settings.http.is_none() && settings.tcp.is_none() {
        return report.required(path, "connection pool must have at least one field");
    }
    let mut limits = Vec::new();
    if let Some(http) = &settings.http {
        limits.extend([
            (
                "http.http1MaxPendingRequests",
                http.http1_max_pending_requests,
                "http1 max pending requests",
            ),
            (
                "http.http2MaxRequests",
                http.http2_max_requests,
                "http2 max requests",
            ),
            (
                "http.maxRequestsPerConnection",
                http.max_requests_per_connection,
                "max requests per connection",
            ),
            ("http.maxRetries", http.max_retries, "max retries"),
            (
                "http.maxConcurrentStreams",
                http.max_concurrent_streams,
                "max concurrent streams",
            ),
        ]);
        if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
            let detail = "use client protocol must not be true when H2UpgradePolicy is UPGRADE";
            report.forbidden(format!("{path}.http.useClientProtocol"), detail);
        }
        if let Some(keepalive) = &http.http2_keep_alive {
            for (field, given) in [
                ("interval", keepalive.interval.is_some()),
                ("timeout", keepalive.timeout.is_some()),
            ] {
                if !given {
                    let detail = format!("http2 keepalive {field} is required");
                    report.required(format!("{path}.http.http2KeepAlive.{field}"), detail);
                }
            }
        }
    }
    if let Some(tcp) = &settings.tcp {
        limits.push(("tcp.maxConnections", tcp.max_connections, "max connections"));
    }
    for (field, limit, what) in limits {
        if limit < 0 {
            let detail = format!("{what} must be non-negative");
            report.invalid(format!("{path}.{field}"), limit, detail);
        }
    }
}

fn tunnel(tunnel: Option<&TunnelSettings>, path: &str, report: &mut Report) {
    let Some(tunnel) = tunnel else { return };
    let path = format!("{path}.tunnel");
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        let detail = "tunnel protocol must be \"CONNECT\" or \"POST\"";
        report.invalid(format!("{path}.protocol"), tunnel.protocol.as_str(), detail);
    }
    let target = tunnel.target_host.as_str();
    if let (Err(name), Err(address)) = (host::domain(target), host::address(target)) {
        let detail =
            format!("tunnel target host must be valid FQDN or IP address: {name}; {address}");
        report.invalid(format!("{path}.targetHost"), target, detail);
    }
    if let Err(fault) = host::port(tunnel.target_port.into()) {
        let detail = format!("tunnel target port is invalid: {fault}");
        report.invalid(format!("{path}.targetPort"), tunnel.target_port, detail);
    }
}

fn retry_budget(budget: Option<&RetryBudget>, path: &str, report: &mut Report) {
    let percent = budget.and_then(|budget| budget.percent);
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        let detail = format!("percentage {percent} is not in range 0..100");
        report.invalid(format!("{path}.retryBudget.percent"), percent, detail);
    }
}
