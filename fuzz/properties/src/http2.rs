//! HTTP/2 as the proxy reads it, on either side, and HPACK.

use http::Method;
use tokio::runtime::{Builder, Runtime};
use trireme_proxy::h2::hpack::{
    Decoder, Encoder, FIELD_OVERHEAD_BYTES, Field, TABLE_BYTES, huffman_decode, huffman_encode,
};
use trireme_proxy::h2::understood::{Understood, by_client, by_server};
use trireme_proxy::h2::{Broken, Limits, Options};

/// Small enough that short inputs reach each.
const OPTIONS: Options = Options {
    max_streams: 4,
    stream_window: 100,
    connection_window: 65_535,
    connect_protocol: true,
    limits: Limits {
        bytes: 512,
        headers: 6,
    },
};
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
const MAX_STREAM: u32 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four octets"))
}

/// The whole frames at the beginning, and what is left.
fn frames(bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let length = (word(&head[..4]) >> 8) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else {
            break;
        };
        all.push(Frame {
            kind: head[3],
            flags: head[4],
            stream: word(&head[5..]) & MAX_STREAM,
            payload,
        });
        rest = after;
    }
    (all, rest)
}

/// Time that stands still: limits by the second are the same for every input.
fn timeless<T>(work: impl FnOnce() -> T) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(async { work() }))
}

/// Octets are understood the same in one piece, in two, and in many. The first two say where they are cut.
fn whole<'a>(bytes: &'a [u8], read: impl Fn(&[&'a [u8]]) -> Understood) -> Option<Understood> {
    let (cut, bytes) = bytes.split_first_chunk::<2>()?;
    let cut = usize::from(u16::from_be_bytes(*cut));
    let seen = timeless(|| read(&[bytes]));
    let (begin, end) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(seen, timeless(|| read(&[begin, end])));
    let pieces: Vec<&[u8]> = bytes.chunks(cut % 11 + 1).collect();
    assert_eq!(seen, timeless(|| read(&pieces)));
    Some(seen)
}

/// What we answer are frames that every peer takes; an error is told as the last of them, and nothing else is one.
fn answers<'a>(seen: &'a Understood, preface: &[u8]) -> Vec<Frame<'a>> {
    let answers = seen.answers.strip_prefix(preface).expect("our preface");
    let (ours, rest) = frames(answers);
    assert!(rest.is_empty(), "half a frame");
    assert!((ours[0].kind, ours[0].flags) == (SETTINGS, 0));
    assert!(
        ours.iter()
            .all(|frame| frame.payload.len() <= MAX_PAYLOAD_BYTES)
    );
    let reasons: Vec<u32> = ours
        .iter()
        .filter(|frame| frame.kind == GOAWAY)
        .map(|frame| word(&frame.payload[4..]))
        .collect();
    match seen.broken {
        Some(Broken::Protocol(reason, _)) => {
            assert_eq!(reasons, [reason.0]);
            assert_eq!(ours.last().map(|frame| frame.kind), Some(GOAWAY));
        }
        Some(other) => panic!("{other} without a connection"),
        None => assert!(reasons.is_empty()),
    }
    ours
}

/// Every whole frame was looked at: pings and settings are answered in their order, and no more of a window is given
/// back than was used.
fn accounts(theirs: &[Frame<'_>], ours: &[Frame<'_>], broken: bool) {
    let pings = |all: &[Frame<'_>], ack: u8| -> Vec<Vec<u8>> {
        all.iter()
            .filter(|frame| frame.kind == PING && frame.flags & ACK == ack)
            .map(|frame| frame.payload.to_vec())
            .collect()
    };
    let (asked, answered) = (pings(theirs, 0), pings(ours, ACK));
    assert!(asked.starts_with(&answered));
    let settings = |all: &[Frame<'_>], ack: u8| {
        all.iter()
            .filter(|frame| frame.kind == SETTINGS && frame.flags & ACK == ack)
            .count()
    };
    let (told, known) = (settings(theirs, 0), settings(ours, ACK));
    assert!(known <= told);
    if !broken {
        assert_eq!(answered.len(), asked.len());
        assert_eq!(known, told);
    }
    let used: usize = theirs
        .iter()
        .filter(|frame| frame.kind == DATA)
        .map(|frame| frame.payload.len())
        .sum();
    let given: usize = ours
        .iter()
        .filter(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0)
        .map(|frame| word(frame.payload) as usize)
        .sum();
    assert!(given <= used, "{given} of {used} octets are given back");
}

/// A client's frames: what is taken as a request is one.
pub fn h2_server(bytes: &[u8]) {
    let Some(seen) = whole(bytes, |pieces| by_server(pieces.iter().copied(), OPTIONS)) else {
        return;
    };
    let ours = answers(&seen, b"");
    if let Some(theirs) = bytes[2..].strip_prefix(PREFACE) {
        accounts(&frames(theirs).0, &ours, seen.broken.is_some());
    } else {
        assert!(seen.requests.is_empty());
    }
    let mut newest = 0;
    for (stream, request, ended) in &seen.requests {
        assert!(stream % 2 == 1 && *stream > newest);
        newest = *stream;
        assert!(*ended || seen.broken.is_some() || seen.streams.contains_key(stream));
        let path = request.path.as_str();
        assert!(path.starts_with('/') || (path == "*" && request.method == Method::OPTIONS));
        assert!(request.protocol.is_none() || request.method == Method::CONNECT);
        assert!(request.headers.len() <= OPTIONS.limits.headers);
        for name in ["host", "connection", "transfer-encoding", "upgrade"] {
            assert!(!request.headers.contains_key(name), "{name}");
        }
        let lengths: Vec<_> = request.headers.get_all("content-length").iter().collect();
        assert!(lengths.len() <= 1);
        assert_eq!(lengths.len(), usize::from(request.length.is_some()));
    }
    // What we answer by ourselves is a head that can be read.
    let mut decoder = Decoder::new(TABLE_BYTES);
    for frame in ours.iter().filter(|frame| frame.kind == HEADERS) {
        let mut fields = Vec::new();
        let read = decoder.decode(frame.payload, |field, _| fields.push(field));
        assert_eq!(read, Ok(()));
        assert!(matches!(fields[..], [Field::Status(_)]));
    }
    assert!(ours.iter().all(|frame| frame.kind != CONTINUATION));
}

/// A server's frames, after requests of each kind.
pub fn h2_client(bytes: &[u8]) {
    let asked = [Method::GET, Method::HEAD, Method::POST, Method::CONNECT];
    let read = |pieces: &[&[u8]]| by_client(&asked, pieces.iter().copied(), OPTIONS);
    let Some(seen) = whole(bytes, read) else {
        return;
    };
    let ours = answers(&seen, PREFACE);
    accounts(&frames(&bytes[2..]).0, &ours, seen.broken.is_some());
    // No server opens streams, and none of ours is forgotten by whoever handles it.
    assert!(seen.requests.is_empty());
    assert!(seen.streams.keys().copied().eq([1, 3, 5, 7]));
}

/// Blocks, one after the other; the length of each stands before it.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first()?;
        let (block, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        Some(block)
    })
}

/// The fields in a decoder's table, with what they take there. Looking changes nothing.
fn table(decoder: &mut Decoder) -> Vec<(Field, usize)> {
    const STATIC: usize = 61;
    let mut all = Vec::new();
    for index in STATIC + 1.. {
        let block = match u8::try_from(index) {
            Ok(index @ ..127) => vec![0x80 | index],
            // No more than 128 fields of 32 octets fit, so two octets are enough.
            _ => vec![0xff, u8::try_from(index - 127).expect("a small table")],
        };
        let seen = decoder.decode(&block, |field, bytes| all.push((field, bytes)));
        if seen.is_err() {
            return all;
        }
    }
    all
}

/// Writes what is written by our encoder; what it has no words for is passed over.
fn encode(encoder: &mut Encoder, fields: &[Field]) -> (Vec<u8>, Vec<Field>) {
    let (mut block, mut written) = (Vec::new(), Vec::new());
    encoder.begin(&mut block);
    for field in fields {
        match field {
            Field::Method(method) => encoder.method(&mut block, method),
            Field::Scheme(scheme) if scheme == "http" || scheme == "https" => {
                encoder.scheme(&mut block, scheme == "https");
            }
            Field::Authority(authority) => encoder.authority(&mut block, authority.as_bytes()),
            Field::Path(path) => encoder.path(&mut block, path.as_str().as_bytes()),
            Field::Status(status) => encoder.status(&mut block, *status),
            Field::Header(name, value) => encoder.header(&mut block, name, value),
            Field::Scheme(_) | Field::Protocol(_) | Field::Malformed(_) => continue,
        }
        written.push(field.clone());
    }
    (block, written)
}

fn secret(field: &Field) -> bool {
    matches!(field, Field::Header(_, value) if value.is_sensitive())
}

/// What is read of a connection's blocks is what our encoder writes and is read again, secrets still secret; the table
/// never holds more than was agreed. The first byte says what table the encoder's peer allows.
pub fn hpack(bytes: &[u8]) {
    let Some((allowed, bytes)) = bytes.split_first() else {
        return;
    };
    let allowed = usize::from(*allowed) * 20;
    let (mut decoder, mut again) = (Decoder::new(TABLE_BYTES), Decoder::new(allowed));
    let mut encoder = Encoder::new();
    encoder.allow(allowed);
    for block in blocks(bytes) {
        let mut fields = Vec::new();
        let mut sizes = Vec::new();
        let read = decoder.decode(block, |field, size| {
            fields.push(field);
            sizes.push(size);
        });
        assert!(fields.len() <= block.len());
        assert!(sizes.iter().all(|size| *size >= FIELD_OVERHEAD_BYTES));
        let held: usize = table(&mut decoder).iter().map(|(_, size)| size).sum();
        assert!(held <= TABLE_BYTES, "{held} octets in the table");
        // Twice, so that what comes again is taken from the table.
        for _ in 0..2 {
            let (block, written) = encode(&mut encoder, &fields);
            let mut back = Vec::new();
            let reread = again.decode(&block, |field, _| back.push(field));
            assert_eq!(reread, Ok(()));
            assert_eq!(back, written);
            assert!(back.iter().map(secret).eq(written.iter().map(secret)));
            let held: usize = table(&mut again).iter().map(|(_, size)| size).sum();
            assert!(held <= allowed, "{held} octets of {allowed}");
        }
        if read.is_err() {
            return;
        }
    }
}

/// What is decoded has this one code, with less than an octet of ones after it (RFC 7541 §5.2); every text has one.
pub fn huffman(bytes: &[u8]) {
    let (mut text, mut code) = (Vec::new(), Vec::new());
    if huffman_decode(bytes, &mut text).is_some() {
        huffman_encode(&text, &mut code);
        assert_eq!(code, bytes);
        let more = [bytes, &[0xff]].concat();
        assert!(huffman_decode(&more, &mut Vec::new()).is_none());
    }
    code.clear();
    text.clear();
    huffman_encode(bytes, &mut code);
    assert!(code.len() <= bytes.len() * 4);
    assert_eq!(huffman_decode(&code, &mut text), Some(()));
    assert_eq!(text, bytes);
}
