//! Frames (RFC 9113 §4 and §6): what each begins with, and writing them.

/// What a client's connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every frame begins with.
pub const HEAD_BYTES: usize = 9;
/// The longest payload that we take, and send: what every peer takes.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
/// The largest window (§6.9.1).
pub const MAX_WINDOW: i64 = (1 << 31) - 1;
/// The last identifier of a stream.
pub const MAX_STREAM: u32 = (1 << 31) - 1;
/// A window before anything is said of it.
pub const DEFAULT_WINDOW: i64 = 65_535;

/// Kinds of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (§7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The payload's octets.
    pub length: usize,
    /// One of [`kind`], or one that is not known.
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// Reads one.
    #[must_use]
    pub fn read(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            // The first bit is reserved and passed over.
            stream: u32::from_be_bytes(stream) & MAX_STREAM,
        }
    }

    /// Whether it has a flag.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Room that most heads fit into, so that a buffer grows once.
const HEAD_ROOM_BYTES: usize = 512;

/// Begins HEADERS; the block follows, then [`finish_headers`], which needs what this returns.
#[must_use]
pub fn begin_headers(out: &mut Vec<u8>) -> usize {
    out.reserve(HEAD_ROOM_BYTES);
    let at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    at
}

/// Writes a frame's beginning.
pub fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    // No payload of ours is longer than MAX_PAYLOAD_BYTES.
    let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// SETTINGS of ours.
pub fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_head(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// RST_STREAM
pub fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put_head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&reason.0.to_be_bytes());
}

/// WINDOW_UPDATE
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    put_head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&bytes.to_be_bytes());
}

/// PING
pub fn put_ping(out: &mut Vec<u8>, payload: [u8; 8], ack: bool) {
    put_head(out, 8, kind::PING, if ack { flag::ACK } else { 0 }, 0);
    out.extend_from_slice(&payload);
}

/// GOAWAY
pub fn put_goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    put_head(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
}

/// Turns the block that was written after a HEADERS frame's beginning, which stands at `at`, into frames: one mostly,
/// CONTINUATION where it is longer.
pub fn finish_headers(out: &mut Vec<u8>, at: usize, stream: u32, end_stream: bool) {
    let end = if end_stream { flag::END_STREAM } else { 0 };
    let length = out.len() - at - HEAD_BYTES;
    if length <= MAX_PAYLOAD_BYTES {
        let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
        let [d, e, f, g] = stream.to_be_bytes();
        let flags = flag::END_HEADERS | end;
        out[at..at + HEAD_BYTES].copy_from_slice(&[a, b, c, kind::HEADERS, flags, d, e, f, g]);
        return;
    }
    let block = out.split_off(at + HEAD_BYTES);
    out.truncate(at);
    let mut pieces = block.chunks(MAX_PAYLOAD_BYTES).peekable();
    let (mut kind, mut flags) = (kind::HEADERS, end);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        put_head(out, piece.len(), kind, flags, stream);
        out.extend_from_slice(piece);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}
