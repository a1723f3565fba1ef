//! Raw nfnetlink: what nft's text takes milliseconds for takes the kernel
//! microseconds.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::netlink::split_message;

pub(crate) const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;

const NESTED: u16 = libc::NLA_F_NESTED as u16;
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for the largest transaction in one send; see MAX_BATCH_ELEMENTS.
const SEND_BYTES: usize = 2 * 1024 * 1024;

/// Messages under construction.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub bytes: Vec<u8>,
    pub sequence: u32,
}

impl Messages {
    /// One message of an nfnetlink subsystem; `body` appends its attributes.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        body(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Appends an attribute.
pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

/// Appends a string attribute with its terminating zero.
pub(crate) fn string(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut with_zero = value.as_bytes().to_vec();
    with_zero.push(0);
    attribute(bytes, kind, &with_zero);
}

/// Appends an attribute that holds those `body` appends.
pub(crate) fn nested(bytes: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
    body(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A connection to the calling thread's network namespace.
pub(crate) struct Netfilter {
    socket: Socket,
}

impl Netfilter {
    pub fn open() -> io::Result<Netfilter> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netfilter { socket })
    }

    /// Sends all messages at once and waits for the answer to number `last`,
    /// which must ask for one. The first refusal is returned.
    pub fn transact(&mut self, messages: &Messages, last: u32) -> io::Result<()> {
        if messages.bytes.len() > 128 * 1024 {
            nix::sys::socket::setsockopt(
                &self.socket,
                nix::sys::socket::sockopt::SndBufForce,
                &SEND_BYTES,
            )?;
        }
        self.socket.send(&messages.bytes, 0)?;
        let mut refused = None;
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while let Some((header, body, next)) = split_message(rest) {
                rest = next;
                if i32::from(header.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                let code = error_code(body);
                if code != 0 && refused.is_none() {
                    refused = Some(io::Error::from_raw_os_error(-code));
                }
                if header.sequence >= last {
                    return refused.map_or(Ok(()), Err);
                }
                // A refusal of the whole batch names its beginning and is all
                // there will be.
                if header.sequence == 1
                    && let Some(error) = refused
                {
                    return Err(error);
                }
            }
        }
    }

    /// Sends one dump request and hands every answer's body to `each`.
    pub fn dump(&mut self, messages: &Messages, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.socket.send(&messages.bytes, 0)?;
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while let Some((header, body, next)) = split_message(rest) {
                rest = next;
                match i32::from(header.kind) {
                    libc::NLMSG_ERROR => {
                        let code = error_code(body);
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    libc::NLMSG_DONE => return Ok(()),
                    _ => each(body),
                }
            }
        }
    }
}

fn error_code(body: &[u8]) -> i32 {
    body.get(..4)
        .and_then(|code| code.try_into().ok())
        .map_or(0, i32::from_ne_bytes)
}
