//! Blocks of header fields, read.

use std::collections::VecDeque;

use thiserror::Error;

use super::{Entry, FIELD_OVERHEAD_BYTES, Field, Name, STATIC_ENTRIES, huffman};

/// Integers of more octets than this are no length and no index of ours.
const MAX_INTEGER_OCTETS: usize = 5;

/// Why a block cannot be read: the two tables differ from here on, so the connection ends (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends within a field.
    #[error("the block ends within a field")]
    Truncated,
    /// An integer beyond any bound.
    #[error("an integer is too large")]
    Integer,
    /// An index that no table has.
    #[error("an index is in no table")]
    Index,
    /// Not a string in the Huffman code.
    #[error("a string is not in the Huffman code")]
    Huffman,
    /// A table larger than we allow, or a change of its size after a field.
    #[error("a change of the table's size is out of bounds or out of place")]
    TableSize,
}

/// Reads the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: VecDeque<Entry>,
    bytes: usize,
    /// What the peer chose.
    max_bytes: usize,
    /// What we allow.
    limit_bytes: usize,
    text: Vec<u8>,
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, DecodeError> {
    let (first, mut rest) = block.split_first().ok_or(DecodeError::Truncated)?;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        for octet in 0.. {
            if octet >= MAX_INTEGER_OCTETS {
                return Err(DecodeError::Integer);
            }
            let (next, after) = rest.split_first().ok_or(DecodeError::Truncated)?;
            rest = after;
            value += usize::from(next & 0x7f) << shift;
            shift += 7;
            if next & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string, put into `out` where it is coded; otherwise it is borrowed from the block.
fn string<'a, 'b: 'a>(block: &mut &'b [u8], out: &'a mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    let coded = block.first().ok_or(DecodeError::Truncated)? & 0x80 != 0;
    let length = integer(block, 7)?;
    if length > block.len() {
        return Err(DecodeError::Truncated);
    }
    let (text, rest) = block.split_at(length);
    *block = rest;
    if !coded {
        return Ok(text);
    }
    out.clear();
    huffman::decode(text, out).ok_or(DecodeError::Huffman)?;
    Ok(out)
}

impl Decoder {
    /// With a table of at most so many bytes.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            table: VecDeque::new(),
            bytes: 0,
            max_bytes: limit_bytes,
            limit_bytes,
            text: Vec::new(),
        }
    }

    fn resize(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.evict(max_bytes);
    }

    fn evict(&mut self, most: usize) {
        while self.bytes > most {
            let Some(oldest) = self.table.pop_back() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    fn insert(&mut self, entry: Entry) {
        let bytes = entry.bytes();
        if bytes > self.max_bytes {
            self.evict(0);
            return;
        }
        self.evict(self.max_bytes - bytes);
        self.bytes += bytes;
        self.table.push_front(entry);
    }

    fn entry(&self, index: usize) -> Result<&Entry, DecodeError> {
        let fixed = &STATIC_ENTRIES;
        match index.checked_sub(1).ok_or(DecodeError::Index)? {
            at if at < fixed.len() => Ok(&fixed[at]),
            at => self.table.get(at - fixed.len()).ok_or(DecodeError::Index),
        }
    }

    /// Reads a whole block. `take` gets each field with its bytes (name, value and overhead). Memory is bounded by
    /// the block and the table, whatever the fields add up to.
    ///
    /// # Errors
    /// When the tables of both sides differ from here on.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut take: impl FnMut(Field, usize),
    ) -> Result<(), DecodeError> {
        let mut block = block;
        let mut fields = false;
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let entry = self.entry(index)?;
                take(entry.field.clone(), entry.bytes());
            } else if first & 0x40 != 0 {
                let (entry, _) = self.literal(&mut block, 6)?;
                take(entry.field.clone(), entry.bytes());
                self.insert(entry);
            } else if first & 0x20 != 0 {
                let bytes = integer(&mut block, 5)?;
                if fields || bytes > self.limit_bytes {
                    return Err(DecodeError::TableSize);
                }
                self.resize(bytes);
                continue;
            } else {
                let never = first & 0x10 != 0;
                let (entry, bytes) = self.literal(&mut block, 4)?;
                let mut field = entry.field;
                // Who passes it on keeps it out of tables, too (RFC 7541 §6.2.3).
                if never && let Field::Header(_, value) = &mut field {
                    value.set_sensitive(true);
                }
                take(field, bytes);
            }
            fields = true;
        }
        Ok(())
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Result<(Entry, usize), DecodeError> {
        let index = integer(block, prefix)?;
        let (name, name_bytes) = if index == 0 {
            let name = string(block, &mut self.text)?;
            (Name::read(name), name.len())
        } else {
            let entry = self.entry(index)?;
            (entry.field.name(), entry.name_bytes)
        };
        let value = string(block, &mut self.text)?;
        let entry = Entry {
            field: Field::read(&name, value),
            name_bytes,
            value_bytes: value.len(),
        };
        let bytes = entry.name_bytes + entry.value_bytes + FIELD_OVERHEAD_BYTES;
        Ok((entry, bytes))
    }

    /// Gives back what only a block under way needs.
    pub fn rest(&mut self) {
        self.text = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, DecodeError> {
        let mut all = Vec::new();
        decoder.decode(block, |field, _| all.push(field))?;
        Ok(all)
    }

    fn header(name: &'static str, value: &'static str) -> Field {
        Field::read(&Name::read(name.as_bytes()), value.as_bytes())
    }

    /// RFC 7541, C.4: three requests on one connection, with Huffman coding.
    #[test]
    fn examples_of_the_standard() {
        let mut decoder = Decoder::new(4096);
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let common = [
            Field::Method(Method::GET),
            header(":scheme", "http"),
            header(":path", "/"),
            header(":authority", "www.example.com"),
        ];
        assert_eq!(fields(&mut decoder, &first).expect("block"), common);
        assert_eq!(decoder.bytes, 57);
        let second = [
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let mut expected = common.to_vec();
        expected.push(header("cache-control", "no-cache"));
        assert_eq!(fields(&mut decoder, &second).expect("block"), expected);
        assert_eq!(decoder.bytes, 110);
        let third = [
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
            0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];
        let expected = [
            Field::Method(Method::GET),
            header(":scheme", "https"),
            header(":path", "/index.html"),
            header(":authority", "www.example.com"),
            header("custom-key", "custom-value"),
        ];
        assert_eq!(fields(&mut decoder, &third).expect("block"), expected);
        assert_eq!(decoder.bytes, 164);
    }

    #[test]
    fn a_table_evicts_the_oldest_and_may_shrink() {
        let mut decoder = Decoder::new(4096);
        let literal = |name: &str, value: &str| {
            let mut block = vec![0x40];
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend_from_slice(text.as_bytes());
            }
            block
        };
        for _ in 0..2 {
            fields(&mut decoder, &literal("a", "b")).expect("block");
        }
        assert_eq!(decoder.bytes, 68);
        // The size of one entry.
        fields(&mut decoder, &[0x20 | 31, 3]).expect("block");
        assert_eq!((decoder.bytes, decoder.table.len()), (34, 1));
        // An entry larger than the table empties it.
        fields(&mut decoder, &literal("a", "bc")).expect("block");
        assert_eq!((decoder.bytes, decoder.table.len()), (0, 0));
        assert_eq!(fields(&mut decoder, &[0x80 | 62]), Err(DecodeError::Index));
    }

    #[test]
    fn refuses_what_breaks_the_tables() {
        let cases: [(&[u8], DecodeError); 8] = [
            (&[0x80], DecodeError::Index),
            (
                &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
                DecodeError::Integer,
            ),
            (&[0xbe], DecodeError::Index),
            (&[0x40, 0x03, b'a'], DecodeError::Truncated),
            (&[0x7f], DecodeError::Truncated),
            // 4097 bytes of table; a change after a field.
            (&[0x3f, 0xe2, 0x1f], DecodeError::TableSize),
            (&[0x82, 0x20], DecodeError::TableSize),
            (&[0x40, 0x81, 0x00, 0x00], DecodeError::Huffman),
        ];
        for (block, error) in cases {
            assert_eq!(
                fields(&mut Decoder::new(4096), block),
                Err(error),
                "{block:x?}"
            );
        }
    }

    #[test]
    fn malformed_fields_keep_the_tables_in_step() {
        let mut decoder = Decoder::new(4096);
        let mut block = vec![0x40, 1, b'X', 1, b'y', 0x40, 1, b'a', 2, b'b', b' '];
        let seen = fields(&mut decoder, &block).expect("block");
        assert!(
            seen.iter()
                .all(|field| matches!(field, Field::Malformed(_)))
        );
        assert_eq!(decoder.bytes, 34 + 35);
        // The second one's name, with a value that is right.
        block = vec![0x40 | 62, 1, b'v'];
        assert_eq!(
            fields(&mut decoder, &block).expect("block"),
            [header("a", "v")]
        );
    }

    #[test]
    fn what_must_never_be_indexed_stays_so() {
        let block = [0x10, 1, b'a', 1, b'b', 0x00, 1, b'a', 1, b'b'];
        let seen = fields(&mut Decoder::new(4096), &block).expect("block");
        let sensitive: Vec<bool> = seen
            .iter()
            .map(|field| matches!(field, Field::Header(_, value) if value.is_sensitive()))
            .collect();
        assert_eq!(sensitive, [true, false]);
    }
}
