//! The native protocol, whole: three lines ask, one line answers. No I/O here.
//!
//! A request is `command LF key LF argument LF`; an answer is one line. A line holds at most
//! [`MAX_LINE`] bytes without its LF (the argument of `auth` at most [`MAX_SECRET`]); CRs before the LF
//! are dropped. Requests of one connection are answered in order; a blocked one holds up those behind it.
//! Keys are bytes, not empty, without space, tab and CR. Numbers are decimal, with an optional sign;
//! seconds reach up to [`MAX_SECONDS`]. A request that breaks a rule is answered `error`.
//!
//! | command | key | argument | answers |
//! | --- | --- | --- | --- |
//! | `auth` | any | secret | `ok`, `error_auth` (then close), `error` (no secret is asked for) |
//! | `l` acquire | key | `timeout [lease]` | `ok TOKEN LEASE`, `timeout`, `error_max_locks`, `error_max_waiters` |
//! | `r` release | key | `token` | `ok`, `error` |
//! | `n` renew | key | `token [lease]` | `ok SECONDS`, `error` |
//! | `e` enqueue | key | `[lease]` | `acquired TOKEN LEASE`, `queued [TICKET]`, `error_already_enqueued`, as `l` |
//! | `w` wait | key | `timeout` | `ok TOKEN LEASE`, `timeout`, `error_not_enqueued`, `error_lease_expired` |
//! | `sl` | key | `timeout limit [lease]` | as `l`, and `error_limit_mismatch` |
//! | `se` | key | `limit [lease]` | as `e`, and `error_limit_mismatch` |
//! | `sr` `sn` `sw` | key | as `r` `n` `w` | as `r` `n` `w` |
//! | `stats` | any | any | `ok {json}` |
//! | `ping` | any | any | `ok` |
//! | `info` | any | nothing, `_`, or `resume SECONDS` | `ok {json}` |
//! | `stable-ref` | name | any | `ok` (clusters only), `error` |
//! | `resume` `sresume` | key | `token [lease]` | `ok SECONDS`, `error` |
//! | `resume` `sresume` | key | `ticket [lease]` | `queued TICKET`, `acquired TOKEN LEASE`, `error_already_enqueued`, `error` |
//!
//! Not a request is what a browser sends: a first or second line with ` HTTP/` in it, or a second one that begins `Host:`
//! behind a first with a space. The server ends such a connection.
//!
//! `info` and the resumes are ours; other servers answer them `error`. Every command but `auth` may also get
//! `error_draining` (see below), `error_not_leader [host:port]` (a cluster's member that does not lead) and
//! `error_max_connections` (then close). Readers take any `error…` for a refusal and ignore further fields
//! behind the ones they know.
//!
//! `info` says what the server is: `{"server":"dflock","version":"…","fencing":true,"auto_release":true,
//! "idle_cut_s":0,"resume_s":60,"grants":7,"draining":false}`. `idle_cut_s` is how long a connection that holds or
//! waits may be silent (0: any time). With `resume N` the locks and queue places of this connection outlive it
//! by N seconds (`resume_s` says how many were agreed), and `e` answers `queued TICKET`. `grants` counts since
//! the start.
//!
//! # Leases
//!
//! A renewal that names no lease keeps the lock's own: the one that was named last, by whomever. (The original
//! sets its default instead, so clients of unknown servers name it.) Answers say how many seconds it is.
//!
//! A server may give a shorter lease than was asked for (`serve --max-lease`): what counts is what it answers.
//!
//! `ok SECONDS` to a renewal or a resume means: held for so long, unless it is released, or its last connection ends.
//! A resume belongs to the lock's holder and starts its lease anew; it never makes it any shorter.
//!
//! Several connections may have owned a lock or a place: one took it, others resumed it. Its owner is the one of them
//! that used it last, by resuming or renewing it. When that one ends, it is the one's before that is still there, so
//! an attempt that its client gave up can be as late as it likes. When all are gone it is kept for the longest
//! absence that was agreed with any of them, within its lease; a renewal from elsewhere keeps it for what it answers.
//! A renewal on a connection that lost the lock to a resume is never shorter than the lock's own lease. A token used
//! on any other connection renews or releases, and ties nothing to that connection.
//!
//! # Waiting
//!
//! `l` waits without a ticket: its place goes with its connection, and with the server. Whoever wants to keep its
//! turn over a broken connection, a restart and an upgrade asks `l` with timeout 0 first; at `timeout` from a server
//! that offers resuming it says `info resume N` and `e` in one write, keeps the ticket of `queued TICKET`, and waits
//! by `w`. When its connection ends, or `w` is answered with `error_draining` or `error` (another connection
//! resumed the place), it comes back with `info resume N` and `resume KEY TICKET` in one write, and hears
//!
//! - `queued TICKET`: its place is as it was; it is waited for by `w`.
//! - `acquired TOKEN LEASE`: it was granted meanwhile, the lease starts now, nothing is left to wait for.
//! - `error`: the place is gone (it was away for too long, or this server never knew it); it joins again by `e`.
//! - `error_already_enqueued`: nothing changed, for this connection has another place for the key.
//!
//! # A server that stops
//!
//! `error_draining` means: nothing was granted, nothing is lost, wait a moment and ask again, at this address. A
//! server that is told to stop keeps its door open and says so to `l`, `sl`, `e`, `se`, and to whoever waits, until
//! nothing is held any more; `n`, `r`, `resume`, `info`, `ping` and `stats` are answered as ever. Then it closes every
//! connection and is gone, and another one may be there in a moment. One that keeps its state does not wait for
//! holders: it goes as soon as all is on disk, and the next server holds what was held; a place with a ticket may be
//! resumed there. The connection itself is good for more, until the server closes it.
//!
//! # Proofs
//!
//! A token is 32 hex digits. From this server the first 16 are the fence, a number that grows with every
//! grant, and the rest is random. A ticket has the same form and proves a queue place.

pub mod answer;
pub mod frame;
pub mod number;
pub mod request;

pub use answer::{Answer, Refusal};
pub use frame::{Frame, next_frame};
pub use request::Request;

/// Without the white space around it, as the original reads a secret.
pub fn trim(text: &[u8]) -> &[u8] {
    std::str::from_utf8(text).map_or(text.trim_ascii(), |text| text.trim().as_bytes())
}

/// Bytes of a line, without its LF.
pub const MAX_LINE: usize = 256;

/// Bytes of the argument of `auth`.
pub const MAX_SECRET: usize = 64 * 1024;

/// The most seconds a timeout or a lease may have: more would overflow 64 bits of nanoseconds
/// in the original server.
pub const MAX_SECONDS: u64 = 9_223_372_036;
