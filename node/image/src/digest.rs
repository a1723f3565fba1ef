//! Content named by its SHA-256.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use crate::error::ImageError;

/// `sha256:…` of bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Refuses `bytes` that are not what `expected` says.
pub(crate) fn verify(what: &str, bytes: &[u8], expected: &str) -> Result<(), ImageError> {
    compare(what, &of(bytes), expected)
}

pub(crate) fn compare(what: &str, actual: &str, expected: &str) -> Result<(), ImageError> {
    if actual == expected {
        Ok(())
    } else {
        Err(ImageError::Digest {
            what: what.to_string(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        })
    }
}

/// The digest of what passes through, and how much it was.
pub(crate) struct Hashing<T> {
    inner: T,
    state: Sha256,
    pub bytes: u64,
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Hashing {
            inner,
            state: Sha256::new(),
            bytes: 0,
        }
    }

    pub fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.state.finalize()))
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.state.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.state.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
