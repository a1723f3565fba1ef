//! What is printed.

use std::time::Duration;

use serde_json::{Value, json};

use super::measure::{EndpointCost, Memory, RouteChanges, percentile};

const MIB: f64 = 1024.0 * 1024.0;
/// What is to hold: memory of a proxy whose workload calls five services.
const MEMORY_LIMIT_BYTES: u64 = 12_000_000;
/// And the 99th percentile until a route's change is in force.
const CHANGE_LIMIT: Duration = Duration::from_millis(100);

pub struct Report {
    pub services: usize,
    pub proxies: usize,
    pub servers: usize,
    /// Of a proxy that is told of five services, and of one that is told of all.
    pub memory: Vec<Memory>,
    /// The most of any proxy after all changes.
    pub memory_after_bytes: u64,
    /// With a Sidecar that names five services.
    pub narrow: RouteChanges,
    /// Without.
    pub wide: RouteChanges,
    pub costs: Vec<EndpointCost>,
    /// Requests that reached the upstream.
    pub served: u64,
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

fn holds(it: bool) -> &'static str {
    if it { "holds" } else { "MISSED" }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn print(report: &Report, as_json: bool) {
    if as_json {
        println!("{:#}", values(report));
        return;
    }
    println!(
        "{} services of 10 endpoints, {} servers (processes, fsync), {} proxies (processes in pods' network namespaces, xDS over TLS), on this machine's {} cores together; {} requests were served",
        report.services,
        report.servers,
        report.proxies,
        std::thread::available_parallelism().map_or(0, usize::from),
        report.served,
    );
    println!("\nproxy's memory                              RSS MiB  PSS MiB  limit");
    let names = [
        "told of 5 services (Sidecar), calls 5",
        "told of all, calls 5",
    ];
    for (at, memory) in report.memory.iter().enumerate() {
        let limit = if at == 0 {
            format!(
                "12 MB: {}",
                holds(memory.resident_bytes <= MEMORY_LIMIT_BYTES)
            )
        } else {
            "-".into()
        };
        println!(
            "{:<42} {:>8.1} {:>8.1}  {limit}",
            names[at.min(1)],
            mib(memory.resident_bytes),
            mib(memory.proportional_bytes),
        );
    }
    println!(
        "{:<42} {:>8.1}        -  -",
        "the same, the most of any after all changes",
        mib(report.memory_after_bytes)
    );
    println!(
        "\nVirtualService written → met by a request   p50 ms   p99 ms   max ms  write ms  last proxy ms  CPU ms of servers  of proxies  of asking  changes  limit"
    );
    for (name, changes, limited) in [
        ("proxies told of 5 services (Sidecar)", &report.narrow, true),
        ("proxies told of all", &report.wide, false),
    ] {
        let p99 = percentile(&changes.each, 99);
        let limit = if limited {
            format!("p99 100 ms: {}", holds(p99 <= CHANGE_LIMIT))
        } else {
            "-".into()
        };
        println!(
            "{name:<43} {:>6.1} {:>8.1} {:>8.1} {:>9.1} {:>14.1} {:>18.1} {:>11.1} {:>10.1} {:>8}  {limit}",
            milliseconds(percentile(&changes.each, 50)),
            milliseconds(p99),
            milliseconds(percentile(&changes.each, 100)),
            milliseconds(percentile(&changes.write, 50)),
            milliseconds(percentile(&changes.last, 50)),
            milliseconds(changes.servers_cpu),
            milliseconds(changes.proxies_cpu),
            milliseconds(changes.asking_cpu),
            changes.last.len(),
        );
    }
    println!(
        "\none endpoint's change, CPU of all servers   all proxies told us  ratio  one proxy told us  ratio  at rest %"
    );
    for cost in &report.costs {
        let first = &report.costs[0];
        println!(
            "{:<43} {:>19.0} {:>6.2} {:>18.0} {:>6.2} {:>10.1}",
            format!("{} services", cost.services),
            cost.called_us,
            cost.called_us / first.called_us,
            cost.uncalled_us,
            cost.uncalled_us / first.uncalled_us,
            cost.idle * 100.0,
        );
    }
}

fn values(report: &Report) -> Value {
    let memory: Vec<Value> = report
        .memory
        .iter()
        .map(|memory| json!({"rss_bytes": memory.resident_bytes, "pss_bytes": memory.proportional_bytes}))
        .collect();
    let changes = |changes: &RouteChanges| {
        json!({
            "p50_ms": milliseconds(percentile(&changes.each, 50)),
            "p99_ms": milliseconds(percentile(&changes.each, 99)),
            "max_ms": milliseconds(percentile(&changes.each, 100)),
            "write_p50_ms": milliseconds(percentile(&changes.write, 50)),
            "last_proxy_p50_ms": milliseconds(percentile(&changes.last, 50)),
            "servers_cpu_ms": milliseconds(changes.servers_cpu),
            "proxies_cpu_ms": milliseconds(changes.proxies_cpu),
            "asking_cpu_ms": milliseconds(changes.asking_cpu),
            "changes": changes.last.len(),
        })
    };
    let costs: Vec<Value> = report
        .costs
        .iter()
        .map(|cost| {
            json!({
                "services": cost.services,
                "all_proxies_told_us": cost.called_us,
                "one_proxy_told_us": cost.uncalled_us,
                "idle_cores": cost.idle,
            })
        })
        .collect();
    json!({
        "services": report.services,
        "servers": report.servers,
        "proxies": report.proxies,
        "memory": {"five": memory.first(), "all": memory.get(1), "after_changes_rss_bytes": report.memory_after_bytes},
        "route_change": {"five": changes(&report.narrow), "all": changes(&report.wide)},
        "endpoint_change": costs,
        "requests_served": report.served,
    })
}
