//! The search against brute force, against generated executions, and at the size of our workloads.

use super::*;
use crate::history::Step;

/// A small generator (xorshift), so that failures repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Runs clients against a true register and records what they see. Each operation takes effect at
/// a random time between its invocation and its return; some answers are lost. Values are drawn
/// from 1 to `values`, or with 0 are different for every write, as our workloads make them.
fn execution(
    seed: u64,
    clients: u64,
    operations: usize,
    values: u64,
    lost_percent: u64,
) -> History {
    #[derive(Clone, Copy)]
    enum State {
        Idle,
        Invoked(Action),
        Effective(Outcome),
    }
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut history = History::default();
    let mut states = vec![State::Idle; clients as usize];
    // Operations whose answer was lost before they took effect; they may still.
    let mut limbo: Vec<Action> = Vec::new();
    let mut register: Value = None;
    let mut invoked = 0;
    let act = |action: Action, register: &mut Value| match action {
        Action::Read => Outcome::Read(*register),
        Action::Write(value) => {
            *register = value;
            Outcome::Done
        }
        Action::CompareAndSwap { expected, new } if *register == expected => {
            *register = new;
            Outcome::Done
        }
        Action::CompareAndSwap { .. } => Outcome::Mismatch,
    };
    while invoked < operations || states.iter().any(|state| !matches!(state, State::Idle)) {
        if !limbo.is_empty() && random.below(20) == 0 {
            let late = limbo.swap_remove(random.below(limbo.len() as u64) as usize);
            act(late, &mut register);
        }
        let client = random.below(clients) as usize;
        states[client] = match states[client] {
            State::Idle if invoked < operations => {
                invoked += 1;
                let value = |random: &mut Random| match random.below(values + 1) {
                    0 if values == 0 => Some(1000 + invoked as u64),
                    0 => None,
                    value => Some(value),
                };
                let action = match random.below(3) {
                    0 => Action::Read,
                    1 => Action::Write(value(&mut random)),
                    _ => Action::CompareAndSwap {
                        expected: if values == 0 {
                            register
                        } else {
                            value(&mut random)
                        },
                        new: value(&mut random),
                    },
                };
                history.invoke(client as u64, "x", action);
                State::Invoked(action)
            }
            State::Idle => State::Idle,
            State::Invoked(action) if random.below(100) < lost_percent => {
                limbo.push(action);
                history.finish(client as u64, "x", Outcome::Unknown);
                State::Idle
            }
            State::Invoked(action) => State::Effective(act(action, &mut register)),
            State::Effective(outcome) => {
                let lost = random.below(100) < lost_percent;
                let told = if lost { Outcome::Unknown } else { outcome };
                history.finish(client as u64, "x", told);
                State::Idle
            }
        };
    }
    history
}

fn operations(history: &History) -> Vec<Operation> {
    history
        .operations()
        .unwrap()
        .remove("x")
        .unwrap_or_default()
}

/// Every order of every subset of the unknown operations: slow and obviously right.
fn brute_force(operations: &[Operation], done: u64, value: Value) -> bool {
    let open = |index: usize| done & (1 << index) == 0;
    let is_unknown = |o: &Operation| o.outcome == Outcome::Unknown;
    let mut earliest_return = usize::MAX;
    let mut left = false;
    for (index, operation) in operations.iter().enumerate() {
        if open(index) && !is_unknown(operation) {
            left = true;
            earliest_return = earliest_return.min(operation.returned);
        }
    }
    if !left {
        return true;
    }
    operations.iter().enumerate().any(|(index, operation)| {
        if !open(index) || operation.invoked >= earliest_return {
            return false;
        }
        let after = match (operation.action, operation.outcome) {
            (_, Outcome::Failed) => Some(value),
            (Action::Read, Outcome::Read(read)) => (read == value).then_some(value),
            (Action::Read, _) => Some(value),
            (Action::Write(new), _) => Some(new),
            (Action::CompareAndSwap { expected, .. }, Outcome::Mismatch) => {
                (value != expected).then_some(value)
            }
            (Action::CompareAndSwap { expected, new }, _) => (value == expected).then_some(new),
        };
        after.is_some_and(|after| brute_force(operations, done | (1 << index), after))
    })
}

fn accepted(operations: &[Operation]) -> bool {
    match check_key("x", operations, None) {
        Ok(()) => true,
        Err(Violation::NotLinearizable { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn true_executions_are_accepted() {
    for seed in 0..300 {
        let history = execution(seed, 2 + seed % 6, 60, 4, seed % 30);
        assert!(
            accepted(&operations(&history)),
            "seed {seed}:\n{}",
            history.to_lines()
        );
    }
}

#[test]
fn agrees_with_brute_force_on_damaged_executions() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4000 {
        let mut history = execution(seed, 4, 9, 2, 25);
        let mut random = Random(seed + 17);
        // Damage: some answers become others.
        for event in &mut history.events {
            if random.below(6) != 0 {
                continue;
            }
            event.step = match event.step {
                Step::Return(Outcome::Read(_)) => {
                    let value = random.below(3);
                    Step::Return(Outcome::Read((value > 0).then_some(value)))
                }
                Step::Return(Outcome::Mismatch) => Step::Return(Outcome::Done),
                step => step,
            };
        }
        let operations = operations(&history);
        let truth = brute_force(&operations, 0, None);
        assert_eq!(
            accepted(&operations),
            truth,
            "seed {seed}:\n{}",
            history.to_lines()
        );
        if truth {
            good += 1;
        } else {
            bad += 1;
        }
    }
    // The comparison means something only when both verdicts are frequent.
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}

#[test]
fn a_thousand_operations_by_ten_clients_need_few_configurations() {
    for seed in 0..20 {
        for (values, lost_percent) in [(0, 0), (0, 5), (0, 20), (5, 0), (5, 5), (5, 20)] {
            let history = execution(seed, 10, 1000, values, lost_percent);
            let operations = operations(&history);
            let mut search = Search::new(&operations, None);
            assert!(matches!(search.run(), Verdict::Linearizable));
            assert!(
                search.remembered < 50_000,
                "seed {seed}: {}",
                search.remembered
            );
        }
    }
}

#[test]
fn one_wrong_answer_among_a_thousand_operations_is_found() {
    // With few values and lost answers almost anything can be explained, so there it is the
    // true executions above that count.
    for seed in 0..10 {
        for (values, lost_percent) in [(0, 0), (0, 5), (0, 20), (5, 0)] {
            let mut history = execution(seed, 10, 1000, values, lost_percent);
            // An old value is read: the first one that was ever read.
            let old = history.events.iter().find_map(|event| match event.step {
                Step::Return(Outcome::Read(Some(value))) if values == 0 => Some(value),
                _ => None,
            });
            let wrong = history
                .events
                .iter_mut()
                .skip(1200)
                .find(|event| matches!(event.step, Step::Return(Outcome::Read(_))))
                .unwrap();
            wrong.step = Step::Return(Outcome::Read(old.or(Some(99))));
            let operations = operations(&history);
            let mut search = Search::new(&operations, None);
            let verdict = search.run();
            let remembered = search.remembered;
            assert!(
                matches!(verdict, Verdict::Stuck),
                "seed {seed} {values} {lost_percent}"
            );
            assert!(
                remembered < 200_000,
                "seed {seed} {values} {lost_percent}: {remembered}"
            );
        }
    }
}

#[test]
fn a_search_that_grows_too_large_says_so() {
    let mut history = execution(3, 10, 1000, 5, 20);
    history.invoke(90, "x", Action::Read);
    history.finish(90, "x", Outcome::Read(Some(99)));
    let operations = operations(&history);
    let mut search = Search::new(&operations, None);
    search.comparisons_left = 10_000;
    assert!(matches!(search.run(), Verdict::Exhausted));
}

#[test]
fn keys_are_checked_apart_and_the_violation_says_what_is_stuck() {
    let mut history = History::default();
    history.invoke(1, "x", Action::Write(Some(1)));
    history.invoke(2, "y", Action::Write(Some(2)));
    history.finish(1, "x", Outcome::Done);
    history.finish(2, "y", Outcome::Done);
    history.invoke(1, "y", Action::Read);
    history.finish(1, "y", Outcome::Read(Some(2)));
    let initial = BTreeMap::from([("z".to_string(), 7)]);
    assert_eq!(check(&history, &initial), Ok(()));
    history.invoke(1, "z", Action::Read);
    history.finish(1, "z", Outcome::Read(Some(7)));
    assert_eq!(check(&history, &initial), Ok(()));
    history.invoke(1, "x", Action::Read);
    history.finish(1, "x", Outcome::Read(None));
    match check(&history, &initial).unwrap_err() {
        Violation::NotLinearizable {
            key,
            explained,
            total,
            values,
            stuck,
        } => {
            assert_eq!((key.as_str(), explained, total), ("x", 1, 2));
            assert_eq!(values, BTreeSet::from([Some(1)]));
            assert_eq!(stuck.len(), 1);
            assert_eq!(stuck[0].outcome, Outcome::Read(None));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn malformed_histories_are_refused() {
    let mut history = History::default();
    history.finish(1, "x", Outcome::Done);
    assert!(matches!(
        check(&history, &BTreeMap::new()),
        Err(Violation::Malformed(_))
    ));
}
