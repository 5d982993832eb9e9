//! One connection of a talk: what is sent, what comes, and how it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::bytes::{self, Match, Tokens, show};
use crate::house;

/// How long a talk waits for anything. Shorter than the usual read timeout of 23 s, so that an answer which
/// should come at once is not taken for there when that has cut the connection.
pub(crate) const CEILING: Duration = Duration::from_secs(10);

/// How long more bytes may take that are only shown.
const A_MOMENT: Duration = Duration::from_millis(100);

pub(crate) struct Connection {
    stream: TcpStream,
    /// Came, and has not been looked at yet.
    unread: Vec<u8>,
    ended: bool,
    /// When it began to send what it sent last, or to connect.
    pub(crate) sent_at: Instant,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Result<Connection, String> {
        let sent_at = house::now();
        let stream = TcpStream::connect(address).map_err(|why| format!("cannot connect to {address}: {why}"))?;
        let prepared = stream.set_nodelay(true).and_then(|()| stream.set_write_timeout(Some(CEILING)));
        prepared.map_err(|why| format!("cannot prepare the connection: {why}"))?;
        Ok(Connection { stream, unread: Vec::new(), ended: false, sent_at })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.sent_at = house::now();
        self.stream.write_all(bytes).map_err(|why| format!("the server does not take it: {why}"))
    }

    /// Reads once, for at most so long.
    fn fill(&mut self, patience: Duration) -> Result<(), String> {
        let mut buffer = [0; 64 * 1024];
        self.stream
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .map_err(|why| format!("cannot set a timeout: {why}"))?;
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(why) if why.kind() == ErrorKind::ConnectionReset => self.ended = true,
            Err(why) => return Err(format!("cannot read: {why}")),
        }
        Ok(())
    }

    /// Waits for what is expected; gives it back as it came, with the tokens known then.
    pub(crate) fn receive(&mut self, parts: &[bytes::Part], tokens: &Tokens) -> Result<(Vec<u8>, Tokens), String> {
        let deadline = house::now() + CEILING;
        let why = loop {
            match bytes::compare(parts, tokens, &self.unread) {
                Match::Whole(count, tokens) => return Ok((self.unread.drain(..count).collect(), tokens)),
                Match::Different => break "something else came",
                Match::Begun if self.ended => break "the server ended the connection",
                Match::Begun => {}
            }
            let left = deadline.saturating_duration_since(house::now());
            if left.is_zero() {
                break "nothing more came in time";
            }
            self.fill(left)?;
        };
        if !self.ended {
            self.fill(A_MOMENT)?;
        }
        let expected = bytes::show_parts(parts, tokens);
        Err(format!("{why}\n  expected {expected}\n  received {}", show(&self.unread)))
    }

    /// The next line, whatever it is.
    pub(crate) fn line(&mut self) -> Result<Vec<u8>, String> {
        let deadline = house::now() + CEILING;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                return Ok(self.unread.drain(..=end).collect());
            }
            let left = deadline.saturating_duration_since(house::now());
            if self.ended || left.is_zero() {
                return Err(format!("no line came, only\n  {}", show(&self.unread)));
            }
            self.fill(left)?;
        }
    }

    /// At this moment neither bytes nor the end have come, but for an end that was looked at.
    pub(crate) fn silent(&mut self) -> Result<(), String> {
        if !self.ended {
            self.fill(Duration::ZERO)?;
            if self.ended {
                return Err("was ended by the server".to_owned());
            }
        }
        match &self.unread[..] {
            [] => Ok(()),
            bytes => Err(format!("was sent what nobody expected\n  {}", show(bytes))),
        }
    }

    pub(crate) fn half_close(&self) -> Result<(), String> {
        self.stream.shutdown(Shutdown::Write).map_err(|why| format!("its side cannot be closed: {why}"))
    }

    /// Ends it as a crash of the machine or an impatient client would.
    pub(crate) fn reset(self) -> Result<(), String> {
        let at_once = linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &at_once).map_err(|why| format!("it cannot be reset: {why}"))
    }

    /// Waits for the end, and that nothing comes before it.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let deadline = house::now() + CEILING;
        while !self.ended && self.unread.is_empty() {
            let left = deadline.saturating_duration_since(house::now());
            if left.is_zero() {
                return Err("the server does not end the connection".to_owned());
            }
            self.fill(left)?;
        }
        match &self.unread[..] {
            [] => Ok(()),
            bytes => Err(format!("instead of the end came\n  {}", show(bytes))),
        }
    }
}
