//! Blocks of header fields, written. A field enters the dynamic table when it comes for the second time: what is
//! different in each message (lengths, request identifiers) would only push out what is not.

use std::collections::VecDeque;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{FIELD_OVERHEAD_BYTES, STATIC, TABLE_BYTES, huffman};

/// Fields that are remembered as seen once.
const SEEN: usize = 64;
/// Longer values stay out of the table: a few would take all of it.
const MAX_INDEXED_BYTES: usize = 512;

#[derive(Debug)]
struct Row {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Row {
    fn bytes(&self) -> usize {
        self.name.len() + self.value.len() + FIELD_OVERHEAD_BYTES
    }
}

/// Writes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    /// Newest first; the hash of each beside it, so that a search reads little.
    hashes: VecDeque<u32>,
    rows: VecDeque<Row>,
    bytes: usize,
    max_bytes: usize,
    /// The least and the last size that the peer is to be told of.
    resized: Option<(usize, usize)>,
    seen: [u32; SEEN],
}

/// Folds octets into a hash, eight at a time.
fn fold(hash: u64, octets: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let mut hash = hash;
    let mut rest = octets;
    while let Some((word, after)) = rest.split_first_chunk() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    let last = match octets.last_chunk() {
        // Some octets twice: cheaper than copying what is left.
        Some(word) => u64::from_le_bytes(*word),
        None => rest
            .iter()
            .fold(0, |word, octet| (word << 8) | u64::from(*octet)),
    };
    mix(hash, last ^ ((octets.len() as u64) << 56))
}

fn hash(name: &[u8], value: &[u8]) -> u32 {
    // The upper half depends on every octet. 0 stands for nothing seen.
    ((fold(fold(0, name), value) >> 32) as u32) | 1
}

/// An integer with a prefix of so many bits; `pattern` is what stands before them.
fn put_integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        out.push(pattern | (value & 0xff) as u8);
        return;
    }
    out.push(pattern | (mask & 0xff) as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// A string in the Huffman code, where that is shorter.
fn put_coded(out: &mut Vec<u8>, text: &[u8]) {
    let coded = huffman::encoded_bytes(text);
    if coded >= text.len() {
        return put_string(out, text);
    }
    put_integer(out, 0x80, 7, coded);
    huffman::encode(text, out);
}

/// Where the static table has this name first.
fn static_name(name: &[u8]) -> Option<usize> {
    let found = match name {
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return None,
    };
    Some(found)
}

/// What short secrets must not be found out by trying what a table compresses (RFC 7541 §7.1.3), and what is different
/// in most messages.
fn keeps_out(name: &[u8], value: &[u8]) -> bool {
    const SECRET_BYTES: usize = 20;
    match name {
        b"authorization" | b"cookie" => value.len() < SECRET_BYTES,
        _ => value.len() > MAX_INDEXED_BYTES,
    }
}

impl Encoder {
    /// With the protocol's default table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hashes: VecDeque::new(),
            rows: VecDeque::new(),
            bytes: 0,
            max_bytes: TABLE_BYTES,
            resized: None,
            seen: [0; SEEN],
        }
    }

    /// The peer allows a table of so many bytes; more than the default is not used.
    pub fn allow(&mut self, bytes: usize) {
        let bytes = bytes.min(TABLE_BYTES);
        if bytes == self.max_bytes && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(bytes, |(least, _)| least.min(bytes));
        self.resized = Some((least, bytes));
        self.evict(bytes);
        self.max_bytes = bytes;
    }

    fn evict(&mut self, most: usize) {
        while self.bytes > most {
            self.hashes.pop_back();
            let Some(row) = self.rows.pop_back() else {
                break;
            };
            self.bytes -= row.bytes();
        }
    }

    /// Begins a block: tells of the table's new size, where there is one.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resized.take() {
            if least < last {
                put_integer(out, 0x20, 5, least);
            }
            put_integer(out, 0x20, 5, last);
        }
    }

    /// `:status`
    pub fn status(&mut self, out: &mut Vec<u8>, status: StatusCode) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => return self.field(out, b":status", Some(8), status.as_str().as_bytes()),
        };
        put_integer(out, 0x80, 7, index);
    }

    /// `:method`
    pub fn method(&mut self, out: &mut Vec<u8>, method: &Method) {
        match *method {
            Method::GET => put_integer(out, 0x80, 7, 2),
            Method::POST => put_integer(out, 0x80, 7, 3),
            _ => self.field(out, b":method", Some(2), method.as_str().as_bytes()),
        }
    }

    /// `:scheme`
    pub fn scheme(&mut self, out: &mut Vec<u8>, https: bool) {
        put_integer(out, 0x80, 7, if https { 7 } else { 6 });
    }

    /// `:authority`
    pub fn authority(&mut self, out: &mut Vec<u8>, authority: &[u8]) {
        self.field(out, b":authority", Some(1), authority);
    }

    /// `:path`
    pub fn path(&mut self, out: &mut Vec<u8>, path: &[u8]) {
        if path == b"/" {
            put_integer(out, 0x80, 7, 4);
        } else {
            self.field(out, b":path", Some(4), path);
        }
    }

    /// A header.
    pub fn header(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
        let name = name.as_str().as_bytes();
        if value.is_sensitive() {
            literal(out, 0x10, 4, name, static_name(name), value.as_bytes());
        } else {
            self.field(out, name, None, value.as_bytes());
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &[u8], known: Option<usize>, value: &[u8]) {
        let hash = hash(name, value);
        let (front, back) = self.hashes.as_slices();
        let same = |other: &u32| *other == hash;
        let found = front
            .iter()
            .position(same)
            .or_else(|| Some(front.len() + back.iter().position(same)?))
            .filter(|at| *self.rows[*at].name == *name && *self.rows[*at].value == *value);
        if let Some(at) = found {
            return put_integer(out, 0x80, 7, STATIC.len() + 1 + at);
        }
        let index = known.or_else(|| static_name(name));
        let slot = &mut self.seen[(hash >> 8) as usize % SEEN];
        let again = std::mem::replace(slot, hash) == hash;
        if !again || keeps_out(name, value) {
            return literal(out, 0, 4, name, index, value);
        }
        match index {
            Some(index) => put_integer(out, 0x40, 6, index),
            None => {
                out.push(0x40);
                put_coded(out, name);
            }
        }
        put_coded(out, value);
        let row = Row {
            name: name.into(),
            value: value.into(),
        };
        let bytes = row.bytes();
        if bytes > self.max_bytes {
            return self.evict(0);
        }
        self.evict(self.max_bytes - bytes);
        self.bytes += bytes;
        self.rows.push_front(row);
        self.hashes.push_front(hash);
    }
}

/// A field that enters no table. It is not coded: what is different in each message is random mostly, which the code
/// makes little shorter, at several times the cost for both sides.
fn literal(
    out: &mut Vec<u8>,
    pattern: u8,
    prefix: u32,
    name: &[u8],
    index: Option<usize>,
    value: &[u8],
) {
    match index {
        Some(index) => put_integer(out, pattern, prefix, index),
        None => {
            out.push(pattern);
            put_string(out, name);
        }
    }
    put_string(out, value);
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Field};
    use super::*;

    #[test]
    fn names_are_where_the_static_table_has_them() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            if let Some(index) = static_name(name.as_bytes()) {
                assert_eq!(index, at + 1, "{name}");
            } else {
                assert!(
                    name.starts_with(':') || *name == "transfer-encoding",
                    "{name}"
                );
            }
        }
    }

    fn block(encoder: &mut Encoder, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.status(&mut out, StatusCode::OK);
        let value = HeaderValue::from_str(value).expect("value");
        encoder.header(&mut out, &HeaderName::from_static("x-name"), &value);
        out
    }

    #[test]
    fn what_comes_again_is_indexed_and_what_differs_is_not() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(TABLE_BYTES));
        let lengths: Vec<usize> = (0..3)
            .map(|_| block(&mut encoder, "the same").len())
            .collect();
        assert!(lengths[1] < lengths[0] && lengths[2] == 2, "{lengths:?}");
        for number in 0..100 {
            block(&mut encoder, &format!("another {number}"));
        }
        assert_eq!(encoder.rows.len(), 1);
        let mut encoder = Encoder::new();
        for bytes in [4096, 40, 100, 0, 4096] {
            encoder.allow(bytes);
            for _ in 0..4 {
                let mut seen = Vec::new();
                let block = block(&mut encoder, "the same");
                decoder
                    .decode(&block, |field, _| seen.push(field))
                    .expect("block");
                let expected = Field::Header(
                    HeaderName::from_static("x-name"),
                    HeaderValue::from_static("the same"),
                );
                assert_eq!(seen, [Field::Status(StatusCode::OK), expected]);
                assert!(encoder.bytes <= bytes);
            }
        }
    }

    #[test]
    fn secrets_stay_out_of_the_table() {
        let mut encoder = Encoder::new();
        let mut value = HeaderValue::from_static("a long enough secret, more than twenty");
        value.set_sensitive(true);
        let mut out = Vec::new();
        for _ in 0..3 {
            encoder.header(&mut out, &http::header::AUTHORIZATION, &value);
            encoder.header(
                &mut out,
                &http::header::COOKIE,
                &HeaderValue::from_static("short=1"),
            );
        }
        assert!(encoder.rows.is_empty());
        let mut sensitive = Vec::new();
        Decoder::new(TABLE_BYTES)
            .decode(&out, |field, _| {
                if let Field::Header(_, value) = field {
                    sensitive.push(value.is_sensitive());
                }
            })
            .expect("block");
        assert_eq!(sensitive, [true, false, true, false, true, false]);
    }
}
