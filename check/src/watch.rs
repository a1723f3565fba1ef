//! etcd's promises about watches: ordered, unique, reliable, atomic and resumable, against the
//! changes that really happened; and Kubernetes' way out where they were compacted away: list everything, then
//! watch on from there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::listing::{first_difference, state_at};

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
    /// Everything that a list found at that revision, where the session begins with one.
    #[serde(default)]
    pub listed: Option<BTreeMap<String, u64>>,
    pub observations: Vec<Observation>,
    /// The server refused to go on: what follows is compacted.
    #[serde(default)]
    pub expired: bool,
}

/// What a watcher believes after doing what it was told: the last list, changed by the events since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub revision: u64,
    pub state: BTreeMap<String, u64>,
}

/// A watch over a prefix of the keys, and its sessions in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    pub name: String,
    pub prefix: String,
    pub sessions: Vec<Session>,
    /// In the end, where it got so far.
    #[serde(default)]
    pub view: Option<View>,
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
    #[error(
        "watch {watcher}: a list of revision {revision}, where {delivered} was delivered before"
    )]
    ListedBack {
        watcher: String,
        revision: u64,
        delivered: u64,
    },
    #[error(
        "watch {watcher}: refused as expired after revision {after}, and nothing after {compacted} is compacted"
    )]
    ExpiredEarly {
        watcher: String,
        after: u64,
        compacted: u64,
    },
    #[error(
        "watch {watcher}: at revision {revision} it holds {found:?} for {key:?}, which was {expected:?}"
    )]
    View {
        watcher: String,
        revision: u64,
        key: String,
        found: Option<u64>,
        expected: Option<u64>,
    },
}

/// What a list or a view holds must be what there was.
fn check_view(
    watcher: &Watcher,
    revision: u64,
    state: &BTreeMap<String, u64>,
    writes: &[Write],
) -> Result<(), Violation> {
    let found = state.iter().map(|(key, value)| (key.as_str(), *value));
    let expected = state_at(writes, &watcher.prefix, revision);
    match first_difference(&found.collect(), &expected) {
        None => Ok(()),
        Some((key, found, expected)) => Err(Violation::View {
            watcher: watcher.name.clone(),
            revision,
            key: key.to_owned(),
            found,
            expected,
        }),
    }
}

/// Checks a watch against all writes. Within a session nothing may repeat; a session that resumes
/// behind what was delivered may see that again, as it asked to. Only a list may leave anything out, and only
/// what is compacted, before the revision `compacted`, may be refused.
pub fn check(watcher: &Watcher, writes: &[Write], compacted: u64) -> Result<(), Violation> {
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
        if let Some(state) = &session.listed {
            check_view(watcher, session.after, state, writes)?;
            if let Some(delivered) = delivered
                && session.after < delivered
            {
                return Err(Violation::ListedBack {
                    watcher: name(),
                    revision: session.after,
                    delivered,
                });
            }
        } else if let Some(delivered) = delivered
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
        if session.expired && complete >= compacted {
            return Err(Violation::ExpiredEarly {
                watcher: name(),
                after: complete,
                compacted,
            });
        }
        delivered = Some(delivered.map_or(complete, |before| before.max(complete)));
    }
    if let Some(View { revision, state }) = &watcher.view {
        check_view(watcher, *revision, state, writes)?;
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
                    ..Session::default()
                })
                .collect(),
            view: None,
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
        assert_eq!(check(&observed, &truth(), 0), Ok(()));
    }

    #[test]
    fn every_broken_promise_is_found() {
        let one = |observations| check(&watcher(vec![(0, observations)]), &truth(), 0).unwrap_err();
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
            check(&ahead, &truth(), 0).unwrap_err(),
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
        assert_eq!(check(&back, &truth(), 0), Ok(()));
        // Half of revision 4 was delivered, so the resumption must ask after 3.
        let half = vec![event(1, "a/x", 1), event(3, "a/x", 3), event(4, "a/y", 4)];
        let torn = watcher(vec![(0, half), (4, vec![])]);
        assert!(matches!(
            check(&torn, &truth(), 0).unwrap_err(),
            Violation::ResumedAhead {
                after: 4,
                delivered: 3,
                ..
            }
        ));
    }

    fn state(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let pair = |(key, value): &(&str, u64)| ((*key).to_owned(), *value);
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_compacted_is_listed_anew() {
        let mut observed = watcher(vec![
            (0, vec![event(1, "a/x", 1)]),
            (1, vec![]),
            (4, vec![event(5, "a/x", 5)]),
        ]);
        observed.sessions[1].expired = true;
        observed.sessions[2].listed = Some(state(&[("a/x", 3), ("a/y", 4), ("a/z", 4)]));
        observed.view = Some(View {
            revision: 5,
            state: state(&[("a/x", 5), ("a/y", 4), ("a/z", 4)]),
        });
        assert_eq!(check(&observed, &truth(), 3), Ok(()));
        assert!(matches!(
            check(&observed, &truth(), 1).unwrap_err(),
            Violation::ExpiredEarly {
                after: 1,
                compacted: 1,
                ..
            }
        ));

        let mut stale = observed.clone();
        stale.view.as_mut().unwrap().state = state(&[("a/x", 3), ("a/y", 4), ("a/z", 4)]);
        assert!(matches!(
            check(&stale, &truth(), 3).unwrap_err(),
            Violation::View { key, found: Some(3), expected: Some(5), .. } if key == "a/x"
        ));
        let mut torn = observed.clone();
        torn.sessions[2].listed = Some(state(&[("a/x", 3), ("a/y", 4)]));
        assert!(matches!(
            check(&torn, &truth(), 3).unwrap_err(),
            Violation::View { key, revision: 4, found: None, .. } if key == "a/z"
        ));
        let mut back = observed;
        back.sessions[0].observations.push(Observation::Progress(4));
        back.sessions[2].after = 3;
        back.sessions[2].listed = Some(state(&[("a/x", 3)]));
        assert!(matches!(
            check(&back, &truth(), 3).unwrap_err(),
            Violation::Gap { .. }
        ));
        back.sessions[0].observations = vec![event(1, "a/x", 1), event(3, "a/x", 3)];
        back.sessions[2].after = 1;
        back.sessions[2].listed = Some(state(&[("a/x", 1)]));
        assert!(matches!(
            check(&back, &truth(), 3).unwrap_err(),
            Violation::ListedBack {
                revision: 1,
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
            check(&observed, &truth(), 0).unwrap_err(),
            Violation::OutOfOrder { .. }
        ));
    }
}
