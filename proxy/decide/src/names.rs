//! Names to positions in one hash and, nearly always, one comparison. Cluster names share long
//! beginnings (`outbound|80||…`), which makes ordered maps slow.

use std::sync::Arc;

use twox_hash::XxHash64;

/// An index over distinct names; a name's position is its place in the order given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    names: Vec<Arc<str>>,
    /// Open addressing with linear probing; `EMPTY` where there is none, at most half full.
    table: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

impl Names {
    /// Indexes `names`.
    #[must_use]
    pub fn new(names: impl Iterator<Item = Arc<str>>) -> Names {
        let names: Vec<Arc<str>> = names.collect();
        let mut table = vec![EMPTY; (names.len() * 2).next_power_of_two().max(2)];
        let mask = table.len() - 1;
        for (position, name) in names.iter().enumerate() {
            let mut at = hash(name) & mask;
            while table[at] != EMPTY {
                at = (at + 1) & mask;
            }
            table[at] = u32::try_from(position).unwrap_or(EMPTY);
        }
        Names { names, table }
    }

    /// The position of `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        if self.names.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut at = hash(name) & mask;
        loop {
            match self.table[at] {
                EMPTY => return None,
                position if &*self.names[position as usize] == name => {
                    return Some(position as usize);
                }
                _ => at = (at + 1) & mask,
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn hash(name: &str) -> usize {
    XxHash64::oneshot(0, name.as_bytes()) as usize
}
