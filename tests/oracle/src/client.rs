//! HTTP/1.1 byte by byte: what was sent is exactly what a case says, and what came is seen as it is.

pub mod http2;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// No case waits longer for one answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// A head larger than any case has: 431 is answered long before.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Start line and headers, names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(own, _)| own == name);
        named.next().map(|(_, value)| value.as_str())
    }
}

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn get(target: &str) -> Request {
        Request {
            method: "GET".to_owned(),
            target: target.to_owned(),
            headers: vec![("host".to_owned(), "oracle.test".to_owned())],
            body: String::new(),
        }
    }

    pub fn method(mut self, method: &str) -> Request {
        self.method = method.to_owned();
        self
    }

    /// Replaces a header of the name.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.retain(|(own, _)| own != name);
        self.also(name, value)
    }

    /// Adds a header, also beside another of the name.
    pub fn also(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn plan(self, plan: &str) -> Request {
        self.header("x-plan", plan)
    }

    pub fn body(mut self, body: &str) -> Request {
        self.body = body.to_owned();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// 0 when the connection ended without an answer.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The body came to its end.
    pub whole: bool,
    pub took: Duration,
}

impl Response {
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(own, _)| own == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// Without what differs from run to run.
    pub fn json(&self) -> Value {
        let mut headers = Map::new();
        for (name, value) in &self.headers {
            let value = match name.as_str() {
                "date" | "x-request-id" | "x-envoy-upstream-service-time" => "(any)",
                _ => value,
            };
            let list = headers.entry(name.clone()).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value.into());
            }
        }
        json!({
            "status": self.status,
            "headers": headers,
            "body": self.body,
            "whole": self.whole,
        })
    }
}

/// One request on a connection of its own.
pub async fn send(to: SocketAddr, request: &Request) -> Result<Response> {
    let head_only = request.method == "HEAD";
    send_bytes(to, &request.bytes(), head_only).await
}

/// Whatever bytes on a connection of their own, and the answer to them.
pub async fn send_bytes(to: SocketAddr, bytes: &[u8], head_only: bool) -> Result<Response> {
    let begin = Instant::now();
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        // It may have answered and closed before it has read everything.
        let _ = stream.write_all(bytes).await;
        receive(&mut stream, head_only).await
    };
    let mut response = tokio::time::timeout(PATIENCE, exchange)
        .await
        .context("no answer in time")??;
    response.took = begin.elapsed();
    Ok(response)
}

/// The next answer on a connection.
pub async fn receive(stream: &mut TcpStream, head_only: bool) -> Result<Response> {
    let mut buffer = Vec::new();
    let mut response = Response {
        status: 0,
        headers: Vec::new(),
        body: String::new(),
        whole: false,
        took: Duration::ZERO,
    };
    loop {
        // A reset shows as an error, an orderly end as none; a client cannot do otherwise with either.
        let Ok(Some(head)) = read_head(stream, &mut buffer).await else {
            return Ok(response);
        };
        let status = head.line.split(' ').nth(1).unwrap_or_default();
        response.status = status.parse().context("a status")?;
        if response.status == 100 {
            continue;
        }
        let bare = head_only || matches!(response.status, 101 | 204 | 304);
        response.headers = head.headers.clone();
        if bare {
            response.whole = true;
            return Ok(response);
        }
        if let Ok(body) = read_body(stream, &mut buffer, &head, true).await {
            response.body = String::from_utf8_lossy(&body).into_owned();
            response.whole = true;
        }
        return Ok(response);
    }
}

/// Reads up to the empty line; `None` when the connection ends before a first byte.
pub async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Head>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            bail!("a head without an end");
        }
        if stream.read_buf(buffer).await? == 0 {
            if buffer.is_empty() {
                return Ok(None);
            }
            bail!("half a head");
        }
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Some(Head { line, headers }))
}

/// Reads a body by its length, its chunks, or (of a response) to the connection's end.
pub async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    head: &Head,
    to_end: bool,
) -> Result<Vec<u8>> {
    if head
        .get("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        let mut body = Vec::new();
        loop {
            let line = take_line(stream, buffer).await?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
            if size == 0 {
                // Trailers, then an empty line.
                while !take_line(stream, buffer).await?.is_empty() {}
                return Ok(body);
            }
            fill(stream, buffer, size + 2).await?;
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
        }
    }
    if let Some(length) = head.get("content-length") {
        let length: usize = length.parse().context("a length")?;
        fill(stream, buffer, length).await?;
        return Ok(buffer.drain(..length).collect());
    }
    if to_end {
        while stream.read_buf(buffer).await? > 0 {}
        return Ok(std::mem::take(buffer));
    }
    Ok(Vec::new())
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the connection ended within a body");
        }
    }
    Ok(())
}

async fn take_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Ok(line);
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the connection ended within a chunk's line");
        }
    }
}
