//! Who changes the membership: takes a server out, has its disk wiped, adds what is on the machine then under a new
//! id, gives it a vote; and hands leadership on. As an operator does, it asks any server, and asks again until the
//! cluster says that it is so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trireme_raft::{MembershipError, Replica};

use crate::connection::{Connection, request};
use crate::determinism;
use crate::machine::{Machines, name};
use crate::record::Record;
use crate::server::{RAW_PREFIX, member};

/// Asked of any server.
pub const PREFIX: &str = "/operator/";
/// A change that takes longer is looked for in the membership.
const PATIENCE: Duration = Duration::from_millis(3_000);
const PAUSE: Duration = Duration::from_millis(100);
/// Ids of servers on wiped disks begin behind it.
const FIRST_NEW_ID: u64 = 100;
/// A key that only the operator writes: once that is committed, so is what was in the log before it.
const MARK: &str = "operator";

pub struct Operator {
    pub seed: u64,
    pub machines: Machines,
    /// Longest pause between two changes.
    pub pause_ms: u64,
    pub record: Record,
    /// Begin nothing any more.
    pub stop: Arc<AtomicBool>,
    /// Told when nothing is half done.
    pub settled: Arc<AtomicBool>,
}

/// What a server says of the membership, after a linearizable read.
struct Members {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

/// An operator at work.
struct Work {
    operator: Operator,
    random: ChaCha8Rng,
    connection: Connection,
    /// Whom it asks.
    machine: u64,
    /// A machine whose server is to go, so that its disk can be wiped.
    leaving: Option<u64>,
    next_id: u64,
    next_ms: u64,
}

pub async fn run(operator: Operator) -> turmoil::Result {
    let mut work = Work {
        random: ChaCha8Rng::seed_from_u64(operator.seed),
        connection: Connection::default(),
        machine: 1,
        leaving: None,
        next_id: FIRST_NEW_ID,
        next_ms: 0,
        operator,
    };
    loop {
        let stopped = work.operator.stop.load(Ordering::Relaxed);
        if work.step(stopped).await && stopped {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    work.operator.settled.store(true, Ordering::Relaxed);
    work.note("ends");
    Ok(())
}

impl Work {
    fn note(&self, what: &str) {
        self.operator.record.note("operator", what);
    }

    /// Somebody else is asked from now on.
    fn turn(&mut self) {
        self.machine = 1 + self.machine % self.operator.machines.count();
    }

    async fn ask(&mut self, method: &str, path: &str) -> Option<(u16, String)> {
        let asked = request(method, path, None);
        let answer = self.connection.ask(self.machine, asked, PATIENCE).await;
        let Ok((code, body)) = answer else {
            self.turn();
            return None;
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        if code != 200 {
            self.turn();
        }
        Some((code, text))
    }

    /// True when the server says that it is done.
    async fn change(&mut self, change: &str) -> bool {
        self.note(change);
        let answer = self.ask("POST", &format!("{PREFIX}{change}")).await;
        self.note(&format!("{change}: {answer:?}"));
        matches!(answer, Some((200, _)))
    }

    async fn members(&mut self) -> Option<Members> {
        let (200, text) = self.ask("GET", &format!("{PREFIX}members")).await? else {
            return None;
        };
        let said: Value = serde_json::from_str(&text).ok()?;
        let ids = |field: &str| -> Option<BTreeSet<u64>> {
            let ids = said[field].as_array()?.iter().filter_map(Value::as_u64);
            Some(ids.collect())
        };
        Some(Members {
            voters: ids("voters")?,
            learners: ids("learners")?,
        })
    }

    /// Whether a write was committed after what has just been seen.
    async fn mark(&mut self) -> bool {
        let path = format!("{RAW_PREFIX}{MARK}");
        let Some((200, found)) = self.ask("GET", &path).await else {
            return false;
        };
        let revision = found.split_once(' ').map_or("0", |(_, revision)| revision);
        let swap = format!("{path}/{revision}/1");
        matches!(self.ask("POST", &swap).await, Some((200, _)))
    }

    /// One step towards what is wanted; true when everything is as wanted.
    async fn step(&mut self, stopped: bool) -> bool {
        let Some(members) = self.members().await else {
            return false;
        };
        let installed = self.operator.machines.installed_ids();
        if let Some(machine) = self.leaving {
            let Some(id) = installed.get(&machine).copied() else {
                return false;
            };
            if self.machine == machine {
                self.turn();
            }
            let listed = members.voters.contains(&id) || members.learners.contains(&id);
            let gone = if listed {
                self.change(&format!("remove/{id}")).await
            } else {
                // It may be that the removal is in the log and can still be lost.
                self.mark().await
                    && self.members().await.is_some_and(|members| {
                        !members.voters.contains(&id) && !members.learners.contains(&id)
                    })
            };
            if gone {
                self.leaving = None;
                self.operator.machines.wipe(machine, self.next_id);
                self.next_id += 1;
            }
            return false;
        }
        // What an attempt left behind whose outcome was not known.
        let known = |id: &u64| installed.values().any(|installed| installed == id);
        let strangers = members.voters.union(&members.learners);
        if let Some(stranger) = strangers.copied().find(|id| !known(id)) {
            self.change(&format!("remove/{stranger}")).await;
            return false;
        }
        for (machine, id) in &installed {
            if members.learners.contains(id) {
                self.change(&format!("promote/{id}")).await;
                return false;
            }
            if !members.voters.contains(id) {
                self.change(&format!("add/{id}/{machine}")).await;
                return false;
            }
        }
        let now_ms = determinism::elapsed_ns() / 1_000_000;
        if stopped || now_ms < self.next_ms {
            return true;
        }
        let first = self.next_ms == 0;
        self.next_ms = now_ms + self.random.random_range(1..=self.operator.pause_ms);
        if first {
            return true;
        }
        let machine = self.random.random_range(1..=self.operator.machines.count());
        let transfer = self.random.random_bool(0.4);
        if transfer {
            if let Some(id) = installed.get(&machine) {
                self.operator.record.lock().transfers += 1;
                self.change(&format!("transfer/{id}")).await;
            }
        } else {
            self.note(&format!("replaces {}", name(machine)));
            self.leaving = Some(machine);
        }
        false
    }
}

/// A server's side: the answer's code and text.
pub async fn answer(replica: &Replica, method: &Method, rest: &str) -> (StatusCode, String) {
    let parts: Vec<&str> = rest.split('/').collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let changed = match (method, parts.as_slice()) {
        (&Method::GET, ["members"]) => {
            if let Err(error) = replica.read_barrier().await {
                return (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            }
            let status = replica.status();
            let said = json!({"voters": status.voters, "learners": status.learners});
            return (StatusCode::OK, said.to_string());
        }
        (&Method::POST, ["remove", id]) => replica.remove(number(id)).await,
        (&Method::POST, ["add", id, machine]) => {
            replica
                .add_learner(number(id), member(number(machine)))
                .await
        }
        (&Method::POST, ["promote", id]) => replica.promote(number(id)).await,
        (&Method::POST, ["transfer", id]) => replica.transfer_leader(number(id)).await,
        _ => return (StatusCode::NOT_FOUND, rest.to_owned()),
    };
    match changed {
        Ok(()) => (StatusCode::OK, "done".to_owned()),
        Err(error @ MembershipError::Refused(_)) => (StatusCode::CONFLICT, error.to_string()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
