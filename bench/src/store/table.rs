//! What is printed.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::Options;
use super::load::Measured;

pub struct Row {
    pub clients: usize,
    /// For each system, its measurements; those of one index were made one after the other.
    pub rounds: Vec<Vec<Measured>>,
}

/// One column of the table.
struct Column {
    title: &'static str,
    name: &'static str,
    digits: usize,
    value: fn(&Measured) -> f64,
}

const COLUMNS: [Column; 5] = [
    Column {
        title: "puts/s",
        name: "puts_per_second",
        digits: 0,
        value: |measured| measured.puts_per_second,
    },
    Column {
        title: "p50 ms",
        name: "p50_ms",
        digits: 2,
        value: |measured| measured.p50_ms,
    },
    Column {
        title: "p99 ms",
        name: "p99_ms",
        digits: 2,
        value: |measured| measured.p99_ms,
    },
    Column {
        title: "CPU us/put",
        name: "cpu_us_per_put",
        digits: 0,
        value: |measured| measured.cpu_us_per_put,
    },
    Column {
        title: "RSS MiB",
        name: "memory_mib",
        digits: 0,
        value: |measured| measured.memory_mib,
    },
];

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Column {
    fn median(&self, rounds: &[Measured]) -> f64 {
        median(rounds.iter().map(self.value))
    }

    /// Of ours to theirs.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let [theirs, ours] = &row.rounds[..] else {
            return None;
        };
        let pairs = ours.iter().zip(theirs);
        Some(median(pairs.map(|(ours, theirs)| {
            (self.value)(ours) / (self.value)(theirs)
        })))
    }
}

pub fn text(names: &[&str], rows: &[Row], options: &Options) -> String {
    let mut lines = Vec::new();
    let to = if options.spread {
        "all members"
    } else {
        "the leader"
    };
    lines.push(format!(
        "puts of {} bytes, three members with fsync, clients on {to}; medians of {} x {} s",
        options.value_bytes, options.rounds, options.seconds
    ));
    let mut header = format!("{:>7}  {:<8}", "clients", "system");
    for column in &COLUMNS {
        let _ = write!(header, " {:>10}", column.title);
    }
    lines.push(header);
    for row in rows {
        for (name, rounds) in names.iter().zip(&row.rounds) {
            let mut line = format!("{:>7}  {name:<8}", row.clients);
            for column in &COLUMNS {
                let _ = write!(line, " {:>10.*}", column.digits, column.median(rounds));
            }
            lines.push(line);
        }
        let mut line = format!("{:>7}  {:<8}", "", "ratio");
        for ratio in COLUMNS.iter().filter_map(|column| column.ratio(row)) {
            let _ = write!(line, " {ratio:>9.2}x");
        }
        if row.rounds.len() == 2 {
            lines.push(line);
        }
    }
    lines.join("\n")
}

pub fn json(names: &[&str], rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let mut object = Map::new();
        object.insert("clients".into(), row.clients.into());
        for (name, rounds) in names.iter().zip(&row.rounds) {
            let medians = COLUMNS
                .iter()
                .map(|it| (it.name.into(), it.median(rounds).into()));
            object.insert((*name).into(), Value::Object(medians.collect()));
        }
        let ratios = COLUMNS
            .iter()
            .filter_map(|it| Some((it.name.into(), it.ratio(row)?.into())));
        object.insert("ratio".into(), Value::Object(ratios.collect()));
        Value::Object(object)
    };
    Value::Array(rows.iter().map(row).collect())
}
