//! What happens to a collection from a revision on, without gap or repeat.

mod frame;

pub(crate) use frame::{EventType, FrameCache, SharedEvent, frame};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use trireme_model::kinds::Kind;
use trireme_model::status::{FieldError, Status};
use trireme_raft::{Watch, WatchError};
use trireme_state::{EventKind, Revision};

use super::list::{ListRequest, VersionMatch, collect};
use super::{Caller, Selection, parse_version};
use crate::api::Api;
use crate::document::Document;
use crate::metrics::Gauge;
use crate::route::Target;
use crate::store::{Freshness, prefix_range, range_failure};

/// A watch that nobody limited ends after a random time between these, as kube-apiserver's, so that
/// clients spread over servers again after one was away.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often a quiet watch says which revision it has reached. kube-apiserver's minute is too seldom for
/// clients that want to resume after compaction; a bookmark costs some 200 bytes.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(10);
/// Items handed on at once: bounds the memory of one frame of a large initial list.
const MAX_BATCH: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct WatchRequest {
    pub target: Target,
    pub selection: Selection,
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout: Option<Duration>,
}

pub(crate) enum Item {
    /// An object that was there when the watch began.
    Initial(Document),
    Event {
        event_type: EventType,
        shared: Arc<SharedEvent>,
    },
    Bookmark {
        revision: Revision,
        initial_events_end: bool,
    },
    /// The last item.
    Error(Status),
}

/// An open watch. Whoever reads it slowly reads from the store, until compaction overtakes him.
pub(crate) struct Watching {
    api: Arc<Api>,
    pub kind: &'static Kind,
    selection: Selection,
    initial: VecDeque<Document>,
    /// Say when `initial` has been sent.
    mark_initial_end: bool,
    source: Option<Watch>,
    failure: Option<Status>,
    bookmarks: bool,
    revision: Revision,
    told_revision: Revision,
    next_bookmark: Instant,
    deadline: Instant,
    _counted: Gauge,
}

pub(crate) async fn watch(caller: &Caller<'_>, request: WatchRequest) -> Result<Watching, Status> {
    caller
        .authorize("watch", &request.target, Some(&request.selection.fields))
        .await?;
    check_options(&request)?;
    let store = &caller.api.store;
    let version = parse_version(&request.resource_version)?;
    let kind = request.target.kind;
    let wants_initial = request
        .send_initial_events
        .unwrap_or(version.unwrap_or(0) == 0);
    let freshness = match version {
        None => Freshness::Linearizable,
        Some(0) => Freshness::Any,
        Some(revision) => Freshness::NotOlderThan(revision),
    };
    let mut failure = None;
    let mut initial = VecDeque::new();
    let after = if wants_initial {
        let list = ListRequest {
            selection: request.selection.clone(),
            resource_version: request.resource_version.clone(),
            version_match: match version {
                Some(version) if version > 0 => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            ..ListRequest::of(request.target.clone())
        };
        let listing = collect(caller, &list).await?;
        initial = listing.items.into();
        listing.revision
    } else {
        store.fresh(freshness).await?;
        match version {
            Some(revision) if revision > 0 => revision,
            _ => store.revision(),
        }
    };
    let (start, end) = prefix_range(&kind.prefix(request.target.namespace.as_deref()));
    let source = match store.replica().watch(start, end, after) {
        Ok(source) => Some(source),
        // Once past the checks, errors come as events, as kube-apiserver's do.
        Err(error) => {
            failure = Some(range_failure(error));
            None
        }
    };
    let timeout = request
        .timeout
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or_else(|| rand::rng().random_range(MIN_TIMEOUT..MAX_TIMEOUT));
    let now = Instant::now();
    Ok(Watching {
        api: caller.api.clone(),
        kind,
        selection: request.selection,
        initial,
        mark_initial_end: request.bookmarks && request.send_initial_events == Some(true),
        source,
        failure,
        bookmarks: request.bookmarks,
        revision: after,
        told_revision: after,
        next_bookmark: now + BOOKMARK_INTERVAL,
        deadline: now + timeout,
        _counted: caller.api.metrics.watcher(),
    })
}

fn check_options(request: &WatchRequest) -> Result<(), Status> {
    let forbidden = |field: &str, why: &str| {
        let error = FieldError::forbidden(field, why);
        Err(Status::invalid_kind(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![error],
        ))
    };
    match (request.send_initial_events, request.version_match) {
        (Some(_), VersionMatch::NotOlderThan) | (None, VersionMatch::Unset) => Ok(()),
        (Some(_), _) => forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (None, _) => forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    }
}

impl Watching {
    /// The next items, at least one; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Vec<Item>> {
        if !self.initial.is_empty() {
            let count = self.initial.len().min(MAX_BATCH);
            return Some(self.initial.drain(..count).map(Item::Initial).collect());
        }
        if self.mark_initial_end {
            self.mark_initial_end = false;
            self.told_revision = self.revision;
            return Some(vec![Item::Bookmark {
                revision: self.revision,
                initial_events_end: true,
            }]);
        }
        if let Some(status) = self.failure.take() {
            self.source = None;
            return Some(vec![Item::Error(status)]);
        }
        loop {
            let source = self.source.as_mut()?;
            let wake = self.next_bookmark.min(self.deadline);
            let happened = tokio::select! {
                happened = tokio::time::timeout_at(wake, source.next()) => happened,
                // Clients go on at another server at once, instead of being cut off when patience ends.
                () = self.api.closing.cancelled() => return None,
            };
            let batch = match happened {
                Ok(Some(Ok(batch))) => batch,
                Ok(Some(Err(error))) => {
                    self.source = None;
                    return Some(vec![Item::Error(watch_failure(error))]);
                }
                Ok(None) => return None,
                Err(_) => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        self.source = None;
                    } else {
                        self.next_bookmark = now + BOOKMARK_INTERVAL;
                    }
                    if self.bookmarks && self.revision > self.told_revision {
                        self.told_revision = self.revision;
                        return Some(vec![Item::Bookmark {
                            revision: self.revision,
                            initial_events_end: false,
                        }]);
                    }
                    continue;
                }
            };
            self.revision = self.revision.max(batch.revision);
            let mut items = Vec::new();
            for event in &batch.events {
                let shared = self.api.frames.share(self.kind, event);
                match self.classify(&shared) {
                    Ok(Some(event_type)) => items.push(Item::Event { event_type, shared }),
                    Ok(None) => {}
                    Err(status) => {
                        self.source = None;
                        items.push(Item::Error(status));
                        return Some(items);
                    }
                }
            }
            if !items.is_empty() {
                self.told_revision = self.revision;
                return Some(items);
            }
        }
    }

    /// What an event means to this watcher, whose selectors may match the object before or after it only.
    fn classify(&self, shared: &SharedEvent) -> Result<Option<EventType>, Status> {
        let gone = shared.event().kind == EventKind::Delete;
        let existed = shared.event().previous.is_some();
        if self.selection.is_everything() {
            return Ok(Some(match (gone, existed) {
                (true, _) => EventType::Deleted,
                (false, true) => EventType::Modified,
                (false, false) => EventType::Added,
            }));
        }
        let matches = |object: Option<&trireme_model::Value>| {
            object.is_some_and(|object| self.selection.matches(self.kind, object))
        };
        let before = existed && matches(shared.previous()?);
        let after = !gone && matches(shared.current()?);
        Ok(match (before, after) {
            (true, true) => Some(EventType::Modified),
            (false, true) => Some(EventType::Added),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        })
    }
}

fn watch_failure(error: WatchError) -> Status {
    match error {
        WatchError::Compacted { after, oldest } => {
            Status::expired(format!("too old resource version: {after} ({oldest})"))
        }
        WatchError::Storage(message) => Status::internal(format!("reading the store: {message}")),
    }
}
