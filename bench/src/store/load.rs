//! Clients that put, each one thing after the other, and what that measured.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use super::cluster::Cluster;
use super::wire::PutRequest;
use super::wire::kv_client::KvClient;

/// Clients share connections as those of one program do.
const CLIENTS_PER_CONNECTION: usize = 16;
/// Not measured: connections open, batches form.
const WARM_UP: Duration = Duration::from_secs(1);

pub struct Load {
    pub clients: usize,
    pub value_bytes: usize,
    pub time: Duration,
    /// Of the keys, which are all new.
    pub prefix: String,
}

#[derive(Clone, Debug)]
pub struct Measured {
    pub puts_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of all members together.
    pub cpu_us_per_put: f64,
    pub memory_mib: f64,
}

impl Load {
    pub async fn run(&self, cluster: &Cluster, spread: bool) -> anyhow::Result<Measured> {
        let addresses = if spread {
            cluster.addresses()
        } else {
            vec![cluster.leader().await?]
        };
        let mut connections = Vec::new();
        for n in 0..self
            .clients
            .div_ceil(CLIENTS_PER_CONNECTION)
            .max(addresses.len())
        {
            let address = addresses[n % addresses.len()].clone();
            connections.push(
                Endpoint::from_shared(address)?
                    .tcp_nodelay(true)
                    .connect()
                    .await?,
            );
        }
        let value = Bytes::from(vec![b'v'; self.value_bytes]);
        let start = Instant::now() + WARM_UP;
        let end = start + self.time;
        let mut clients = Vec::new();
        for n in 0..self.clients {
            let connection = connections[n % connections.len()].clone();
            let prefix = format!("{}/{n}", self.prefix);
            clients.push(tokio::spawn(client(
                connection,
                prefix,
                value.clone(),
                start,
                end,
            )));
        }
        tokio::time::sleep_until(start.into()).await;
        let cpu_before = cluster.cpu()?;
        tokio::time::sleep_until(end.into()).await;
        let cpu = cluster.cpu()? - cpu_before;
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.await??);
        }
        latencies.sort_unstable();
        anyhow::ensure!(
            !latencies.is_empty(),
            "{}: nothing was written",
            cluster.name()
        );
        let at = |share: f64| {
            let index = ((latencies.len() - 1) as f64 * share) as usize;
            latencies[index].as_secs_f64() * 1e3
        };
        Ok(Measured {
            puts_per_second: latencies.len() as f64 / self.time.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_us_per_put: cpu.as_secs_f64() * 1e6 / latencies.len() as f64,
            memory_mib: cluster.memory()? as f64 / (1 << 20) as f64,
        })
    }
}

async fn client(
    connection: Channel,
    prefix: String,
    value: Bytes,
    start: Instant,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut client = KvClient::new(connection);
    let mut latencies = Vec::new();
    for n in 0u64.. {
        let began = Instant::now();
        if began >= end {
            break;
        }
        let key = Bytes::from(format!("{prefix}/{n:08}"));
        client
            .put(PutRequest {
                key,
                value: value.clone(),
            })
            .await?;
        if began >= start {
            latencies.push(began.elapsed());
        }
    }
    Ok(latencies)
}
