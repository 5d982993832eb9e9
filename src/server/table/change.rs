//! What goes into an operation of the table besides its arguments, and what comes out besides its reply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::lock::Kind;
use crate::server::stamp::Stamp;

/// A connection, as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(super) u32);

impl ConnId {
    /// Owner of what no connection owns at the moment.
    pub const NOBODY: ConnId = ConnId(u32::MAX);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One moment's operation: when it is, where randomness comes from, and where its effects go.
pub struct Turn<'a> {
    pub now: Moment,
    pub salt: &'a mut dyn FnMut() -> u64,
    /// What happened to locks and places, in order, where somebody keeps a record.
    pub changes: Option<&'a mut Vec<Change>>,
    /// Answers to connections that were blocked.
    pub verdicts: &'a mut VecDeque<(ConnId, Verdict)>,
}

impl Turn<'_> {
    /// Whether anything was recorded in it.
    pub fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    pub(super) fn record(&mut self, change: impl FnOnce() -> Change) {
        if let Some(changes) = &mut self.changes {
            changes.push(change());
        }
    }
}

/// What an operation did.
#[derive(Clone, Debug)]
pub enum Change {
    /// `stamp.number` is the fence; `ticket` the place it was granted to, if that had one. The client knows its
    /// token, or will, unless it was granted to a place without a ticket that is not waited for at the moment:
    /// then the first renewal says that it does.
    Granted {
        key: Arc<[u8]>,
        kind: Kind,
        stamp: Stamp,
        ticket: Option<Stamp>,
        lease_s: u64,
        until: Moment,
        known: bool,
    },
    Renewed {
        fence: u64,
        lease_s: u64,
        until: Moment,
    },
    /// The connection broke; its client may resume until `away_until`.
    LeftBehind {
        number: u64,
        away_until: Moment,
    },
    /// From now on the client may stay away for `resume` when its connection breaks.
    Resumed {
        number: u64,
        lease_s: u64,
        resume: Duration,
    },
    Ended {
        fence: u64,
        why: End,
    },
    /// A place that may be resumed joined the queue.
    Queued {
        key: Arc<[u8]>,
        kind: Kind,
        ticket: Stamp,
        lease_s: u64,
        resume: Duration,
    },
    /// A place that could be resumed is gone without a grant.
    Left {
        place: u64,
    },
}

/// Why a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Released,
    Expired,
    Disconnected,
}

/// The answer to a blocked `l` or `w`.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Granted {
        stamp: Stamp,
        lease_s: u64,
    },
    Timeout,
    /// The server is stopping: ask again. A place with a ticket may be resumed where it is kept.
    Closed,
    /// Another connection resumed this place.
    Moved,
}

/// What an operation that asks for a lock says at once.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Granted {
        stamp: Stamp,
        lease_s: u64,
    },
    Queued {
        ticket: Option<Stamp>,
    },
    /// A verdict will follow.
    Blocked,
    Timeout,
    No(No),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    MaxLocks,
    MaxWaiters,
    LimitMismatch,
    NotEnqueued,
    AlreadyEnqueued,
    LeaseExpired,
    /// The proof is of nothing that is held or queued.
    NotHeld,
    /// Nothing is given out for a while.
    Paused,
    /// The server is stopping.
    Closed,
}

/// What was taken over. A grant's lease starts anew, as with a renewal.
#[derive(Clone, Copy, Debug)]
pub enum Resumed {
    /// By token.
    Held { lease_s: u64 },
    /// By ticket, and granted in the meantime: nothing is left to wait for.
    Granted { stamp: Stamp, lease_s: u64 },
    /// By ticket, and still in the queue.
    Queued { ticket: Stamp },
}
