//! Reads a TLS ClientHello just far enough for routing: the server name and the protocols offered. Total and bounded:
//! any bytes give an answer, and no more than [`MAX_BYTES`] are ever asked for.

/// A ClientHello with post-quantum key shares has about 2 KiB; Envoy reads 16 KiB at most.
pub const MAX_BYTES: usize = 16 * 1024;
/// Offered protocols beyond this are not looked at.
const MAX_PROTOCOLS: usize = 32;

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// What a ClientHello says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case.
    pub server_name: Option<String>,
    /// The protocols offered, in the client's order.
    pub protocols: Vec<String>,
}

/// What the bytes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// A whole ClientHello.
    Hello(ClientHello),
    /// The start of one.
    Incomplete,
    /// Something else.
    NotTls,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<Reader<'a>> {
        let length = usize::from(self.byte()?);
        self.take(length).map(Reader)
    }

    fn vector16(&mut self) -> Option<Reader<'a>> {
        let length = usize::from(self.short()?);
        self.take(length).map(Reader)
    }
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn peek(bytes: &[u8]) -> Peeked {
    // A handshake message may span records; their contents are joined.
    let mut message = Vec::new();
    let mut records = Reader(bytes);
    loop {
        if records.0.is_empty() {
            break;
        }
        let header = records.0;
        if header[0] != HANDSHAKE || header.get(1).is_some_and(|major| *major != 3) {
            return Peeked::NotTls;
        }
        if header.len() < RECORD_HEADER {
            break;
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_BYTES {
            return Peeked::NotTls;
        }
        let body = &header[RECORD_HEADER..];
        let there = body.len().min(length);
        message.extend_from_slice(&body[..there]);
        if let Some(peeked) = complete(&message) {
            return peeked;
        }
        if there < length {
            break;
        }
        records.0 = &body[there..];
    }
    if bytes.len() >= MAX_BYTES {
        Peeked::NotTls
    } else {
        Peeked::Incomplete
    }
}

/// The answer, once the handshake message is whole or known to be another.
fn complete(message: &[u8]) -> Option<Peeked> {
    let mut reader = Reader(message);
    if reader.byte()? != CLIENT_HELLO {
        return Some(Peeked::NotTls);
    }
    let length = reader.take(3)?;
    let length =
        usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if length > MAX_BYTES {
        return Some(Peeked::NotTls);
    }
    let body = reader.take(length)?;
    Some(hello(Reader(body)).map_or(Peeked::NotTls, Peeked::Hello))
}

fn hello(mut body: Reader<'_>) -> Option<ClientHello> {
    body.short()?;
    body.take(32)?;
    body.vector8()?;
    body.vector16()?;
    body.vector8()?;
    let mut found = ClientHello::default();
    if body.0.is_empty() {
        return Some(found);
    }
    let mut extensions = body.vector16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.vector16()?;
        match kind {
            SERVER_NAME => found.server_name = server_name(content)?,
            ALPN => found.protocols = protocols(content)?,
            _ => {}
        }
    }
    Some(found)
}

fn server_name(mut content: Reader<'_>) -> Option<Option<String>> {
    let mut names = content.vector16()?;
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.vector16()?;
        if kind == HOST_NAME {
            let name = std::str::from_utf8(name.0).ok()?;
            return Some(Some(name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(mut content: Reader<'_>) -> Option<Vec<String>> {
    let mut list = content.vector16()?;
    let mut found = Vec::new();
    while !list.0.is_empty() && found.len() < MAX_PROTOCOLS {
        let name = list.vector8()?;
        found.push(String::from_utf8_lossy(name.0).into_owned());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn real(name: &str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("name");
        let mut connection =
            rustls::ClientConnection::new(Arc::new(config), name).expect("connection");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("hello");
        bytes
    }

    #[test]
    fn reads_a_real_one() {
        let bytes = real("Shop.Example.com", &["h2", "http/1.1"]);
        let expected = ClientHello {
            server_name: Some("shop.example.com".into()),
            protocols: vec!["h2".into(), "http/1.1".into()],
        };
        assert_eq!(peek(&bytes), Peeked::Hello(expected));
        for cut in 0..bytes.len() {
            assert_eq!(peek(&bytes[..cut]), Peeked::Incomplete, "cut at {cut}");
        }
    }

    #[test]
    fn joins_records() {
        let bytes = real("shop.example.com", &[]);
        let mut split = Vec::new();
        for piece in bytes[RECORD_HEADER..].chunks(7) {
            split.extend_from_slice(&[
                HANDSHAKE,
                3,
                1,
                0,
                u8::try_from(piece.len()).expect("short"),
            ]);
            split.extend_from_slice(piece);
        }
        assert!(
            matches!(peek(&split), Peeked::Hello(hello) if hello.server_name.as_deref() == Some("shop.example.com"))
        );
    }

    #[test]
    fn an_address_has_no_name() {
        let bytes = real("127.0.0.1", &[]);
        assert!(matches!(peek(&bytes), Peeked::Hello(hello) if hello.server_name.is_none()));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = peek(&bytes);
        }

        #[test]
        fn a_broken_hello_gives_an_answer(at in 0_usize..200, value in any::<u8>()) {
            let mut bytes = real("shop.example.com", &["h2"]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = peek(&bytes);
        }

        #[test]
        fn asks_for_no_more_than_the_limit(filler in any::<u8>()) {
            let mut bytes = vec![HANDSHAKE, 3, 1, 0x40, 0, CLIENT_HELLO, 0, 0x3f, 0xff];
            bytes.resize(MAX_BYTES, filler);
            prop_assert_ne!(peek(&bytes), Peeked::Incomplete);
        }
    }
}
