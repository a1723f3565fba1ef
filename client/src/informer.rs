//! Following a kind through server failures: list once, then watch, resuming where a watch broke.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use trireme_model::kinds::Kind;
use trireme_model::meta;

use crate::client::{Client, ListOptions};
use crate::error::Error;
use crate::watch::{WatchEvent, WatchOptions};

/// Changes that wait for the consumer. When it is full the watch is not read on, and a server that
/// cuts it off for that is resumed from; so a slow consumer costs time, not memory.
const CHANGES_MAX: usize = 1024;

/// Pauses between attempts to list or watch again; a watch that delivered something starts over.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// What to follow.
#[derive(Clone, Debug, Default)]
pub struct InformerOptions {
    /// `None`: every namespace.
    pub namespace: Option<String>,
    pub label_selector: String,
    pub field_selector: String,
}

/// One step of a kind's history, in the order in which the consumer must take them.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object was added or changed; this is what it is now.
    Upsert(Value),
    /// The object is gone. When it went between two lists only its `apiVersion`, `kind` and
    /// `metadata` (`name`, `namespace`, `uid`) are known.
    Delete(Value),
    /// Every change up to this version has been delivered. The first one means that the list is
    /// complete; later ones come from bookmarks and new lists. Changes come in the order of their versions,
    /// also those that a later list found: what is delivered has everything up to its version before it.
    Progress { resource_version: String },
}

/// Where an informer stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    synced: bool,
    resource_version: String,
}

/// Follows one kind in a task of its own, which ends when this is dropped or the consumer's end of
/// the channel is.
pub struct Informer {
    kind: &'static Kind,
    position: watch::Receiver<Position>,
    task: JoinHandle<()>,
}

impl Informer {
    /// Starts to follow; changes come out of the returned channel.
    pub fn start(
        client: Client,
        kind: &'static Kind,
        options: InformerOptions,
    ) -> (Informer, mpsc::Receiver<Change>) {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let (position, position_receiver) = watch::channel(Position::default());
        let follower = Follower {
            client,
            kind,
            options,
            changes,
            position,
            known: BTreeMap::new(),
        };
        let informer = Informer {
            kind,
            position: position_receiver,
            task: tokio::spawn(follower.run()),
        };
        (informer, receiver)
    }

    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Whether a whole list has gone into the channel.
    pub fn synced(&self) -> bool {
        self.position.borrow().synced
    }

    /// Waits for [`Informer::synced`]. The channel must be read meanwhile.
    pub async fn wait_synced(&self) {
        let mut position = self.position.clone();
        // An error means that the task ended: nothing will ever be synced, and the caller sees
        // the channel's end.
        let _ = position.wait_for(|position| position.synced).await;
    }

    /// Everything up to this version has gone into the channel; empty before the first list.
    pub fn resource_version(&self) -> String {
        self.position.borrow().resource_version.clone()
    }

    /// Waits until the task has ended by itself, as it does when the channel's receiver is dropped.
    pub async fn finished(mut self) {
        // It cannot panic on input, and only `stop` and `drop` cancel it.
        let _ = (&mut self.task).await;
    }

    /// Ends the task and waits for that.
    pub async fn stop(mut self) {
        self.task.abort();
        // Cancelled, as asked.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Informer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Uid and version of an object that the consumer has.
struct Known {
    uid: String,
    resource_version: String,
}

struct Follower {
    client: Client,
    kind: &'static Kind,
    options: InformerOptions,
    changes: mpsc::Sender<Change>,
    position: watch::Sender<Position>,
    /// By namespace and name; needed to find out after a new list what is gone.
    known: BTreeMap<(String, String), Known>,
}

/// Why following stopped for now.
enum Stop {
    /// The consumer is gone.
    Closed,
    /// The revision is gone: list again.
    Expired,
    /// The watch broke: resume it.
    Broken(Error),
    /// The watch ended in order: resume it.
    Ended,
}

impl From<mpsc::error::SendError<Change>> for Stop {
    fn from(_: mpsc::error::SendError<Change>) -> Stop {
        Stop::Closed
    }
}

fn key(object: &Value) -> (String, String) {
    (
        meta::namespace(object).to_string(),
        meta::name(object).to_string(),
    )
}

/// A pause of `back_off`, up to half of it less, so that many clients do not return at once.
async fn pause(back_off: &mut Duration) {
    let jittered = back_off.mul_f64(rand::rng().random_range(0.5..1.0));
    *back_off = (*back_off * 2).min(BACK_OFF_MAX);
    tokio::time::sleep(jittered).await;
}

impl Follower {
    async fn run(mut self) {
        let mut back_off = BACK_OFF_FIRST;
        let mut listed = false;
        loop {
            if !listed {
                match self.list().await {
                    Ok(()) => listed = true,
                    Err(Stop::Closed) => return,
                    Err(Stop::Broken(error)) => {
                        tracing::warn!(kind = self.kind.kind, %error, "listing failed");
                        pause(&mut back_off).await;
                        continue;
                    }
                    Err(Stop::Expired | Stop::Ended) => {
                        pause(&mut back_off).await;
                        continue;
                    }
                }
            }
            let mut delivered = false;
            match self.watch(&mut delivered).await {
                Stop::Closed => return,
                Stop::Expired => listed = false,
                Stop::Ended => tracing::debug!(kind = self.kind.kind, "watch ended, resuming"),
                Stop::Broken(error) => {
                    tracing::debug!(kind = self.kind.kind, %error, "watch broke, resuming");
                }
            }
            if delivered {
                back_off = BACK_OFF_FIRST;
            }
            pause(&mut back_off).await;
        }
    }

    async fn list(&mut self) -> Result<(), Stop> {
        let options = ListOptions {
            namespace: self.options.namespace.clone(),
            label_selector: self.options.label_selector.clone(),
            field_selector: self.options.field_selector.clone(),
            resource_version: String::new(),
        };
        let list = self
            .client
            .list(self.kind, &options)
            .await
            .map_err(|error| {
                if error.is_gone() {
                    Stop::Expired
                } else {
                    Stop::Broken(error)
                }
            })?;
        let mut gone = std::mem::take(&mut self.known);
        let mut items = list.items;
        // Whoever waits for the version of a change of its own takes a greater one for that.
        items.sort_by_key(|object| meta::resource_version(object).parse::<u64>().unwrap_or(0));
        let listed: BTreeSet<_> = items.iter().map(key).collect();
        let left = |(key, _): &(&(String, String), &Known)| !listed.contains(*key);
        for (key, before) in gone.iter().filter(left) {
            self.changes.send(self.departed(key, before)).await?;
        }
        for object in items {
            let key = key(&object);
            let now = Known {
                uid: meta::uid(&object).to_string(),
                resource_version: meta::resource_version(&object).to_string(),
            };
            let before = gone.remove(&key);
            if let Some(before) = &before
                && before.uid != now.uid
            {
                // Deleted and made anew: the consumer must see that it is another object.
                self.changes.send(self.departed(&key, before)).await?;
            }
            let same = before.is_some_and(|before| {
                before.uid == now.uid && before.resource_version == now.resource_version
            });
            self.known.insert(key, now);
            if !same {
                self.changes.send(Change::Upsert(object)).await?;
            }
        }
        self.progress(list.resource_version, true).await
    }

    fn departed(&self, (namespace, name): &(String, String), known: &Known) -> Change {
        let mut metadata = json!({"name": name, "uid": known.uid});
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.as_str().into();
        }
        Change::Delete(json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.kind,
            "metadata": metadata,
        }))
    }

    async fn progress(&mut self, resource_version: String, tell: bool) -> Result<(), Stop> {
        if tell {
            let resource_version = resource_version.clone();
            self.changes
                .send(Change::Progress { resource_version })
                .await?;
        }
        self.position.send_replace(Position {
            synced: true,
            resource_version,
        });
        Ok(())
    }

    /// Watches from where the informer stands until something ends it.
    async fn watch(&mut self, delivered: &mut bool) -> Stop {
        let options = WatchOptions {
            namespace: self.options.namespace.clone(),
            label_selector: self.options.label_selector.clone(),
            field_selector: self.options.field_selector.clone(),
            resource_version: self.position.borrow().resource_version.clone(),
            bookmarks: true,
        };
        let opening = self.client.watch(self.kind, &options);
        let opened = tokio::select! {
            opened = opening => opened,
            () = self.changes.closed() => return Stop::Closed,
        };
        let mut watch = match opened {
            Ok(watch) => watch,
            Err(error) if error.is_gone() => return Stop::Expired,
            Err(error) => return Stop::Broken(error),
        };
        loop {
            let next = tokio::select! {
                next = watch.next() => next,
                () = self.changes.closed() => return Stop::Closed,
            };
            let event = match next {
                None => return Stop::Ended,
                Some(Err(error)) if error.is_gone() => return Stop::Expired,
                Some(Err(error)) => return Stop::Broken(error),
                Some(Ok(event)) => event,
            };
            *delivered = true;
            if let Err(stop) = self.deliver(event).await {
                return stop;
            }
        }
    }

    async fn deliver(&mut self, event: WatchEvent) -> Result<(), Stop> {
        let (object, bookmark) = match &event {
            WatchEvent::Bookmark(object) => (object, true),
            WatchEvent::Added(object)
            | WatchEvent::Modified(object)
            | WatchEvent::Deleted(object) => (object, false),
        };
        let resource_version = meta::resource_version(object).to_string();
        match event {
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let known = Known {
                    uid: meta::uid(&object).to_string(),
                    resource_version: resource_version.clone(),
                };
                self.known.insert(key(&object), known);
                self.changes.send(Change::Upsert(object)).await?;
            }
            WatchEvent::Deleted(object) => {
                self.known.remove(&key(&object));
                self.changes.send(Change::Delete(object)).await?;
            }
        }
        self.progress(resource_version, bookmark).await
    }
}
