//! The program of the built-in image `trireme.local/hello`: a small HTTP server that says which
//! pod, node and version answered. Standard library only, linked statically, so that it runs in an
//! otherwise empty root.
//!
//! Environment: `PORT` (8080), `VERSION` (v1), `POD_NAME` (the host name otherwise), `NODE_NAME`;
//! `UPSTREAM` (`http://HOST[:PORT]`, called for every greeting), `STATUS` (200) and `DELAY_MS` (0) of
//! the greeting.
//! Paths: `/healthz` answers `ok`; `/status/CODE` answers with that code; `/delay/MS` answers that
//! much later; `/headers` answers the request's headers; `/call/HOST[:PORT]/PATH` calls another
//! service and passes its answer on; any other path answers the greeting, as JSON where `Accept` asks
//! for `application/json`.

mod upstream;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Open connections at once; one more is closed at once. A thread each, 64 KiB of stack.
const MAX_CONNECTIONS: usize = 512;
/// The longest that a request may ask to be kept waiting.
const MAX_DELAY_MS: u64 = 60_000;
/// Bytes of one request's head.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

struct Identity {
    pod: String,
    node: String,
    version: String,
    upstream: Option<upstream::Target>,
    status: u16,
    delay_ms: u64,
}

fn variable(name: &str, otherwise: impl FnOnce() -> String) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(otherwise)
}

fn number<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    let text = variable(name, String::new);
    if text.is_empty() {
        return otherwise;
    }
    text.parse().unwrap_or_else(|_| {
        eprintln!("hello: {name}={text:?} is not a number");
        std::process::exit(2);
    })
}

// Of the C library that the standard library is linked with.
unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

const SIGTERM: i32 = 15;
/// A pod knows its node only where its manifest passes it on.
const UNKNOWN: &str = "unknown";

/// The first process of a container has no default action for SIGTERM: it would be ignored.
extern "C" fn end(_number: i32) {
    // SAFETY: _exit may be called in a signal handler.
    unsafe { _exit(0) }
}

fn main() {
    // SAFETY: the handler only calls _exit.
    unsafe { signal(SIGTERM, end) };
    let host = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_else(|_| UNKNOWN.to_owned())
    };
    let port_text = variable("PORT", || "8080".to_owned());
    let Ok(port) = port_text.parse::<u16>() else {
        eprintln!("hello: PORT={port_text:?} is not a port number (1 to 65535)");
        std::process::exit(2);
    };
    let identity = Arc::new(Identity {
        pod: variable("POD_NAME", || variable("HOSTNAME", host)),
        node: variable("NODE_NAME", || UNKNOWN.to_owned()),
        version: variable("VERSION", || "v1".to_owned()),
        upstream: upstream::Target::parse(&variable("UPSTREAM", String::new)),
        status: number("STATUS", 200),
        delay_ms: number("DELAY_MS", 0),
    });
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            std::process::exit(1);
        }
    };
    println!(
        "hello {} on pod {} listens on port {port}",
        identity.version, identity.pod
    );
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (identity, count) = (identity.clone(), open.clone());
        let spawned = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || {
                // A peer that goes away mid-request is not an error of ours.
                let _ = serve(stream, &identity);
                count.fetch_sub(1, Ordering::SeqCst);
            });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(stream: TcpStream, identity: &Identity) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        let mut head = (&mut reader).take(MAX_HEAD_BYTES);
        if head.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request_line = line.trim().to_owned();
        let (mut json, mut close, mut body_bytes) = (false, false, 0_u64);
        let mut headers = Vec::new();
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = line.trim().split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            let (name, value) = text.split_once(':').unwrap_or((&text, ""));
            match name {
                "accept" => json = value.contains("application/json"),
                "connection" => close = value.contains("close"),
                "content-length" => body_bytes = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        std::io::copy(&mut (&mut reader).take(body_bytes), &mut std::io::sink())?;
        let mut words = request_line.split(' ');
        let method = words.next().unwrap_or("");
        let path = words.next().unwrap_or("/");
        close |= words.next() == Some("HTTP/1.0");
        let (status, passed, body) = answer(path, json, identity, headers);
        // Probes would drown what people look for.
        if path != "/healthz" {
            println!("{method} {path} {status}");
        }
        let kind = if json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        let connection = if close { "close" } else { "keep-alive" };
        let passed: String = passed
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: {connection}\r\n{passed}\r\n",
            body.len()
        )?;
        if method != "HEAD" {
            writer.write_all(body.as_bytes())?;
        }
        if close {
            return Ok(());
        }
    }
}

/// Headers that are passed on from a caller and back: what tracing, routing and people look at, but not
/// what one connection alone is about.
fn pass_on(headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let own = [
        "host",
        "connection",
        "keep-alive",
        "content-length",
        "content-type",
        "transfer-encoding",
    ];
    let mut headers = headers;
    headers.retain(|(name, _)| !own.contains(&name.as_str()) && name != "date" && name != "server");
    headers
}

type Answer = (String, Vec<(String, String)>, String);

fn answer(path: &str, json: bool, identity: &Identity, headers: Vec<(String, String)>) -> Answer {
    let plain = |status: u16, body: String| {
        let word = if status == 200 { "OK" } else { "Asked" };
        (format!("{status} {word}"), Vec::new(), body)
    };
    let bare = path.split('?').next().unwrap_or("/");
    if bare == "/healthz" {
        return plain(200, "ok\n".to_owned());
    }
    if let Some(target) = path
        .strip_prefix("/call/")
        .and_then(upstream::Target::parse)
    {
        return call(&target, headers);
    }
    if bare == "/headers" {
        let lines = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        return plain(200, lines.collect());
    }
    let asked = bare
        .strip_prefix("/status/")
        .and_then(|code| code.parse::<u16>().ok());
    let status = asked
        .filter(|code| (200..600).contains(code))
        .unwrap_or(identity.status);
    let delay_ms = bare
        .strip_prefix("/delay/")
        .and_then(|text| text.parse().ok());
    std::thread::sleep(Duration::from_millis(
        delay_ms.unwrap_or(identity.delay_ms).min(MAX_DELAY_MS),
    ));
    let Identity {
        pod, node, version, ..
    } = identity;
    if json {
        let body = format!(
            "{{\"message\":\"hello\",\"pod\":{},\"node\":{},\"version\":{}}}\n",
            quote(pod),
            quote(node),
            quote(version)
        );
        return plain(status, body);
    }
    let place = if node == UNKNOWN {
        String::new()
    } else {
        format!(" on {node}")
    };
    let own = format!("hello from {pod}{place}, version {version}\n");
    match &identity.upstream {
        Some(target) => {
            let (status, headers, body) = call(target, headers);
            (status, headers, own + &body)
        }
        None => plain(status, own),
    }
}

/// Calls another service and passes on what it says.
fn call(target: &upstream::Target, headers: Vec<(String, String)>) -> Answer {
    match upstream::get(target, &pass_on(headers)) {
        Ok(answer) => (
            format!("{} Upstream", answer.status),
            pass_on(answer.headers),
            String::from_utf8_lossy(&answer.body).into_owned(),
        ),
        Err(error) => (
            "502 Unreachable".to_owned(),
            Vec::new(),
            format!("the upstream cannot be called: {error}\n"),
        ),
    }
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if (control as u32) < 0x20 => {
                quoted.push_str(&format!("\\u{:04x}", control as u32));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
