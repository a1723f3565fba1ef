//! Hashing of keys that nobody chooses: numbers that count, addresses, a few kinds. A fraction of what hashing costs that
//! has to withstand chosen keys.

use std::hash::{BuildHasherDefault, Hasher};

/// Mixes numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

/// Makes [`NumberHasher`]s; every run hashes alike.
pub type NumberHashing = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        // The upper bits depend on all; tables look at both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }
}
