//! Between the table and the writer: what happened and is not written yet, and who waits for that.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::server::table::Change;

/// A mark that is never reached: of what happens after the journal was closed.
const NEVER: u64 = u64::MAX;

pub(super) struct Line {
    waiting: Mutex<Waiting>,
    more: Condvar,
    /// Everything up to this mark is as safe as was asked for.
    pub(super) kept: watch::Sender<u64>,
    /// The mark that was reached last; from the end on, one that never will be.
    reached: AtomicU64,
    /// Whether there is room for more locks.
    pub(super) accepts: AtomicBool,
    /// Answers that are not sent yet.
    owed: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    changes: Vec<Change>,
    /// How many times something was added.
    mark: u64,
    closed: bool,
    /// The writer sleeps.
    idle: bool,
}

/// What the writer is given to do.
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    /// Of the last of them, and of all before.
    pub(super) mark: u64,
    /// Nothing follows.
    pub(super) last: bool,
}

/// An answer that may leave once everything that it follows from is kept.
pub(in crate::server) struct Promise {
    mark: u64,
    line: Arc<Line>,
}

impl Line {
    pub(super) fn new() -> Line {
        Line {
            waiting: Mutex::default(),
            more: Condvar::new(),
            kept: watch::Sender::new(0),
            reached: AtomicU64::new(0),
            accepts: AtomicBool::new(true),
            owed: AtomicUsize::new(0),
        }
    }

    /// In the order of what happened, so under the lock of the table. Takes the changes out.
    pub(super) fn add(&self, changes: &mut Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        if waiting.closed {
            return changes.clear();
        }
        waiting.changes.append(changes);
        waiting.mark += 1;
        self.reached.store(waiting.mark, Ordering::Relaxed);
        if waiting.idle {
            waiting.idle = false;
            drop(waiting);
            self.more.notify_one();
        }
    }

    /// A promise about everything so far and, with `more`, what is about to be added.
    pub(super) fn promise(self: &Arc<Line>, more: bool) -> Promise {
        let mark = self.reached.load(Ordering::Relaxed).saturating_add(u64::from(more));
        Promise::new(mark, self.clone())
    }

    /// What happened since the last call; waits for something until `patience` is over.
    pub(super) fn take(&self, patience: Option<Duration>) -> Batch {
        let mut waiting = self.lock();
        if waiting.changes.is_empty() && !waiting.closed && patience != Some(Duration::ZERO) {
            waiting.idle = true;
            let asleep = |waiting: &mut Waiting| waiting.changes.is_empty() && !waiting.closed;
            waiting = match patience {
                Some(patience) => {
                    let woken = self.more.wait_timeout_while(waiting, patience, asleep);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.more.wait_while(waiting, asleep).unwrap_or_else(PoisonError::into_inner),
            };
            waiting.idle = false;
        }
        Batch { changes: std::mem::take(&mut waiting.changes), mark: waiting.mark, last: waiting.closed }
    }

    /// Nothing that happens from now on is written, and nobody is told of it.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.reached.store(NEVER, Ordering::Relaxed);
        drop(waiting);
        self.more.notify_one();
    }

    /// Whether every answer that was promised was sent.
    pub(super) fn is_all_said(&self) -> bool {
        self.owed.load(Ordering::Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    fn new(mark: u64, line: Arc<Line>) -> Promise {
        line.owed.fetch_add(1, Ordering::Relaxed);
        Promise { mark, line }
    }

    /// What follows from both.
    pub(in crate::server) fn and(mut self, other: Option<Promise>) -> Promise {
        if let Some(other) = other {
            self.mark = self.mark.max(other.mark);
        }
        self
    }

    pub(in crate::server) fn is_kept(&self) -> bool {
        *self.line.kept.borrow() >= self.mark
    }

    /// Returns when the answer may be sent.
    pub(in crate::server) async fn kept(&self) {
        if self.line.kept.subscribe().wait_for(|kept| *kept >= self.mark).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.line.owed.fetch_sub(1, Ordering::Relaxed);
    }
}
