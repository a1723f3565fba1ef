//! Asking the node's own resolvers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Resolvers usually wait 5 s before they ask again: all upstreams have to
/// have been tried by then.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// The most a DNS message can be.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// The first upstream's answer to `query`, a whole message; `None` when none
/// answers in time. The answer carries the query's identifier.
pub(super) async fn ask(upstreams: &[SocketAddr], query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    for upstream in upstreams {
        let attempt = async {
            if over_tcp {
                ask_tcp(*upstream, query).await
            } else {
                ask_udp(*upstream, query).await
            }
        };
        match timeout(ATTEMPT_TIMEOUT, attempt).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "an upstream resolver failed"),
            Err(_) => tracing::debug!(%upstream, "an upstream resolver did not answer in time"),
        }
    }
    None
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // A socket a question: the kernel picks an unpredictable port, which with
    // the identifier is what keeps forged answers out.
    let own: SocketAddr = if upstream.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length =
        u16::try_from(query.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    if answers(&buffer, query) {
        Ok(buffer)
    } else {
        Err(io::Error::other("the answer is to another question"))
    }
}

/// Same identifier, and marked as a response.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= 12 && query.len() >= 12 && answer[..2] == query[..2] && answer[2] & 0x80 != 0
}
