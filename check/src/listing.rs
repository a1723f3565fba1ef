//! Lists in pages: each page is what there was at its revision, and together they cover the collection once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::watch::Write;

/// What one request of a list was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Of which the page says that it is.
    pub revision: u64,
    /// Keys and values, in the order received.
    pub items: Vec<(String, u64)>,
    /// More is to come.
    pub more: bool,
    /// The token of the page before was refused as expired; this one goes on with the token that came
    /// with the refusal, at a newer revision.
    #[serde(default)]
    pub after_expiry: bool,
}

/// One list of a prefix of the keys, from its first page on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub name: String,
    pub prefix: String,
    /// Items asked for on a page; 0: all.
    pub limit: usize,
    pub pages: Vec<Page>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("list {list}: {items} items on a page of {limit}")]
    Size {
        list: String,
        items: usize,
        limit: usize,
    },
    #[error("list {list}: {key:?} comes after {last:?}")]
    Order {
        list: String,
        key: String,
        last: String,
    },
    #[error("list {list}: a page of revision {revision} follows one of {before}")]
    Torn {
        list: String,
        before: u64,
        revision: u64,
    },
    #[error(
        "list {list}: a token of revision {revision} was refused as expired, and nothing after {compacted} is compacted"
    )]
    ExpiredEarly {
        list: String,
        revision: u64,
        compacted: u64,
    },
    #[error("list {list}: at revision {revision}, {key:?} is {found:?} and was {expected:?}")]
    Differs {
        list: String,
        revision: u64,
        key: String,
        found: Option<u64>,
        expected: Option<u64>,
    },
}

/// Keys with their values at a revision, of those with a prefix.
pub(crate) fn state_at<'a>(
    writes: &'a [Write],
    prefix: &str,
    revision: u64,
) -> BTreeMap<&'a str, u64> {
    let mut newest: BTreeMap<&str, (u64, Option<u64>)> = BTreeMap::new();
    for write in writes {
        if write.revision > revision || !write.key.starts_with(prefix) {
            continue;
        }
        let entry = newest.entry(&write.key).or_insert((0, None));
        if write.revision >= entry.0 {
            *entry = (write.revision, write.value);
        }
    }
    let present = newest
        .into_iter()
        .filter_map(|(key, (_, value))| Some((key, value?)));
    present.collect()
}

/// The first key whose value is not the one expected: key, found, expected.
pub(crate) fn first_difference<'a>(
    found: &BTreeMap<&'a str, u64>,
    expected: &BTreeMap<&'a str, u64>,
) -> Option<(&'a str, Option<u64>, Option<u64>)> {
    let mut keys: Vec<&str> = found.keys().chain(expected.keys()).copied().collect();
    keys.sort_unstable();
    keys.into_iter()
        .map(|key| (key, found.get(key).copied(), expected.get(key).copied()))
        .find(|(_, found, expected)| found != expected)
}

/// Checks a list, of which the last pages may never have been asked for. `compacted` is the revision
/// before which nothing could be read in the end.
pub fn check(listing: &Listing, writes: &[Write], compacted: u64) -> Result<(), Violation> {
    let list = || listing.name.clone();
    // Where the page before ended: its revision and last key.
    let mut before: Option<(u64, String)> = None;
    for page in &listing.pages {
        let full = page.items.len() == listing.limit;
        let sized = listing.limit == 0 || full || (!page.more && page.items.len() < listing.limit);
        if !sized {
            return Err(Violation::Size {
                list: list(),
                items: page.items.len(),
                limit: listing.limit,
            });
        }
        let mut last = String::new();
        if let Some((revision, key)) = before {
            if page.after_expiry && revision >= compacted {
                return Err(Violation::ExpiredEarly {
                    list: list(),
                    revision,
                    compacted,
                });
            }
            let follows = if page.after_expiry {
                page.revision >= revision
            } else {
                page.revision == revision
            };
            if !follows {
                return Err(Violation::Torn {
                    list: list(),
                    before: revision,
                    revision: page.revision,
                });
            }
            last = key;
        }
        let first = last.clone();
        for (key, _) in &page.items {
            if *key <= last {
                return Err(Violation::Order {
                    list: list(),
                    key: key.clone(),
                    last,
                });
            }
            last.clone_from(key);
        }
        let mut expected = state_at(writes, &listing.prefix, page.revision);
        expected.retain(|key, _| *key > first.as_str() && (!page.more || *key <= last.as_str()));
        let items = page.items.iter();
        let found = items.map(|(key, value)| (key.as_str(), *value)).collect();
        if let Some((key, found, expected)) = first_difference(&found, &expected) {
            return Err(Violation::Differs {
                list: list(),
                revision: page.revision,
                key: key.to_owned(),
                found,
                expected,
            });
        }
        before = Some((page.revision, last));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Vec<Write> {
        let write = |revision, key: &str, value| Write {
            revision,
            key: key.to_owned(),
            value,
        };
        vec![
            write(1, "a/x", Some(1)),
            write(2, "a/y", Some(2)),
            write(3, "b/x", Some(3)),
            write(4, "a/z", Some(4)),
            write(5, "a/y", None),
            write(6, "a/z", Some(6)),
        ]
    }

    fn page(revision: u64, items: &[(&str, u64)], more: bool) -> Page {
        Page {
            revision,
            items: items
                .iter()
                .map(|(key, value)| ((*key).to_owned(), *value))
                .collect(),
            more,
            after_expiry: false,
        }
    }

    fn verdict(limit: usize, pages: Vec<Page>, compacted: u64) -> Result<(), Violation> {
        let listing = Listing {
            name: "l".into(),
            prefix: "a/".into(),
            limit,
            pages,
        };
        check(&listing, &truth(), compacted)
    }

    #[test]
    fn pages_of_one_revision_make_a_list() {
        let whole = page(4, &[("a/x", 1), ("a/y", 2), ("a/z", 4)], false);
        assert_eq!(verdict(0, vec![whole], 0), Ok(()));
        let first = page(4, &[("a/x", 1), ("a/y", 2)], true);
        let second = page(4, &[("a/z", 4)], false);
        assert_eq!(verdict(2, vec![first.clone(), second], 0), Ok(()));
        // One that was given up.
        assert_eq!(verdict(2, vec![first], 0), Ok(()));
    }

    #[test]
    fn an_expired_token_goes_on_at_a_newer_revision() {
        let first = page(2, &[("a/x", 1)], true);
        let rest = Page {
            after_expiry: true,
            ..page(6, &[("a/z", 6)], false)
        };
        assert_eq!(verdict(1, vec![first.clone(), rest.clone()], 4), Ok(()));
        assert!(matches!(
            verdict(1, vec![first, rest], 2).unwrap_err(),
            Violation::ExpiredEarly {
                revision: 2,
                compacted: 2,
                ..
            }
        ));
    }

    #[test]
    fn every_broken_page_is_found() {
        let one = |page| verdict(0, vec![page], 0).unwrap_err();
        // Left out, outdated, and there no more.
        assert!(matches!(
            one(page(4, &[("a/x", 1), ("a/z", 4)], false)),
            Violation::Differs { key, found: None, .. } if key == "a/y"
        ));
        assert!(matches!(
            one(page(6, &[("a/x", 1), ("a/z", 4)], false)),
            Violation::Differs { key, found: Some(4), expected: Some(6), .. } if key == "a/z"
        ));
        assert!(matches!(
            one(page(6, &[("a/x", 1), ("a/y", 2), ("a/z", 6)], false)),
            Violation::Differs { key, expected: None, .. } if key == "a/y"
        ));
        assert!(matches!(
            one(page(2, &[("a/y", 2), ("a/x", 1)], false)),
            Violation::Order { .. }
        ));
        let first = page(4, &[("a/x", 1), ("a/y", 2)], true);
        let pages = |second| verdict(2, vec![first.clone(), second], 0).unwrap_err();
        assert!(matches!(
            pages(page(6, &[("a/z", 6)], false)),
            Violation::Torn {
                before: 4,
                revision: 6,
                ..
            }
        ));
        assert!(matches!(
            pages(page(4, &[("a/y", 2), ("a/z", 4)], false)),
            Violation::Order { .. }
        ));
        assert!(matches!(
            pages(page(4, &[], false)),
            Violation::Differs { .. }
        ));
        assert!(matches!(
            verdict(2, vec![page(1, &[("a/x", 1)], true)], 0).unwrap_err(),
            Violation::Size {
                items: 1,
                limit: 2,
                ..
            }
        ));
    }
}
