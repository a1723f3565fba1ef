//! A hash ring after ketama, as Envoy builds it: the same hosts in the same order make the same
//! ring.

use std::sync::Arc;

use twox_hash::XxHash64;

use crate::config::{HashFunction, RingHash};
use crate::upstream::Host;

/// A ring of hashes, each leading to a host.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Hash and index into `hosts`, sorted by hash.
    entries: Vec<(u64, u32)>,
    hosts: Vec<Arc<Host>>,
}

/// What of a host is hashed.
pub(super) fn key(host: &Host, by_name: bool) -> String {
    match &host.hostname {
        Some(name) if by_name && !name.is_empty() => name.to_string(),
        _ => host.address.to_string(),
    }
}

impl Ring {
    /// A ring over hosts with shares that sum to 1; `least` is the smallest.
    #[must_use]
    pub fn new(
        shares: &[(Arc<Host>, f64)],
        least: f64,
        settings: &RingHash,
        by_name: bool,
    ) -> Ring {
        if shares.is_empty() {
            return Ring::default();
        }
        // So many hashes that the host with the least share gets a whole number of them.
        #[allow(clippy::cast_precision_loss)]
        let scale = ((least * settings.minimum_ring_size as f64).ceil() / least)
            .min(settings.maximum_ring_size as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let mut entries = Vec::with_capacity(scale.ceil() as usize);
        let mut current = 0.0;
        let mut target = 0.0;
        for (index, (host, share)) in shares.iter().enumerate() {
            let mut text = key(host, by_name);
            text.push('_');
            let base = text.len();
            target += scale * share;
            let mut copy = 0u64;
            while current < target {
                text.truncate(base);
                crate::text::number(copy, &mut text);
                let hash = match settings.hash_function {
                    HashFunction::XxHash => XxHash64::oneshot(0, text.as_bytes()),
                    HashFunction::MurmurHash2 => murmur2(text.as_bytes(), MURMUR_SEED),
                };
                entries.push((hash, u32::try_from(index).unwrap_or(u32::MAX)));
                copy += 1;
                current += 1.0;
            }
        }
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        Ring {
            entries,
            hosts: shares.iter().map(|(host, _)| host.clone()).collect(),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The host of the first entry at or after `hash`; a later attempt takes the entry that many
    /// further on.
    #[must_use]
    pub fn choose(&self, hash: u64, attempt: u32) -> Option<&Arc<Host>> {
        if self.entries.is_empty() {
            return None;
        }
        let at = self.entries.partition_point(|(entry, _)| *entry < hash);
        let at = (at % self.entries.len() + attempt as usize) % self.entries.len();
        self.hosts.get(self.entries[at].1 as usize)
    }
}

/// The seed of libstdc++'s `std::hash`.
const MURMUR_SEED: u64 = 0xc70f_6907;

/// MurmurHash2, 64 bits, by Austin Appleby (public domain), as libstdc++ has it.
fn murmur2(bytes: &[u8], seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk
            .iter()
            .rev()
            .fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
        let data = mix(word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ data).wrapping_mul(MULTIPLIER);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let word = rest
            .iter()
            .rev()
            .fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}
