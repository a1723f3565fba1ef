//! etcd's promises about watches: ordered, unique, reliable, atomic and resumable, against the
//! changes that really happened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One change of one key, at the store's revision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Write {
    pub revision: u64,
    pub key: String,
    /// `None`: deleted.
    pub value: Option<u64>,
}

/// What a watcher received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observation {
    Event(Write),
    /// Every event up to this revision was delivered.
    Progress(u64),
}

/// One connection's worth of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Events after this revision were asked for.
    pub after: u64,
    pub observations: Vec<Observation>,
}

/// A watch over a prefix of the keys, and its sessions in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    pub name: String,
    pub prefix: String,
    pub sessions: Vec<Session>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("watch {watcher}: event {event:?} was never written")]
    Invented { watcher: String, event: Write },
    #[error("watch {watcher}: event {event:?} differs from the write {written:?}")]
    Different {
        watcher: String,
        event: Write,
        written: Write,
    },
    #[error("watch {watcher}: event {event:?} is outside of prefix {prefix:?}")]
    Foreign {
        watcher: String,
        event: Write,
        prefix: String,
    },
    #[error("watch {watcher}: event {event:?} came after revision {newest}")]
    OutOfOrder {
        watcher: String,
        event: Write,
        newest: u64,
    },
    #[error("watch {watcher}: event {event:?} came twice")]
    Repeated { watcher: String, event: Write },
    #[error("watch {watcher}: write {write:?} was left out before revision {seen}")]
    Gap {
        watcher: String,
        write: Write,
        seen: u64,
    },
    #[error("watch {watcher}: progress went back from revision {newest} to {progress}")]
    ProgressBack {
        watcher: String,
        newest: u64,
        progress: u64,
    },
    #[error("watch {watcher}: resumed after revision {after}, but only {delivered} was delivered")]
    ResumedAhead {
        watcher: String,
        after: u64,
        delivered: u64,
    },
}

/// Checks a watch against all writes. Within a session nothing may repeat; a session that resumes
/// behind what was delivered may see that again, as it asked to.
pub fn check(watcher: &Watcher, writes: &[Write]) -> Result<(), Violation> {
    let name = || watcher.name.clone();
    let mut expected: BTreeMap<(u64, &str), &Write> = BTreeMap::new();
    for write in writes {
        if write.key.starts_with(&watcher.prefix) {
            expected.insert((write.revision, write.key.as_str()), write);
        }
    }
    // Up to where everything has been delivered, over all sessions.
    let mut delivered: Option<u64> = None;
    for session in &watcher.sessions {
        if let Some(delivered) = delivered
            && session.after > delivered
        {
            return Err(Violation::ResumedAhead {
                watcher: name(),
                after: session.after,
                delivered,
            });
        }
        let mut received: BTreeMap<(u64, &str), ()> = BTreeMap::new();
        let mut newest = session.after;
        let mut complete = session.after;
        // Everything in (complete, up_to] must have been received by now.
        let gap = |received: &BTreeMap<(u64, &str), ()>, complete: u64, up_to: u64, seen: u64| {
            expected
                .range((complete + 1, "")..(up_to.saturating_add(1), ""))
                .find(|(place, _)| !received.contains_key(place))
                .map(|(_, write)| Violation::Gap {
                    watcher: watcher.name.clone(),
                    write: (*write).clone(),
                    seen,
                })
        };
        for observation in &session.observations {
            match observation {
                Observation::Event(event) => {
                    let place = (event.revision, event.key.as_str());
                    if !event.key.starts_with(&watcher.prefix) {
                        return Err(Violation::Foreign {
                            watcher: name(),
                            event: event.clone(),
                            prefix: watcher.prefix.clone(),
                        });
                    }
                    match expected.get(&place) {
                        None => {
                            return Err(Violation::Invented {
                                watcher: name(),
                                event: event.clone(),
                            });
                        }
                        Some(written) if *written != event => {
                            return Err(Violation::Different {
                                watcher: name(),
                                event: event.clone(),
                                written: (*written).clone(),
                            });
                        }
                        Some(_) => {}
                    }
                    if received.insert(place, ()).is_some() {
                        return Err(Violation::Repeated {
                            watcher: name(),
                            event: event.clone(),
                        });
                    }
                    // Several keys may change at one revision; once it is complete it is over.
                    if event.revision < newest || event.revision <= complete {
                        return Err(Violation::OutOfOrder {
                            watcher: name(),
                            event: event.clone(),
                            newest: newest.max(complete),
                        });
                    }
                    newest = event.revision;
                    let up_to = event.revision - 1;
                    if let Some(violation) = gap(&received, complete, up_to, event.revision) {
                        return Err(violation);
                    }
                    complete = complete.max(up_to);
                }
                Observation::Progress(progress) => {
                    if *progress < newest {
                        return Err(Violation::ProgressBack {
                            watcher: name(),
                            newest,
                            progress: *progress,
                        });
                    }
                    if let Some(violation) = gap(&received, complete, *progress, *progress) {
                        return Err(violation);
                    }
                    newest = *progress;
                    complete = *progress;
                }
            }
        }
        // A revision's events come together, so the newest one is whole if all its keys came.
        if gap(&received, complete, newest, newest).is_none() {
            complete = newest;
        }
        delivered = Some(delivered.map_or(complete, |before| before.max(complete)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(revision: u64, key: &str, value: u64) -> Write {
        Write {
            revision,
            key: key.to_string(),
            value: Some(value),
        }
    }

    fn truth() -> Vec<Write> {
        vec![
            write(1, "a/x", 1),
            write(2, "b/x", 2),
            write(3, "a/x", 3),
            write(4, "a/y", 4),
            write(4, "a/z", 4),
            write(5, "a/x", 5),
        ]
    }

    fn event(revision: u64, key: &str, value: u64) -> Observation {
        Observation::Event(write(revision, key, value))
    }

    fn watcher(sessions: Vec<(u64, Vec<Observation>)>) -> Watcher {
        Watcher {
            name: "w".to_string(),
            prefix: "a/".to_string(),
            sessions: sessions
                .into_iter()
                .map(|(after, observations)| Session {
                    after,
                    observations,
                })
                .collect(),
        }
    }

    #[test]
    fn a_whole_watch_with_a_resumption() {
        let observed = watcher(vec![
            (
                0,
                vec![
                    event(1, "a/x", 1),
                    Observation::Progress(2),
                    event(3, "a/x", 3),
                ],
            ),
            (
                3,
                vec![event(4, "a/z", 4), event(4, "a/y", 4), event(5, "a/x", 5)],
            ),
            (5, vec![Observation::Progress(5)]),
        ]);
        assert_eq!(check(&observed, &truth()), Ok(()));
    }

    #[test]
    fn every_broken_promise_is_found() {
        let one = |observations| check(&watcher(vec![(0, observations)]), &truth()).unwrap_err();
        assert!(matches!(
            one(vec![event(3, "a/x", 3)]),
            Violation::Gap { write, .. } if write.revision == 1
        ));
        assert!(matches!(
            one(vec![event(1, "a/x", 1), event(1, "a/x", 1)]),
            Violation::Repeated { .. }
        ));
        assert!(matches!(
            one(vec![
                event(1, "a/x", 1),
                event(3, "a/x", 3),
                event(1, "a/x", 1)
            ]),
            Violation::Repeated { .. }
        ));
        assert!(matches!(
            one(vec![event(2, "b/x", 2)]),
            Violation::Foreign { .. }
        ));
        assert!(matches!(
            one(vec![event(1, "a/x", 9)]),
            Violation::Different { .. }
        ));
        assert!(matches!(
            one(vec![event(9, "a/x", 9)]),
            Violation::Invented { .. }
        ));
        assert!(matches!(
            one(vec![Observation::Progress(1)]),
            Violation::Gap { .. }
        ));
        assert!(matches!(
            one(vec![event(1, "a/x", 1), Observation::Progress(0)]),
            Violation::ProgressBack { .. }
        ));
        // Half of a transaction, then on.
        assert!(matches!(
            one(vec![event(1, "a/x", 1), event(3, "a/x", 3), event(4, "a/y", 4), event(5, "a/x", 5)]),
            Violation::Gap { write, .. } if write.key == "a/z"
        ));
    }

    #[test]
    fn a_resumption_may_go_back_but_not_ahead() {
        let ahead = watcher(vec![(0, vec![event(1, "a/x", 1)]), (3, vec![])]);
        assert!(matches!(
            check(&ahead, &truth()).unwrap_err(),
            Violation::ResumedAhead {
                after: 3,
                delivered: 1,
                ..
            }
        ));
        let back = watcher(vec![
            (0, vec![event(1, "a/x", 1), event(3, "a/x", 3)]),
            (1, vec![event(3, "a/x", 3)]),
        ]);
        assert_eq!(check(&back, &truth()), Ok(()));
        // Half of revision 4 was delivered, so the resumption must ask after 3.
        let half = vec![event(1, "a/x", 1), event(3, "a/x", 3), event(4, "a/y", 4)];
        let torn = watcher(vec![(0, half), (4, vec![])]);
        assert!(matches!(
            check(&torn, &truth()).unwrap_err(),
            Violation::ResumedAhead {
                after: 4,
                delivered: 3,
                ..
            }
        ));
    }

    #[test]
    fn old_events_after_progress_are_out_of_order() {
        let observed = watcher(vec![(
            3,
            vec![Observation::Progress(3), event(1, "a/x", 1)],
        )]);
        assert!(matches!(
            check(&observed, &truth()).unwrap_err(),
            Violation::OutOfOrder { .. }
        ));
    }
}
