//! As much of HTTP/1.1 as clients and upstreams of a world need: written by hand, so that they may also do
//! what a library would not let them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A head larger than this is nobody's in these worlds.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// A message's head, and what of its body came with it.
pub struct Head {
    pub first_line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(present, _)| present == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// Reads messages from a connection.
pub struct Reader<S> {
    pub stream: S,
    buffer: Vec<u8>,
}

fn end_of(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|four| four == b"\r\n\r\n")
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub fn new(stream: S) -> Reader<S> {
        Reader {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Bytes that came and belong to nothing yet.
    pub fn surplus(&self) -> usize {
        self.buffer.len()
    }

    /// Completes when the other side has closed, or failed.
    pub async fn ended(&mut self) {
        while matches!(self.more().await, Ok(true)) {}
    }

    /// False at the end of the stream.
    pub async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next head; none when the stream ends before one has begun.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(end) = end_of(&self.buffer) {
                break end;
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a long head"));
            }
            if !self.more().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok(Some(Head {
            first_line,
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
        }))
    }

    /// The body that a head announces by its length.
    pub async fn body(&mut self, head: &Head) -> io::Result<String> {
        let length = head.number("content-length").unwrap_or_default() as usize;
        while self.buffer.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
