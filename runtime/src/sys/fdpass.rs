//! File descriptors across a unix socket (SCM_RIGHTS), and nothing about what they mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors that one message may carry here.
pub(crate) const MAX_FDS: usize = 3;

/// Sends `bytes`; `fds` travel with the first of them. Returns how many bytes went.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let data = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) => return Ok(sent),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reads into `buffer`; descriptors that came along are appended to `fds`, close-on-exec.
/// Returns 0 at the end of the stream.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut data = [IoSliceMut::new(buffer)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut control), flags) {
            Ok(message) => break message,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    for item in message.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(received) = item {
            for fd in received {
                // SAFETY:
                // - open: the kernel has just installed it in our table for this message;
                // - owned by nobody else: recvmsg hands each one out once, and this is the only
                //   place that looks at this control buffer.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok(message.bytes)
}

/// [`send`] until everything went.
pub(crate) fn send_all(
    socket: impl AsFd,
    mut bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut fds = fds;
    while !bytes.is_empty() {
        let sent = send(socket.as_fd(), bytes, fds)?;
        bytes = &bytes[sent..];
        fds = &[];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_with_the_first_byte() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        send_all(&left, b"line\n", &[write.as_fd()]).unwrap();
        drop(write);
        let mut fds = Vec::new();
        let mut first = [0u8; 1];
        assert_eq!(receive(right.as_fd(), &mut first, &mut fds).unwrap(), 1);
        assert_eq!((first[0], fds.len()), (b'l', 1));
        std::fs::File::from(fds.pop().unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }
}
