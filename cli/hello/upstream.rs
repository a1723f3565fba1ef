//! Calling another service: names by a DNS question of our own (the C library, linked statically,
//! cannot), one HTTP/1.1 request on a connection of its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Bytes of an answer's head, and of its body.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
const MAX_BODY_BYTES: u64 = 1024 * 1024;
/// An upstream that says nothing for this long has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one DNS question, and how long each waits.
const QUESTIONS: u32 = 2;
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const DNS_PORT: u16 = 53;
const TYPE_ADDRESS: u16 = 1;

/// What an upstream answered.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// `HOST[:PORT]/PATH`, with or without `http://`.
pub struct Target {
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    pub fn parse(text: &str) -> Option<Target> {
        let text = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = match text.find('/') {
            Some(at) => (&text[..at], &text[at..]),
            None => (text, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, 80),
        };
        (!host.is_empty()).then(|| Target {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }
}

/// One GET with the given headers.
pub fn get(target: &Target, headers: &[(String, String)]) -> io::Result<Answer> {
    let address = resolve(&target.host)?;
    let stream =
        TcpStream::connect_timeout(&SocketAddr::from((address, target.port)), ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut request = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        target.path, target.authority
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    (&stream).write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer");
    let mut line = String::new();
    let mut head = (&mut reader).take(MAX_HEAD_BYTES);
    head.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(invalid)?;
    let (mut headers, mut length, mut chunked) = (Vec::new(), None, false);
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(invalid());
        }
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        match name.as_str() {
            "content-length" => length = value.parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.contains("chunked"),
            _ => {}
        }
        headers.push((name, value));
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            (&mut reader).take(MAX_HEAD_BYTES).read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or("");
            let size = u64::from_str_radix(size, 16).map_err(|_| invalid())?;
            if size == 0 || body.len() as u64 + size > MAX_BODY_BYTES {
                break;
            }
            (&mut reader).take(size).read_to_end(&mut body)?;
            (&mut reader).take(2).read_to_end(&mut Vec::new())?;
        }
    } else {
        (&mut reader)
            .take(length.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES))
            .read_to_end(&mut body)?;
    }
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// An address of the name, by `/etc/resolv.conf` and its search list.
fn resolve(host: &str) -> io::Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    if host == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let words = |key: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let servers: Vec<IpAddr> = words("nameserver")
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    let dots = host.matches('.').count();
    let enough = words("options")
        .iter()
        .find_map(|word| word.strip_prefix("ndots:")?.parse().ok())
        .unwrap_or(1);
    let searched = words("search")
        .into_iter()
        .map(|domain| format!("{host}.{domain}"));
    let mut names: Vec<String> = searched.collect();
    names.insert(
        if dots >= enough { 0 } else { names.len() },
        host.to_owned(),
    );
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("no address of {host}"));
    for name in &names {
        for server in &servers {
            match ask(*server, name) {
                Ok(Some(address)) => return Ok(address.into()),
                // This name does not exist; no other server knows better.
                Ok(None) => break,
                Err(error) => failure = error,
            }
        }
    }
    Err(failure)
}

/// The first address in the server's answer; none where the name has none.
fn ask(server: IpAddr, name: &str) -> io::Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind(if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })?;
    socket.connect((server, DNS_PORT))?;
    socket.set_read_timeout(Some(QUESTION_TIMEOUT))?;
    // The socket's own port is as hard to guess as a number would be.
    let id = socket.local_addr()?.port().to_be_bytes();
    let mut question = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).unwrap_or(64);
        if length == 0 || length > 63 {
            return Ok(None);
        }
        question.push(length);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..QUESTIONS {
        socket.send(&question)?;
        let mut answer = [0; 1500];
        match socket.recv(&mut answer) {
            Ok(length) if answer[..2] == id => return Ok(first_address(&answer[..length])),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn first_address(answer: &[u8]) -> Option<Ipv4Addr> {
    let short = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let skip_name = |mut at: usize| loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    };
    let mut at = skip_name(12)? + 4;
    for _ in 0..short(6)? {
        at = skip_name(at)?;
        let (kind, length) = (short(at)?, usize::from(short(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if kind == TYPE_ADDRESS {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    None
}
