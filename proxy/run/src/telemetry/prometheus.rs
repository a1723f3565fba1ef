//! Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::istio::{BUCKETS, Histogram, Labels, Peer, Protocol, Reporter, Series};
use super::stats::ClusterStat;
use crate::shared::Shared;

fn escape(value: &str, out: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn put(name: &str, value: &str, out: &mut String) {
    let value = if value.is_empty() { "unknown" } else { value };
    if !out.is_empty() {
        out.push(',');
    }
    let _ = write!(out, "{name}=\"");
    escape(value, out);
    out.push('"');
}

fn peer(side: &str, peer: Option<&Peer>, out: &mut String) {
    let unknown = Peer::default();
    let peer = peer.unwrap_or(&unknown);
    put(&format!("{side}_workload"), &peer.workload, out);
    put(
        &format!("{side}_canonical_service"),
        &peer.canonical_service,
        out,
    );
    put(
        &format!("{side}_canonical_revision"),
        &peer.canonical_revision,
        out,
    );
    put(&format!("{side}_workload_namespace"), &peer.namespace, out);
    put(&format!("{side}_principal"), "", out);
    put(&format!("{side}_app"), &peer.app, out);
    put(&format!("{side}_version"), &peer.version, out);
    put(&format!("{side}_cluster"), &peer.cluster, out);
}

fn labels(labels: &Labels) -> String {
    let mut out = String::with_capacity(1024);
    let reporter = match labels.reporter {
        Reporter::Source => "source",
        Reporter::Destination => "destination",
    };
    put("reporter", reporter, &mut out);
    peer("source", labels.source.as_deref(), &mut out);
    peer("destination", labels.destination.as_deref(), &mut out);
    let service = labels.service.as_deref();
    put(
        "destination_service",
        service.map_or("", |service| &service.host),
        &mut out,
    );
    put(
        "destination_service_name",
        service.map_or("", |service| &service.name),
        &mut out,
    );
    put(
        "destination_service_namespace",
        service.map_or("", |service| &service.namespace),
        &mut out,
    );
    let protocol = match labels.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    };
    put("request_protocol", protocol, &mut out);
    if labels.protocol != Protocol::Tcp {
        put("response_code", &labels.code.to_string(), &mut out);
        let status = labels
            .grpc_status
            .map_or_else(String::new, |status| status.to_string());
        let _ = write!(out, ",grpc_response_status=\"{status}\"");
    }
    put("response_flags", &labels.flags.to_string(), &mut out);
    // The client's proxy does not know what the server's will see (Istio says unknown, too).
    let policy = match labels.reporter {
        Reporter::Source => "unknown",
        Reporter::Destination => "none",
    };
    put("connection_security_policy", policy, &mut out);
    out
}

fn histogram(name: &str, labels: &str, histogram: &Histogram, out: &mut String) {
    let mut seen = 0;
    for (bound, count) in BUCKETS.iter().zip(histogram.buckets) {
        seen += count;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {seen}");
    }
    let count = histogram.count();
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", histogram.sum);
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

/// Istio's metrics.
pub fn istio(all: &BTreeMap<Labels, Series>, out: &mut String) {
    let written: Vec<(String, &Labels, &Series)> = all
        .iter()
        .map(|(key, series)| (labels(key), key, series))
        .collect();
    let mut counter = |name: &str, tcp: bool, value: fn(&Series) -> u64| {
        let _ = writeln!(out, "# TYPE {name} counter");
        for (text, _, series) in written
            .iter()
            .filter(|(_, key, _)| (key.protocol == Protocol::Tcp) == tcp)
        {
            let _ = writeln!(out, "{name}{{{text}}} {}", value(series));
        }
    };
    counter("istio_requests_total", false, |series| series.requests);
    counter("istio_tcp_connections_opened_total", true, |series| {
        series.opened
    });
    counter("istio_tcp_connections_closed_total", true, |series| {
        series.closed
    });
    counter("istio_tcp_sent_bytes_total", true, |series| {
        series.sent_bytes
    });
    counter("istio_tcp_received_bytes_total", true, |series| {
        series.received_bytes
    });
    let mut histograms = |name: &str, value: fn(&Series) -> &Histogram| {
        let _ = writeln!(out, "# TYPE {name} histogram");
        for (text, _, series) in written
            .iter()
            .filter(|(_, key, _)| key.protocol != Protocol::Tcp)
        {
            histogram(name, text, value(series), out);
        }
    };
    histograms("istio_request_duration_milliseconds", |series| {
        &series.duration_ms
    });
    histograms("istio_request_bytes", |series| &series.request_bytes);
    histograms("istio_response_bytes", |series| &series.response_bytes);
}

/// Envoy's statistics of clusters, by Envoy's names for Prometheus.
pub fn envoy(shared: &Shared, out: &mut String) {
    let live = shared.live();
    let mut by_name: BTreeMap<String, String> = BTreeMap::new();
    for cluster in live.in_use() {
        let mut label = String::new();
        put("cluster_name", &cluster.config.name, &mut label);
        let own = shared.registry.cluster(&cluster.config.name);
        let own = ClusterStat::ALL
            .iter()
            .map(|(which, name)| (*name, own.get(*which)));
        for (name, value) in cluster.stats.iter().chain(own) {
            // Prometheus' names have no dots.
            let name = name.replace('.', "_");
            let line = format!("envoy_cluster_{name}{{{label}}} {value}\n");
            by_name.entry(name).or_default().push_str(&line);
        }
    }
    for (name, lines) in by_name {
        let kind = if name.ends_with("_active") {
            "gauge"
        } else {
            "counter"
        };
        let _ = writeln!(out, "# TYPE envoy_cluster_{name} {kind}");
        out.push_str(&lines);
    }
}
