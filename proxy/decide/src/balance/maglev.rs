//! Maglev's lookup table (Eisenbud et al., NSDI 2016), weighted as Envoy weights it.

use std::sync::Arc;

use twox_hash::XxHash64;

use super::ring::key;
use crate::upstream::Host;

/// A table of a prime number of entries, each leading to a host.
#[derive(Clone, Debug, Default)]
pub struct MaglevTable {
    /// Indices into `hosts`.
    entries: Vec<u32>,
    hosts: Vec<Arc<Host>>,
}

/// A host's walk through the table.
struct Walk {
    offset: u64,
    skip: u64,
    next: u64,
    share: f64,
    target: f64,
}

const FREE: u32 = u32::MAX;

impl MaglevTable {
    /// A table over hosts with shares; `greatest` is the largest share.
    #[must_use]
    pub fn new(
        shares: &[(Arc<Host>, f64)],
        greatest: f64,
        table_size: u64,
        by_name: bool,
    ) -> MaglevTable {
        let Ok(length) = usize::try_from(table_size) else {
            return MaglevTable::default();
        };
        if shares.is_empty() || length < 2 {
            return MaglevTable::default();
        }
        let mut walks: Vec<Walk> = shares
            .iter()
            .map(|(host, share)| {
                let key = key(host, by_name);
                Walk {
                    offset: XxHash64::oneshot(0, key.as_bytes()) % table_size,
                    skip: XxHash64::oneshot(1, key.as_bytes()) % (table_size - 1) + 1,
                    next: 0,
                    share: *share,
                    target: 0.0,
                }
            })
            .collect();
        let mut entries = vec![FREE; length];
        let mut filled = 0;
        let mut round = 1.0;
        while filled < length {
            for (index, walk) in walks.iter_mut().enumerate() {
                if filled == length {
                    break;
                }
                // A host with a third of the greatest share takes every third turn.
                if round * walk.share < walk.target {
                    continue;
                }
                walk.target += greatest;
                loop {
                    let at = (walk.offset + walk.skip * walk.next) % table_size;
                    walk.next += 1;
                    // In bounds: below table_size.
                    let entry = &mut entries[usize::try_from(at).unwrap_or(0)];
                    if *entry == FREE {
                        *entry = u32::try_from(index).unwrap_or(0);
                        break;
                    }
                }
                filled += 1;
            }
            round += 1.0;
        }
        MaglevTable {
            entries,
            hosts: shares.iter().map(|(host, _)| host.clone()).collect(),
        }
    }

    /// The host of `hash`; a later attempt changes most of the hash's bits first.
    #[must_use]
    pub fn choose(&self, hash: u64, attempt: u32) -> Option<&Arc<Host>> {
        if self.entries.is_empty() {
            return None;
        }
        let hash = if attempt > 0 {
            hash ^ (u64::MAX - u64::from(attempt) + 1)
        } else {
            hash
        };
        let at = usize::try_from(hash % self.entries.len() as u64).ok()?;
        self.hosts.get(self.entries[at] as usize)
    }

    /// How many entries lead to each host, in the hosts' order.
    #[must_use]
    pub fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.hosts.len()];
        for entry in &self.entries {
            counts[*entry as usize] += 1;
        }
        counts
    }
}
