//! Raft's promises as seen from outside: one leader a term, the same state at the same index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A server was seen to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    pub term: u64,
    pub leader: u64,
}

/// What a server's state machine was, at an index of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub server: u64,
    pub index: u64,
    /// Digest of the whole state, the same function on every server.
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("term {term} had two leaders, {first} and {second}")]
    TwoLeaders { term: u64, first: u64, second: u64 },
    #[error("at index {index} servers {first} and {second} have different states")]
    Diverged { index: u64, first: u64, second: u64 },
}

/// Election safety: at most one leader in each term.
pub fn check_leaders(seen: &[Leadership]) -> Result<(), Violation> {
    let mut leaders: BTreeMap<u64, u64> = BTreeMap::new();
    for Leadership { term, leader } in seen.iter().copied() {
        let first = *leaders.entry(term).or_insert(leader);
        if first != leader {
            return Err(Violation::TwoLeaders {
                term,
                first,
                second: leader,
            });
        }
    }
    Ok(())
}

/// State machine safety: whoever applied up to an index has the same state, also after a restart
/// or a snapshot.
pub fn check_states(seen: &[Applied]) -> Result<(), Violation> {
    let mut states: BTreeMap<u64, &Applied> = BTreeMap::new();
    for applied in seen {
        let first = *states.entry(applied.index).or_insert(applied);
        if first.digest != applied.digest {
            return Err(Violation::Diverged {
                index: applied.index,
                first: first.server,
                second: applied.server,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_found() {
        let seen = |pairs: &[(u64, u64)]| -> Vec<Leadership> {
            let leadership = |&(term, leader): &(u64, u64)| Leadership { term, leader };
            pairs.iter().map(leadership).collect()
        };
        assert_eq!(
            check_leaders(&seen(&[(1, 1), (2, 3), (1, 1), (3, 3)])),
            Ok(())
        );
        let term = 2;
        assert_eq!(
            check_leaders(&seen(&[(1, 1), (2, 3), (2, 1)])),
            Err(Violation::TwoLeaders {
                term,
                first: 3,
                second: 1
            })
        );
    }

    #[test]
    fn diverged_states_are_found() {
        let applied = |server, index, digest: &str| Applied {
            server,
            index,
            digest: digest.to_string(),
        };
        let same = [
            applied(1, 5, "a"),
            applied(2, 6, "b"),
            applied(3, 5, "a"),
            applied(1, 5, "a"),
        ];
        assert_eq!(check_states(&same), Ok(()));
        let apart = [applied(1, 5, "a"), applied(2, 5, "b")];
        assert_eq!(
            check_states(&apart),
            Err(Violation::Diverged {
                index: 5,
                first: 1,
                second: 2
            })
        );
    }
}
