//! Archives whose writer was never closed end in the middle of a block; umoci
//! makes such layers, and Go's reader takes them. Zeros up to the block's end
//! make them whole. What is truly cut short still fails, by its digest.

use std::io::{self, Read};

const BLOCK_BYTES: u64 = 512;

pub(crate) struct Padded<R> {
    inner: R,
    bytes: u64,
    ended: bool,
}

impl<R: Read> Padded<R> {
    pub fn new(inner: R) -> Self {
        Padded {
            inner,
            bytes: 0,
            ended: false,
        }
    }
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        if !self.ended {
            count = self.inner.read(buffer)?;
            self.ended = count == 0;
        }
        if self.ended {
            let missing = (BLOCK_BYTES - self.bytes % BLOCK_BYTES) % BLOCK_BYTES;
            count = buffer.len().min(missing as usize);
            buffer[..count].fill(0);
        }
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_is_filled_and_no_more() {
        for (length, padded) in [(0, 0), (1, 512), (512, 512), (513, 1024)] {
            let bytes = vec![7; length];
            let mut read = Vec::new();
            Padded::new(bytes.as_slice())
                .read_to_end(&mut read)
                .expect("read");
            assert_eq!(read.len(), padded);
            assert!(read[length..].iter().all(|b| *b == 0));
        }
    }
}
