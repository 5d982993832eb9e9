//! The bytes of a session: sent at once where possible, read without keeping a buffer for everyone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Farewell, Session};
use crate::clock;
use crate::net::Stream;
use crate::server::journal::Promise;
use crate::server::shared::Letter;
use crate::server::table::Verdict;

/// Bytes read at once. It is little: what is read is kept for as long as the client does not read its answers.
const READ_SIZE: usize = 4 * 1024;

/// The same while memory is tight.
const TIGHT_READ: usize = 512;

/// How often a client that does not read its answer is looked at. One that neither holds nor waits has no longer than
/// this where nobody else can be let in any more.
const LOOK_AT_READER: Duration = Duration::from_secs(1);

/// Bytes that a client may send ahead while its connection is blocked, if not too many others do; and in any case.
const MAX_AHEAD: usize = 16 * 1024;
const AHEAD_FOR_EACH: usize = 512;

/// A buffer larger than this is given back when it is empty.
const KEEP: usize = 4 * 1024;

/// How often a blocked client that sent too much ahead to be read is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a client that waits for the disk is looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Session {
    /// Sends what was answered.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if let Some(promise) = self.promise.take() {
            // Nor does one hear of it who is gone by now.
            if !promise.is_kept() || !self.unsent.is_empty() {
                self.watched = false;
                self.keep_promise(&promise).await?;
            }
            self.unsent.clear();
            // The server does not leave before it is said.
            let sent = self.send_now().await;
            drop(promise);
            return sent;
        }
        self.send_now().await
    }

    /// Waits until what was done is on disk. Who went away meanwhile never hears of what was granted.
    async fn keep_promise(&mut self, promise: &Promise) -> io::Result<()> {
        let mut gone = false;
        // A disk may fail for hours; connections of clients that have given up must not pile up meanwhile.
        while !gone && timeout(LOOK_AFTER, promise.kept()).await.is_err() {
            gone = self.stream.is_read_closed();
        }
        let context = &self.seat.context;
        if gone || (!self.unsent.is_empty() && context.auto_release && self.stream.is_at_end()) {
            for stamp in self.unsent.drain(..) {
                context.shared.with(|table, turn| table.take_back(turn, self.seat.conn, stamp));
            }
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    async fn send_now(&mut self) -> io::Result<()> {
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
        Box::pin(self.send_slowly(sent)).await?;
        empty(&mut self.out);
        // The time that a client takes to read an answer is not taken from its next request.
        self.read_at = clock::server_now();
        self.progress_at = self.read_at;
        Ok(())
    }

    /// Sends what is left of the answers behind `sent`, to a client that does not read them as fast as they come. No
    /// further request of it is dealt with meanwhile.
    async fn send_slowly(&mut self, mut sent: usize) -> io::Result<()> {
        let Session { stream, out, input, used, seat, .. } = self;
        let context = &*seat.context;
        if context.memory.is_tight() {
            // It may take long, and there may be many like it.
            out.drain(..sent);
            out.shrink_to_fit();
            input.drain(..*used);
            input.shrink_to_fit();
            (*used, sent) = (0, 0);
        }
        let mut writing = pin!(async {
            stream.write_all(&out[sent..]).await?;
            stream.flush().await
        });
        let limit = if context.write_timeout.is_zero() { Duration::MAX } else { context.write_timeout };
        let mut waited = Duration::ZERO;
        while waited < limit {
            let step = LOOK_AT_READER.min(limit - waited);
            if let Ok(written) = timeout(step, &mut writing).await {
                return written;
            }
            waited += step;
            if !context.memory.has_room_for_claims() && !context.shared.read(|table, _| table.is_busy(seat.conn)) {
                break;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits for more bytes, but not for ever: see [`Session::overdue`].
    pub(super) async fn read_more(&mut self) -> Result<(), Farewell> {
        // Once the watchdog knows this task, a bark calls us again; until then it need not be looked at.
        let size = if self.seat.context.memory.is_tight() { TIGHT_READ } else { READ_SIZE };
        let mut look_at_watchdog = !self.watched || self.watchdog.is_elapsed();
        poll_fn(|cx| {
            match poll_read(&mut self.stream, cx, &mut self.input, size) {
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
                        let end = self.progress_at + self.read_timeout();
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
        if now.since(self.progress_at) < self.read_timeout() {
            return None;
        }
        let conn = self.seat.conn;
        if self.input.is_empty() && self.seat.context.shared.read(|table, _| table.is_busy(conn)) {
            self.progress_at = now;
            return None;
        }
        Some(Farewell::With(self.last_word()))
    }

    /// Waits for the verdict; `None` when the client is gone first, or has sent more ahead than there is room for. What
    /// it sends ahead is kept.
    pub(super) async fn blocked(&mut self, mut mailbox: oneshot::Receiver<Letter>) -> Option<Letter> {
        self.input.drain(..self.used);
        self.used = 0;
        self.input.shrink_to(AHEAD_FOR_EACH);
        self.watched = false;
        let mut look = None;
        let context = self.seat.context.clone();
        // It may have come together with the request.
        let has_ahead = self.input.len() > AHEAD_FOR_EACH;
        let mut share = has_ahead.then(|| context.memory.take_ahead(MAX_AHEAD)).flatten();
        let is_too_much = has_ahead && share.is_none();
        let letter = poll_fn(|cx| {
            if is_too_much {
                return Poll::Ready(None);
            }
            let mut most = if share.is_some() { MAX_AHEAD } else { AHEAD_FOR_EACH };
            loop {
                if self.input.len() >= most && share.is_none() {
                    share = context.memory.take_ahead(MAX_AHEAD);
                    most = if share.is_some() { MAX_AHEAD } else { AHEAD_FOR_EACH };
                }
                if self.input.len() >= most {
                    break;
                }
                let room = READ_SIZE.min(most - self.input.len());
                match poll_read(&mut self.stream, cx, &mut self.input, room) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(letter) = Pin::new(&mut mailbox).poll(cx) {
                return Poll::Ready(Some(letter.unwrap_or((Verdict::Closed, None))));
            }
            if self.input.len() >= most {
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
        let is_grant = |letter: &Letter| matches!(letter.0, Verdict::Granted { .. });
        if letter.as_ref().is_some_and(|letter| !is_grant(letter) || !self.stream.is_at_end()) {
            return letter;
        }
        // The client is as good as gone; what it was granted it will never know of.
        mailbox.close();
        if let Some((Verdict::Granted { stamp, .. }, _)) = letter.or_else(|| mailbox.try_recv().ok()) {
            let conn = self.seat.conn;
            self.seat.context.shared.with(|table, turn| table.take_back(turn, conn, stamp));
        }
        None
    }
}

pub(super) fn empty(buffer: &mut Vec<u8>) {
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
