//! Pseudo-terminals: the master's size, and its async form.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exec::TerminalSize;

/// TIOCSWINSZ; a terminal that is gone is no error.
pub(crate) fn set_size(master: &impl AsRawFd, size: TerminalSize) {
    let window = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `window` outlives the call and has the type the request reads.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &window) };
}

pub(crate) fn set_nonblocking(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls on a descriptor the caller holds.
    unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        if flags < 0 || libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// One direction of a terminal's master.
pub(crate) struct PtyStream {
    master: AsyncFd<OwnedFd>,
}

impl PtyStream {
    pub fn new(master: &Arc<OwnedFd>) -> io::Result<Self> {
        let own = master.try_clone()?;
        set_nonblocking(own.as_raw_fd())?;
        Ok(PtyStream {
            // SAFETY: an `OwnedFd` keeps its descriptor open and the same.
            master: unsafe { AsyncFd::register(own)? },
        })
    }
}

impl AsyncRead for PtyStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            let result = guard.try_io(|inner| {
                // SAFETY: `space` is valid for writes of its length.
                let count = unsafe {
                    libc::read(inner.as_raw_fd(), space.as_mut_ptr().cast(), space.len())
                };
                if count >= 0 {
                    Ok(count as usize)
                } else {
                    Err(io::Error::last_os_error())
                }
            });
            match result {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // How a master says that the last slave is closed.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for PtyStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            let result = guard.try_io(|inner| {
                // SAFETY: `bytes` is valid for reads of its length.
                let count =
                    unsafe { libc::write(inner.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
                if count >= 0 {
                    Ok(count as usize)
                } else {
                    Err(io::Error::last_os_error())
                }
            });
            match result {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
