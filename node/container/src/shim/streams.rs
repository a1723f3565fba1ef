//! What flows through a shim: the container's output to its log and to
//! attached clients, the clients' input to the container.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use jiff::Timestamp;

use crate::attach::{
    FRAME_HEADER_BYTES, FRAME_MAX_BYTES, FRAME_RESIZE, FRAME_STDERR, FRAME_STDIN,
    FRAME_STDIN_CLOSE, FRAME_STDOUT, frame,
};
use crate::exec::TerminalSize;
use crate::shim::log::{LineCutter, LogFile};
use crate::terminal;

/// Output a client may fall behind before it is cut off: the container's
/// output must not wait for it.
const CLIENT_QUEUE_BYTES: usize = 1024 * 1024;
/// Clients of one container at a time.
const CLIENTS_MAX: usize = 16;
/// Input held for a container that does not read; clients wait beyond it.
const STDIN_QUEUE_BYTES: usize = 64 * 1024;
/// One read from the container: a pipe's whole capacity.
const READ_BYTES: usize = 64 * 1024;

/// Listens at a name in a directory, however long the directory's path.
pub(crate) fn bind_in(directory: &Path, name: &str) -> std::io::Result<UnixListener> {
    let handle = std::fs::File::open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))
}

/// One output stream of the container.
pub(crate) struct Output {
    pub descriptor: OwnedFd,
    kind: u8,
    cutter: LineCutter,
}

impl Output {
    pub fn stdout(descriptor: OwnedFd) -> Self {
        Output {
            descriptor,
            kind: FRAME_STDOUT,
            cutter: LineCutter::new("stdout"),
        }
    }

    pub fn stderr(descriptor: OwnedFd) -> Self {
        Output {
            descriptor,
            kind: FRAME_STDERR,
            cutter: LineCutter::new("stderr"),
        }
    }

    /// Passes on what is there; false when the stream has ended.
    pub fn pump(&mut self, log: &mut LogFile, clients: &mut [Client]) -> bool {
        let mut buffer = vec![0u8; READ_BYTES];
        // SAFETY: the buffer is valid for writes of its length.
        let count = unsafe {
            libc::read(
                self.descriptor.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        if count > 0 {
            let bytes = &buffer[..count as usize];
            log.write(&self.cutter.push(bytes, Timestamp::now()));
            for client in clients.iter_mut() {
                client.queue(&frame(self.kind, bytes));
            }
            return true;
        }
        let again = count < 0
            && matches!(
                std::io::Error::last_os_error().kind(),
                ErrorKind::WouldBlock | ErrorKind::Interrupted
            );
        if !again {
            log.write(&self.cutter.finish(Timestamp::now()));
        }
        again
    }

    /// What is left of a line when the shim stops reading.
    pub fn finish(&mut self, log: &mut LogFile) {
        log.write(&self.cutter.finish(Timestamp::now()));
    }
}

/// The container's standard input, or the terminal's master.
pub(crate) struct Input {
    descriptor: Option<OwnedFd>,
    queue: VecDeque<u8>,
    closing: bool,
    once: bool,
    pub is_terminal: bool,
}

impl Input {
    pub fn new(descriptor: Option<OwnedFd>, once: bool, is_terminal: bool) -> Self {
        Input {
            descriptor,
            queue: VecDeque::new(),
            closing: false,
            once,
            is_terminal,
        }
    }

    /// Where to write, while there is something to write.
    pub fn wants_write(&self) -> Option<RawFd> {
        let descriptor = self.descriptor.as_ref()?;
        (!self.queue.is_empty()).then_some(descriptor.as_raw_fd())
    }

    pub fn is_full(&self) -> bool {
        self.queue.len() >= STDIN_QUEUE_BYTES
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.descriptor.is_some() && !self.closing {
            self.queue.extend(bytes);
        }
    }

    /// A client has closed its stdin.
    fn client_closed(&mut self) {
        if self.once && !self.is_terminal {
            self.closing = true;
            self.flush();
        }
    }

    fn resize(&self, size: TerminalSize) {
        if let (true, Some(master)) = (self.is_terminal, &self.descriptor) {
            terminal::set_size(master, size);
        }
    }

    pub fn flush(&mut self) {
        while let (Some(descriptor), false) = (&self.descriptor, self.queue.is_empty()) {
            let (front, _) = self.queue.as_slices();
            // SAFETY: `front` is valid for reads of its length.
            let count =
                unsafe { libc::write(descriptor.as_raw_fd(), front.as_ptr().cast(), front.len()) };
            if count > 0 {
                self.queue.drain(..count as usize);
                continue;
            }
            match std::io::Error::last_os_error().kind() {
                ErrorKind::WouldBlock => return,
                ErrorKind::Interrupted => {}
                // The container has closed its stdin: nobody will read.
                _ => {
                    self.queue.clear();
                    self.descriptor = None;
                }
            }
        }
        if self.closing && self.queue.is_empty() {
            self.descriptor = None;
        }
    }
}

/// An attached client.
pub(crate) struct Client {
    pub stream: UnixStream,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    closed_stdin: bool,
    pub gone: bool,
}

/// Takes a new client, unless there are too many.
pub(crate) fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    while let Ok((stream, _)) = listener.accept() {
        if clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
            continue;
        }
        clients.push(Client {
            stream,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            closed_stdin: false,
            gone: false,
        });
    }
}

impl Client {
    fn queue(&mut self, bytes: &[u8]) {
        if self.outgoing.len() + bytes.len() > CLIENT_QUEUE_BYTES {
            self.gone = true;
            return;
        }
        self.outgoing.extend(bytes);
        self.flush();
    }

    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn flush(&mut self) {
        while !self.gone && !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
    }

    /// Reads once and acts on every whole frame.
    pub fn receive(&mut self, input: &mut Input) {
        let mut buffer = [0u8; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(count) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                self.act(input);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
        if self.gone {
            self.close_stdin(input);
        }
    }

    fn close_stdin(&mut self, input: &mut Input) {
        if !self.closed_stdin {
            self.closed_stdin = true;
            input.client_closed();
        }
    }

    fn act(&mut self, input: &mut Input) {
        let mut used = 0;
        while let Some(header) = self.incoming.get(used..used + FRAME_HEADER_BYTES) {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let kind = header[0];
            if length > FRAME_MAX_BYTES {
                self.gone = true;
                break;
            }
            let start = used + FRAME_HEADER_BYTES;
            let Some(data) = self.incoming.get(start..start + length) else {
                break;
            };
            used = start + length;
            match kind {
                FRAME_STDIN => input.push(data),
                FRAME_STDIN_CLOSE => {
                    if !self.closed_stdin {
                        self.closed_stdin = true;
                        input.client_closed();
                    }
                }
                FRAME_RESIZE if length == 4 => input.resize(TerminalSize {
                    columns: u16::from_be_bytes([data[0], data[1]]),
                    rows: u16::from_be_bytes([data[2], data[3]]),
                }),
                _ => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.incoming.drain(..used);
        input.flush();
    }
}
