//! One stream type for TCP, TLS and Unix sockets.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::owner::owner_of;

pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Whether the peer has closed its side and everything it sent has been read. Asks the kernel.
    pub fn is_at_end(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.as_fd().as_raw_fd(), &mut [0], flags) {
            Ok(unread) => unread == 0,
            Err(why) => why != Errno::EAGAIN && why != Errno::EINTR,
        }
    }

    /// What has arrived and was not read yet, at most `most` bytes of it; nothing at the end. The kernel is asked:
    /// the event loop may not have heard of it. `None`: nothing has arrived.
    pub async fn unread(&mut self, most: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; most];
        if let Stream::Tls(stream) = self {
            // Not all that arrives is for us, so it has to be read.
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = poll_fn(|cx| match Pin::new(&mut **stream).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => Poll::Ready(read.map(Some)),
                Poll::Pending => Poll::Ready(Ok(None)),
            });
            return Ok(read.await?.map(|()| buffer.filled().to_vec()));
        }
        match recv(self.as_fd().as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(count) => {
                bytes.truncate(count);
                Ok(Some(bytes))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// The user whose process is at the other end, where it is on this machine and the system tells.
    pub fn peer_user(&self) -> Option<u32> {
        let stream = match self {
            Stream::Tcp(stream) => stream,
            // A certificate says more than a number.
            Stream::Tls(_) | Stream::Unix(_) => return None,
        };
        owner_of(stream.peer_addr().ok()?, stream.local_addr().ok()?)
    }

    /// Whether written bytes need a flush to leave.
    pub fn keeps_written_bytes(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Whether the peer is known to have closed its side, read or not.
    pub fn is_read_closed(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let ready = match self {
            Stream::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut context),
            Stream::Tls(stream) => pin!(stream.get_ref().0.ready(Interest::READABLE)).poll(&mut context),
            Stream::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(&mut context),
        };
        match ready {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.get_ref().0.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
