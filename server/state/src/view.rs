//! What the state machine reads from, and how several commands share one write.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// The store cannot be read, or holds what this program did not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("reading the store: {0}")]
    Storage(String),
    #[error("the store holds a malformed record: {what} at {key:?}")]
    Corrupt { what: &'static str, key: Bytes },
}

/// Key and value pairs in the order of their keys.
pub type Pairs<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StateError>> + 'a>;

/// An ordered map of bytes, unchanging while it is borrowed.
pub trait View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;
    /// From `start` (included) to `end` (excluded), ascending.
    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Pairs<'a>;
}

/// One change to the store; `None` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// A view with changes on top that are not written yet.
pub struct Overlay<'v> {
    base: &'v dyn View,
    changes: BTreeMap<Bytes, Option<Bytes>>,
    /// What was read from below: a transaction compares a key and then writes it.
    read: RefCell<BTreeMap<Bytes, Option<Bytes>>>,
}

impl<'v> Overlay<'v> {
    pub fn new(base: &'v dyn View) -> Self {
        Overlay {
            base,
            changes: BTreeMap::new(),
            read: RefCell::default(),
        }
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.changes.insert(key, None);
    }

    /// The changes in the order of their keys, one for each key.
    pub fn into_mutations(self) -> Vec<Mutation> {
        self.changes
            .into_iter()
            .map(|(key, value)| Mutation { key, value })
            .collect()
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if let Some(change) = self.changes.get(key) {
            return Ok(change.clone());
        }
        if let Some(found) = self.read.borrow().get(key) {
            return Ok(found.clone());
        }
        let found = self.base.get(key)?;
        let key = Bytes::copy_from_slice(key);
        self.read.borrow_mut().insert(key, found.clone());
        Ok(found)
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Pairs<'a> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let mut base = self.base.scan(start, end).peekable();
        let mut changes = self
            .changes
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
            .peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let change_comes_first = match (base.peek(), changes.peek()) {
                    (None, None) => return None,
                    (Some(_), None) | (Some(Err(_)), _) => return base.next(),
                    (None, Some(_)) => true,
                    (Some(Ok((base_key, _))), Some((changed, _))) => match base_key.cmp(changed) {
                        std::cmp::Ordering::Less => return base.next(),
                        std::cmp::Ordering::Greater => true,
                        std::cmp::Ordering::Equal => {
                            // The change hides what is below it.
                            base.next();
                            true
                        }
                    },
                };
                if change_comes_first && let Some((key, Some(value))) = changes.next() {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        }))
    }
}

/// A view in memory, for tests and for the simulator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    pairs: BTreeMap<Bytes, Bytes>,
}

impl MemoryView {
    pub fn new() -> Self {
        MemoryView::default()
    }

    pub fn write(&mut self, mutations: impl IntoIterator<Item = Mutation>) {
        for mutation in mutations {
            match mutation.value {
                Some(value) => self.pairs.insert(mutation.key, value),
                None => self.pairs.remove(&mutation.key),
            };
        }
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan<'a>(&'a self, start: &[u8], end: &[u8]) -> Pairs<'a> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        Box::new(
            self.pairs
                .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
                .map(|(key, value)| Ok((key.clone(), value.clone()))),
        )
    }
}
