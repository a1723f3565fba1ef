//! Linearizability of registers: is there one order of all operations, each between its invocation
//! and its return, that explains every answer?
//!
//! Wing and Gong's depth-first search with Lowe's memory of visited configurations ("Testing for
//! linearizability", 2017), key by key, since a history is linearizable exactly when that of each
//! key is (Herlihy and Wing's locality).
//!
//! Operations with unknown outcome may take effect at any time after their invocation, or never. It
//! suffices to let them take effect immediately before an operation whose answer cannot be
//! explained otherwise: before a write their effect would be overwritten unseen, and before an
//! answer that the present value explains they can wait. So they cost nothing until they are needed.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, History, HistoryError, Operation, Outcome, Value};

/// Configurations that the search of one key remembers: at some 200 bytes each, 200 MB. Histories
/// of our workloads need thousands.
pub const CONFIGURATIONS_MAX: usize = 1_000_000;

/// Comparisons of configurations in the search of one key: some seconds.
pub const COMPARISONS_MAX: usize = 10_000_000;

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the history is malformed: {0}")]
    Malformed(#[from] HistoryError),
    /// However the operations are ordered, at most `explained` of `total` answers hold together.
    #[error(
        "key {key:?} is not linearizable: {explained} of {total} operations can be ordered, then the value is one of {values:?} and none of these can be next: {stuck:?}"
    )]
    NotLinearizable {
        key: String,
        explained: usize,
        total: usize,
        /// Values that the key can have after the longest explanations.
        values: BTreeSet<Value>,
        /// The operations that had to come next.
        stuck: Vec<Operation>,
    },
    #[error(
        "key {key:?}: undecided after {CONFIGURATIONS_MAX} configurations or {COMPARISONS_MAX} comparisons"
    )]
    Undecided { key: String },
}

/// Checks every key of a history. Keys that `initial` does not name start out absent.
pub fn check(history: &History, initial: &BTreeMap<String, u64>) -> Result<(), Violation> {
    for (key, operations) in history.operations()? {
        check_key(&key, &operations, initial.get(&key).copied())?;
    }
    Ok(())
}

/// Checks one key's operations, which must be in order of invocation.
pub fn check_key(key: &str, operations: &[Operation], initial: Value) -> Result<(), Violation> {
    let mut search = Search::new(operations, initial);
    match search.run() {
        Verdict::Linearizable => Ok(()),
        Verdict::Exhausted => Err(Violation::Undecided {
            key: key.to_string(),
        }),
        Verdict::Stuck => Err(Violation::NotLinearizable {
            key: key.to_string(),
            explained: search.deepest,
            total: search.completed.len(),
            values: search.deepest_values,
            stuck: search.deepest_stuck,
        }),
    }
}

enum Verdict {
    Linearizable,
    Stuck,
    Exhausted,
}

/// Unknown operations that have taken effect: how many of each class, without zeros.
type Used = Vec<(u32, u32)>;

/// Where the search stands: which operations have taken effect, and the value.
#[derive(Clone)]
struct Configuration {
    place: Place,
    used: Used,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// All completed operations before this one have taken effect,
    first: u32,
    /// and these behind it, in order.
    beyond: Vec<u32>,
    value: Value,
}

impl Place {
    fn depth(&self) -> usize {
        self.first as usize + self.beyond.len()
    }
}

/// Unknown operations that ask for the same. Which of those that were invoked takes effect makes
/// no difference, so they are used in order of invocation.
struct Class {
    action: Action,
    invoked: Vec<usize>,
}

struct Search {
    /// Operations with known outcome that were carried out, in order of invocation.
    completed: Vec<Operation>,
    classes: Vec<Class>,
    /// Classes by the value that they set.
    setters: BTreeMap<Value, Vec<u32>>,
    /// What was tried in vain. From the same place more used operations help no more than fewer,
    /// so only what no other entry is contained in is kept.
    failed: BTreeMap<Place, Vec<Used>>,
    remembered: usize,
    comparisons_left: usize,
    initial: Value,
    deepest: usize,
    deepest_values: BTreeSet<Value>,
    deepest_stuck: Vec<Operation>,
}

fn count(used: &Used, class: u32) -> u32 {
    used.binary_search_by_key(&class, |(class, _)| *class)
        .map_or(0, |position| used[position].1)
}

fn one_more(used: &Used, class: u32) -> Used {
    let mut used = used.clone();
    match used.binary_search_by_key(&class, |(class, _)| *class) {
        Ok(position) => used[position].1 += 1,
        Err(position) => used.insert(position, (class, 1)),
    }
    used
}

/// Whether everything in `less` is in `more` as well.
fn contained(less: &Used, more: &Used) -> bool {
    less.iter().all(|(class, n)| count(more, *class) >= *n)
}

impl Search {
    fn new(operations: &[Operation], initial: Value) -> Search {
        let mut completed = Vec::new();
        let mut classes: Vec<Class> = Vec::new();
        for operation in operations {
            match (operation.outcome, operation.action) {
                // Neither says anything about the value.
                (Outcome::Failed, _) | (Outcome::Unknown, Action::Read) => {}
                (Outcome::Unknown, action) => {
                    match classes.iter_mut().find(|class| class.action == action) {
                        Some(class) => class.invoked.push(operation.invoked),
                        None => classes.push(Class {
                            action,
                            invoked: vec![operation.invoked],
                        }),
                    }
                }
                _ => completed.push(*operation),
            }
        }
        let mut setters: BTreeMap<Value, Vec<u32>> = BTreeMap::new();
        for (index, class) in (0u32..).zip(&classes) {
            if let Action::Write(new) | Action::CompareAndSwap { new, .. } = class.action {
                setters.entry(new).or_default().push(index);
            }
        }
        Search {
            completed,
            classes,
            setters,
            failed: BTreeMap::new(),
            remembered: 0,
            comparisons_left: COMPARISONS_MAX,
            initial,
            deepest: 0,
            deepest_values: BTreeSet::new(),
            deepest_stuck: Vec::new(),
        }
    }

    fn run(&mut self) -> Verdict {
        let start = Configuration {
            place: Place {
                first: 0,
                beyond: Vec::new(),
                value: self.initial,
            },
            used: Used::new(),
        };
        // The alternatives that are left at each depth.
        let mut stack = vec![vec![start]];
        while let Some(alternatives) = stack.last_mut() {
            let Some(configuration) = alternatives.pop() else {
                stack.pop();
                continue;
            };
            if configuration.place.first as usize == self.completed.len() {
                return Verdict::Linearizable;
            }
            if self.is_hopeless(&configuration) {
                continue;
            }
            if self.remembered >= CONFIGURATIONS_MAX || self.comparisons_left == 0 {
                return Verdict::Exhausted;
            }
            let mut next = self.successors(&configuration);
            // Each step makes the depth larger, so whenever this is met again, its successors
            // have been tried: it can be remembered as failed from now on.
            self.remember(configuration);
            // The earliest return first: that is most often the order in which things happened.
            next.reverse();
            stack.push(next);
        }
        Verdict::Stuck
    }

    fn is_hopeless(&self, configuration: &Configuration) -> bool {
        self.failed.get(&configuration.place).is_some_and(|failed| {
            failed
                .iter()
                .any(|less| contained(less, &configuration.used))
        })
    }

    fn remember(&mut self, configuration: Configuration) {
        let failed = self.failed.entry(configuration.place).or_default();
        let before = failed.len();
        self.comparisons_left = self.comparisons_left.saturating_sub(before);
        failed.retain(|more| !contained(&configuration.used, more));
        self.remembered -= before - failed.len();
        failed.push(configuration.used);
        self.remembered += 1;
    }

    /// The configurations one completed operation later.
    fn successors(&mut self, from: &Configuration) -> Vec<Configuration> {
        let place = &from.place;
        // Whatever comes next takes effect before the earliest open return.
        let mut candidates = Vec::new();
        let mut earliest_return = usize::MAX;
        for (index, operation) in (place.first..).zip(&self.completed[place.first as usize..]) {
            if operation.invoked > earliest_return {
                break;
            }
            if place.beyond.binary_search(&index).is_err() {
                candidates.push(index);
                earliest_return = earliest_return.min(operation.returned);
            }
        }
        let operation = |index: &u32| &self.completed[*index as usize];
        candidates.retain(|index| operation(index).invoked < earliest_return);
        candidates.sort_by_key(|index| operation(index).returned);
        let depth = place.depth();
        if depth > self.deepest || self.deepest_stuck.is_empty() {
            self.deepest = depth;
            self.deepest_values.clear();
            self.deepest_stuck = candidates.iter().map(|i| *operation(i)).collect();
        }
        if depth == self.deepest {
            self.deepest_values.insert(place.value);
        }
        let mut next = Vec::new();
        // An answer that the present value explains changes nothing, so it can as well be given
        // now: no alternative to it can succeed where this fails.
        let explained = candidates.iter().find(|index| {
            let operation = operation(index);
            match (operation.action, operation.outcome) {
                (Action::Read, Outcome::Read(value)) => value == place.value,
                (Action::CompareAndSwap { expected, .. }, Outcome::Mismatch) => {
                    expected != place.value
                }
                _ => false,
            }
        });
        if let Some(index) = explained {
            self.take(from, *index, earliest_return, &mut next);
            return next;
        }
        for index in candidates {
            self.take(from, index, earliest_return, &mut next);
        }
        // Fewer unknown operations first: where those fail, more of them need not be tried.
        next.sort_by_key(|configuration| {
            let used = configuration.used.iter();
            used.map(|(_, count)| *count).sum::<u32>()
        });
        next
    }

    /// Lets a completed operation take effect, after as few unknown ones as its answer needs.
    fn take(&self, from: &Configuration, index: u32, before: usize, next: &mut Vec<Configuration>) {
        let operation = &self.completed[index as usize];
        let present = from.place.value;
        let mut reached = |used: Used, value: Value| {
            let mut place = from.place.clone();
            place.value = value;
            if let Err(position) = place.beyond.binary_search(&index) {
                place.beyond.insert(position, index);
            }
            let passed = (place.first..)
                .zip(&place.beyond)
                .take_while(|(first, index)| first == *index)
                .count();
            place.beyond.drain(..passed);
            // A history with more operations than u32 holds does not fit into memory.
            place.first += passed as u32;
            next.push(Configuration { place, used });
        };
        match (operation.action, operation.outcome) {
            (Action::Write(new), _) => reached(from.used.clone(), new),
            (Action::Read, Outcome::Read(value)) => {
                for used in self.ways_to(value, present, &from.used, before) {
                    reached(used, value);
                }
            }
            (Action::CompareAndSwap { expected, .. }, Outcome::Mismatch) => {
                if present != expected {
                    reached(from.used.clone(), present);
                } else {
                    for value in self.setters.keys() {
                        if *value != expected {
                            for used in self.ways_to(*value, present, &from.used, before) {
                                reached(used, *value);
                            }
                        }
                    }
                }
            }
            (Action::CompareAndSwap { expected, new }, _) => {
                for used in self.ways_to(expected, present, &from.used, before) {
                    reached(used, new);
                }
            }
            // History::operations refuses other outcomes of reads.
            (Action::Read, _) => {}
        }
    }

    /// What can have been used once unknown operations, all invoked before position `before`, have
    /// made `from` into `wanted`.
    fn ways_to(&self, wanted: Value, from: Value, used: &Used, before: usize) -> Vec<Used> {
        if wanted == from {
            return vec![used.clone()];
        }
        let mut ways = Vec::new();
        // Backwards along swaps: a value that is needed, what is used from there to `wanted`, and
        // the values on that path, since coming back to one is a detour.
        let mut needs = vec![(wanted, used.clone(), vec![wanted])];
        while let Some((needed, used, path)) = needs.pop() {
            for index in self.setters.get(&needed).into_iter().flatten() {
                let class = &self.classes[*index as usize];
                let invoked = class.invoked.get(count(&used, *index) as usize);
                if invoked.is_none_or(|invoked| *invoked >= before) {
                    continue;
                }
                let used = one_more(&used, *index);
                match class.action {
                    Action::CompareAndSwap { expected, .. } if expected != from => {
                        if !path.contains(&expected) {
                            let mut path = path.clone();
                            path.push(expected);
                            needs.push((expected, used, path));
                        }
                    }
                    _ => ways.push(used),
                }
            }
        }
        ways
    }
}

#[cfg(test)]
#[path = "linearizability_tests.rs"]
mod tests;
