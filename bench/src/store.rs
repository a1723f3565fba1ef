//! Replicated writes: the same load, over the same protocol, on three members of ours and on three
//! of etcd, all as processes of their own with data on the same disk.

mod cluster;
mod load;
pub mod member;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use cluster::{Cluster, System};
use load::Load;

/// Generated from `proto/etcd.proto`.
pub mod wire {
    #![allow(clippy::all)]
    tonic::include_proto!("etcdserverpb");
}

#[derive(clap::Args)]
pub struct Options {
    /// Numbers of clients, each of which waits for one put before it makes the next.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measurements of each system at each number of clients, alternating; medians count, also of
    /// the ratios, each of which compares two measurements made one after the other.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Connect clients to all members instead of to the leader alone.
    #[arg(long)]
    spread: bool,
    /// Where the data directories are made; on the disk that is to be measured.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Threads of each of our members that run tasks; half of the cores, as `trireme server` has it.
    #[arg(long, default_value_t = member::default_threads())]
    threads: usize,
    /// Measure ours only.
    #[arg(long)]
    alone: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let data = tempfile::Builder::new()
        .prefix("bench-store-")
        .tempdir_in(&options.directory)?;
    let ours = Cluster::start(
        System::Trireme {
            threads: options.threads,
        },
        data.path(),
    )
    .await?;
    let mut systems = vec![ours];
    if !options.alone {
        let etcd = System::Etcd {
            program: options.etcd.clone(),
        };
        systems.insert(0, Cluster::start(etcd, data.path()).await?);
    }
    let mut results = Vec::new();
    for &clients in &options.clients {
        let mut rounds = vec![Vec::new(); systems.len()];
        for round in 0..options.rounds {
            for (cluster, measured) in systems.iter().zip(&mut rounds) {
                let load = Load {
                    clients,
                    value_bytes: options.value_bytes,
                    time: Duration::from_secs(options.seconds),
                    prefix: format!("/bench/{clients}/{round}"),
                };
                measured.push(load.run(cluster, options.spread).await?);
            }
        }
        results.push(table::Row { clients, rounds });
    }
    let names: Vec<&str> = systems.iter().map(Cluster::name).collect();
    if options.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&table::json(&names, &results))?
        );
    } else {
        println!("{}", table::text(&names, &results, &options));
    }
    for cluster in systems {
        cluster.stop();
    }
    Ok(())
}
