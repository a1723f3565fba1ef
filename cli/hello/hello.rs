//! The program of the built-in image `trireme.local/hello`: a small HTTP server that says which
//! pod, node and version answered. Standard library only, linked statically, so that it runs in an
//! otherwise empty root.
//!
//! Environment: `PORT` (8080), `VERSION` (v1), `POD_NAME` (the host name otherwise), `NODE_NAME`.
//! Paths: `/healthz` answers `ok`; `/status/CODE` answers with that code; any other path answers
//! the greeting, as JSON where `Accept` asks for `application/json`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Open connections at once; one more is closed at once. A thread each, 64 KiB of stack.
const MAX_CONNECTIONS: usize = 512;
/// Bytes of one request's head.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

struct Identity {
    pod: String,
    node: String,
    version: String,
}

fn variable(name: &str, otherwise: impl FnOnce() -> String) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(otherwise)
}

// Of the C library that the standard library is linked with.
unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

const SIGTERM: i32 = 15;

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
            .unwrap_or_else(|_| "unknown".to_owned())
    };
    let port_text = variable("PORT", || "8080".to_owned());
    let Ok(port) = port_text.parse::<u16>() else {
        eprintln!("hello: PORT={port_text:?} is not a port number (1 to 65535)");
        std::process::exit(2);
    };
    let identity = Arc::new(Identity {
        pod: variable("POD_NAME", || variable("HOSTNAME", host)),
        node: variable("NODE_NAME", || "unknown".to_owned()),
        version: variable("VERSION", || "v1".to_owned()),
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
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim().to_ascii_lowercase();
            if text.is_empty() {
                break;
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
        let (status, body) = answer(path, json, identity);
        // Probes would drown what people look for.
        if path != "/healthz" {
            println!("{method} {path} {status}");
        }
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        let connection = if close { "close" } else { "keep-alive" };
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
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

fn answer(path: &str, json: bool, identity: &Identity) -> (String, String) {
    let path = path.split('?').next().unwrap_or("/");
    if path == "/healthz" {
        return ("200 OK".to_owned(), "ok\n".to_owned());
    }
    let status = path
        .strip_prefix("/status/")
        .and_then(|code| code.parse::<u16>().ok())
        .filter(|code| (200..600).contains(code))
        .map_or_else(|| "200 OK".to_owned(), |code| format!("{code} Asked"));
    let Identity { pod, node, version } = identity;
    let body = if json {
        format!(
            "{{\"message\":\"hello\",\"pod\":{},\"node\":{},\"version\":{}}}\n",
            quote(pod),
            quote(node),
            quote(version)
        )
    } else {
        format!("hello from {pod} on {node}, version {version}\n")
    };
    (status, body)
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
