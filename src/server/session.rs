//! One connection: lines in, the table asked, lines out.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

use super::admit::Admission;
use super::stats::{self, Report};
use super::table::{ConnId, No, Reply, Resumed, Verdict};
use super::{Context, Event, MAX_RESUME_S};
use crate::clock::{self, Moment};
use crate::net::Stream;
use crate::wire::{Answer, Frame, Refusal, Request, answer, next_frame};

/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;

/// Bytes that a client may send ahead while its connection is blocked.
const MAX_AHEAD: usize = 16 * 1024;

/// A buffer larger than this is given back when it is empty.
const KEEP: usize = 4 * 1024;

/// How often a blocked client that sent too much ahead to be read is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a wrong secret is made to wait.
const AUTH_DELAY: Duration = Duration::from_millis(100);

/// How long, and for how many bytes, a connection that we close is read on, so that our last line arrives.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// The first byte of every TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

pub(super) enum Arrival {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) async fn serve(arrival: Arrival, peer: String, admission: Admission, context: Arc<Context>) {
    let stream = match (arrival, &context.tls) {
        (Arrival::Unix(stream), _) => Stream::Unix(stream),
        (Arrival::Tcp(stream), None) => Stream::Tcp(stream),
        // In a box, as every large state that few connections come to: each waiting one has room for it else.
        (Arrival::Tcp(stream), Some(_)) => match Box::pin(secure(stream, &peer, &context)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let secret_needed = context.secret.is_some();
    let mut session = Session {
        stream,
        peer,
        input: Vec::new(),
        used: 0,
        out: Vec::new(),
        authenticated: !secret_needed,
        watchdog: Box::pin(sleep(context.read_timeout)),
        watched: false,
        progress_at: clock::server_now(),
        progress_lines: 0,
        read_at: clock::server_now(),
        fresh: true,
        seat: Seat::take(context),
        _admission: admission,
    };
    let farewell = session.run().await;
    Box::pin(session.leave(farewell)).await;
}

/// A TLS handshake, bounded in time. A client that does not speak TLS is told so in plain text.
async fn secure(stream: TcpStream, peer: &str, context: &Context) -> Option<Stream> {
    let acceptor = context.tls.as_ref()?;
    let shake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != TLS_HANDSHAKE {
            let mut line = Vec::new();
            Answer::Refused(Refusal::Unsaid).write(&mut line);
            linger(Stream::Tcp(stream), &line).await;
            return Err(io::Error::other("the client does not speak TLS"));
        }
        acceptor.accept(stream).await
    };
    let error = match timeout(context.read_timeout, shake).await {
        Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no handshake within the read timeout".to_owned(),
    };
    (context.report)(Event::TlsFailed { peer: peer.to_owned(), error });
    None
}

/// A connection's place in the table.
struct Seat {
    conn: ConnId,
    context: Arc<Context>,
    left: bool,
}

impl Seat {
    fn take(context: Arc<Context>) -> Seat {
        Seat { conn: context.shared.connect(), context, left: false }
    }

    /// Lets go of everything the connection had, and of the processor now and then: it may be much.
    async fn leave(mut self) {
        while !self.context.shared.disconnect(self.conn) {
            tokio::task::yield_now().await;
        }
        self.left = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Only where the task ended without leaving, as when the server stops.
        while !self.left && !self.context.shared.disconnect(self.conn) {}
    }
}

struct Session {
    stream: Stream,
    peer: String,
    input: Vec<u8>,
    /// Bytes of `input` that are dealt with.
    used: usize,
    out: Vec<u8>,
    authenticated: bool,
    /// Wakes at the end of some read timeout that has begun; which one counts is found out then.
    watchdog: Pin<Box<Sleep>>,
    /// Whether a bark would be noticed: this task polled it, and has waited for nothing else since.
    watched: bool,
    /// When the client last completed a line, or a request of it was answered.
    progress_at: Moment,
    progress_lines: usize,
    /// When something was read last.
    read_at: Moment,
    /// Nothing has been read yet.
    fresh: bool,
    seat: Seat,
    _admission: Admission,
}

/// How a connection ends.
enum Farewell {
    /// The client is gone, or does not read.
    Silent,
    /// With a last word.
    With(Refusal<'static>),
    /// The same, after a delay that makes guessing slow.
    Slow(Refusal<'static>),
}

/// What to do after a request.
enum Next {
    GoOn,
    /// First whoever has been granted a lock by this: they have waited longer.
    GiveWay,
    Blocked(oneshot::Receiver<Verdict>),
    Report,
    Part(Farewell),
}

impl Session {
    async fn run(&mut self) -> Farewell {
        loop {
            while let Some(next) = self.handle_next() {
                match next {
                    Next::GoOn => {}
                    Next::GiveWay => {
                        self.watched = false;
                        tokio::task::yield_now().await;
                    }
                    Next::Part(farewell) => return farewell,
                    Next::Blocked(mailbox) => {
                        if self.send().await.is_err() {
                            return Farewell::Silent;
                        }
                        let Some(verdict) = self.blocked(mailbox).await else { return Farewell::Silent };
                        self.answer_verdict(verdict);
                    }
                    Next::Report => {
                        if Box::pin(self.send_report()).await.is_err() {
                            return Farewell::Silent;
                        }
                    }
                }
                if self.out.len() >= stats::PIECE && self.send().await.is_err() {
                    return Farewell::Silent;
                }
            }
            if self.send().await.is_err() {
                return Farewell::Silent;
            }
            if let Err(farewell) = self.read_more().await {
                return farewell;
            }
        }
    }

    /// Deals with one request, if a whole one is there.
    fn handle_next(&mut self) -> Option<Next> {
        if self.input.is_empty() {
            self.progress_lines = 0;
            return None;
        }
        if self.fresh {
            self.fresh = false;
            if self.input[0] == TLS_HANDSHAKE {
                // No command begins like this: it is a client that believes we speak TLS.
                return Some(Next::Part(Farewell::With(Refusal::Unsaid)));
            }
        }
        let input = std::mem::take(&mut self.input);
        let next = match next_frame(&input[self.used..]) {
            Frame::Partial { lines } => {
                if lines != self.progress_lines {
                    self.progress_lines = lines;
                    self.progress_at = self.read_at;
                }
                None
            }
            Frame::TooLong => Some(Next::Part(Farewell::With(self.last_word()))),
            Frame::Whole { lines, used } => {
                self.used += used;
                self.progress_lines = 0;
                Some(self.handle(Request::parse(lines).ok()))
            }
        };
        self.input = input;
        if self.used == self.input.len() {
            empty(&mut self.input);
            self.used = 0;
        } else if next.is_none() {
            self.input.drain(..self.used);
            self.used = 0;
        }
        if next.is_some() {
            self.progress_at = self.read_at;
        }
        next
    }

    fn last_word(&self) -> Refusal<'static> {
        if self.authenticated { Refusal::Unsaid } else { Refusal::Auth }
    }

    /// `None` for what is no request.
    fn handle(&mut self, request: Option<Request<'_>>) -> Next {
        if !self.authenticated {
            return self.authenticate(request);
        }
        let Some(request) = request else { return self.say(Answer::Refused(Refusal::Unsaid)) };
        let context = &*self.seat.context;
        let (shared, conn) = (&context.shared, self.seat.conn);
        let lease = |lease_s: Option<u64>| lease_s.unwrap_or(context.default_lease_s);
        match request {
            Request::Acquire { key, kind, timeout_s, lease_s } => {
                let patience = Duration::from_secs(timeout_s);
                let (reply, mailbox) = shared
                    .with_mailbox(conn, |table, turn| table.acquire(turn, conn, key, kind, lease(lease_s), patience));
                self.say_reply(reply, mailbox, answer::granted)
            }
            Request::Enqueue { key, kind, lease_s } => {
                let reply = shared.with(|table, turn| table.enqueue(turn, conn, key, kind, lease(lease_s)));
                self.say_reply(reply, None, answer::acquired)
            }
            Request::Wait { key, space, timeout_s } => {
                let patience = Duration::from_secs(timeout_s);
                let (reply, mailbox) =
                    shared.with_mailbox(conn, |table, turn| table.wait(turn, conn, key, space, patience));
                self.say_reply(reply, mailbox, answer::granted)
            }
            Request::Release { key, space, token } => {
                let (released, handed_over) =
                    shared.with_handover(|table, turn| table.release(turn, key, space, token));
                let next = self.say(if released { Answer::Done } else { Answer::Refused(Refusal::Unsaid) });
                if handed_over { Next::GiveWay } else { next }
            }
            Request::Renew { key, space, token, lease_s } => {
                let seconds = lease(lease_s);
                let renewed = shared.with(|table, turn| table.renew(turn, key, space, token, seconds));
                self.say(if renewed { Answer::Left { seconds } } else { Answer::Refused(Refusal::Unsaid) })
            }
            Request::Resume { key, space, proof, lease_s } => {
                let resumed = shared.with(|table, turn| table.resume(turn, conn, key, space, proof, lease_s));
                match resumed {
                    None => self.say(Answer::Refused(Refusal::Unsaid)),
                    Some(Resumed::Held { lease_s }) => self.say(Answer::Left { seconds: lease_s }),
                    Some(Resumed::Queued { ticket }) => {
                        self.say(Answer::Queued { ticket: Some(ticket.hex().as_str()) })
                    }
                    Some(Resumed::Granted { stamp, lease_s }) => {
                        self.say(Answer::Acquired { token: stamp.hex().as_str(), lease_s })
                    }
                }
            }
            Request::Ping => self.say(Answer::Done),
            Request::Info { resume_s } => self.say_info(resume_s),
            Request::Stats => Next::Report,
            // There is nothing to authenticate for, or not any more; and this is no cluster.
            Request::Auth { .. } | Request::StableRef { .. } => self.say(Answer::Refused(Refusal::Unsaid)),
        }
    }

    fn authenticate(&mut self, request: Option<Request<'_>>) -> Next {
        let context = &self.seat.context;
        let expected = context.secret.as_deref().unwrap_or_default();
        match request {
            Some(Request::Auth { secret }) if is_same_secret(secret, expected) => {
                self.authenticated = true;
                self.say(Answer::Done)
            }
            _ => {
                (context.report)(Event::AuthFailed { peer: self.peer.clone() });
                Next::Part(Farewell::Slow(Refusal::Auth))
            }
        }
    }

    fn say(&mut self, answer: Answer<'_>) -> Next {
        answer.write(&mut self.out);
        Next::GoOn
    }

    fn say_reply(
        &mut self,
        reply: Reply,
        mailbox: Option<oneshot::Receiver<Verdict>>,
        granted: for<'a> fn(&'a str, u64) -> Answer<'a>,
    ) -> Next {
        match (reply, mailbox) {
            (Reply::Granted { stamp, lease_s }, _) => self.say(granted(stamp.hex().as_str(), lease_s)),
            (Reply::Queued { ticket: None }, _) => self.say(Answer::Queued { ticket: None }),
            (Reply::Queued { ticket: Some(ticket) }, _) => {
                self.say(Answer::Queued { ticket: Some(ticket.hex().as_str()) })
            }
            (Reply::Blocked, Some(mailbox)) => Next::Blocked(mailbox),
            (Reply::Blocked, None) => self.say(Answer::Refused(Refusal::Unsaid)),
            (Reply::Timeout, _) => self.say(Answer::Timeout),
            (Reply::No(no), _) => self.say(Answer::Refused(match no {
                No::MaxLocks => Refusal::MaxLocks,
                No::MaxWaiters => Refusal::MaxWaiters,
                No::LimitMismatch => Refusal::LimitMismatch,
                No::NotEnqueued => Refusal::NotEnqueued,
                No::AlreadyEnqueued => Refusal::AlreadyEnqueued,
                No::LeaseExpired => Refusal::LeaseExpired,
                No::Closed => Refusal::Draining,
            })),
        }
    }

    fn answer_verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Granted { stamp, lease_s } => {
                answer::granted(stamp.hex().as_str(), lease_s).write(&mut self.out);
            }
            Verdict::Timeout => Answer::Timeout.write(&mut self.out),
            Verdict::Off => Answer::Refused(Refusal::Unsaid).write(&mut self.out),
        }
    }

    fn say_info(&mut self, resume_s: Option<u64>) -> Next {
        let resume_s = match resume_s {
            None => MAX_RESUME_S,
            Some(wish) => {
                let agreed = wish.min(MAX_RESUME_S);
                let conn = self.seat.conn;
                let resume = Duration::from_secs(agreed);
                self.seat.context.shared.with(|table, _| table.allow_resuming(conn, resume));
                agreed
            }
        };
        let auto_release = self.seat.context.auto_release;
        let version = env!("CARGO_PKG_VERSION");
        let info = format!(
            "{{\"server\":\"dflock\",\"version\":\"{version}\",\"fencing\":true,\
             \"auto_release\":{auto_release},\"idle_cut_s\":0,\"resume_s\":{resume_s}}}"
        );
        self.say(Answer::Document(info.as_bytes()))
    }

    async fn send_report(&mut self) -> io::Result<()> {
        let connections = self.seat.context.gate.connections();
        answer::begin_document(&mut self.out);
        let out = &mut self.out;
        let mut report = self.seat.context.shared.read(|table, _| Report::begin(table, connections, out));
        loop {
            let out = &mut self.out;
            if !self.seat.context.shared.read(|table, now| report.go_on(table, now, out)) {
                break;
            }
            if self.out.len() >= stats::PIECE {
                self.send().await?;
            }
            self.watched = false;
            tokio::task::yield_now().await;
        }
        answer::end_document(&mut self.out);
        Ok(())
    }

    /// Sends what was answered.
    async fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // Nearly always everything goes out at once, and no clock is needed.
        let mut stream = Pin::new(&mut self.stream);
        let sent = poll_fn(|cx| match stream.as_mut().poll_write(cx, &self.out) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => Poll::Ready(Ok(0)),
        });
        let sent = sent.await?;
        if sent == self.out.len() && !self.stream.keeps_written_bytes() {
            empty(&mut self.out);
            return Ok(());
        }
        self.watched = false;
        let writing = async {
            self.stream.write_all(&self.out[sent..]).await?;
            self.stream.flush().await
        };
        let limit = self.seat.context.write_timeout;
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        Box::pin(timeout(limit, writing)).await??;
        empty(&mut self.out);
        // The time that a client takes to read an answer is not taken from its next request.
        self.read_at = clock::server_now();
        self.progress_at = self.read_at;
        Ok(())
    }

    /// Waits for more bytes, but not for ever: see [`Session::overdue`].
    async fn read_more(&mut self) -> Result<(), Farewell> {
        // Once the watchdog knows this task, a bark calls us again; until then it need not be looked at.
        let mut look_at_watchdog = !self.watched || self.watchdog.is_elapsed();
        poll_fn(|cx| {
            match poll_read(&mut self.stream, cx, &mut self.input, READ_SIZE) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Farewell::Silent)),
                Poll::Ready(Ok(_)) => {
                    self.read_at = clock::server_now();
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {}
            }
            if !std::mem::replace(&mut look_at_watchdog, true) {
                return Poll::Pending;
            }
            while self.watchdog.as_mut().poll(cx).is_ready() {
                match self.overdue() {
                    Some(farewell) => return Poll::Ready(Err(farewell)),
                    None => {
                        let now = clock::server_now();
                        let end = self.progress_at + self.seat.context.read_timeout;
                        let next = tokio::time::Instant::now() + end.since(now).max(Duration::from_millis(1));
                        self.watchdog.as_mut().reset(next);
                    }
                }
            }
            self.watched = true;
            Poll::Pending
        })
        .await
    }

    /// Half a request must be completed, line by line, within the read timeout; a connection that
    /// neither holds nor waits must ask for something within it. One that does may be silent: its lease
    /// bounds it.
    fn overdue(&mut self) -> Option<Farewell> {
        let now = clock::server_now();
        if now.since(self.progress_at) < self.seat.context.read_timeout {
            return None;
        }
        let conn = self.seat.conn;
        if self.input.is_empty() && self.seat.context.shared.read(|table, _| table.is_busy(conn)) {
            self.progress_at = now;
            return None;
        }
        Some(Farewell::With(self.last_word()))
    }

    /// Waits for the verdict; `None` when the client is gone first. What it sends ahead is kept.
    async fn blocked(&mut self, mut mailbox: oneshot::Receiver<Verdict>) -> Option<Verdict> {
        self.input.drain(..self.used);
        self.used = 0;
        self.watched = false;
        let mut look = None;
        let verdict = poll_fn(|cx| {
            while self.input.len() < MAX_AHEAD {
                match poll_read(&mut self.stream, cx, &mut self.input, READ_SIZE) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(verdict) = Pin::new(&mut mailbox).poll(cx) {
                return Poll::Ready(Some(verdict.unwrap_or(Verdict::Off)));
            }
            if self.input.len() >= MAX_AHEAD {
                let mut timer = look.take().unwrap_or_else(|| Box::pin(sleep(LOOK_EVERY)));
                while timer.as_mut().poll(cx).is_ready() {
                    if self.stream.is_read_closed() {
                        return Poll::Ready(None);
                    }
                    timer = Box::pin(sleep(LOOK_EVERY));
                }
                look = Some(timer);
            }
            Poll::Pending
        })
        .await;
        self.read_at = clock::server_now();
        self.progress_at = self.read_at;
        let is_grant = |verdict: &Verdict| matches!(verdict, Verdict::Granted { .. });
        if verdict.as_ref().is_some_and(|verdict| !is_grant(verdict) || !self.stream.is_at_end()) {
            return verdict;
        }
        // The client has just gone; what it was granted it will never know of.
        mailbox.close();
        if let Some(Verdict::Granted { stamp, .. }) = verdict.or_else(|| mailbox.try_recv().ok()) {
            self.seat.context.shared.with(|table, turn| table.take_back(turn, stamp));
        }
        None
    }

    /// Lets go of everything, then says the last word.
    async fn leave(self, farewell: Farewell) {
        let Session { stream, mut out, seat, _admission, .. } = self;
        // The connection still counts for the limits, but no lock waits for the good-bye.
        seat.leave().await;
        let (refusal, delay) = match farewell {
            Farewell::Silent => return,
            Farewell::With(refusal) => (refusal, Duration::ZERO),
            Farewell::Slow(refusal) => (refusal, AUTH_DELAY),
        };
        Answer::Refused(refusal).write(&mut out);
        linger_after(stream, &out, delay).await;
    }
}

async fn linger(stream: Stream, line: &[u8]) {
    linger_after(stream, line, Duration::ZERO).await;
}

/// Sends the last bytes and reads on for a moment: closing with bytes unread would destroy them on their way.
async fn linger_after(mut stream: Stream, bytes: &[u8], delay: Duration) {
    let _ = timeout(LINGER, async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        sleep(delay).await;
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    })
    .await;
}

/// Takes the same time wherever the two differ.
fn is_same_secret(given: &[u8], expected: &[u8]) -> bool {
    if expected.is_empty() {
        return false;
    }
    let mut same = given.len().ct_eq(&expected.len());
    for (byte, expected) in given.iter().zip(expected.iter().cycle()) {
        same &= byte.ct_eq(expected);
    }
    same.into()
}

fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Reads what is there into `buffer`, by way of memory that all connections of a thread share.
fn poll_read(
    stream: &mut Stream,
    cx: &mut TaskContext<'_>,
    buffer: &mut Vec<u8>,
    size: usize,
) -> Poll<io::Result<usize>> {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(&mut scratch[..size]);
        match Pin::new(stream).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                buffer.extend_from_slice(read.filled());
                Poll::Ready(Ok(read.filled().len()))
            }
            Poll::Ready(Err(why)) => Poll::Ready(Err(why)),
            Poll::Pending => Poll::Pending,
        }
    })
}
