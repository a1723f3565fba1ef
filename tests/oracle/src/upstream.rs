//! Scripted servers: what they do stands in the request, and they note who came when.
//!
//! A request's `x-plan` names for each host, or for all (`*`), what to do with the first, second, … request
//! of the same `x-key`; the last goes on: `0=503,200;*=reset`. An action is a status, `reset`, `close`
//! (without an answer), `half` (of a body, then close), `204-long` (with a body that it must not have) or `hang`, and may add `+after:MS` and headers
//! (`503+retry-after:1`).
//!
//! What speaks TLS or HTTP/2 is served by hyper (`http2`); HTTP/1.1 in the clear byte by byte.

mod http2;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::client::{Head, read_body, read_head};

/// A hanging server gives up, so that no test leaves one behind.
const HANG_LIMIT: Duration = Duration::from_secs(60);

/// One request that reached a server.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub key: String,
    pub host: usize,
    pub at: Instant,
    /// Request line, headers and body.
    pub seen: Value,
}

#[derive(Default)]
struct State {
    attempts: Vec<Attempt>,
    counts: BTreeMap<(String, String), usize>,
}

/// The servers of one case.
#[derive(Clone, Default)]
pub struct Upstreams {
    state: Arc<Mutex<State>>,
}

impl Upstreams {
    /// Serves on all of these until the runtime ends.
    pub async fn start(hosts: &[SocketAddr]) -> Result<Upstreams> {
        let upstreams = Upstreams::default();
        for (number, at) in hosts.iter().enumerate() {
            let listener = TcpListener::bind(at)
                .await
                .with_context(|| format!("listening at {at}"))?;
            let upstreams = upstreams.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let upstreams = upstreams.clone();
                    tokio::spawn(async move {
                        // A proxy that goes away is part of many cases.
                        let _ = upstreams.connection(stream, number).await;
                    });
                }
            });
        }
        Ok(upstreams)
    }

    /// Every attempt whose key begins so, in the order in which they came.
    pub fn attempts(&self, key: &str) -> Vec<Attempt> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = |attempt: &&Attempt| attempt.key.starts_with(key);
        state.attempts.iter().filter(of_key).cloned().collect()
    }

    async fn connection(&self, mut stream: TcpStream, host: usize) -> Result<()> {
        stream.set_nodelay(true)?;
        match first_bytes(&stream).await? {
            [0x16, ..] => return http2::serve_tls(self, stream, host).await,
            [b'P', b'R', b'I'] => return http2::serve(self, stream, host, None, true).await,
            _ => {}
        }
        let mut buffer = Vec::new();
        loop {
            let Some(head) = read_head(&mut stream, &mut buffer).await? else {
                return Ok(());
            };
            if head.get("upgrade").is_some() {
                self.note(&head, host, &[]);
                return upgraded(stream, &head).await;
            }
            let body = read_body(&mut stream, &mut buffer, &head, false).await?;
            let action = self.note(&head, host, &body);
            if !answer(&mut stream, &head, host, &action).await? {
                return Ok(());
            }
        }
    }

    fn note(&self, head: &Head, host: usize, body: &[u8]) -> String {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &head.headers {
            headers.entry(name.clone()).or_default().push(value.clone());
        }
        let seen = json!({
            "line": head.line,
            "headers": headers,
            "body": String::from_utf8_lossy(body),
        });
        let key = head.get("x-key").unwrap_or_default();
        self.plan(key, head.get("x-plan").unwrap_or_default(), host, seen)
    }

    /// Notes a request, and says what the plan has for it.
    fn plan(&self, key: &str, plan: &str, host: usize, seen: Value) -> String {
        let key = key.to_owned();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.attempts.push(Attempt {
            key: key.clone(),
            host,
            at: Instant::now(),
            seen,
        });
        let own = host.to_string();
        let entries = || plan.split(';').filter_map(|entry| entry.split_once('='));
        let entry = entries()
            .find(|(name, _)| *name == own)
            .or_else(|| entries().find(|(name, _)| *name == "*"));
        let Some((name, actions)) = entry else {
            return "200".to_owned();
        };
        let count = state.counts.entry((key, name.to_owned())).or_insert(0);
        let number = *count;
        *count += 1;
        let actions: Vec<&str> = actions.split(',').collect();
        actions[number.min(actions.len() - 1)].to_owned()
    }
}

/// What a connection begins with, as far as it tells protocols apart.
async fn first_bytes(stream: &TcpStream) -> Result<[u8; 3]> {
    let mut first = [0; 3];
    loop {
        let count = stream.peek(&mut first).await?;
        // TLS and HTTP/1.1 are told by one byte, but for a method that begins as HTTP/2 does.
        if count == 0 || count == first.len() || first[0] != b'P' {
            return Ok(first);
        }
        stream.readable().await?;
        tokio::task::yield_now().await;
    }
}

/// Carries an action out; false when the connection is over.
async fn answer(stream: &mut TcpStream, head: &Head, host: usize, action: &str) -> Result<bool> {
    let mut parts = action.split('+');
    let what = parts.next().unwrap_or("200");
    let mut headers = String::new();
    for part in parts {
        let (name, value) = part.split_once(':').context("NAME:VALUE")?;
        if name == "after" {
            tokio::time::sleep(Duration::from_millis(value.parse()?)).await;
        } else {
            headers.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    match what {
        "reset" => {
            // Closing with nothing to linger for sends a reset.
            nix::sys::socket::setsockopt(
                stream,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            )?;
            return Ok(false);
        }
        "close" => return Ok(false),
        "hang" => {
            let mut byte = [0];
            let gone = stream.read(&mut byte);
            let _ = tokio::time::timeout(HANG_LIMIT, gone).await;
            return Ok(false);
        }
        "half" => {
            let text =
                format!("HTTP/1.1 200 OK\r\nx-host: {host}\r\ncontent-length: 100\r\n\r\nhalf");
            stream.write_all(text.as_bytes()).await?;
            return Ok(false);
        }
        _ => {}
    }
    let status = what.split('-').next().unwrap_or(what);
    let bare = matches!(what, "204" | "304");
    let body = if bare {
        String::new()
    } else {
        format!("host {host}\n")
    };
    let length = if bare {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nx-host: {host}\r\n{headers}{length}\r\n");
    if !head.line.starts_with("HEAD ") {
        text.push_str(&body);
    }
    stream.write_all(text.as_bytes()).await?;
    Ok(true)
}

/// Accepts the other protocol and sends back what comes.
async fn upgraded(mut stream: TcpStream, head: &Head) -> Result<()> {
    let protocol = head.get("upgrade").unwrap_or_default();
    let text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}
