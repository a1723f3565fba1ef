//! Clients: one request after the other, some on kept connections, some given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::AsyncWriteExt;
use trireme_check::traffic::{Ending, Request};
use turmoil::net::TcpStream;

use super::record::{Record, now_ms};
use super::settings::{MAIN, PATH_OF_MAIN, PATH_OF_SWITCH, ROUTE_TIMEOUT_MS};
use super::wire::Reader;

pub const PROXY_PORT: u16 = 15_001;
/// Beyond the route's timeout: connecting, and the way there and back.
const PATIENCE: Duration = Duration::from_millis(ROUTE_TIMEOUT_MS + 2_000);
/// What comes this long after an answer was not asked for.
const AFTER: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub struct Client {
    pub proxy: u64,
    pub seed: u64,
    pub think_ms: u64,
    pub numbers: Arc<AtomicU64>,
    pub record: Record,
    pub stop: Arc<AtomicBool>,
}

type Connection = Reader<TcpStream>;

pub async fn run(client: Client) -> turmoil::Result {
    let mut random = ChaCha8Rng::seed_from_u64(client.seed);
    let mut kept: Option<Connection> = None;
    while !client.stop.load(Ordering::Relaxed) {
        let think = Duration::from_millis(random.random_range(0..=2 * client.think_ms));
        tokio::time::sleep(think).await;
        if let Some(connection) = &mut kept {
            // Nothing may come that was not asked for.
            match tokio::time::timeout(AFTER, connection.more()).await {
                Err(_) => {}
                Ok(Ok(true)) => client.record.violation(format_args!(
                    "proxy-{} sent bytes that nobody asked for",
                    client.proxy
                )),
                Ok(_) => kept = None,
            }
        }
        let id = client.numbers.fetch_add(1, Ordering::Relaxed);
        let main = random.random_bool(0.8);
        let patience = match random.random_bool(0.1) {
            true => Some(Duration::from_millis(random.random_range(1..=150))),
            false => None,
        };
        let began_ms = now_ms();
        let asked = ask(&client, &mut kept, id, main);
        let ending = match tokio::time::timeout(patience.unwrap_or(PATIENCE), asked).await {
            Ok(ending) => ending,
            Err(_) => {
                kept = None;
                if patience.is_some() {
                    let mut recorded = client.record.lock();
                    recorded.left += 1;
                    recorded.note(
                        format_args!("client of proxy-{}", client.proxy),
                        format_args!("request {id} given up"),
                    );
                    continue;
                }
                Ending::Silence
            }
        };
        if !matches!(ending, Ending::Answered { .. }) || random.random_bool(0.2) {
            kept = None;
        }
        client.record.ended(Request {
            id,
            proxy: client.proxy,
            cluster: if main { MAIN.to_owned() } else { String::new() },
            began_ms,
            ended_ms: now_ms(),
            ending,
        });
    }
    Ok(())
}

async fn ask(client: &Client, kept: &mut Option<Connection>, id: u64, main: bool) -> Ending {
    let connection = match kept {
        Some(connection) => connection,
        None => {
            let address = (format!("proxy-{}", client.proxy), PROXY_PORT);
            match TcpStream::connect(address).await {
                Ok(stream) => kept.insert(Reader::new(stream)),
                Err(_) => return Ending::Closed,
            }
        }
    };
    let path = if main { PATH_OF_MAIN } else { PATH_OF_SWITCH };
    let body = if id.is_multiple_of(3) {
        "a body to keep for retries"
    } else {
        ""
    };
    let request = format!(
        "{} {path}{id} HTTP/1.1\r\nhost: service\r\nx-request-number: {id}\r\nx-proxy: {}\r\ncontent-length: {}\r\n\r\n{body}",
        if body.is_empty() { "GET" } else { "POST" },
        client.proxy,
        body.len(),
    );
    if connection
        .stream
        .write_all(request.as_bytes())
        .await
        .is_err()
    {
        return Ending::Closed;
    }
    let head = match connection.head().await {
        Ok(Some(head)) => head,
        Ok(None) => return Ending::Closed,
        Err(_) => return Ending::Broken,
    };
    let status = head
        .first_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let Some(status) = status else {
        return Ending::Surplus;
    };
    let Ok(body) = connection.body(&head).await else {
        return Ending::Broken;
    };
    if connection.surplus() > 0 {
        return Ending::Surplus;
    }
    if head.get("connection") == Some("close") {
        *kept = None;
    }
    Ending::Answered { status, body }
}
