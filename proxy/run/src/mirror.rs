//! Copies of requests, whose answers nobody waits for.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use trireme_proxy_decide::config::{HttpProtocol, Priority};
use trireme_proxy_decide::exchange::{Mirrored, Protocol};
use trireme_proxy_decide::outlier::Outcome;

use crate::attempt::{Attempt, Failure, Progress};
use crate::body::Body;
use crate::http::HttpConnection;

/// A mirror without a timeout of its own is given up after Envoy's default for routes.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends a copy. It counts for the limits and the health of its cluster as any request does.
pub fn send(http: &Rc<HttpConnection>, mirrored: Mirrored, body: Bytes) {
    let timeout = mirrored.timeout.unwrap_or(TIMEOUT);
    let http = http.clone();
    tokio::task::spawn_local(async move {
        let _ = tokio::time::timeout(timeout, answered(&http, mirrored, body)).await;
    });
}

async fn answered(http: &Rc<HttpConnection>, mirrored: Mirrored, body: Bytes) {
    let protocol = match mirrored.cluster.config.http.protocol {
        HttpProtocol::Http1 => Some(false),
        HttpProtocol::Http2 => Some(true),
        HttpProtocol::Downstream => Some(http.connection.protocol == Protocol::Http2),
        HttpProtocol::Alpn => None,
    };
    let authority = mirrored.head.authority().to_owned();
    let peer = http.downstream.peer;
    let pool = http.worker.pool(
        &mirrored.cluster,
        &mirrored.host,
        Priority::Default,
        protocol,
        peer,
        Some(&authority),
    );
    let Ok(pool) = pool else { return };
    let (mut attempt, mut progress) = Attempt::begin(pool, mirrored.cluster.clone());
    let mut place = None;
    let outcome = loop {
        let next = match progress.take() {
            Some(next) => next,
            None => std::future::poll_fn(|context| attempt.poll(context)).await,
        };
        match next {
            Progress::Attached(attached) => {
                place = Some(attached);
                attempt.send(
                    &mirrored.head,
                    http.connection.hcm.scheme,
                    None,
                    Body::text(body.clone()),
                );
            }
            Progress::Head(received) => {
                let mut received = received;
                // Read to its end, so that the connection can be used again.
                while let Some(Ok(_)) =
                    std::future::poll_fn(|context| Pin::new(&mut received.body).poll_frame(context))
                        .await
                {}
                break Outcome::Status(received.status.as_u16());
            }
            Progress::Failed(Failure::Overflow | Failure::Client) => return,
            Progress::Failed(Failure::Broken(..)) => break Outcome::ConnectFailed,
        }
    };
    let now = http.worker.now();
    http.worker
        .with_rng(|rng| mirrored.cluster.report(&mirrored.host, outcome, now, rng));
    drop(place);
}
