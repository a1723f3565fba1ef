//! What a client speaks, from its first bytes. Never waits for more than it needs to decide.

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is taken for something else.
pub const MAX_LINE_BYTES: usize = 8 * 1024;
/// The longest registered method has 17 letters (VERSION-CONTROL and the like have 15).
const MAX_METHOD_BYTES: usize = 20;
/// A TLS handshake record: type, major version, and nothing else is decided here.
const TLS_HANDSHAKE: u8 = 22;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS: look at its ClientHello.
    Tls,
    /// None of these.
    Other,
    /// Too few bytes to say.
    Undecided,
}

/// Whether the client starts a TLS handshake.
#[must_use]
pub fn is_tls(bytes: &[u8]) -> Detected {
    match bytes {
        [] | [TLS_HANDSHAKE] => Detected::Undecided,
        [TLS_HANDSHAKE, 3, ..] => Detected::Tls,
        _ => Detected::Other,
    }
}

fn request_line(line: &[u8]) -> Detected {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // A method, a target, a version: RFC 9112 §3. Inline commands of other protocols (`GET key`) have no version.
    let versioned = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    if versioned && line.len() > " HTTP/1.1".len() + 2 {
        Detected::Http1
    } else {
        Detected::Other
    }
}

/// Whether the client speaks HTTP in the clear.
#[must_use]
pub fn http(bytes: &[u8]) -> Detected {
    let preface = bytes.len().min(PREFACE.len());
    if bytes[..preface] == PREFACE[..preface] {
        return if preface == PREFACE.len() {
            Detected::Http2
        } else {
            Detected::Undecided
        };
    }
    let method = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-')
        .count();
    if method > MAX_METHOD_BYTES {
        return Detected::Other;
    }
    match bytes.get(method) {
        None => return Detected::Undecided,
        Some(b' ') if method > 0 => {}
        Some(_) => return Detected::Other,
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    // The same whether the line has ended or not, so that a decision stands however the bytes arrive.
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let control = |byte: &u8| *byte < 0x20 && *byte != b'\r' && *byte != b'\t';
    if line.len() >= MAX_LINE_BYTES || line.iter().any(control) {
        return Detected::Other;
    }
    match end {
        Some(_) => request_line(line),
        None => Detected::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tells_http_from_its_likes() {
        assert_eq!(http(b"GET / HTTP/1.1\r\n"), Detected::Http1);
        assert_eq!(http(b"GET /"), Detected::Undecided);
        assert_eq!(http(b"GET key\r\n"), Detected::Other);
        assert_eq!(http(b"PRI"), Detected::Undecided);
        assert_eq!(http(PREFACE), Detected::Http2);
        assert_eq!(http(b"PRI * HTTP/2.0\r\n\r\nXX"), Detected::Other);
        assert_eq!(http(b""), Detected::Undecided);
        assert_eq!(http(b"\x16\x03\x01"), Detected::Other);
        assert_eq!(http(b"SSH-2.0-OpenSSH"), Detected::Other);
        assert_eq!(is_tls(b"\x16\x03\x01"), Detected::Tls);
        assert_eq!(is_tls(b"\x16"), Detected::Undecided);
        assert_eq!(is_tls(b"GET"), Detected::Other);
    }

    #[test]
    fn a_control_byte_or_a_long_line_is_no_request_also_once_its_line_has_ended() {
        for (early, whole) in [
            (&b"GET /\x04"[..], b"GET /\x04 HTTP/1.1\r\n".to_vec()),
            (
                &[b"GET /".as_slice(), &[b'x'; MAX_LINE_BYTES]].concat(),
                [
                    b"GET /".as_slice(),
                    &[b'x'; MAX_LINE_BYTES],
                    b" HTTP/1.1\r\n",
                ]
                .concat(),
            ),
        ] {
            assert_eq!(http(early), Detected::Other);
            assert_eq!(http(&whole), Detected::Other);
        }
    }

    proptest! {
        #[test]
        fn a_decision_stands_whatever_follows(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            let early = http(&bytes[..cut]);
            if early != Detected::Undecided {
                prop_assert_eq!(early, http(&bytes));
            }
        }

        #[test]
        fn a_full_line_is_decided(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_LINE_BYTES)) {
            let mut bytes = bytes;
            bytes.extend_from_slice(&[b'x'; MAX_LINE_BYTES]);
            prop_assert_ne!(http(&bytes), Detected::Undecided);
        }
    }
}
