//! What is printed: medians, and ratios to Envoy's.

use serde_json::{Value, json};

use super::Row;
use super::load::Measured;
use super::peer::System;

const MIB: f64 = 1024.0 * 1024.0;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn of(measured: &[Measured], value: fn(&Measured) -> f64) -> f64 {
    median(measured.iter().map(value).collect())
}

/// The median of what was measured in one round over what Envoy had in the same.
fn ratio(
    ours: &[Measured],
    envoys: Option<&[Measured]>,
    value: fn(&Measured) -> f64,
) -> Option<f64> {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(envoys?)
        .map(|(ours, envoys)| value(ours) / value(envoys))
        .collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

pub fn print(rows: &[Row], as_json: bool) {
    let envoy = rows.iter().find(|row| row.system == System::Envoy);
    if as_json {
        println!("{:#}", values(rows, envoy));
        return;
    }
    println!(
        "protocol   system      req/s   p50 us   p99 us  CPU us/req  CPU to Envoy's  p99 to Envoy's"
    );
    let protocols = rows.first().map_or(0, |row| row.rounds.len());
    for at in 0..protocols {
        for row in rows {
            let (protocol, measured) = &row.rounds[at];
            if measured.is_empty() {
                continue;
            }
            let envoys = envoy.map(|envoy| envoy.rounds[at].1.as_slice());
            let show = |ratio: Option<f64>| {
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
            };
            println!(
                "{:<10} {:<8} {:>8.0} {:>8.0} {:>8.0} {:>11.1} {:>15} {:>15}",
                protocol.to_string(),
                row.system.to_string(),
                of(measured, |one| one.requests_per_second),
                of(measured, |one| one.p50_us),
                of(measured, |one| one.p99_us),
                of(measured, |one| one.cpu_us),
                show(ratio(measured, envoys, |one| one.cpu_us)),
                show(ratio(measured, envoys, |one| one.p99_us)),
            );
        }
    }
    println!();
    println!("system    idle MiB  1,000 connections MiB  added latency at 1,000/s us (median)");
    for row in rows {
        println!(
            "{:<8} {:>9.1} {:>22.1} {:>37.0}",
            row.system.to_string(),
            mib(row.idle_bytes),
            mib(row.held_bytes),
            median(row.added_us.clone()),
        );
    }
}

fn values(rows: &[Row], envoy: Option<&Row>) -> Value {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let protocols: Vec<Value> = row
                .rounds
                .iter()
                .enumerate()
                .filter(|(_, (_, measured))| !measured.is_empty())
                .map(|(at, (protocol, measured))| {
                    let envoys = envoy.map(|envoy| envoy.rounds[at].1.as_slice());
                    json!({
                        "protocol": protocol.to_string(),
                        "requests_per_second": of(measured, |one| one.requests_per_second),
                        "p50_us": of(measured, |one| one.p50_us),
                        "p99_us": of(measured, |one| one.p99_us),
                        "cpu_us_per_request": of(measured, |one| one.cpu_us),
                        "cpu_to_envoy": ratio(measured, envoys, |one| one.cpu_us),
                        "p99_to_envoy": ratio(measured, envoys, |one| one.p99_us),
                    })
                })
                .collect();
            json!({
                "system": row.system.to_string(),
                "protocols": protocols,
                "idle_mib": mib(row.idle_bytes),
                "held_mib": mib(row.held_bytes),
                "added_latency_us": median(row.added_us.clone()),
            })
        })
        .collect();
    json!({"systems": list})
}
