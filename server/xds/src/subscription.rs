//! What a client wants of one kind, what it has, and what that leaves to send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_xds::Kind;
use twox_hash::XxHash64;

use crate::source::{Resource, Resources, View};

/// Names that one client may subscribe to by name, of one kind. A proxy names each of its clusters
/// once; 65,536 are far more than a mesh has services and bound a stream's state to some MB.
pub(crate) const MAX_NAMES: usize = 65_536;
/// Of a NACK's text that is kept: enough for the resource, the field and the reason.
const NACK_TEXT_BYTES: usize = 2048;

/// A response that the client has yet to acknowledge or refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub nonce: u64,
    digest: u64,
    /// Something in it is new to the client.
    pub adds: bool,
}

/// What a client holds under a name.
#[derive(Clone, Debug)]
enum Held {
    /// This version; the resource itself where it was sent on this stream.
    Present(u64, Option<Arc<Resource>>),
    /// It was told that there is none.
    Absent,
}

/// What is to be sent of a kind.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// New or different, in the order of names.
    pub changed: Vec<Arc<Resource>>,
    /// Gone, or asked for in vain.
    pub removed: Vec<Arc<str>>,
    /// A cluster, which is withdrawn only once nothing refers to it.
    pub withdrawn: Vec<Arc<str>>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// The newest thing compared, so that what is the same need not be compared again.
#[derive(Clone)]
enum Seen {
    All(Arc<Resources>),
    Generation(u64),
}

/// One kind on one stream.
pub(crate) struct Subscription {
    kind: Kind,
    pub requested: bool,
    pub wildcard: bool,
    /// Names were given once: from then on no names mean nothing, not everything.
    named: bool,
    names: BTreeSet<Arc<str>>,
    held: BTreeMap<Arc<str>, Held>,
    /// To be sent although the client may hold them: just asked for, or their cluster has changed.
    due: BTreeSet<Arc<str>>,
    /// To be answered even with nothing.
    pub answer_due: bool,
    pub in_flight: Option<InFlight>,
    /// Sum of the digests of what is held: the version of the whole.
    digest: u64,
    /// Names in the response in flight.
    sent_names: Vec<Arc<str>>,
    acknowledged: Option<u64>,
    /// Names in refused responses of which the client has not accepted anything since: of these it
    /// has what it had before.
    refused: BTreeSet<Arc<str>>,
    /// The words of the newest refusal, while something is refused.
    nack: Option<String>,
    seen: Option<Seen>,
    /// The client's words changed what is wanted: compare everything again.
    stale: bool,
    /// Clusters wait to be withdrawn.
    put_off: bool,
    /// Resources that the client holds.
    count: usize,
}

impl Subscription {
    pub fn new(kind: Kind) -> Subscription {
        Subscription {
            kind,
            requested: false,
            wildcard: false,
            named: false,
            names: BTreeSet::new(),
            held: BTreeMap::new(),
            due: BTreeSet::new(),
            answer_due: false,
            in_flight: None,
            digest: 0,
            sent_names: Vec::new(),
            acknowledged: None,
            refused: BTreeSet::new(),
            nack: None,
            seen: None,
            stale: false,
            put_off: false,
            count: 0,
        }
    }

    /// A state-of-the-world request's names: the whole of what is wanted.
    pub fn set_names(&mut self, names: &[String]) {
        let first = !self.requested;
        self.requested = true;
        let explicit = names.iter().any(|name| name == "*");
        // Of the kinds that have a legacy wildcard: nothing named means everything, until
        // something has been named.
        let wildcard = explicit || names.is_empty() && !self.named && self.kind.is_complete();
        self.named |= !names.is_empty();
        let names: BTreeSet<Arc<str>> = names
            .iter()
            .filter(|name| *name != "*")
            .map(|name| name.as_str().into())
            .collect();
        let added =
            wildcard && !self.wildcard || names.iter().any(|name| !self.names.contains(name));
        self.stale |= added || wildcard != self.wildcard || names.len() != self.names.len();
        self.wildcard = wildcard;
        self.names = names;
        if self.stale {
            self.drop_unwanted();
        }
        // A complete kind says by its answer what there is not.
        self.answer_due |= self.kind.is_complete() && (first || added);
    }

    /// A delta request's changes of names; `initial` on the first request of the kind.
    pub fn change_names(&mut self, subscribe: &[String], unsubscribe: &[String]) {
        if !self.requested && subscribe.is_empty() && self.kind.is_complete() {
            self.wildcard = true;
        }
        self.answer_due |= !self.requested && self.kind.is_complete();
        self.requested = true;
        for name in subscribe {
            if name == "*" {
                self.stale |= !self.wildcard;
                self.wildcard = true;
                continue;
            }
            self.named = true;
            let name: Arc<str> = name.as_str().into();
            // Asking again is asking to be sent it again.
            self.due.insert(name.clone());
            self.names.insert(name);
        }
        for name in unsubscribe {
            if name == "*" {
                self.stale |= self.wildcard;
                self.wildcard = false;
                self.drop_unwanted();
                continue;
            }
            self.names.remove(name.as_str());
            let held = self.forget(name);
            if self.wildcard && held {
                // Still wanted by the wildcard: it must be sent, or its absence be told.
                self.due.insert(name.as_str().into());
            } else {
                self.due.remove(name.as_str());
            }
        }
    }

    /// What the client says that it has from before this stream (delta only).
    pub fn resume(&mut self, versions: impl IntoIterator<Item = (String, String)>) {
        for (name, version) in versions {
            // A version that is not ours never equals one of ours that is sent.
            let version = u64::from_str_radix(&version, 16).unwrap_or(0);
            let name: Arc<str> = name.into();
            self.due.remove(&name);
            self.hold(name, Held::Present(version, None));
        }
        self.stale = true;
    }

    /// Sends this again even where the client holds it (its cluster has changed and waits for it).
    pub fn renew(&mut self, name: &Arc<str>) {
        if self.is_wanted(name) {
            self.due.insert(name.clone());
        }
    }

    /// Takes an acknowledgement or refusal. `false` for a nonce that is not the last one.
    pub fn answer(&mut self, nonce: u64, refused: Option<String>) -> bool {
        let Some(sent) = self.in_flight.filter(|sent| sent.nonce == nonce) else {
            return false;
        };
        self.in_flight = None;
        match refused {
            Some(mut text) => {
                if text.len() > NACK_TEXT_BYTES {
                    let mut end = (0..=NACK_TEXT_BYTES).rev();
                    let end = end.find(|end| text.is_char_boundary(*end));
                    text.truncate(end.unwrap_or(0));
                }
                self.nack = Some(text);
                self.refused.extend(self.sent_names.drain(..));
            }
            None => {
                // Other names that were refused before are still as they were.
                for name in self.sent_names.drain(..) {
                    self.refused.remove(&name);
                }
                if self.refused.is_empty() {
                    self.acknowledged = Some(sent.digest);
                    self.nack = None;
                }
            }
        }
        true
    }

    /// What is to be sent, with clusters that are to go among `removed` if `withdraw`.
    pub fn change(&self, view: &mut dyn View, withdraw: bool) -> Change {
        let mut change = Change::default();
        if !self.requested {
            return change;
        }
        match self.candidates(view) {
            Candidates::Names(names) => {
                for name in names.union(&self.due) {
                    self.compare(name, view, &mut change);
                }
            }
            Candidates::All => {
                let all = view.all(self.kind).filter(|_| self.wildcard);
                let mut names: BTreeSet<&Arc<str>> = self.names.iter().chain(&self.due).collect();
                if let Some(all) = &all {
                    names.extend(all.keys().chain(self.held.keys()));
                }
                for name in names {
                    self.compare(name, view, &mut change);
                }
            }
        }
        if withdraw {
            change.removed.append(&mut change.withdrawn);
        }
        change
    }

    fn compare(&self, name: &Arc<str>, view: &mut dyn View, change: &mut Change) {
        let now = view.get(self.kind, name);
        let due = self.due.contains(name);
        match (now, self.held.get(name)) {
            (Some(now), Some(Held::Present(version, _))) if now.version == *version && !due => {}
            (Some(now), _) => change.changed.push(now),
            (None, Some(Held::Present(..))) if self.kind == Kind::Cluster => {
                change.withdrawn.push(name.clone());
            }
            (None, Some(Held::Present(..))) => change.removed.push(name.clone()),
            (None, Some(Held::Absent)) if !due => {}
            (None, _) => {
                if due || self.names.contains(name) {
                    change.removed.push(name.clone());
                }
            }
        }
    }

    fn candidates(&self, view: &mut dyn View) -> Candidates {
        if self.stale {
            return Candidates::All;
        }
        match (&self.seen, view.all(self.kind)) {
            (Some(Seen::All(seen)), Some(now)) if Arc::ptr_eq(seen, &now) => {
                // What was put off is looked at again.
                if self.put_off {
                    Candidates::All
                } else {
                    Candidates::Names(BTreeSet::new())
                }
            }
            (Some(Seen::Generation(seen)), None) => match view.changed_since(self.kind, *seen) {
                Some(names) => {
                    let wanted = names.into_iter().filter(|name| self.is_wanted(name));
                    Candidates::Names(wanted.collect())
                }
                None => Candidates::All,
            },
            _ => Candidates::All,
        }
    }

    /// All that is wanted and there, and what the client holds that is not withdrawn yet: a
    /// state-of-the-world response of a complete kind.
    pub fn whole(&self, view: &mut dyn View, change: &Change) -> Vec<Arc<Resource>> {
        let mut whole: BTreeMap<Arc<str>, Arc<Resource>> = BTreeMap::new();
        for name in &change.withdrawn {
            if let Some(Held::Present(_, Some(resource))) = self.held.get(name) {
                whole.insert(name.clone(), resource.clone());
            }
        }
        match view.all(self.kind) {
            Some(all) if self.wildcard => {
                whole.extend(all.iter().map(|(name, one)| (name.clone(), one.clone())));
            }
            _ => {
                for name in &self.names {
                    if let Some(resource) = view.get(self.kind, name) {
                        whole.insert(name.clone(), resource);
                    }
                }
            }
        }
        whole.into_values().collect()
    }

    /// Whether something in `change` is new to the client.
    pub fn adds(&self, change: &Change) -> bool {
        let held = |one: &Arc<Resource>| self.held.get(&one.name);
        let mut changed = change.changed.iter();
        changed.any(|one| !matches!(held(one), Some(Held::Present(..))))
    }

    /// Notes that `change`, made from `view`, is sent under `nonce`.
    pub fn sent(&mut self, nonce: u64, view: &mut dyn View, change: &Change) {
        let adds = self.adds(change);
        for resource in &change.changed {
            // Only a cluster is ever needed again, while its withdrawal waits.
            let kept = (self.kind == Kind::Cluster).then(|| resource.clone());
            self.hold(resource.name.clone(), Held::Present(resource.version, kept));
        }
        for name in &change.removed {
            if self.names.contains(name) {
                self.hold(name.clone(), Held::Absent);
            } else {
                self.forget(name);
            }
        }
        self.sent_names = change
            .changed
            .iter()
            .map(|resource| resource.name.clone())
            .collect();
        self.note_seen(view, change);
        self.due.clear();
        self.answer_due = false;
        self.in_flight = Some(InFlight {
            nonce,
            digest: self.digest,
            adds,
        });
    }

    /// Notes that all of `view` was compared.
    pub fn note_seen(&mut self, view: &mut dyn View, change: &Change) {
        if !self.requested {
            return;
        }
        self.stale = false;
        self.put_off = !change.withdrawn.is_empty();
        self.seen = Some(match view.all(self.kind) {
            Some(all) => Seen::All(all),
            None => Seen::Generation(view.generation(self.kind)),
        });
    }

    /// In state of the world, what is asked for in vain is simply not answered.
    pub fn note_absent(&mut self, change: &Change) {
        for name in &change.removed {
            if self.names.contains(name) {
                self.hold(name.clone(), Held::Absent);
            } else {
                self.forget(name);
            }
            self.due.remove(name);
        }
    }

    /// Something was asked for that the client does not hold yet.
    pub fn awaits(&self) -> bool {
        self.stale || !self.due.is_empty()
    }

    /// The client has everything as sent, and accepted it.
    pub fn is_settled(&self) -> bool {
        !self.requested || self.in_flight.is_none() && self.refused().is_none()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn acknowledged(&self) -> Option<u64> {
        self.acknowledged
    }

    /// The words of a refusal that stands.
    pub fn refused(&self) -> Option<&str> {
        self.nack.as_deref()
    }

    /// Resources that the client holds.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn names_count(&self) -> usize {
        self.names.len()
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.names.contains(name) || self.wildcard
    }

    fn drop_unwanted(&mut self) {
        if self.wildcard {
            return;
        }
        let unwanted: Vec<Arc<str>> = self
            .held
            .keys()
            .filter(|name| !self.names.contains(*name))
            .cloned()
            .collect();
        for name in unwanted {
            self.forget(&name);
        }
        self.due.retain(|name| self.names.contains(name));
    }

    fn hold(&mut self, name: Arc<str>, held: Held) {
        let refused = self.refused.contains(&name);
        let nack = self.nack.clone().filter(|_| refused);
        self.forget(&name);
        if refused && matches!(held, Held::Present(..)) {
            // Sent again: it stands until the client accepts it.
            self.refused.insert(name.clone());
            self.nack = nack;
        }
        if let Held::Present(version, _) = held {
            self.digest = self.digest.wrapping_add(digest(&name, version));
            self.count += 1;
        }
        self.held.insert(name, held);
    }

    /// Whether it was held.
    fn forget(&mut self, name: &str) -> bool {
        // What is no longer there is no longer refused.
        if self.refused.remove(name) && self.refused.is_empty() {
            self.nack = None;
        }
        match self.held.remove(name) {
            Some(Held::Present(version, _)) => {
                self.digest = self.digest.wrapping_sub(digest(name, version));
                self.count -= 1;
                true
            }
            Some(Held::Absent) => true,
            None => false,
        }
    }
}

/// What may differ from what the client holds, beside what is due.
enum Candidates {
    Names(BTreeSet<Arc<str>>),
    All,
}

/// A resource's part in the version of the whole, which is their sum: it does not depend on the
/// order in which they were sent.
fn digest(name: &str, version: u64) -> u64 {
    XxHash64::oneshot(version, name.as_bytes())
}
