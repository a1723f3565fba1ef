//! What one side makes of octets of the other, without a socket or anybody who handles streams: for tests and fuzzing.

use std::collections::BTreeMap;

use bytes::BytesMut;
use http::Method;

use super::connection::{Broken, Connection, Options, Role};
use super::message::Request;
use crate::h1::Transport;

/// All that can be seen of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Understood {
    /// Requests in their order: stream, head, and whether nothing follows.
    pub requests: Vec<(u32, Request, bool)>,
    /// Streams as they are then, in words.
    pub streams: BTreeMap<u32, String>,
    /// All that the other side is sent.
    pub answers: Vec<u8>,
    /// What is against the rules.
    pub broken: Option<Broken>,
}

/// A server, by what a client sends in such pieces.
pub fn by_server<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, options: Options) -> Understood {
    read(Role::Server, &[], pieces, options)
}

/// A client that has sent such requests, by what a server sends in such pieces.
pub fn by_client<'a>(
    requests: &[Method],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    options: Options,
) -> Understood {
    read(Role::Client, requests, pieces, options)
}

fn read<'a>(
    role: Role,
    requests: &[Method],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    options: Options,
) -> Understood {
    let transport = Transport::new(Box::new(tokio::io::empty()), BytesMut::new());
    let mut connection = Connection::new(transport, role, options);
    for method in requests {
        let _ = connection.open(method.clone());
    }
    let mut arrived = Vec::new();
    let mut answers = std::mem::take(&mut connection.transport.output);
    let mut broken = None;
    for piece in pieces {
        connection.transport.input.extend_from_slice(piece);
        broken = connection.understand().err();
        connection.take_arrived(&mut arrived);
        answers.append(&mut connection.transport.output);
        if broken.is_some() {
            break;
        }
    }
    Understood {
        requests: arrived
            .into_iter()
            .map(|one| (one.stream, one.request, one.ended))
            .collect(),
        streams: connection
            .streams
            .iter()
            .map(|(number, stream)| (*number, format!("{stream:?}")))
            .collect(),
        answers,
        broken,
    }
}
