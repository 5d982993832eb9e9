//! A client that speaks lines over any stream: TLS, a Unix socket, or TCP with one descriptor only.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::house::CEILING;

pub struct Lines<S: Read + Write> {
    reader: BufReader<S>,
}

impl<S: Read + Write> Lines<S> {
    pub fn new(stream: S) -> Lines<S> {
        Lines { reader: BufReader::new(stream) }
    }

    pub fn stream(&mut self) -> &mut S {
        self.reader.get_mut()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let stream = self.reader.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).expect("the server reads");
    }

    /// The same to a server that may be leaving.
    pub fn send_if_it_goes(&mut self, bytes: &[u8]) {
        let stream = self.reader.get_mut();
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
    }

    /// One line without its end; `None` at the end of the connection, however it ends.
    pub fn try_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Some(String::from_utf8_lossy(&line).into_owned())
            }
            Ok(0) => None,
            Ok(_) => panic!("half a line: {:?}", String::from_utf8_lossy(&line)),
            Err(why) if is_an_end(why.kind()) => None,
            Err(why) => panic!("reading a line: {why}"),
        }
    }

    pub fn line(&mut self) -> String {
        self.try_line().expect("a line, not the end of the connection")
    }

    /// One request and its answer.
    pub fn ask(&mut self, command: &str, key: &str, argument: &str) -> String {
        self.send(format!("{command}\n{key}\n{argument}\n").as_bytes());
        self.line()
    }

    /// Takes a lock that must be free or become so; returns its token.
    pub fn take(&mut self, key: &str, argument: &str) -> String {
        let answer = self.ask("l", key, argument);
        let token = answer.strip_prefix("ok ").and_then(|rest| rest.split(' ').next());
        token.unwrap_or_else(|| panic!("l {key} {argument}: {answer}")).to_owned()
    }

    /// Whatever comes until the end of the connection, however it ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(why) if is_an_end(why.kind()) => rest,
            Err(why) => panic!("waiting for the end: {why}"),
        }
    }
}

/// Over TLS a connection may also end without the good-bye of TLS.
fn is_an_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe)
}

/// A TCP connection that waits for nothing longer than the ceiling.
pub fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|why| panic!("connecting to {address}: {why}"));
    stream.set_nodelay(true).expect("nodelay");
    bound(&stream);
    stream
}

/// A connection that comes from another address than 127.0.0.1; `None` where there is no such address.
pub fn tcp_from(local: [u8; 4], address: &str) -> Option<Lines<TcpStream>> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let [a, b, c, d] = local;
    bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).ok()?;
    let to: SocketAddrV4 = address.parse().expect("an address");
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("the server accepts");
    let stream = TcpStream::from(fd);
    bound(&stream);
    Some(Lines::new(stream))
}

pub fn bound(stream: &TcpStream) {
    stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
    stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
}

/// A connection to a socket file, with or without `unix:` in front.
pub fn unix(path: &str) -> Lines<UnixStream> {
    let path = path.strip_prefix("unix:").unwrap_or(path);
    let stream = UnixStream::connect(path).unwrap_or_else(|why| panic!("connecting to {path}: {why}"));
    stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
    stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
    Lines::new(stream)
}
