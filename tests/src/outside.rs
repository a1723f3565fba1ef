//! A machine outside the cluster, in a network namespace of its own: a web server, and the resolver that
//! knows its names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use trireme_network::{Cidr, run_in, topology};

const DNS_PORT: u16 = 53;
/// Bytes of a request that are read before it is answered.
const REQUEST_MAX_BYTES: usize = 16 * 1024;

pub struct Outside {
    namespace: PathBuf,
    bridge: String,
    pub address: Ipv4Addr,
    /// Requests answered so far.
    pub requests: Arc<AtomicUsize>,
    scratch: tempfile::TempDir,
}

impl Outside {
    /// Starts it at 10.87.`number`.2: HTTP on port 80 and the names of `zone` (every name below it is
    /// this machine).
    pub fn start(number: u8, zone: &'static str) -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("trireme-outside-")
            .tempdir_in("/var/tmp")?;
        let bridge = format!("trmout{number}");
        let namespace = PathBuf::from(format!("/run/netns/trireme-outside-{number}"));
        let address = Ipv4Addr::new(10, 87, number, 2);
        let gateway = Ipv4Addr::new(10, 87, number, 1);
        // A run that was killed may have left them.
        topology::delete_link(&bridge)?;
        topology::delete_namespace(&namespace)?;
        topology::create_bridge(&bridge, cidr(gateway)?)?;
        topology::create_namespace(&namespace)?;
        let outside = Self {
            namespace,
            bridge,
            address,
            requests: Arc::default(),
            scratch,
        };
        topology::connect(
            &outside.bridge,
            &outside.namespace,
            &format!("{}v", outside.bridge),
            "eth0",
            cidr(address)?,
            Some(gateway),
        )?;
        let (listener, socket) = run_in(&outside.namespace, || -> std::io::Result<_> {
            Ok((
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))?,
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DNS_PORT))?,
            ))
        })??;
        let requests = outside.requests.clone();
        // Both end with the test's process; their sockets keep the namespace until then.
        thread::spawn(move || serve_http(&listener, &requests));
        thread::spawn(move || serve_names(&socket, zone, address));
        Ok(outside)
    }

    /// A `resolv.conf` that names this machine's resolver.
    pub fn resolv_conf(&self) -> Result<PathBuf> {
        let path = self.scratch.path().join("resolv.conf");
        std::fs::write(&path, format!("nameserver {}\n", self.address))?;
        Ok(path)
    }

    pub fn answered(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = topology::delete_namespace(&self.namespace);
        let _ = topology::delete_link(&self.bridge);
    }
}

fn serve_http(listener: &TcpListener, requests: &Arc<AtomicUsize>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let requests = requests.clone();
        thread::spawn(move || {
            let mut head = Vec::new();
            let mut buffer = [0; 1024];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => head.extend_from_slice(&buffer[..count]),
                }
                if head.windows(4).any(|window| window == b"\r\n\r\n") {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    let host = text
                        .lines()
                        .find_map(|line| line.strip_prefix("host:"))
                        .unwrap_or_default()
                        .trim();
                    let body = format!("outside as {host}\n");
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    head.clear();
                }
                if head.len() > REQUEST_MAX_BYTES {
                    return;
                }
            }
        });
    }
}

/// Answers A questions about names in `zone`; other names do not exist.
fn serve_names(socket: &UdpSocket, zone: &str, address: Ipv4Addr) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer(&buffer[..length], zone, address) {
            // The client asks again when this is lost.
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn answer(question: &[u8], zone: &str, address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*question.get(at)?);
        if length == 0 {
            break;
        }
        let label = question.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    let name = labels.join(".");
    let end = at + 5;
    let is_address = question.get(at + 1..at + 3)? == [0, 1];
    let ours = name == zone || name.ends_with(&format!(".{zone}"));
    let mut answer = question.get(..2)?.to_vec();
    answer.extend_from_slice(&[0x85, if ours { 0x80 } else { 0x83 }, 0, 1]);
    answer.extend_from_slice(&[0, u8::from(ours && is_address), 0, 0, 0, 0]);
    answer.extend_from_slice(question.get(12..end)?);
    if ours && is_address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}

fn cidr(address: Ipv4Addr) -> Result<Cidr> {
    Cidr::new(address, 24).context("24 is a prefix length")
}
