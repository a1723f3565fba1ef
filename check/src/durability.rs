//! No acknowledged write is lost, and what is stored is what the writes made.

use std::collections::BTreeMap;

use crate::watch::Write;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("acknowledged write {acknowledged:?} is not in the store's history")]
    Lost { acknowledged: Write },
    #[error("acknowledged write {acknowledged:?} is in the store's history as {stored:?}")]
    Changed { acknowledged: Write, stored: Write },
    #[error("two writes of key {key:?} have revision {revision}")]
    Duplicate { key: String, revision: u64 },
    #[error("key {key:?} holds {found:?} where its last write left {expected:?}")]
    State {
        key: String,
        found: Option<u64>,
        expected: Option<u64>,
    },
}

/// Every acknowledged write must be in the history of what the store holds, at the revision that
/// the acknowledgement named.
pub fn check(acknowledged: &[Write], stored: &[Write]) -> Result<(), Violation> {
    let mut by_place: BTreeMap<(u64, &str), &Write> = BTreeMap::new();
    for write in stored {
        if by_place
            .insert((write.revision, write.key.as_str()), write)
            .is_some()
        {
            return Err(Violation::Duplicate {
                key: write.key.clone(),
                revision: write.revision,
            });
        }
    }
    for write in acknowledged {
        match by_place.get(&(write.revision, write.key.as_str())) {
            None => {
                return Err(Violation::Lost {
                    acknowledged: write.clone(),
                });
            }
            Some(stored) if *stored != write => {
                return Err(Violation::Changed {
                    acknowledged: write.clone(),
                    stored: (*stored).clone(),
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The state must be what the writes, in order of revision, leave behind.
pub fn check_state(stored: &[Write], state: &BTreeMap<String, u64>) -> Result<(), Violation> {
    let mut ordered: Vec<&Write> = stored.iter().collect();
    ordered.sort_by_key(|write| write.revision);
    let mut expected: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for write in ordered {
        expected.insert(&write.key, write.value);
    }
    for key in expected
        .keys()
        .copied()
        .chain(state.keys().map(String::as_str))
    {
        let (found, expected) = (
            state.get(key).copied(),
            expected.get(key).copied().flatten(),
        );
        if found != expected {
            return Err(Violation::State {
                key: key.to_string(),
                found,
                expected,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(revision: u64, key: &str, value: Option<u64>) -> Write {
        Write {
            revision,
            key: key.to_string(),
            value,
        }
    }

    #[test]
    fn lost_and_changed_writes_are_found() {
        let stored = [
            write(1, "a", Some(1)),
            write(2, "b", Some(2)),
            write(2, "a", None),
        ];
        assert_eq!(
            check(&[write(2, "a", None), write(1, "a", Some(1))], &stored),
            Ok(())
        );
        assert!(matches!(
            check(&[write(3, "a", Some(3))], &stored).unwrap_err(),
            Violation::Lost { .. }
        ));
        assert!(matches!(
            check(&[write(2, "b", Some(9))], &stored).unwrap_err(),
            Violation::Changed { .. }
        ));
        let twice = [write(1, "a", Some(1)), write(1, "a", Some(2))];
        assert!(matches!(
            check(&[], &twice).unwrap_err(),
            Violation::Duplicate { .. }
        ));
    }

    #[test]
    fn the_state_follows_from_the_writes() {
        let stored = [
            write(3, "a", Some(3)),
            write(1, "a", Some(1)),
            write(2, "b", None),
        ];
        let state =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        assert_eq!(check_state(&stored, &state(&[("a", 3)])), Ok(()));
        assert!(check_state(&stored, &state(&[("a", 1)])).is_err());
        assert!(check_state(&stored, &state(&[])).is_err());
        assert!(check_state(&stored, &state(&[("a", 3), ("c", 1)])).is_err());
    }
}
