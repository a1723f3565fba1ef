//! What clients asked and what they were answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A register's value; `None` where the key does not exist.
pub type Value = Option<u64>;

/// What a client asks of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Read,
    /// Sets the value; `null` deletes.
    Write(Value),
    /// Sets `new` if the value is `expected`.
    CompareAndSwap {
        expected: Value,
        new: Value,
    },
}

/// What a client was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A write or swap was done.
    Done,
    /// A read's answer.
    Read(Value),
    /// The swap's expectation did not hold.
    Mismatch,
    /// Certainly not carried out (refused, or never sent). Says nothing about the value.
    Failed,
    /// No answer: carried out at any later time, or never.
    Unknown,
}

/// One line of a history. Position in the history is time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub client: u64,
    pub key: String,
    #[serde(flatten)]
    pub step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Invoke(Action),
    Return(Outcome),
}

/// Invocations and returns in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub events: Vec<Event>,
}

/// An invocation with its return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    pub action: Action,
    pub outcome: Outcome,
    /// Positions in the history. An unknown outcome never returns: `usize::MAX`.
    pub invoked: usize,
    pub returned: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("event {position}: client {client} invokes while its earlier operation is open")]
    Overlap { position: usize, client: u64 },
    #[error("event {position}: client {client} returns from nothing")]
    NotInvoked { position: usize, client: u64 },
    #[error("event {position}: client {client} returns from another key")]
    OtherKey { position: usize, client: u64 },
    #[error("event {position}: {outcome:?} is no outcome of {action:?}")]
    Outcome {
        position: usize,
        action: Action,
        outcome: Outcome,
    },
    #[error("line {line}: {cause}")]
    Line { line: usize, cause: String },
}

fn fits(action: Action, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed | Outcome::Unknown => true,
        Outcome::Done => action != Action::Read,
        Outcome::Read(_) => action == Action::Read,
        Outcome::Mismatch => matches!(action, Action::CompareAndSwap { .. }),
    }
}

impl History {
    pub fn invoke(&mut self, client: u64, key: &str, action: Action) {
        self.push(client, key, Step::Invoke(action));
    }

    pub fn finish(&mut self, client: u64, key: &str, outcome: Outcome) {
        self.push(client, key, Step::Return(outcome));
    }

    fn push(&mut self, client: u64, key: &str, step: Step) {
        self.events.push(Event {
            client,
            key: key.to_string(),
            step,
        });
    }

    /// Pairs invocations with returns, by key, in order of invocation. What is still open at the
    /// end has an unknown outcome.
    pub fn operations(&self) -> Result<BTreeMap<String, Vec<Operation>>, HistoryError> {
        let mut operations: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        // Client → key and index of its open operation.
        let mut open: BTreeMap<u64, (&str, usize)> = BTreeMap::new();
        for (position, event) in self.events.iter().enumerate() {
            let client = event.client;
            match event.step {
                Step::Invoke(action) => {
                    let of_key = operations.entry(event.key.clone()).or_default();
                    if open.insert(client, (&event.key, of_key.len())).is_some() {
                        return Err(HistoryError::Overlap { position, client });
                    }
                    of_key.push(Operation {
                        client,
                        action,
                        outcome: Outcome::Unknown,
                        invoked: position,
                        returned: usize::MAX,
                    });
                }
                Step::Return(outcome) => {
                    let Some((key, index)) = open.remove(&client) else {
                        return Err(HistoryError::NotInvoked { position, client });
                    };
                    if key != event.key {
                        return Err(HistoryError::OtherKey { position, client });
                    }
                    let Some(operation) = operations.get_mut(key).and_then(|o| o.get_mut(index))
                    else {
                        return Err(HistoryError::NotInvoked { position, client });
                    };
                    if !fits(operation.action, outcome) {
                        let action = operation.action;
                        return Err(HistoryError::Outcome {
                            position,
                            action,
                            outcome,
                        });
                    }
                    operation.outcome = outcome;
                    if outcome != Outcome::Unknown {
                        operation.returned = position;
                    }
                }
            }
        }
        Ok(operations)
    }

    /// Writes one JSON object a line, for other checkers and for golden files.
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            // Events hold nothing that JSON cannot.
            text.push_str(&serde_json::to_string(event).unwrap_or_default());
            text.push('\n');
        }
        text
    }

    /// Reads [`History::to_lines`]; empty lines and those that begin with `#` are skipped.
    pub fn from_lines(text: &str) -> Result<History, HistoryError> {
        let mut events = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            events.push(
                serde_json::from_str(line).map_err(|error| HistoryError::Line {
                    line: index + 1,
                    cause: error.to_string(),
                })?,
            );
        }
        Ok(History { events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back() {
        let mut history = History::default();
        history.invoke(1, "x", Action::Write(Some(3)));
        history.invoke(2, "x", Action::Read);
        history.finish(2, "x", Outcome::Read(None));
        history.finish(1, "x", Outcome::Done);
        history.invoke(
            1,
            "x",
            Action::CompareAndSwap {
                expected: Some(3),
                new: None,
            },
        );
        history.finish(1, "x", Outcome::Unknown);
        let text = history.to_lines();
        assert!(text.starts_with(r#"{"client":1,"key":"x","invoke":{"write":3}}"#));
        assert_eq!(History::from_lines(&text).unwrap(), history);
        let error = History::from_lines("# comment\n\n{nonsense}").unwrap_err();
        assert!(matches!(error, HistoryError::Line { line: 3, .. }));
    }

    #[test]
    fn malformed_histories_are_named() {
        let mut twice = History::default();
        twice.invoke(1, "x", Action::Read);
        twice.invoke(1, "y", Action::Read);
        let client = 1;
        assert_eq!(
            twice.operations().unwrap_err(),
            HistoryError::Overlap {
                position: 1,
                client
            }
        );
        let mut nothing = History::default();
        nothing.finish(1, "x", Outcome::Done);
        assert_eq!(
            nothing.operations().unwrap_err(),
            HistoryError::NotInvoked {
                position: 0,
                client
            }
        );
        let mut other = History::default();
        other.invoke(1, "x", Action::Read);
        other.finish(1, "y", Outcome::Read(None));
        assert_eq!(
            other.operations().unwrap_err(),
            HistoryError::OtherKey {
                position: 1,
                client
            }
        );
        let mut odd = History::default();
        odd.invoke(1, "x", Action::Read);
        odd.finish(1, "x", Outcome::Done);
        assert!(matches!(
            odd.operations().unwrap_err(),
            HistoryError::Outcome { position: 1, .. }
        ));
    }
}
