//! Stable hashing and seeded choice: FNV-1a for what is stored (pod-template-hash must not change
//! between versions), SplitMix64 for tie-breaks and name suffixes.

/// 64-bit FNV-1a.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// One step of SplitMix64: a well mixed function of its input.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kubernetes' alphabet for generated names: no vowels, so no words; no digits that look like letters.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Five characters of the name alphabet drawn from `seed`.
pub(crate) fn name_suffix(seed: u64) -> String {
    let mut state = mix(seed);
    let mut suffix = String::with_capacity(5);
    for _ in 0..5 {
        suffix.push(char::from(NAME_ALPHABET[(state % 27) as usize]));
        state = mix(state);
    }
    suffix
}

/// A hash as Kubernetes writes them in names: decimal digits, each mapped into the name alphabet,
/// so that a hash contains neither vowels nor look-alikes.
pub(crate) fn encode_safe(hash: u64) -> String {
    (hash % 10_000_000_000)
        .to_string()
        .bytes()
        .map(|digit| char::from(NAME_ALPHABET[usize::from(digit) % 27]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_hash_never_changes() {
        // A change here would roll out every Deployment of every cluster again.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(encode_safe(1_234_567_890), "56789bcdf4");
    }

    #[test]
    fn suffixes_are_valid_name_parts_and_spread() {
        let suffixes: std::collections::BTreeSet<String> = (0..1000).map(name_suffix).collect();
        assert!(suffixes.len() > 990);
        assert!(suffixes.iter().all(|s| s.len() == 5));
    }
}
