//! One connection: lines in, the table asked, lines out.

mod carry;
mod door;
mod say;
mod seat;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

use super::admit::Admission;
use super::journal::Promise;
use super::shared::Letter;
use super::stamp::Stamp;
use super::table::{No, Reply, Resumed};
use super::{Context, Event};
use crate::clock::{self, Moment};
use crate::net::Stream;
use crate::wire::{Answer, Frame, Refusal, Request, answer, next_frame};
use carry::empty;
use door::{LINGER, TLS_HANDSHAKE, linger_after, secure};
use seat::Seat;

/// How long a wrong secret is made to wait.
const AUTH_DELAY: Duration = Duration::from_millis(100);

/// The read timeout of whoever has no place but an extra one.
const EXTRA_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a request that has not come in whole, besides a secret.
const UNFINISHED: usize = 1024;

/// Bytes of answers that are put together before they are sent; and while memory is tight: an answer or two.
const PIECE: usize = 4 * 1024;
const TIGHT_PIECE: usize = 256;

pub(super) enum Arrival {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) async fn serve(arrival: Arrival, peer: String, admission: Admission, context: Arc<Context>) {
    let credentials = context.credentials.get();
    let stream = match (arrival, &credentials.tls) {
        (Arrival::Unix(stream), _) => Stream::Unix(stream),
        (Arrival::Tcp(stream), None) => Stream::Tcp(stream),
        // In a box, as every large state that few connections come to: each waiting one has room for it else.
        (Arrival::Tcp(stream), Some(tls)) => {
            let is_extra = admission.why_extra().is_some();
            match Box::pin(secure(stream, tls.clone(), &peer, is_extra, &context)).await {
                Some(stream) => stream,
                None => return,
            }
        }
    };
    let secret_needed = credentials.has_secret();
    drop(credentials);
    let mut session = Session {
        stream,
        peer,
        input: Vec::new(),
        used: 0,
        out: Vec::new(),
        promise: None,
        unsent: Vec::new(),
        authenticated: !secret_needed,
        watchdog: Box::pin(sleep(if admission.why_extra().is_some() { EXTRA_TIMEOUT } else { context.read_timeout })),
        watched: false,
        progress_at: clock::server_now(),
        progress_lines: 0,
        read_at: clock::server_now(),
        fresh: true,
        outlived: false,
        seat: Seat::take(context),
        admission,
    };
    let farewell = session.run().await;
    Box::pin(session.leave(farewell)).await;
}

struct Session {
    stream: Stream,
    peer: String,
    input: Vec<u8>,
    /// Bytes of `input` that are dealt with.
    used: usize,
    out: Vec<u8>,
    /// What must be on disk before `out` is sent.
    promise: Option<Promise>,
    /// Grants in `out` that wait for that.
    unsent: Vec<Stamp>,
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
    /// What it has is kept for a while when it breaks.
    outlived: bool,
    seat: Seat,
    admission: Admission,
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
    Blocked(oneshot::Receiver<Letter>),
    /// A secret that is looked at only after a while.
    Prove(Vec<u8>, Duration),
    Report,
    Part(Farewell),
}

/// What may be asked on an extra place: it takes nothing that its client does not have already.
fn is_for_what_is_there(request: &Request<'_>) -> bool {
    use Request::{Auth, Info, Release, Renew, Resume};
    matches!(request, Auth { .. } | Info { .. } | Resume { .. } | Renew { .. } | Release { .. })
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
                        let Some((verdict, promise)) = self.blocked(mailbox).await else { return Farewell::Silent };
                        self.answer_verdict(verdict, promise);
                    }
                    Next::Prove(secret, wait) => {
                        self.watched = false;
                        Box::pin(sleep(wait)).await;
                        if let Next::Part(farewell) = self.prove(&secret) {
                            return farewell;
                        }
                    }
                    Next::Report => {
                        if Box::pin(self.send_report()).await.is_err() {
                            return Farewell::Silent;
                        }
                        // The time that a report takes is not taken from the client's next request.
                        self.read_at = clock::server_now();
                        self.progress_at = self.read_at;
                    }
                }
                if self.out.len() >= self.piece(PIECE) && self.send().await.is_err() {
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

    /// How many bytes of answers are put together before they are sent. Nothing more is done for a client that does not
    /// read them.
    fn piece(&self, usual: usize) -> usize {
        if self.seat.context.memory.is_tight() { TIGHT_PIECE } else { usual }
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
            Frame::Partial { lines: 2 } if self.is_no_secret(input.len() - self.used) => {
                Some(Next::Part(Farewell::With(self.last_word())))
            }
            Frame::Partial { lines } => {
                if lines != self.progress_lines {
                    self.progress_lines = lines;
                    self.progress_at = self.read_at;
                }
                None
            }
            Frame::Http if !self.authenticated => Some(self.authenticate(None)),
            Frame::Http | Frame::TooLong => Some(Next::Part(Farewell::With(self.last_word()))),
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

    /// Whether an unfinished request of so many bytes cannot become the right secret: only that may be long.
    fn is_no_secret(&self, length: usize) -> bool {
        length > UNFINISHED && length > UNFINISHED + self.seat.context.credentials.get().longest_secret()
    }

    fn last_word(&self) -> Refusal<'static> {
        if self.admission.why_extra().is_some() {
            Refusal::MaxConnections
        } else if self.authenticated {
            Refusal::Unsaid
        } else {
            Refusal::Auth
        }
    }

    fn read_timeout(&self) -> Duration {
        let usual = self.seat.context.read_timeout;
        if self.admission.why_extra().is_some() { usual.min(EXTRA_TIMEOUT) } else { usual }
    }

    /// `None` for what is no request.
    fn handle(&mut self, request: Option<Request<'_>>) -> Next {
        if !self.authenticated {
            return self.authenticate(request);
        }
        let Some(request) = request else { return self.say(Answer::Refused(Refusal::Unsaid)) };
        if self.is_given_up(&request) {
            return Next::Part(Farewell::Silent);
        }
        let context = &*self.seat.context;
        if self.admission.why_extra().is_some() && !is_for_what_is_there(&request) {
            return Next::Part(Farewell::With(Refusal::MaxConnections));
        }
        let (shared, conn) = (&context.shared, self.seat.conn);
        if matches!(request, Request::Acquire { .. } | Request::Enqueue { .. }) && !context.memory.has_room_for_claims()
        {
            context.out_of_memory.tell(&context.report, |count| Event::OutOfMemory { count });
            return self.say(Answer::Refused(Refusal::MaxLocks));
        }
        // The answer says what is given, and whoever asked for more believes it.
        let capped = |lease_s: u64| lease_s.min(context.max_lease_s);
        let lease = |lease_s: Option<u64>| capped(lease_s.unwrap_or(context.default_lease_s));
        match request {
            Request::Acquire { key, kind, timeout_s, lease_s } => {
                let patience = Duration::from_secs(timeout_s);
                let (reply, promise, mailbox) = shared
                    .with_mailbox(conn, |table, turn| table.acquire(turn, conn, key, kind, lease(lease_s), patience));
                self.note_reply(&reply, promise);
                self.say_reply(reply, mailbox, answer::granted)
            }
            Request::Enqueue { key, kind, lease_s } => {
                let (reply, promise) = shared.with(|table, turn| table.enqueue(turn, conn, key, kind, lease(lease_s)));
                self.note_reply(&reply, promise);
                self.say_reply(reply, None, answer::acquired)
            }
            Request::Wait { key, space, timeout_s } => {
                let patience = Duration::from_secs(timeout_s);
                let (reply, promise, mailbox) =
                    shared.with_mailbox(conn, |table, turn| table.wait(turn, conn, key, space, patience));
                // What was had at once by enqueueing was told then, and is not to be taken back.
                let is_told = match &reply {
                    Reply::Granted { stamp, .. } => !shared.read(|table, _| table.has_ticket(stamp)),
                    _ => false,
                };
                self.note_reply(&reply, promise);
                let next = self.say_reply(reply, mailbox, answer::granted);
                if is_told {
                    self.unsent.pop();
                }
                next
            }
            Request::Release { key, space, token } => {
                let (released, promise, handed_over) =
                    shared.with_handover(|table, turn| table.release(turn, key, space, token));
                self.note(promise);
                let next = self.say(if released { Answer::Done } else { Answer::Refused(Refusal::Unsaid) });
                if handed_over { Next::GiveWay } else { next }
            }
            Request::Renew { key, space, token, lease_s } => {
                let lease_s = lease_s.map(capped);
                let (renewed, promise) = shared.with(|table, turn| table.renew(turn, conn, key, space, token, lease_s));
                self.note(promise);
                self.say(renewed.map_or(Answer::Refused(Refusal::Unsaid), |seconds| Answer::Left { seconds }))
            }
            Request::Resume { key, space, proof, lease_s } => {
                let lease_s = lease_s.map(capped);
                let (resumed, promise) =
                    shared.with(|table, turn| table.resume(turn, conn, key, space, proof, lease_s));
                self.note(promise);
                // Who had to give way in this moment comes back once more.
                if resumed.is_ok() && !self.admission.stays() {
                    return Next::Part(Farewell::Silent);
                }
                match resumed {
                    Err(no) => self.say_no(no),
                    Ok(Resumed::Held { lease_s }) => self.say(Answer::Left { seconds: lease_s }),
                    Ok(Resumed::Queued { ticket }) => self.say(Answer::Queued { ticket: Some(ticket.hex().as_str()) }),
                    Ok(Resumed::Granted { stamp, lease_s }) => {
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

    /// Whether this would take something for a client that is gone already: an attempt that it gave up while this
    /// server was frozen or slow. Where it is not seen in time, the table knows what to do, so this is not for
    /// safety: nobody's place moves, and nothing that outlives a connection is given to one that is over.
    fn is_given_up(&self, request: &Request<'_>) -> bool {
        let takes = match request {
            Request::Resume { .. } => true,
            Request::Acquire { .. } | Request::Enqueue { .. } => self.outlived,
            _ => false,
        };
        takes && self.stream.is_at_end()
    }

    /// What is said next must not be heard before this is kept.
    fn note(&mut self, promise: Option<Promise>) {
        if let Some(promise) = promise {
            self.promise = Some(promise.and(self.promise.take()));
        }
    }

    /// That nothing is given out for now follows from nothing, and the disk may be why.
    fn note_reply(&mut self, reply: &Reply, promise: Option<Promise>) {
        if !matches!(reply, Reply::No(No::Paused)) {
            self.note(promise);
        }
    }

    fn authenticate(&mut self, request: Option<Request<'_>>) -> Next {
        let Some(Request::Auth { secret }) = request else { return self.keep_out() };
        match self.seat.context.guesses.take_turn(self.admission.origin(), clock::server_now()) {
            Some(Duration::ZERO) => self.prove(secret),
            Some(wait) => Next::Prove(secret.to_vec(), wait),
            // Not that it is wrong: it was not looked at.
            None => Next::Part(Farewell::With(Refusal::MaxConnections)),
        }
    }

    fn prove(&mut self, secret: &[u8]) -> Next {
        let context = &self.seat.context;
        if context.credentials.get().is_secret(secret) {
            self.authenticated = true;
            return self.say(Answer::Done);
        }
        context.guesses.was_wrong(self.admission.origin(), clock::server_now());
        self.keep_out()
    }

    fn keep_out(&self) -> Next {
        let (context, peer) = (&self.seat.context, self.peer.clone());
        context.wrong_secrets.tell(&context.report, move |count| Event::AuthFailed { peer, count });
        Next::Part(Farewell::Slow(Refusal::Auth))
    }

    /// Lets go of everything, then says the last word.
    async fn leave(self, farewell: Farewell) {
        let Session { stream, mut out, promise, seat, admission, .. } = self;
        if let (Some(why), Farewell::With(Refusal::MaxConnections)) = (admission.why_extra(), &farewell) {
            seat.context.count_refusal(why);
        }
        // The connection still counts for the limits, but no lock waits for the good-bye.
        seat.leave().await;
        if let Some(promise) = promise
            && !promise.is_kept()
            && timeout(LINGER, promise.kept()).await.is_err()
        {
            out.clear();
        }
        let (refusal, delay) = match farewell {
            Farewell::Silent => return,
            Farewell::With(refusal) => (refusal, Duration::ZERO),
            Farewell::Slow(refusal) => (refusal, AUTH_DELAY),
        };
        Answer::Refused(refusal).write(&mut out);
        linger_after(stream, &out, delay).await;
    }
}
