//! Earliest deadline first: weighted round robin in which each entry's next turn is 1/weight
//! after its last. Weights 3 and 1 give A A B A, repeated.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An entry and its next turn; of equal deadlines the one added first comes first.
#[derive(Clone, Copy, Debug)]
struct Turn {
    deadline: f64,
    order: u64,
    index: u32,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Turn) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    /// The earlier is the greater: the heap gives its greatest.
    fn cmp(&self, other: &Turn) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then_with(|| other.order.cmp(&self.order))
    }
}

/// A schedule over indices.
#[derive(Clone, Debug, Default)]
pub struct Edf {
    turns: BinaryHeap<Turn>,
    now: f64,
    order: u64,
}

/// The least weight: a host in slow start or far busier than others still gets its turn some day.
const LEAST_WEIGHT: f64 = 1e-9;

impl Edf {
    /// A schedule of indices 0.. with `weights`.
    #[must_use]
    pub fn new(weights: impl Iterator<Item = f64>) -> Edf {
        let mut edf = Edf::default();
        for (index, weight) in weights.enumerate() {
            edf.add(u32::try_from(index).unwrap_or(u32::MAX), weight);
        }
        edf
    }

    /// A schedule as it is after this many turns, without taking each: proxies that begin at
    /// random places in the cycle do not all begin with the heaviest.
    #[must_use]
    pub fn after(weights: &[f64], turns: u64) -> Edf {
        let sum: f64 = weights.iter().map(|weight| weight.max(LEAST_WEIGHT)).sum();
        #[allow(clippy::cast_precision_loss)]
        let share = |weight: f64| (weight * turns as f64 / sum).floor();
        let mut edf = Edf::default();
        let mut taken = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            let weight = weight.max(LEAST_WEIGHT);
            let own = share(weight);
            taken += own;
            edf.now = edf.now.max(own / weight);
            edf.turns.push(Turn {
                deadline: (own + 1.0) / weight,
                order: edf.order,
                index: u32::try_from(index).unwrap_or(u32::MAX),
            });
            edf.order += 1;
        }
        // Fewer than there are entries are left.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        for _ in taken as u64..turns {
            edf.next(|index| weights[index as usize]);
        }
        edf
    }

    fn add(&mut self, index: u32, weight: f64) {
        let turn = Turn {
            deadline: self.now + 1.0 / weight.max(LEAST_WEIGHT),
            order: self.order,
            index,
        };
        self.order += 1;
        self.turns.push(turn);
    }

    /// The next index; it is put back with the weight that `weight` gives it now.
    pub fn next(&mut self, weight: impl FnOnce(u32) -> f64) -> Option<u32> {
        let turn = self.turns.pop()?;
        self.now = turn.deadline;
        self.add(turn.index, weight(turn.index));
        Some(turn.index)
    }

    /// Whether there is nothing to schedule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}
