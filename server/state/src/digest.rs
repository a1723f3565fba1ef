//! One number for the whole state.

use sha2::{Digest, Sha256};

use crate::view::{StateError, View};

/// A hash over everything in the store: equal for any two replicas that have applied the same log
/// up to the same index, whatever disks and snapshots they went through.
pub fn digest(view: &dyn View) -> Result<[u8; 32], StateError> {
    let mut hash = Sha256::new();
    for pair in view.scan(&[], &[0xFF]) {
        let (key, value) = pair?;
        for part in [&key, &value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().into())
}
