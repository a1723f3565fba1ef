//! A client's host: reads and compare-and-swaps, on ConfigMaps through the API and on raw keys
//! through transactions, one at a time.
//!
//! Every value is written once at most, so that a comparison of revisions is one of values. Keys
//! change with time: no key's history grows long, and none that crosses many unknown outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trireme_check::history::{Action, Outcome};

use crate::connection::{Connection, Failure, request};
use crate::determinism;
use crate::record::Record;
use crate::server::RAW_PREFIX;

/// Where ConfigMaps are stored.
pub const CONFIG_MAP_PREFIX: &str = "/registry/configmaps/default/";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// After this an outcome is unknown.
const PATIENCE: Duration = Duration::from_millis(2_000);
/// Between a failure and the next attempt, on another server.
const PAUSE_MS: u64 = 50;
/// How long the same keys are used.
const ERA_MS: u64 = 3_000;
/// Of each kind, in one era.
const KEYS: u64 = 3;

pub struct Client {
    pub id: u64,
    pub servers: u64,
    pub seed: u64,
    /// Longest pause between two operations.
    pub think_ms: u64,
    pub record: Record,
    pub stop: Arc<AtomicBool>,
}

/// What was last seen of a key: value and revision, `None` for absent.
type Seen = BTreeMap<String, Option<(u64, u64)>>;

/// How an operation ended, with what is then known of the key.
struct Answer {
    outcome: Outcome,
    revision: Option<u64>,
    seen: Option<Option<(u64, u64)>>,
    /// It was refused, with the words that a disk is full.
    disk_full: bool,
}

impl Answer {
    fn only(outcome: Outcome) -> Answer {
        Answer {
            outcome,
            revision: None,
            seen: None,
            disk_full: false,
        }
    }

    fn read(found: Option<(u64, u64)>) -> Answer {
        Answer {
            seen: Some(found),
            ..Answer::only(Outcome::Read(found.map(|(value, _)| value)))
        }
    }

    fn failed(failure: Failure) -> Answer {
        Answer::only(match failure {
            Failure::NotSent => Outcome::Failed,
            Failure::Lost => Outcome::Unknown,
        })
    }
}

pub async fn run(client: Client) -> turmoil::Result {
    let mut random = ChaCha8Rng::seed_from_u64(client.seed);
    let mut connection = Connection::default();
    let mut server = 1 + client.id % client.servers;
    let mut seen = Seen::new();
    let mut next_value = client.id << 32;
    while !client.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(
            random.random_range(1..=client.think_ms),
        ))
        .await;
        let era = determinism::elapsed_ns() / 1_000_000 / ERA_MS;
        let raw = random.random_bool(0.5);
        let number = random.random_range(0..KEYS);
        let (key, name) = if raw {
            let name = format!("r{era}-{number}");
            (format!("{RAW_PREFIX}{name}"), name)
        } else {
            let name = format!("c{era}-{number}");
            (format!("{CONFIG_MAP_PREFIX}{name}"), name)
        };
        let known = seen.get(&key).copied();
        let action = match known {
            Some(known) if random.random_bool(0.7) => {
                let delete = known.is_some() && random.random_bool(0.2);
                next_value += 1;
                Action::CompareAndSwap {
                    expected: known.map(|(value, _)| value),
                    new: (!delete).then_some(next_value),
                }
            }
            _ => Action::Read,
        };
        let revision = known.flatten().map_or(0, |(_, revision)| revision);
        client.record.invoke(client.id, &key, action);
        let answer = if raw {
            raw_operation(&mut connection, server, &name, action, revision).await
        } else {
            config_map_operation(&mut connection, server, &name, action, revision).await
        };
        client
            .record
            .finish(client.id, &key, action, answer.outcome, answer.revision);
        if answer.disk_full {
            client.record.lock().disk_full += 1;
        }
        match answer.seen {
            Some(found) => seen.insert(key, found),
            None => seen.remove(&key),
        };
        let failed = matches!(answer.outcome, Outcome::Failed | Outcome::Unknown);
        if failed || random.random_bool(0.01) {
            server = 1 + server % client.servers;
            let pause_ms = random.random_range(PAUSE_MS / 2..=PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        seen.retain(|key, _| key.contains(&format!("{era}-")));
    }
    client.record.note(&format!("client-{}", client.id), "ends");
    Ok(())
}

async fn raw_operation(
    connection: &mut Connection,
    server: u64,
    name: &str,
    action: Action,
    revision: u64,
) -> Answer {
    let (method, path) = match action {
        Action::CompareAndSwap { new, .. } => {
            let new = new.map_or("none".to_owned(), |new| new.to_string());
            ("POST", format!("{RAW_PREFIX}{name}/{revision}/{new}"))
        }
        _ => ("GET", format!("{RAW_PREFIX}{name}")),
    };
    let answer = connection
        .ask(server, request(method, &path, None), PATIENCE)
        .await;
    let (code, body) = match answer {
        Ok(answer) => answer,
        Err(failure) => return Answer::failed(failure),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    match (code, action) {
        (200, Action::CompareAndSwap { new, .. }) => {
            let revision = body.parse().ok();
            Answer {
                revision,
                seen: revision.map(|revision| new.map(|new| (new, revision))),
                ..Answer::only(Outcome::Done)
            }
        }
        (200, _) if body == "none" => Answer::read(None),
        (200, _) => {
            let found = body
                .split_once(' ')
                .and_then(|(value, revision)| Some((value.parse().ok()?, revision.parse().ok()?)));
            found.map_or(Answer::only(Outcome::Unknown), |found| {
                Answer::read(Some(found))
            })
        }
        (409, _) => Answer::only(Outcome::Mismatch),
        // The server says that it surely did nothing; the checker holds it to that.
        (503, _) => Answer {
            disk_full: body.starts_with("disk full"),
            ..Answer::only(Outcome::Failed)
        },
        _ => Answer::only(Outcome::Unknown),
    }
}

/// Value and revision of a ConfigMap.
pub fn config_map(object: &Value) -> Option<(u64, u64)> {
    let value = object["data"]["value"].as_str()?.parse().ok()?;
    let revision = object["metadata"]["resourceVersion"]
        .as_str()?
        .parse()
        .ok()?;
    Some((value, revision))
}

/// Whether a Status' message has these words.
fn says(status: &Value, words: &str) -> bool {
    let message = status["message"].as_str();
    message.is_some_and(|message| message.contains(words))
}

async fn config_map_operation(
    connection: &mut Connection,
    server: u64,
    name: &str,
    action: Action,
    revision: u64,
) -> Answer {
    let path = format!("{CONFIG_MAPS}/{name}");
    let object = |value: u64| {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value.to_string()}});
        if revision != 0 {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
        object
    };
    let request = match action {
        Action::CompareAndSwap {
            expected: None,
            new: Some(value),
        } => request("POST", CONFIG_MAPS, Some(&object(value))),
        Action::CompareAndSwap {
            new: Some(value), ..
        } => request("PUT", &path, Some(&object(value))),
        Action::CompareAndSwap { new: None, .. } => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": revision.to_string()}});
            request("DELETE", &path, Some(&options))
        }
        _ => request("GET", &path, None),
    };
    let (code, body) = match connection.ask(server, request, PATIENCE).await {
        Ok(answer) => answer,
        Err(failure) => return Answer::failed(failure),
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (code, action) {
        (200 | 201, Action::CompareAndSwap { new, .. }) => {
            let found = config_map(&body);
            Answer {
                // A deletion is answered by a Status, which has no revision.
                revision: found.map(|(_, revision)| revision),
                seen: match new {
                    Some(_) => found.map(Some),
                    None => Some(None),
                },
                ..Answer::only(Outcome::Done)
            }
        }
        (200, _) => config_map(&body).map_or(Answer::only(Outcome::Unknown), |found| {
            Answer::read(Some(found))
        }),
        (404, Action::Read) => Answer::read(None),
        // The namespace is not there yet: says nothing about the key.
        (404, Action::CompareAndSwap { expected: None, .. }) => Answer::only(Outcome::Failed),
        (404 | 409, Action::CompareAndSwap { .. }) => Answer::only(Outcome::Mismatch),
        (503, Action::CompareAndSwap { .. }) if says(&body, "nothing was written") => Answer {
            disk_full: says(&body, "the disk of a server is full"),
            ..Answer::only(Outcome::Failed)
        },
        _ => Answer::only(Outcome::Unknown),
    }
}
