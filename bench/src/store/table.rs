//! What is printed.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Options;
use super::load::Measured;

pub struct Row {
    pub clients: usize,
    /// One for each system.
    pub medians: Vec<Measured>,
}

pub fn text(names: &[&str], rows: &[Row], options: &Options) -> String {
    let mut out = String::new();
    let to = if options.spread {
        "all members"
    } else {
        "the leader"
    };
    let _ = writeln!(
        out,
        "puts of {} bytes, three members with fsync, clients on {to}; median of {} x {} s",
        options.value_bytes, options.rounds, options.seconds
    );
    let _ = writeln!(
        out,
        "{:>7}  {:<8} {:>9} {:>8} {:>8} {:>11} {:>9}",
        "clients", "system", "puts/s", "p50 ms", "p99 ms", "CPU us/put", "RSS MiB"
    );
    for row in rows {
        for (name, measured) in names.iter().zip(&row.medians) {
            let _ = writeln!(
                out,
                "{:>7}  {:<8} {:>9.0} {:>8.2} {:>8.2} {:>11.0} {:>9.0}",
                row.clients,
                name,
                measured.puts_per_second,
                measured.p50_ms,
                measured.p99_ms,
                measured.cpu_us_per_put,
                measured.memory_mib
            );
        }
        if let [theirs, ours] = &row.medians[..] {
            let _ = writeln!(
                out,
                "{:>7}  {:<8} {:>8.2}x {:>7.2}x {:>7.2}x {:>10.2}x {:>8.2}x",
                "",
                "ratio",
                ours.puts_per_second / theirs.puts_per_second,
                ours.p50_ms / theirs.p50_ms,
                ours.p99_ms / theirs.p99_ms,
                ours.cpu_us_per_put / theirs.cpu_us_per_put,
                ours.memory_mib / theirs.memory_mib
            );
        }
    }
    out.truncate(out.trim_end().len());
    out
}

pub fn json(names: &[&str], rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let mut object = serde_json::Map::new();
        object.insert("clients".into(), row.clients.into());
        for (name, measured) in names.iter().zip(&row.medians) {
            let measured = json!({
                "puts_per_second": measured.puts_per_second,
                "p50_ms": measured.p50_ms,
                "p99_ms": measured.p99_ms,
                "cpu_us_per_put": measured.cpu_us_per_put,
                "memory_mib": measured.memory_mib,
            });
            object.insert((*name).into(), measured);
        }
        Value::Object(object)
    };
    Value::Array(rows.iter().map(row).collect())
}
