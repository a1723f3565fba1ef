//! Two connections joined: what arrives on one leaves on the other. Nothing is buffered unless the receiving side is
//! slower, and then one read at most.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::net::Stream;

/// One read takes at most this much, from a worker's buffer.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0_u8; READ_BYTES].into_boxed_slice());
}

/// One of the two connections.
pub struct Side {
    /// The connection.
    pub io: Stream,
    /// What is to be sent on it before anything else.
    pub unsent: Vec<u8>,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides ended.
    Finished,
    /// The first side failed.
    FirstFailed(io::ErrorKind),
    /// The second side failed.
    SecondFailed(io::ErrorKind),
    /// Nothing moved for too long.
    Idle,
}

/// Counts what moves.
pub trait Count {
    /// So many bytes went from the first side to the second.
    fn forth(&mut self, bytes: u64);
    /// So many bytes went from the second side to the first.
    fn back(&mut self, bytes: u64);
}

/// Counts nothing.
pub struct Uncounted;

impl Count for Uncounted {
    fn forth(&mut self, _bytes: u64) {}
    fn back(&mut self, _bytes: u64) {}
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Ending,
    Ended,
}

enum Fault {
    Reading(io::ErrorKind),
    Writing(io::ErrorKind),
}

/// Moves bytes one way until it would wait. Ready when this way has ended.
fn poll_flow(
    context: &mut Context<'_>,
    flow: &mut Flow,
    from: &mut Stream,
    to: &mut Stream,
    unsent: &mut Vec<u8>,
    moved: &mut u64,
) -> Poll<Result<(), Fault>> {
    let writing = |error: io::Error| Fault::Writing(error.kind());
    loop {
        let mut sent = 0;
        while sent < unsent.len() {
            match Pin::new(&mut *to).poll_write(context, &unsent[sent..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Fault::Writing(io::ErrorKind::WriteZero)));
                }
                Poll::Ready(Ok(written)) => sent += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(writing(error))),
                Poll::Pending => {
                    unsent.drain(..sent);
                    return Poll::Pending;
                }
            }
        }
        if sent > 0 {
            *unsent = Vec::new();
        }
        match flow {
            Flow::Open => {}
            Flow::Ending => {
                ready!(Pin::new(&mut *to).poll_shutdown(context)).map_err(writing)?;
                *flow = Flow::Ended;
                return Poll::Ready(Ok(()));
            }
            Flow::Ended => return Poll::Ready(Ok(())),
        }
        ready!(Pin::new(&mut *to).poll_flush(context)).map_err(writing)?;
        let read = ready!(poll_pass(context, from, to, unsent))?;
        *moved += read as u64;
        if read == 0 {
            *flow = Flow::Ending;
        }
    }
}

/// Reads once and writes as much of it as the other side takes; the rest is kept. 0 says that the reading side ended.
fn poll_pass(
    context: &mut Context<'_>,
    from: &mut Stream,
    to: &mut Stream,
    unsent: &mut Vec<u8>,
) -> Poll<Result<usize, Fault>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(context, &mut buffer))
            .map_err(|error| Fault::Reading(error.kind()))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = match Pin::new(to).poll_write(context, read) {
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(Fault::Writing(io::ErrorKind::WriteZero)));
            }
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Writing(error.kind()))),
            Poll::Pending => 0,
        };
        unsent.extend_from_slice(&read[sent..]);
        Poll::Ready(Ok(read.len()))
    })
}

/// Joins two connections until both have ended, one fails, or nothing moved for `idle_timeout`.
pub async fn join(
    first: Side,
    second: Side,
    idle_timeout: Option<Duration>,
    count: &mut dyn Count,
) -> Outcome {
    let (mut first, mut second) = (first, second);
    let (mut forth, mut back) = (Flow::Open, Flow::Open);
    let mut deadline = Deadline::new();
    deadline.set(idle_timeout.map(|timeout| Instant::now() + timeout));
    std::future::poll_fn(|context| {
        let (mut sent, mut received) = (0, 0);
        let going = poll_flow(
            context,
            &mut forth,
            &mut first.io,
            &mut second.io,
            &mut second.unsent,
            &mut sent,
        );
        let coming = poll_flow(
            context,
            &mut back,
            &mut second.io,
            &mut first.io,
            &mut first.unsent,
            &mut received,
        );
        if sent > 0 {
            count.forth(sent);
        }
        if received > 0 {
            count.back(received);
        }
        match (going, coming) {
            (Poll::Ready(Err(Fault::Reading(kind))), _)
            | (_, Poll::Ready(Err(Fault::Writing(kind)))) => {
                return Poll::Ready(Outcome::FirstFailed(kind));
            }
            (Poll::Ready(Err(Fault::Writing(kind))), _)
            | (_, Poll::Ready(Err(Fault::Reading(kind)))) => {
                return Poll::Ready(Outcome::SecondFailed(kind));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Outcome::Finished),
            _ => {}
        }
        if sent + received > 0 {
            deadline.set(idle_timeout.map(|timeout| Instant::now() + timeout));
        }
        deadline.poll(context).map(|()| Outcome::Idle)
    })
    .await
}
