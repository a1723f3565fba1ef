//! Upstreams, whose mood the world decides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use trireme_check::traffic::Arrival;
use turmoil::net::{TcpListener, TcpStream};

use super::record::{Record, now_ms};
use super::settings::{MAIN, PATH_OF_MAIN};
use super::wire::{Head, Reader};

pub const PORT: u16 = 8080;

/// What an upstream does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Answers with this status.
    Failing(u16),
    /// Never answers.
    Stalling,
    Slow {
        milliseconds: u64,
    },
    /// Well and failing by turns.
    Flapping {
        period_ms: u64,
    },
    /// Closes the connection instead of answering.
    Closing,
    /// Answers half and closes.
    Halving,
    /// Answers half and says no more.
    HalfStalling,
}

#[derive(Clone)]
pub struct Upstream {
    pub name: String,
    pub color: &'static str,
    pub mood: Arc<Mutex<Mood>>,
    pub record: Record,
}

impl Upstream {
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(|p| p.into_inner()) = mood;
    }

    fn mood(&self) -> Mood {
        let mood = *self.mood.lock().unwrap_or_else(|p| p.into_inner());
        match mood {
            Mood::Flapping { period_ms } => match (now_ms() / period_ms).is_multiple_of(2) {
                true => Mood::Well,
                false => Mood::Failing(503),
            },
            other => other,
        }
    }
}

pub async fn run(upstream: Upstream) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let upstream = upstream.clone();
        tokio::task::spawn_local(async move { serve(upstream, stream).await.ok() });
    }
}

async fn serve(upstream: Upstream, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = Reader::new(stream);
    while let Some(head) = reader.head().await? {
        reader.body(&head).await?;
        let place = arrived(&upstream, &head);
        let body = format!("{} here, colored {}", upstream.name, upstream.color);
        let (status, whole) = match upstream.mood() {
            Mood::Well => (200, true),
            Mood::Flapping { .. } => (200, true),
            Mood::Failing(status) => (status, true),
            Mood::Slow { milliseconds } => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                (200, true)
            }
            Mood::Stalling => {
                // Until the proxy has had enough of it.
                while reader.more().await? {}
                return Ok(());
            }
            Mood::Closing => return Ok(()),
            Mood::Halving | Mood::HalfStalling => (200, false),
        };
        let answer = format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}",
            body.len()
        );
        if !whole {
            upstream.record.cut(place);
            let half = answer.len() - body.len() / 2;
            reader.stream.write_all(&answer.as_bytes()[..half]).await?;
            if upstream.mood() == Mood::HalfStalling {
                while reader.more().await? {}
            }
            return Ok(());
        }
        reader.stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn arrived(upstream: &Upstream, head: &Head) -> usize {
    let main = head.first_line.contains(PATH_OF_MAIN);
    upstream.record.arrived(Arrival {
        at_ms: now_ms(),
        proxy: head.number("x-proxy").unwrap_or_default(),
        cluster: if main { MAIN } else { upstream.color }.to_owned(),
        request: head.number("x-request-number").unwrap_or_default(),
        attempt: head.number("x-envoy-attempt-count").unwrap_or(1) as u32,
        host: upstream.name.clone(),
        cut: false,
    })
}
