//! Frames on the wire.

use bytes::{BufMut, Bytes, BytesMut};

pub(super) const FLAG_FIN: u8 = 1;
pub(super) const HEADER_BYTES: usize = 8;

pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const SETTINGS: u16 = 4;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;
pub(super) const WINDOW_UPDATE: u16 = 9;
const VERSION: u16 = 3;

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const REFUSED_STREAM: u32 = 3;
pub(super) const CANCEL: u32 = 5;

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameHeader {
    Data {
        stream: u32,
        flags: u8,
        length: usize,
    },
    Control {
        version: u16,
        kind: u16,
        flags: u8,
        length: usize,
    },
}

pub(super) fn read_header(bytes: [u8; HEADER_BYTES]) -> FrameHeader {
    let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let flags = bytes[4];
    let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
    if word >> 31 == 0 {
        FrameHeader::Data {
            stream: word,
            flags,
            length,
        }
    } else {
        FrameHeader::Control {
            version: (word >> 16) as u16 & 0x7fff,
            kind: word as u16,
            flags,
            length,
        }
    }
}

/// What our side sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Reply {
        stream: u32,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Ping {
        id: u32,
    },
    WindowUpdate {
        stream: u32,
        bytes: u32,
    },
    GoAway {
        last_stream: u32,
        code: u32,
    },
}

impl Frame {
    /// `block` is the compressed header block of a reply.
    pub fn write(&self, out: &mut BytesMut, block: &[u8]) {
        match self {
            Frame::Reply { stream } => {
                control(out, SYN_REPLY, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(block);
            }
            Frame::Data {
                stream,
                bytes,
                last,
            } => {
                out.put_u32(*stream);
                let flags = if *last { FLAG_FIN } else { 0 };
                out.put_u32(u32::from(flags) << 24 | bytes.len() as u32);
                out.put_slice(bytes);
            }
            Frame::Reset { stream, code } => {
                control(out, RST_STREAM, 8);
                out.put_u32(*stream);
                out.put_u32(*code);
            }
            Frame::Ping { id } => {
                control(out, PING, 4);
                out.put_u32(*id);
            }
            Frame::WindowUpdate { stream, bytes } => {
                control(out, WINDOW_UPDATE, 8);
                out.put_u32(*stream);
                out.put_u32(*bytes);
            }
            Frame::GoAway { last_stream, code } => {
                control(out, GOAWAY, 8);
                out.put_u32(*last_stream);
                out.put_u32(*code);
            }
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

pub(super) fn is_supported(version: u16) -> bool {
    version == VERSION
}
