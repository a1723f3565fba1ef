//! A watcher's host: follows the ConfigMaps through whichever server it reaches, and resumes where
//! it was when a stream ends. Now and then it is away for so long that this is compacted: then it lists
//! everything anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use trireme_check::watch::{Observation, Session, View, Watcher, Write};

use crate::client::{CONFIG_MAP_PREFIX, CONFIG_MAPS, config_map};
use crate::connection::{Connection, request};
use crate::lister::Lister;
use crate::record::Record;

/// A stream that says nothing for so long is given up: the network loses goodbyes.
const SILENCE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_millis(2_000);
const PAUSE: Duration = Duration::from_millis(50);
/// A stream is ended after at most so long, as by a client that starts again.
const SESSION_MS: u64 = 6_000;

pub struct Following {
    pub id: u64,
    pub servers: u64,
    pub seed: u64,
    /// How long what is overwritten can still be read.
    pub history: Duration,
    pub record: Record,
    /// The watch may end once it has delivered this revision.
    pub last_revision: Arc<AtomicU64>,
}

impl Following {
    fn is_over(&self, at: u64) -> bool {
        at >= self.last_revision.load(Ordering::Relaxed)
    }

    /// Away for a while, unless the world comes to its end.
    async fn be_away(&self, mut left: Duration) {
        while !left.is_zero() && self.last_revision.load(Ordering::Relaxed) == u64::MAX {
            let now = left.min(SILENCE);
            tokio::time::sleep(now).await;
            left -= now;
        }
    }
}

pub async fn run(following: Following) -> turmoil::Result {
    let me = format!("watcher-{}", following.id);
    let mut random = ChaCha8Rng::seed_from_u64(following.seed);
    let mut server = 1 + following.id % following.servers;
    let mut watcher = Watcher {
        name: me.clone(),
        prefix: CONFIG_MAP_PREFIX.into(),
        ..Watcher::default()
    };
    let lister = Lister {
        name: &me,
        servers: following.servers,
        history: following.history,
        record: &following.record,
        last_revision: &following.last_revision,
    };
    let mut view: Option<View> = None;
    // What the next session begins with.
    let mut listed = None;
    loop {
        if let Some(view) = &view
            && following.is_over(view.revision)
        {
            break;
        }
        let mut connection = Connection::default();
        let reached = match &mut view {
            None => {
                let found = lister.list(&mut connection, &mut server, &mut random).await;
                view = found.map(|(revision, state)| View { revision, state });
                listed = view.as_ref().map(|view| view.state.clone());
                view.is_some()
            }
            Some(known) => {
                let limit = Duration::from_millis(random.random_range(1..=SESSION_MS));
                let mut session =
                    session(&following, &mut connection, server, known.revision, limit).await;
                for seen in &session.observations {
                    take_in(known, seen);
                }
                let (heard, expired) = (!session.observations.is_empty(), session.expired);
                session.listed = listed.take();
                watcher.sessions.push(session);
                if expired {
                    following.record.lock().expired += 1;
                    view = None;
                }
                heard || expired
            }
        };
        if !reached || random.random_bool(0.3) {
            server = 1 + server % following.servers;
        }
        tokio::time::sleep(PAUSE).await;
        if random.random_bool(0.2) {
            let away = following.history.mul_f64(random.random_range(0.0..2.5));
            following.be_away(away).await;
        }
    }
    following.record.note(&me, "ends");
    watcher.view = view;
    following.record.lock().watchers.push(watcher);
    Ok(())
}

/// What an informer does with an event.
fn take_in(view: &mut View, seen: &Observation) {
    let revision = match seen {
        Observation::Event(Write {
            revision,
            key,
            value,
        }) => {
            match value {
                Some(value) => view.state.insert(key.clone(), *value),
                None => view.state.remove(key),
            };
            *revision
        }
        Observation::Progress(revision) => *revision,
    };
    view.revision = view.revision.max(revision);
}

/// One stream until it ends.
async fn session(
    following: &Following,
    connection: &mut Connection,
    server: u64,
    after: u64,
    limit: Duration,
) -> Session {
    let deadline = tokio::time::Instant::now() + limit;
    let me = format!("watcher-{}", following.id);
    let mut session = Session {
        after,
        ..Session::default()
    };
    following
        .record
        .note(&me, format_args!("watches server-{server} after {after}"));
    let path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={after}");
    let response = match connection
        .open(server, request("GET", &path, None), PATIENCE)
        .await
    {
        Ok(response) if response.status() == http::StatusCode::OK => response,
        Ok(response) => {
            session.expired = response.status() == http::StatusCode::GONE;
            return session;
        }
        Err(_) => return session,
    };
    let mut body = response.into_body();
    let mut text = Vec::new();
    let mut newest = after;
    while !following.is_over(newest) {
        let patience = deadline.min(tokio::time::Instant::now() + SILENCE);
        let Ok(Some(Ok(frame))) = tokio::time::timeout_at(patience, body.frame()).await else {
            break;
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        text.extend_from_slice(&data);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            match observation(&line) {
                Some(Ok(seen)) => {
                    newest = newest.max(match &seen {
                        Observation::Event(write) => write.revision,
                        Observation::Progress(revision) => *revision,
                    });
                    let mut recorded = following.record.lock();
                    recorded.note(&me, format!("{seen:?}"));
                    recorded.watched += 1;
                    session.observations.push(seen);
                }
                Some(Err(expired)) => {
                    session.expired = expired;
                    return session;
                }
                None => following.record.violation(format_args!(
                    "{me} received a line that is no event: {}",
                    String::from_utf8_lossy(&line)
                )),
            }
        }
    }
    session
}

/// What a line says; an error with whether the revision has been compacted.
fn observation(line: &[u8]) -> Option<Result<Observation, bool>> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let object = &event["object"];
    let metadata = &object["metadata"];
    let revision = || metadata["resourceVersion"].as_str()?.parse::<u64>().ok();
    let write = |value| -> Option<Observation> {
        let key = format!("{CONFIG_MAP_PREFIX}{}", metadata["name"].as_str()?);
        let revision = revision()?;
        Some(Observation::Event(Write {
            revision,
            key,
            value,
        }))
    };
    match event["type"].as_str()? {
        "ADDED" | "MODIFIED" => write(Some(config_map(object)?.0)).map(Ok),
        "DELETED" => write(None).map(Ok),
        "BOOKMARK" => revision().map(Observation::Progress).map(Ok),
        "ERROR" => Some(Err(object["code"] == 410)),
        _ => None,
    }
}
