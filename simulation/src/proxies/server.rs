//! A server of the control plane: the product's discovery service over the product's mesh, following the journal of
//! objects with a lag of its own. A restart begins with an empty memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use trireme_xds_server::{Admit, Ads, MeshSource, Registry};
use turmoil::net::{TcpListener, TcpStream};

use super::journal::Journal;
use super::record::{Record, now_ms};

pub const PORT: u16 = 15_010;
/// As the product's servers.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub fn name_of(server: u64) -> String {
    format!("control-{server}")
}

/// What a server needs to start, and start again.
#[derive(Clone)]
pub struct Server {
    pub id: u64,
    pub seed: u64,
    pub lag_ms: u64,
    pub journal: Journal,
    /// It learns of nothing before this.
    pub deaf_until_ms: Arc<AtomicU64>,
    pub record: Record,
}

pub async fn run(server: Server) -> turmoil::Result {
    let name = name_of(server.id);
    server.record.note(&name, "starts");
    let source = MeshSource::new();
    // Who asks is proven by certificates and tokens, which these worlds leave out.
    let anybody: Admit = Arc::new(|_, _| Ok(()));
    let ads = Ads::new(
        &name,
        Arc::new(source.clone()),
        anybody,
        Registry::new(),
        CancellationToken::new(),
    );
    let service = ads.into_service();
    tokio::task::spawn_local(follow(server, source));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::<TcpStream>::new(stream), service);
        tokio::task::spawn_local(async move { connection.await.ok() });
    }
}

/// Lists what there is, then takes in what changes.
async fn follow(server: Server, source: MeshSource) {
    let mut random = ChaCha8Rng::seed_from_u64(server.seed ^ now_ms());
    let mut lag = move || random.random_range(0..=server.lag_ms);
    let mut length = server.journal.length();
    pause(lag()).await;
    let behind_ms = lag();
    let (all, mut place) = server.journal.listed(now_ms().saturating_sub(behind_ms));
    source.apply(all);
    source.complete();
    loop {
        length.borrow_and_update();
        let Some(batch) = server.journal.get(place) else {
            if length.changed().await.is_err() {
                return;
            }
            continue;
        };
        let due_ms = (batch.at_ms + lag()).max(server.deaf_until_ms.load(Ordering::Relaxed));
        if due_ms > now_ms() {
            pause(due_ms - now_ms()).await;
            // Meanwhile it may have gone deaf.
            continue;
        }
        source.apply(batch.changes);
        place += 1;
    }
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
