//! The table as all connections share it: behind one lock, with a mailbox for each that is blocked.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::table::{ConnId, Load, Reply, Table, Turn, Verdict};
use crate::clock::{self, Moment};

pub(super) struct Shared {
    state: Mutex<State>,
    /// Woken when something runs out earlier than the timer is set for.
    earlier: Notify,
    /// Woken when the last lock or place may be gone while that is waited for.
    emptied: Notify,
}

/// What the lock guards.
struct State {
    table: Table,
    salts: Salts,
    verdicts: VecDeque<(ConnId, Verdict)>,
    mailboxes: Vec<Option<oneshot::Sender<Verdict>>>,
    timer_at: Moment,
    /// How many verdicts have reached those they were for.
    delivered: u64,
    /// When something was held or waited for last.
    used_at: Moment,
}

impl Shared {
    pub(super) fn new(table: Table) -> Shared {
        let state = State {
            table,
            salts: Salts::default(),
            verdicts: VecDeque::new(),
            mailboxes: Vec::new(),
            timer_at: Moment::NEVER,
            delivered: 0,
            used_at: clock::server_now(),
        };
        Shared { state: Mutex::new(state), earlier: Notify::new(), emptied: Notify::new() }
    }

    /// One operation on the table.
    pub(super) fn with<T>(&self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> T {
        let mut state = self.lock();
        let result = state.operate(operation);
        self.unlock(state);
        result
    }

    /// As [`Shared::with`]; says also whether somebody who was blocked has an answer now.
    pub(super) fn with_handover<T>(&self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> (T, bool) {
        let mut state = self.lock();
        let before = state.delivered;
        let result = state.operate(operation);
        let handed_over = state.delivered != before;
        self.unlock(state);
        (result, handed_over)
    }

    /// One operation that may block its connection; if it does, the verdict comes through the mailbox.
    pub(super) fn with_mailbox(
        &self,
        conn: ConnId,
        operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> Reply,
    ) -> (Reply, Option<oneshot::Receiver<Verdict>>) {
        let mut state = self.lock();
        let reply = state.operate(operation);
        let mailbox = matches!(reply, Reply::Blocked).then(|| {
            let (sender, receiver) = oneshot::channel();
            if state.mailboxes.len() <= conn.index() {
                state.mailboxes.resize_with(conn.index() + 1, || None);
            }
            state.mailboxes[conn.index()] = Some(sender);
            receiver
        });
        self.unlock(state);
        (reply, mailbox)
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Table, Moment) -> T) -> T {
        let now = clock::server_now();
        look(&self.lock().table, now)
    }

    /// Since when nothing was held or waited for; `None` while something is.
    pub(super) fn unused_since(&self) -> Option<Moment> {
        let state = self.lock();
        (state.table.load() == Load::default()).then_some(state.used_at)
    }

    pub(super) fn connect(&self) -> ConnId {
        self.lock().table.connect()
    }

    /// Lets go of a slice of what a closed connection had; `false` while there is more.
    pub(super) fn disconnect(&self, conn: ConnId) -> bool {
        if let Some(mailbox) = self.lock().mailboxes.get_mut(conn.index()) {
            *mailbox = None;
        }
        self.with(|table, turn| table.disconnect(turn, conn))
    }

    /// No more grants; everyone who waits is sent away. Says who was there before.
    pub(super) fn drain(&self) -> Load {
        let mut state = self.lock();
        let load = state.table.load();
        state.operate(|table, turn| table.close(turn));
        load
    }

    /// After [`Shared::drain`]: returns when nothing is held.
    pub(super) async fn nothing_held(&self) {
        while self.read(|table, _| table.load().held) > 0 {
            self.emptied.notified().await;
        }
    }

    /// Runs for as long as the server does: ends what runs out, when it does.
    pub(super) async fn keep_time(&self) {
        loop {
            let now = clock::server_now();
            self.with(|table, turn| table.run_out(turn));
            let next = {
                let mut state = self.lock();
                state.timer_at = state.table.next_due();
                state.timer_at
            };
            if next <= now {
                tokio::task::yield_now().await;
            } else if next == Moment::NEVER {
                self.earlier.notified().await;
            } else {
                // Whichever comes first; both lead to another look.
                let _ = tokio::time::timeout(next.since(clock::server_now()), self.earlier.notified()).await;
            }
        }
    }

    /// Sets the timer if something runs out earlier now, and says when nothing is held any more.
    fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let next_due = state.table.next_due();
        let set_timer = next_due < state.timer_at;
        if set_timer {
            state.timer_at = next_due;
        }
        let emptied = state.table.is_closed() && state.table.load().held == 0;
        drop(state);
        if set_timer {
            self.earlier.notify_one();
        }
        if emptied {
            self.emptied.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not end every lock of the server.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn operate<T>(&mut self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> T {
        let State { table, salts, verdicts, mailboxes, used_at, delivered: count, .. } = self;
        let was_used = table.load() != Load::default();
        let mut turn = Turn { now: clock::server_now(), salt: &mut || salts.next(), changes: None, verdicts };
        let result = operation(table, &mut turn);
        if was_used || table.load() != Load::default() {
            *used_at = turn.now;
        }
        while let Some((conn, verdict)) = turn.verdicts.pop_front() {
            let mailbox = mailboxes.get_mut(conn.index()).and_then(Option::take);
            // Without a reader its connection is closing at this moment.
            let delivered = mailbox.is_some_and(|mailbox| mailbox.send(verdict).is_ok());
            match verdict {
                _ if delivered => *count += 1,
                Verdict::Granted { stamp, .. } => table.take_back(&mut turn, stamp),
                Verdict::Timeout | Verdict::Off => {}
            }
        }
        result
    }
}

/// Randomness of the OS, fetched for many tokens at a time.
#[derive(Default)]
struct Salts {
    pool: Vec<u64>,
}

impl Salts {
    fn next(&mut self) -> u64 {
        if let Some(salt) = self.pool.pop() {
            return salt;
        }
        let mut bytes = [0; 512];
        // Without randomness tokens could be guessed: there is no way on.
        getrandom::fill(&mut bytes).unwrap_or_else(|why| panic!("the system gives no randomness: {why}"));
        self.pool.extend(bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)));
        self.pool.pop().unwrap_or_default()
    }
}
