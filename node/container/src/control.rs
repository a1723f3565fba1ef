//! The socket between the agent and a shim or helper it has started: JSON
//! packets, with descriptors beside them. It is the child's standard input, so
//! that starting a child needs neither `fork` nor inheritable descriptors.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::error::ContainerError;
use crate::exec::ExecStatus;
use crate::state::RunningState;

/// Longest packet: an error text with a path or two.
const PACKET_MAX_BYTES: usize = 64 * 1024;
/// stdin, stdout and stderr.
const PACKET_MAX_DESCRIPTORS: usize = 3;

/// What a container's shim says once about its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ShimReply {
    Started(RunningState),
    Failed(ContainerError),
}

/// What an exec helper says: `Started`, then `Exited`; or `Failed`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HelperReply {
    /// With the terminal's master where there is one.
    Started {
        pid: u32,
    },
    Exited(ExecStatus),
    Failed(ContainerError),
}

/// A connected pair of packet sockets, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut both = [0 as RawFd; 2];
    // SAFETY: `both` has room for the two descriptors the kernel returns.
    let result = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            both.as_mut_ptr(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just created and belong to nobody else.
    unsafe { Ok((OwnedFd::from_raw_fd(both[0]), OwnedFd::from_raw_fd(both[1]))) }
}

#[repr(C, align(8))]
struct ControlBuffer([u8; 128]);

/// Sends one packet with descriptors.
pub(crate) fn send(socket: RawFd, packet: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let mut vector = libc::iovec {
        iov_base: packet.as_ptr() as *mut _,
        iov_len: packet.len(),
    };
    let mut buffer = ControlBuffer([0; 128]);
    // SAFETY: every pointer in the header refers to a local that outlives the
    // call, and the control buffer is large enough for three descriptors.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let bytes = std::mem::size_of_val(descriptors) as u32;
            header.msg_control = buffer.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(bytes) as _;
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(bytes) as _;
            std::ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(message),
                bytes as usize,
            );
        }
        if libc::sendmsg(socket, &header, libc::MSG_NOSIGNAL) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Receives one packet; `None` at the end of the connection.
pub(crate) fn receive(socket: RawFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut packet = vec![0u8; PACKET_MAX_BYTES];
    let mut vector = libc::iovec {
        iov_base: packet.as_mut_ptr().cast(),
        iov_len: packet.len(),
    };
    let mut buffer = ControlBuffer([0; 128]);
    let mut descriptors = Vec::new();
    // SAFETY: as in `send`; received descriptors are owned at once.
    let count = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        header.msg_control = buffer.0.as_mut_ptr().cast();
        header.msg_controllen =
            libc::CMSG_SPACE((PACKET_MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) as _;
        let count = libc::recvmsg(socket, &mut header, libc::MSG_CMSG_CLOEXEC);
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                let bytes = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
        count as usize
    };
    if count == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    packet.truncate(count);
    Ok(Some((packet, descriptors)))
}

/// The agent's end.
pub(crate) struct ControlSocket {
    socket: AsyncFd<OwnedFd>,
}

impl ControlSocket {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        crate::terminal::set_nonblocking(socket.as_raw_fd())?;
        Ok(ControlSocket {
            // SAFETY: an `OwnedFd` keeps its descriptor open and the same.
            socket: unsafe { AsyncFd::register(socket)? },
        })
    }

    /// Sends descriptors with an empty order; the packet always fits.
    pub fn send_descriptors(&self, descriptors: &[RawFd]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), b"{}", descriptors)
    }

    /// The next packet, decoded; `None` when the other side has gone.
    /// Cancelling loses nothing.
    pub async fn receive<T: serde::de::DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.socket.readable().await?;
            match guard.try_io(|inner| receive(inner.as_raw_fd())) {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some((packet, descriptors)))) => {
                    let value = serde_json::from_slice(&packet)
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    return Ok(Some((value, descriptors)));
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_edges_and_carry_descriptors() {
        let (one, two) = pair().expect("pair");
        let file = std::fs::File::open("/dev/null").expect("open");
        send(one.as_raw_fd(), b"first", &[file.as_raw_fd(); 3]).expect("send");
        send(one.as_raw_fd(), b"second", &[]).expect("send");
        drop(one);
        let (packet, descriptors) = receive(two.as_raw_fd()).expect("receive").expect("packet");
        assert_eq!((packet.as_slice(), descriptors.len()), (&b"first"[..], 3));
        let (packet, descriptors) = receive(two.as_raw_fd()).expect("receive").expect("packet");
        assert_eq!((packet.as_slice(), descriptors.len()), (&b"second"[..], 0));
        assert!(receive(two.as_raw_fd()).expect("receive").is_none());
    }
}
