//! `trireme balance`: one local address for all servers, as k3s's agents have it.
//!
//! A TCP relay that tries the servers in order, the one that answered last first. It holds no state
//! and opens no TLS, so the client still authenticates the server behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A server that does not accept within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);
/// Connections at once; further ones wait to be accepted. Each holds two sockets.
const MAX_CONNECTIONS: usize = 2000;
/// After a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub struct Options {
    /// Address to listen at.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// The servers' API addresses.
    #[arg(long, value_delimiter = ',', required = true)]
    servers: Vec<SocketAddr>,
}

pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listening at {}", options.listen))?;
    tracing::info!(listen = %options.listen, servers = ?options.servers, "balancing");
    let servers: Arc<[SocketAddr]> = options.servers.into();
    let preferred = Arc::new(AtomicUsize::new(0));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut relays = tokio::task::JoinSet::new();
    loop {
        while relays.try_join_next().is_some() {}
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.context("the places are never closed")?,
            () = shutdown.cancelled() => break,
        };
        let client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    tracing::warn!(%error, "accepting");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let (servers, preferred) = (servers.clone(), preferred.clone());
        relays.spawn(async move {
            let _place = place;
            relay(client, &servers, &preferred).await;
        });
    }
    relays.shutdown().await;
    Ok(())
}

async fn relay(mut client: TcpStream, servers: &[SocketAddr], preferred: &AtomicUsize) {
    let first = preferred.load(Ordering::Relaxed);
    for offset in 0..servers.len() {
        let index = (first + offset) % servers.len();
        let dial = TcpStream::connect(servers[index]);
        let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT_TIMEOUT, dial).await else {
            continue;
        };
        preferred.store(index, Ordering::Relaxed);
        // Small messages both ways: latency before batching. Failing only costs latency.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // How it ended is for the two ends to know.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    tracing::warn!(?servers, "no server accepts connections");
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn passes_over_a_server_that_is_gone() -> Result<()> {
        let gone = TcpListener::bind("127.0.0.1:0").await?;
        let gone_address = gone.local_addr()?;
        drop(gone);
        let alive = TcpListener::bind("127.0.0.1:0").await?;
        let servers = [gone_address, alive.local_addr()?];
        let front = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(front.local_addr()?).await?;
        let (accepted, _) = front.accept().await?;
        let preferred = Arc::new(AtomicUsize::new(0));
        let remembers = preferred.clone();
        let relayed = tokio::spawn(async move { relay(accepted, &servers, &remembers).await });
        let (mut server, _) = alive.accept().await?;
        server.write_all(b"hello").await?;
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        client.shutdown().await?;
        relayed.await?;
        assert_eq!(preferred.load(Ordering::Relaxed), 1);
        Ok(())
    }
}
