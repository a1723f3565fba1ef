//! A watcher's host: follows the ConfigMaps through whichever server it reaches, and resumes where
//! it was when a stream ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use trireme_check::watch::{Observation, Session, Watcher, Write};

use crate::client::{CONFIG_MAP_PREFIX, CONFIG_MAPS, config_map};
use crate::connection::{Connection, request};
use crate::record::Record;

/// A stream that says nothing for so long is given up: the network loses goodbyes.
const SILENCE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_millis(2_000);
const PAUSE: Duration = Duration::from_millis(50);

pub struct Following {
    pub id: u64,
    pub servers: u64,
    pub seed: u64,
    pub record: Record,
    /// The watch may end once it has delivered this revision.
    pub last_revision: Arc<AtomicU64>,
}

pub async fn run(following: Following) -> turmoil::Result {
    let me = format!("watcher-{}", following.id);
    let mut random = ChaCha8Rng::seed_from_u64(following.seed);
    let mut server = 1 + following.id % following.servers;
    let mut watcher = Watcher {
        name: me.clone(),
        prefix: CONFIG_MAP_PREFIX.into(),
        sessions: Vec::new(),
    };
    let mut at: Option<u64> = None;
    loop {
        if at.is_some_and(|at| at >= following.last_revision.load(Ordering::Relaxed)) {
            break;
        }
        let mut connection = Connection::default();
        let reached = match at {
            None => {
                at = list(&mut connection, server).await;
                at.is_some()
            }
            Some(after) => {
                let (session, expired) =
                    session(&following, &mut connection, server, after, &me).await;
                let heard = !session.observations.is_empty();
                let newest = session.observations.iter().map(|seen| match seen {
                    Observation::Event(write) => write.revision,
                    Observation::Progress(revision) => *revision,
                });
                at = newest.max().max(at);
                watcher.sessions.push(session);
                if expired {
                    // Begins anew, as a client does that lists again: another watch to check.
                    let next = Watcher {
                        sessions: Vec::new(),
                        ..watcher.clone()
                    };
                    let ended = std::mem::replace(&mut watcher, next);
                    following.record.lock().watchers.push(ended);
                    at = None;
                }
                heard
            }
        };
        if !reached || random.random_bool(0.3) {
            server = 1 + server % following.servers;
        }
        tokio::time::sleep(PAUSE).await;
    }
    following.record.note(&me, "ends");
    following.record.lock().watchers.push(watcher);
    Ok(())
}

/// The revision of a list of everything.
async fn list(connection: &mut Connection, server: u64) -> Option<u64> {
    let (_, body) = connection
        .ask(server, request("GET", CONFIG_MAPS, None), PATIENCE)
        .await
        .ok()?;
    let list: Value = serde_json::from_slice(&body).ok()?;
    let revision: u64 = list["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
    // To watch from 0 is to ask for what there is, at no certain revision.
    (revision > 0).then_some(revision)
}

/// One stream until it ends; and whether its revision was compacted away.
async fn session(
    following: &Following,
    connection: &mut Connection,
    server: u64,
    after: u64,
    me: &str,
) -> (Session, bool) {
    let mut session = Session {
        after,
        observations: Vec::new(),
    };
    following
        .record
        .note(me, format_args!("watches server-{server} after {after}"));
    let path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={after}");
    let response = match connection
        .open(server, request("GET", &path, None), PATIENCE)
        .await
    {
        Ok(response) if response.status() == http::StatusCode::OK => response,
        Ok(response) => return (session, response.status() == http::StatusCode::GONE),
        Err(_) => return (session, false),
    };
    let mut body = response.into_body();
    let mut text = Vec::new();
    let mut newest = after;
    while newest < following.last_revision.load(Ordering::Relaxed) {
        let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await else {
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
                    recorded.note(me, format!("{seen:?}"));
                    recorded.watched += 1;
                    session.observations.push(seen);
                }
                Some(Err(expired)) => return (session, expired),
                None => following.record.violation(format_args!(
                    "{me} received a line that is no event: {}",
                    String::from_utf8_lossy(&line)
                )),
            }
        }
    }
    (session, false)
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
