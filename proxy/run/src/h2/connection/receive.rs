//! Frames as they come, one by one, against RFC 9113 §6: what each does to the connection and its streams.

use bytes::Bytes;
use http::StatusCode;

use super::{Arrived, Connection, Fault, Reading, Role};
use crate::h2::frame::{self, Head, Reason, flag, kind, setting};
use crate::h2::message::{Block, Refusal};
use crate::h2::stream::Lost;

/// CONTINUATION frames of one block: more than 60 KiB of headers need fewer, empty ones are an attack
/// (CVE-2024-27316).
const MAX_CONTINUATIONS: u32 = 16;
/// A block's bytes as they come, beside the limit of what they mean: fields shrink when they are coded.
const BLOCK_OVERHEAD_BYTES: usize = 16 * 1024;
/// Settings in one frame that are looked at; there are eight.
const MAX_SETTINGS: usize = 64;

fn number(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.try_into().ok()?))
}

/// Takes padding off (§6.1). None when it is longer than what it pads.
fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

const fn fault(reason: Reason, what: &'static str) -> Fault {
    Fault::Connection(reason, what)
}

impl Connection {
    pub(super) fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if !self.settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(fault(
                Reason::PROTOCOL_ERROR,
                "the first frame is not SETTINGS",
            ));
        }
        if let Some(reading) = &self.reading
            && (head.kind != kind::CONTINUATION || head.stream != reading.stream)
        {
            return Err(fault(
                Reason::PROTOCOL_ERROR,
                "a frame within a block of headers",
            ));
        }
        match head.kind {
            kind::DATA => self.data(head, payload),
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::PRIORITY => {
                if head.stream == 0 {
                    return Err(fault(Reason::PROTOCOL_ERROR, "PRIORITY of no stream"));
                }
                // Priorities were withdrawn (§5.3); a wrong length is an error still.
                if payload.len() != 5 {
                    return Err(fault(Reason::FRAME_SIZE_ERROR, "PRIORITY is not 5 octets"));
                }
                Ok(())
            }
            kind::RST_STREAM => self.reset_by_peer(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PUSH_PROMISE => Err(fault(Reason::PROTOCOL_ERROR, "PUSH_PROMISE")),
            kind::PING => {
                let payload = payload
                    .try_into()
                    .map_err(|_| fault(Reason::FRAME_SIZE_ERROR, "PING is not 8 octets"))?;
                if head.stream != 0 {
                    return Err(fault(Reason::PROTOCOL_ERROR, "PING of a stream"));
                }
                if head.has(flag::ACK) {
                    self.ping_answered = true;
                } else {
                    frame::put_ping(&mut self.transport.output, payload, true);
                }
                Ok(())
            }
            kind::GOAWAY => self.goaway(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            // Extensions are passed over (§5.5).
            _ => Ok(()),
        }
    }

    /// A stream that nobody opened yet.
    fn is_idle(&self, number: u32) -> bool {
        match self.role {
            Role::Server => number.is_multiple_of(2) || number > self.newest,
            Role::Client => {
                number.is_multiple_of(2) || self.next.is_some_and(|next| number >= next)
            }
        }
    }

    fn data(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let number = head.stream;
        if number == 0 || self.is_idle(number) {
            return Err(fault(Reason::PROTOCOL_ERROR, "DATA of no stream"));
        }
        // All of the payload counts, padding included (§6.9.1).
        let bytes = payload.len();
        if !self.receive_window.take(bytes) {
            return Err(fault(
                Reason::FLOW_CONTROL_ERROR,
                "more than the window of the connection",
            ));
        }
        let data = unpadded(head, payload).ok_or(fault(
            Reason::PROTOCOL_ERROR,
            "padding is longer than its frame",
        ))?;
        let Some(stream) = self
            .streams
            .get_mut(&number)
            .filter(|one| one.lost.is_none())
        else {
            // Read by nobody.
            self.consumed_here(bytes);
            return self.late(number);
        };
        if stream.received || !stream.headed {
            let reason = if stream.received {
                Reason::STREAM_CLOSED
            } else {
                Reason::PROTOCOL_ERROR
            };
            self.consumed_here(bytes);
            return Err(Fault::Stream(number, reason));
        }
        let fits = stream.receive_window.take(bytes);
        if !fits || !stream.counts(data.len(), head.has(flag::END_STREAM)) {
            self.consumed_here(bytes);
            let reason = if fits {
                Reason::PROTOCOL_ERROR
            } else {
                Reason::FLOW_CONTROL_ERROR
            };
            return Err(Fault::Stream(number, reason));
        }
        let kept = if stream.discards { 0 } else { data.len() };
        if kept > 0 {
            // A copy: a piece must not hold all that was read with it.
            stream.queue(Bytes::copy_from_slice(data));
        }
        if head.has(flag::END_STREAM) {
            stream.received = true;
        }
        stream.wake();
        if bytes > kept {
            // Nobody reads padding.
            if stream.discards {
                self.consumed_here(bytes);
            } else {
                self.consumed(number, bytes - kept);
            }
        }
        Ok(())
    }

    /// A frame of a stream that is over: expected where we have reset it, and as long as the peer may not know yet.
    fn late(&mut self, number: u32) -> Result<(), Fault> {
        if self.role == Role::Client
            || self.resets.contains(&number)
            || self.streams.contains_key(&number)
        {
            return Ok(());
        }
        Err(fault(
            Reason::STREAM_CLOSED,
            "a frame of a stream that is closed",
        ))
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let number = head.stream;
        if number == 0
            || number.is_multiple_of(2)
            || (self.role == Role::Client && self.is_idle(number))
        {
            return Err(fault(Reason::PROTOCOL_ERROR, "HEADERS of no stream"));
        }
        let mut block = unpadded(head, payload).ok_or(fault(
            Reason::PROTOCOL_ERROR,
            "padding is longer than its frame",
        ))?;
        if head.has(flag::PRIORITY) {
            block = block
                .get(5..)
                .ok_or(fault(Reason::FRAME_SIZE_ERROR, "HEADERS are too short"))?;
        }
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(number, end_stream, block);
        }
        self.reading = Some(Reading {
            stream: number,
            end_stream,
            bytes: block.to_vec(),
            continuations: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut reading) = self.reading.take() else {
            return Err(fault(Reason::PROTOCOL_ERROR, "CONTINUATION of no headers"));
        };
        reading.continuations += 1;
        let most = self.options.limits.bytes + BLOCK_OVERHEAD_BYTES;
        if reading.continuations > MAX_CONTINUATIONS || reading.bytes.len() + payload.len() > most {
            return Err(fault(
                Reason::ENHANCE_YOUR_CALM,
                "a block of headers is too large",
            ));
        }
        reading.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(reading.stream, reading.end_stream, &reading.bytes);
        }
        self.reading = Some(reading);
        Ok(())
    }

    /// A whole block of headers. It is read in any case: the tables must stay in step.
    fn block(&mut self, number: u32, end_stream: bool, bytes: &[u8]) -> Result<(), Fault> {
        let mut block = Block::new(self.options.limits);
        self.decoder
            .decode(bytes, |field, bytes| block.add(field, bytes))
            .map_err(|_| {
                fault(
                    Reason::COMPRESSION_ERROR,
                    "a block of headers cannot be read",
                )
            })?;
        let Some(stream) = self.streams.get_mut(&number) else {
            if self.role == Role::Server && number > self.newest {
                return self.request(number, end_stream, block);
            }
            return self.late(number);
        };
        if stream.lost.is_some() {
            return Ok(());
        }
        if stream.received {
            return Err(Fault::Stream(number, Reason::STREAM_CLOSED));
        }
        let malformed = |_| Fault::Stream(number, Reason::PROTOCOL_ERROR);
        if stream.headed {
            let trailers = block.trailers().map_err(malformed)?;
            if !end_stream || !stream.counts(0, true) {
                return Err(Fault::Stream(number, Reason::PROTOCOL_ERROR));
            }
            stream.trailers = Some(Box::new(trailers));
        } else {
            let response = block.response(&stream.method).map_err(malformed)?;
            if response.status.is_informational() {
                if end_stream || !stream.informational() {
                    return Err(Fault::Stream(number, Reason::PROTOCOL_ERROR));
                }
                return Ok(());
            }
            stream.remaining = response.length;
            if end_stream && !stream.counts(0, true) {
                return Err(Fault::Stream(number, Reason::PROTOCOL_ERROR));
            }
            stream.answer(response.status, response.headers);
        }
        stream.received = end_stream;
        stream.wake();
        Ok(())
    }

    fn request(&mut self, number: u32, end_stream: bool, block: Block) -> Result<(), Fault> {
        if self.going.is_some_and(|last| number > last) {
            // Said so; the peer sends it elsewhere.
            return Ok(());
        }
        self.newest = number;
        if self.open >= self.options.max_streams {
            return Err(Fault::Stream(number, Reason::REFUSED_STREAM));
        }
        let request = match block.request(self.options.connect_protocol) {
            Ok(request) => request,
            Err(Refusal::Malformed(_)) => {
                return Err(Fault::Stream(number, Reason::PROTOCOL_ERROR));
            }
            Err(Refusal::TooLarge) => {
                let out = &mut self.transport.output;
                let at = frame::begin_headers(out);
                self.encoder.begin(out);
                self.encoder
                    .status(out, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                frame::finish_headers(out, at, number, true);
                return if end_stream {
                    Ok(())
                } else {
                    Err(Fault::Stream(number, Reason::NO_ERROR))
                };
            }
        };
        let mut stream = self.stream(request.method.clone());
        stream.remaining = request.length;
        if end_stream && !stream.counts(0, true) {
            return Err(Fault::Stream(number, Reason::PROTOCOL_ERROR));
        }
        stream.received = end_stream;
        stream.counted = true;
        self.open += 1;
        self.streams.insert(number, stream);
        self.arrived.push(Arrived {
            stream: number,
            request,
            ended: end_stream,
        });
        Ok(())
    }

    fn reset_by_peer(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let reason = number(payload).map(Reason).ok_or(fault(
            Reason::FRAME_SIZE_ERROR,
            "RST_STREAM is not 4 octets",
        ))?;
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(fault(Reason::PROTOCOL_ERROR, "RST_STREAM of no stream"));
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return Ok(());
        };
        if stream.lost.is_some() {
            return Ok(());
        }
        let early = !stream.sent && !stream.answered;
        let was_open = std::mem::take(&mut stream.counted);
        let dropped = stream.lose(if reason == Reason::REFUSED_STREAM {
            Lost::Refused
        } else {
            Lost::Reset(reason)
        });
        self.open -= u32::from(was_open);
        self.consumed_here(dropped);
        if early {
            self.early_reset()
                .map_err(|(reason, what)| fault(reason, what))?;
        }
        Ok(())
    }

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(fault(Reason::PROTOCOL_ERROR, "SETTINGS of a stream"));
        }
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(fault(
                    Reason::FRAME_SIZE_ERROR,
                    "SETTINGS' acknowledgement has a payload",
                ));
            }
            if !std::mem::replace(&mut self.acknowledged, true) {
                let less = self.early_receive_window() - i64::from(self.options.stream_window);
                for stream in self.streams.values_mut() {
                    let _ = stream.receive_window.change(-less);
                }
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(fault(
                Reason::FRAME_SIZE_ERROR,
                "SETTINGS are not 6 octets each",
            ));
        }
        if payload.len() / 6 > MAX_SETTINGS {
            return Err(fault(Reason::ENHANCE_YOUR_CALM, "too many settings"));
        }
        self.settled = true;
        for one in payload.chunks_exact(6) {
            let (name, value) = one.split_at(2);
            let name = u16::from_be_bytes([name[0], name[1]]);
            let value = number(value).unwrap_or(0);
            match name {
                setting::HEADER_TABLE_SIZE => {
                    self.encoder
                        .allow(usize::try_from(value).unwrap_or(usize::MAX));
                }
                setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                    return Err(fault(
                        Reason::PROTOCOL_ERROR,
                        "ENABLE_PUSH is out of bounds",
                    ));
                }
                setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
                setting::MAX_FRAME_SIZE => {
                    let value = usize::try_from(value).unwrap_or(usize::MAX);
                    if !(16_384..=16_777_215).contains(&value) {
                        return Err(fault(
                            Reason::PROTOCOL_ERROR,
                            "MAX_FRAME_SIZE is out of bounds",
                        ));
                    }
                    self.peer.max_payload = value.min(frame::MAX_PAYLOAD_BYTES);
                }
                setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                    return Err(fault(
                        Reason::PROTOCOL_ERROR,
                        "ENABLE_CONNECT_PROTOCOL is out of bounds",
                    ));
                }
                _ => {}
            }
        }
        frame::put_head(&mut self.transport.output, 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    /// The peer's streams have such a window from now on, those under way, too; it may become negative (§6.9.2).
    fn initial_window(&mut self, value: u32) -> Result<(), Fault> {
        let overflow = fault(Reason::FLOW_CONTROL_ERROR, "a window is too large");
        let value = i64::from(value);
        if value > frame::MAX_WINDOW {
            return Err(overflow);
        }
        let change = value - self.peer.initial_window;
        self.peer.initial_window = value;
        for stream in self.streams.values_mut() {
            if !stream.send_window.change(change) {
                return Err(overflow);
            }
            stream.wake();
        }
        Ok(())
    }

    fn window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let more = number(payload).ok_or(fault(
            Reason::FRAME_SIZE_ERROR,
            "WINDOW_UPDATE is not 4 octets",
        ))? & frame::MAX_STREAM;
        if head.stream == 0 {
            if more == 0 {
                return Err(fault(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing"));
            }
            if !self.send_window.change(i64::from(more)) {
                return Err(fault(Reason::FLOW_CONTROL_ERROR, "a window is too large"));
            }
            self.unblock();
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return Err(fault(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE of no stream"));
        }
        let Some(stream) = self
            .streams
            .get_mut(&head.stream)
            .filter(|one| one.lost.is_none())
        else {
            return Ok(());
        };
        if more == 0 {
            return Err(Fault::Stream(head.stream, Reason::PROTOCOL_ERROR));
        }
        if !stream.send_window.change(i64::from(more)) {
            return Err(Fault::Stream(head.stream, Reason::FLOW_CONTROL_ERROR));
        }
        stream.wake();
        Ok(())
    }

    fn goaway(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(fault(Reason::PROTOCOL_ERROR, "GOAWAY of a stream"));
        }
        let last = payload
            .get(..8)
            .and_then(|begin| number(&begin[..4]))
            .ok_or(fault(Reason::FRAME_SIZE_ERROR, "GOAWAY is too short"))?
            & frame::MAX_STREAM;
        self.told_to_go = true;
        if self.role == Role::Client {
            // Those were not looked at, so they may be sent elsewhere (§6.8).
            for (number, stream) in &mut self.streams {
                if *number > last && stream.lost.is_none() {
                    stream.lose(Lost::Refused);
                }
            }
        }
        Ok(())
    }
}
