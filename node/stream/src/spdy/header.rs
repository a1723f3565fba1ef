//! Header blocks: name-value pairs, compressed by one zlib stream a direction
//! that starts from a dictionary both sides know.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Kubernetes sends a few short headers; this bounds what a few compressed
/// bytes can become.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
const MAX_HEADERS: u32 = 256;

/// The dictionary's first part: each word preceded by its length (SPDY/3, 2.6.10.1).
const DICTIONARY_WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// And its end.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

pub(crate) type Headers = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("a header block cannot be decompressed: {0}")]
    Compression(String),
    #[error("a header block is longer than {MAX_BLOCK_BYTES} bytes")]
    TooLong,
    #[error("a header block is cut short")]
    Short,
}

pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in DICTIONARY_WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    bytes
}

pub(super) struct Encoder {
    compress: Compress,
}

impl Encoder {
    pub fn new() -> Result<Encoder, HeaderError> {
        let mut compress = Compress::new(Compression::default(), true);
        compress
            .set_dictionary(&dictionary())
            .map_err(|error| HeaderError::Compression(error.to_string()))?;
        Ok(Encoder { compress })
    }

    pub fn encode(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, HeaderError> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value] {
                block.extend_from_slice(&(text.len() as u32).to_be_bytes());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(block.len() + 64);
        let start = self.compress.total_in();
        loop {
            let used = (self.compress.total_in() - start) as usize;
            self.compress
                .compress_vec(&block[used..], &mut out, FlushCompress::Sync)
                .map_err(|error| HeaderError::Compression(error.to_string()))?;
            let used = (self.compress.total_in() - start) as usize;
            if used == block.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.capacity());
        }
    }
}

pub(super) struct Decoder {
    decompress: Decompress,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder {
            decompress: Decompress::new(true),
        }
    }

    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let mut out = Vec::with_capacity(1024);
        let start = self.decompress.total_in();
        loop {
            let used = (self.decompress.total_in() - start) as usize;
            let before = out.len();
            match self
                .decompress
                .decompress_vec(&block[used..], &mut out, FlushDecompress::Sync)
            {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress
                        .set_dictionary(&dictionary())
                        .map_err(|error| HeaderError::Compression(error.to_string()))?;
                    continue;
                }
                Err(error) => return Err(HeaderError::Compression(error.to_string())),
            }
            let now_used = (self.decompress.total_in() - start) as usize;
            if now_used == block.len() && out.len() < out.capacity() {
                break;
            }
            if now_used == used && out.len() == before && out.len() < out.capacity() {
                return Err(HeaderError::Short);
            }
            if out.len() >= MAX_BLOCK_BYTES {
                return Err(HeaderError::TooLong);
            }
            out.reserve(out.capacity());
        }
        parse(&out)
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let count = number(&mut block)?;
    if count > MAX_HEADERS {
        return Err(HeaderError::TooLong);
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut block)?;
        // Several values of one name are separated by zero bytes.
        let values = text(&mut block)?;
        for value in values.split('\0') {
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

fn number(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (first, rest) = block.split_first_chunk::<4>().ok_or(HeaderError::Short)?;
    *block = rest;
    Ok(u32::from_be_bytes(*first))
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(block)? as usize;
    let (first, rest) = block.split_at_checked(length).ok_or(HeaderError::Short)?;
    *block = rest;
    Ok(String::from_utf8_lossy(first).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_specifications() {
        // The zlib identifier every SPDY/3 peer puts before its first block.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
        assert_eq!(dictionary().len(), 1423);
    }

    #[test]
    fn blocks_follow_one_another_in_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        for turn in 0..50 {
            let headers: Headers = (0..turn)
                .map(|header| {
                    (
                        format!("name-{header}"),
                        format!("value {}", "x".repeat(header * turn)),
                    )
                })
                .collect();
            let block = encoder.encode(&headers).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers);
        }
    }

    #[test]
    fn malformed_blocks_are_refused() {
        assert!(Decoder::new().decode(b"not zlib").is_err());
        assert!(Decoder::new().decode(b"").is_err());
        let mut encoder = Encoder::new().unwrap();
        let block = encoder
            .encode(&[("a".into(), "b".repeat(MAX_BLOCK_BYTES * 4))])
            .unwrap();
        assert_eq!(Decoder::new().decode(&block), Err(HeaderError::TooLong));
        assert_eq!(
            parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']),
            Err(HeaderError::Short)
        );
        assert_eq!(parse(&[0xff; 4]), Err(HeaderError::TooLong));
    }
}
