//! One connection's state, for either side: its frames, its streams, its windows. Whoever drives the connection reads
//! and writes; whoever handles a stream takes from it and puts into its output, which is written once all had their turn.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Buf as _;
use http::Method;
use tokio::time::Instant;

use super::flow::{self, Window};
use super::frame::{self, Head, Reason, setting};
use super::hpack;
use super::message::{self, Limits};
use super::stream::{Lost, Stream};
use crate::h1::Transport;
use crate::number::NumberHashing;

mod receive;

/// Bytes that wait for the peer before streams have to wait, too.
pub const MAX_UNSENT_BYTES: usize = 64 * 1024;
/// With so much unsent nothing more is read: answers to pings and settings are bounded by that.
const MAX_UNSENT_CONTROL_BYTES: usize = 256 * 1024;
/// Streams whose late frames are expected, for we have reset them.
const MAX_REMEMBERED_RESETS: usize = 1024;
/// Streams that may end within [`EARLY_RESETS_PERIOD`] without having been answered, beside as many as were
/// (CVE-2023-44487). Envoy closes when half of 500 streams were reset early.
const MAX_EARLY_RESETS: u32 = 100;
const EARLY_RESETS_PERIOD: Duration = Duration::from_secs(1);

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer opens streams.
    Server,
    /// We do.
    Client,
}

/// What we allow.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Streams at a time that the peer may open.
    pub max_streams: u32,
    /// A stream's window, bytes.
    pub stream_window: u32,
    /// The connection's window, bytes.
    pub connection_window: u32,
    /// Whether CONNECT with `:protocol` is accepted.
    pub connect_protocol: bool,
    /// A head's limits.
    pub limits: Limits,
}

/// Why a connection broke.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Broken {
    /// The peer's fault.
    #[error("{1} ({0:?})")]
    Protocol(Reason, &'static str),
    /// The connection's.
    #[error("{0}")]
    Connection(io::ErrorKind),
    /// The peer does not answer pings.
    #[error("no answer to a ping")]
    Silent,
}

/// What is wrong with a frame.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection ends.
    Connection(Reason, &'static str),
    /// The stream is reset.
    Stream(u32, Reason),
}

/// A request that arrived.
pub struct Arrived {
    /// Its stream.
    pub stream: u32,
    /// Its head.
    pub request: message::Request,
    /// Nothing follows.
    pub ended: bool,
}

struct Reading {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// What the peer allows.
struct Peer {
    initial_window: i64,
    max_payload: usize,
    max_streams: u32,
}

/// A connection.
pub struct Connection {
    pub(super) transport: Transport,
    pub(super) role: Role,
    pub(super) options: Options,
    pub(super) encoder: hpack::Encoder,
    decoder: hpack::Decoder,
    pub(super) streams: HashMap<u32, Stream, NumberHashing>,
    /// Streams that the peer opened and did not reset.
    open: u32,
    preface: usize,
    settled: bool,
    /// The peer knows our settings.
    acknowledged: bool,
    reading: Option<Reading>,
    /// The newest stream that the peer opened.
    pub(super) newest: u32,
    /// The next one of ours; none when all are used up.
    next: Option<u32>,
    pub(super) send_window: Window,
    receive_window: Window,
    /// Taken by whoever reads, and not told to the peer yet.
    unreported: u32,
    peer: Peer,
    /// Streams that wait until more may be sent.
    pub(super) blocked: Vec<u32>,
    resets: VecDeque<u32>,
    early_resets: u32,
    early_resets_since: Option<Instant>,
    /// We said that streams beyond this are not served.
    going: Option<u32>,
    /// The peer said that.
    told_to_go: bool,
    ping_answered: bool,
    heard: bool,
    broken: Option<Broken>,
    arrived: Vec<Arrived>,
    driver: Option<Waker>,
    driving: bool,
}

impl Connection {
    /// A connection that begins; our settings wait in its output.
    #[must_use]
    pub fn new(transport: Transport, role: Role, options: Options) -> Self {
        let mut transport = transport;
        let out = &mut transport.output;
        let list = u32::try_from(options.limits.bytes).unwrap_or(u32::MAX);
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, options.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, list),
        ];
        if role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
            settings.push((setting::ENABLE_PUSH, 0));
        } else {
            settings.push((setting::MAX_CONCURRENT_STREAMS, options.max_streams));
            if options.connect_protocol {
                settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
            }
        }
        frame::put_settings(out, &settings);
        let mut receive_window = Window::new(frame::DEFAULT_WINDOW);
        let more = i64::from(options.connection_window) - frame::DEFAULT_WINDOW;
        if let Ok(more @ 1..) = u32::try_from(more) {
            frame::put_window_update(out, 0, more);
            receive_window.widen(more);
        }
        Self {
            transport,
            role,
            options,
            encoder: hpack::Encoder::new(),
            decoder: hpack::Decoder::new(hpack::TABLE_BYTES),
            streams: HashMap::default(),
            open: 0,
            preface: if role == Role::Server {
                frame::PREFACE.len()
            } else {
                0
            },
            settled: false,
            acknowledged: false,
            reading: None,
            newest: 0,
            next: Some(1),
            send_window: Window::new(frame::DEFAULT_WINDOW),
            receive_window,
            unreported: 0,
            peer: Peer {
                initial_window: frame::DEFAULT_WINDOW,
                max_payload: frame::MAX_PAYLOAD_BYTES,
                max_streams: u32::MAX,
            },
            blocked: Vec::new(),
            resets: VecDeque::new(),
            early_resets: 0,
            early_resets_since: None,
            going: None,
            told_to_go: false,
            ping_answered: false,
            heard: false,
            broken: None,
            arrived: Vec::new(),
            driver: None,
            driving: false,
        }
    }

    // ---- for whoever drives it ----

    /// Reads once and understands what came. 0 says that the peer ended; pending also while too much is unsent.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken));
        }
        if self.is_held() {
            return Poll::Pending;
        }
        let read = match ready!(self.transport.poll_fill(context)) {
            Ok(read) => read,
            Err(error) => return Poll::Ready(Err(self.fail(Broken::Connection(error.kind())))),
        };
        if read > 0 {
            self.heard = true;
            if let Err(broken) = self.understand() {
                return Poll::Ready(Err(broken));
            }
        }
        Poll::Ready(Ok(read))
    }

    /// Nothing is read while the peer takes nothing.
    pub(super) fn is_held(&self) -> bool {
        self.transport.unsent() > MAX_UNSENT_CONTROL_BYTES
    }

    /// Understands what was read.
    pub(super) fn understand(&mut self) -> Result<(), Broken> {
        // Taken out so that frames can be looked at where they are.
        let mut input = std::mem::take(&mut self.transport.input);
        let mut at = 0;
        let result = self.frames(&input, &mut at);
        input.advance(at);
        if !input.is_empty() {
            self.transport.input = input;
        }
        result.map_err(|(reason, what)| {
            frame::put_goaway(&mut self.transport.output, self.newest, reason);
            self.fail(Broken::Protocol(reason, what))
        })
    }

    fn frames(&mut self, input: &[u8], at: &mut usize) -> Result<(), (Reason, &'static str)> {
        if self.preface > 0 {
            let expected = &frame::PREFACE[frame::PREFACE.len() - self.preface..];
            let there = expected.len().min(input.len());
            if input[..there] != expected[..there] {
                return Err((Reason::PROTOCOL_ERROR, "the connection's preface is wrong"));
            }
            self.preface -= there;
            *at += there;
        }
        while let Some(head) = input[*at..].first_chunk() {
            let head = Head::read(head);
            if head.length > frame::MAX_PAYLOAD_BYTES {
                return Err((Reason::FRAME_SIZE_ERROR, "a frame is too long"));
            }
            let begin = *at + frame::HEAD_BYTES;
            let Some(payload) = input.get(begin..begin + head.length) else {
                break;
            };
            *at = begin + head.length;
            match self.frame(&head, payload) {
                Ok(()) => {}
                Err(Fault::Connection(reason, what)) => return Err((reason, what)),
                Err(Fault::Stream(stream, reason)) => {
                    self.early_reset()?;
                    self.reset(stream, reason);
                }
            }
        }
        Ok(())
    }

    /// Writes what waits; streams that waited for that are woken.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let result = self.transport.poll_flush(context);
        if self.transport.unsent() < MAX_UNSENT_BYTES && self.send_window.available() > 0 {
            self.unblock();
        }
        match ready!(result) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.fail(Broken::Connection(error.kind())))),
        }
    }

    /// Requests that arrived since.
    pub(super) fn take_arrived(&mut self, into: &mut Vec<Arrived>) {
        into.append(&mut self.arrived);
    }

    /// While the driver has its turn, it needs no waking.
    pub(super) fn driving(&mut self, context: Option<&mut Context<'_>>) {
        self.driving = context.is_some();
        if let Some(context) = context {
            match &mut self.driver {
                Some(waker) => waker.clone_from(context.waker()),
                None => self.driver = Some(context.waker().clone()),
            }
        }
    }

    /// Wakes the driver, when something is to be written.
    pub(super) fn touched(&mut self) {
        if !self.driving
            && let Some(waker) = &self.driver
        {
            // Once is enough until it has its turn.
            self.driving = true;
            waker.wake_by_ref();
        }
    }

    /// The connection is over: every stream hears it.
    pub(super) fn fail(&mut self, broken: Broken) -> Broken {
        if self.broken.is_none() {
            self.broken = Some(broken);
            for stream in self.streams.values_mut() {
                stream.lose(match broken {
                    Broken::Protocol(_, what) => Lost::Protocol(what),
                    Broken::Connection(kind) => Lost::Connection(kind),
                    Broken::Silent => Lost::Connection(io::ErrorKind::TimedOut),
                });
            }
        }
        broken
    }

    /// The peer ended its side.
    pub(super) fn ended(&mut self) {
        self.fail(Broken::Connection(io::ErrorKind::UnexpectedEof));
    }

    /// Gives buffers back.
    pub(super) fn rest(&mut self) {
        self.transport.rest();
        if self.streams.is_empty() {
            self.decoder.rest();
            self.streams.shrink_to(0);
        }
    }

    /// Something was read since this was asked last.
    pub(super) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self) {
        self.ping_answered = false;
        frame::put_ping(&mut self.transport.output, *b"trireme\0", false);
    }

    /// The last ping was answered.
    pub(super) fn ping_answered(&self) -> bool {
        self.ping_answered
    }

    /// Asks the peer to go. First without a limit, and with a ping: what it sent before it heard is served still.
    pub(super) fn ask_to_go(&mut self) {
        if self.going.is_none() {
            self.going = Some(frame::MAX_STREAM);
            frame::put_goaway(
                &mut self.transport.output,
                frame::MAX_STREAM,
                Reason::NO_ERROR,
            );
            self.ping();
        }
    }

    /// After [`Connection::ask_to_go`], once the ping is answered: streams from now on are not served.
    pub(super) fn close_to_new(&mut self) {
        if self.going == Some(frame::MAX_STREAM) {
            self.going = Some(self.newest);
            frame::put_goaway(&mut self.transport.output, self.newest, Reason::NO_ERROR);
        }
    }

    /// Whether the peer may not open, and we do not open, further streams.
    pub(super) fn is_closing(&self) -> bool {
        self.broken.is_some()
            || self.told_to_go
            || self.going.is_some_and(|last| last < frame::MAX_STREAM)
    }

    /// What the peer may send on a stream before it knows our settings.
    fn early_receive_window(&self) -> i64 {
        i64::from(self.options.stream_window).max(frame::DEFAULT_WINDOW)
    }

    fn stream(&self, method: Method) -> Stream {
        let receive = if self.acknowledged {
            i64::from(self.options.stream_window)
        } else {
            self.early_receive_window()
        };
        Stream::new(
            Window::new(self.peer.initial_window),
            Window::new(receive),
            method,
            self.role == Role::Server,
        )
    }

    // ---- for whoever opens streams ----

    /// Whether a stream can be opened.
    pub(super) fn is_open(&self) -> bool {
        self.broken.is_none() && !self.told_to_go && self.next.is_some()
    }

    /// Streams at a time that the peer allows.
    pub(super) fn max_streams(&self) -> u32 {
        self.peer.max_streams
    }

    /// Opens a stream for such a request.
    pub(super) fn open(&mut self, method: Method) -> Option<u32> {
        if !self.is_open() {
            return None;
        }
        let number = self.next?;
        self.next = number
            .checked_add(2)
            .filter(|next| *next <= frame::MAX_STREAM);
        let stream = self.stream(method);
        self.streams.insert(number, stream);
        Some(number)
    }

    // ---- for whoever handles a stream ----

    /// The most of a stream that may be sent now; 0 makes the stream wait.
    pub(super) fn sendable(&mut self, number: u32) -> usize {
        let unsent = self.transport.unsent();
        let Some(stream) = self.streams.get_mut(&number) else {
            return 0;
        };
        let own = stream.send_window.available();
        let room = MAX_UNSENT_BYTES.saturating_sub(unsent);
        let shared = self.send_window.available().min(room);
        let most = own.min(shared).min(self.peer.max_payload);
        // Its own window wakes it by itself.
        if own > 0 && most == 0 && !stream.blocked {
            stream.blocked = true;
            self.blocked.push(number);
        }
        most
    }

    fn unblock(&mut self) {
        for number in std::mem::take(&mut self.blocked) {
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.blocked = false;
                stream.wake();
            }
        }
    }

    /// Takes the bytes of a stream that were read into account, and tells the peer now and then.
    pub(super) fn consumed(&mut self, number: u32, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&number)
            && !stream.received
            && let Some(more) =
                flow::report(&mut stream.unreported, bytes, self.options.stream_window)
        {
            stream.receive_window.widen(more);
            frame::put_window_update(&mut self.transport.output, number, more);
            self.touched();
        }
        self.consumed_here(bytes);
    }

    fn consumed_here(&mut self, bytes: usize) {
        let window = self.options.connection_window;
        if let Some(more) = flow::report(&mut self.unreported, bytes, window) {
            self.receive_window.widen(more);
            frame::put_window_update(&mut self.transport.output, 0, more);
            self.touched();
        }
    }

    /// Resets a stream of which somebody may wait for more.
    pub(super) fn reset(&mut self, number: u32, reason: Reason) {
        if let Some(stream) = self.streams.get_mut(&number) {
            if stream.lost.is_some() {
                return;
            }
            let was_open = std::mem::take(&mut stream.counted);
            let dropped = stream.lose(Lost::Protocol("the stream's frames are against the rules"));
            self.open -= u32::from(was_open);
            self.consumed_here(dropped);
        }
        self.remember_reset(number, reason);
    }

    fn remember_reset(&mut self, number: u32, reason: Reason) {
        if self.resets.len() == MAX_REMEMBERED_RESETS {
            self.resets.pop_front();
        }
        self.resets.push_back(number);
        frame::put_reset(&mut self.transport.output, number, reason);
        self.touched();
    }

    /// Whoever handled a stream is done with it, or gave it up, then for such a reason.
    pub(super) fn release(&mut self, number: u32, given_up: Reason) {
        let Some(stream) = self.streams.remove(&number) else {
            return;
        };
        if stream.counted {
            self.open -= 1;
        }
        let queued = stream.queued_bytes();
        if queued > 0 {
            self.consumed_here(queued);
        }
        if stream.lost.is_none() && self.broken.is_none() {
            if !stream.sent {
                self.remember_reset(number, given_up);
            } else if !stream.received {
                // A response that does not need the rest of the request (§8.1), or a client that needs no more.
                let reason = match self.role {
                    Role::Server => Reason::NO_ERROR,
                    Role::Client => Reason::CANCEL,
                };
                self.remember_reset(number, reason);
            }
            if self.role == Role::Server && stream.sent {
                self.early_resets = self.early_resets.saturating_sub(1);
            }
        }
        if self.streams.is_empty() {
            // The driver may have waited for that.
            self.touched();
        }
    }

    /// One more stream ended before it was answered.
    fn early_reset(&mut self) -> Result<(), (Reason, &'static str)> {
        if self.role == Role::Server {
            let now = Instant::now();
            let period = self
                .early_resets_since
                .is_some_and(|since| now < since + EARLY_RESETS_PERIOD);
            if !period {
                (self.early_resets, self.early_resets_since) = (0, Some(now));
            }
            self.early_resets += 1;
            if self.early_resets > MAX_EARLY_RESETS {
                return Err((Reason::ENHANCE_YOUR_CALM, "too many streams were reset"));
            }
        }
        Ok(())
    }
}
