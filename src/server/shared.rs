//! The table as all connections share it: behind one lock, with a mailbox for each that is blocked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::journal::{Journal, Promise};
use super::table::{Change, ConnId, Load, Reply, Table, Turn, Verdict};
use crate::clock::{self, Moment};

pub(super) struct Shared {
    state: Mutex<State>,
    /// Woken when something runs out earlier than the timer is set for.
    earlier: Arc<Notify>,
    /// Woken when the last lock or place may be gone while that is waited for.
    emptied: Notify,
    journal: Option<Arc<Journal>>,
}

/// A verdict, and what must be on disk before anybody hears of it.
pub(super) type Letter = (Verdict, Option<Promise>);

/// What the lock guards.
struct State {
    table: Table,
    salts: Salts,
    verdicts: VecDeque<(ConnId, Verdict)>,
    mailboxes: Vec<Option<oneshot::Sender<Letter>>>,
    journal: Option<Arc<Journal>>,
    /// On their way to the journal.
    changes: Vec<Change>,
    timer_at: Moment,
    /// How many verdicts have reached those they were for.
    delivered: u64,
    /// When something was held or waited for last.
    used_at: Moment,
}

impl Shared {
    /// `earlier` wakes the timer; the journal does when locks may be given out again.
    pub(super) fn new(table: Table, journal: Option<Journal>, earlier: Arc<Notify>) -> Shared {
        let journal = journal.map(Arc::new);
        let state = State {
            table,
            salts: Salts::default(),
            verdicts: VecDeque::new(),
            mailboxes: Vec::new(),
            journal: journal.clone(),
            changes: Vec::new(),
            timer_at: Moment::NEVER,
            delivered: 0,
            used_at: clock::server_now(),
        };
        Shared { state: Mutex::new(state), earlier, emptied: Notify::new(), journal }
    }

    /// One operation on the table. With a journal, nobody may hear of it before the promise is kept.
    pub(super) fn with<T>(&self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> (T, Option<Promise>) {
        let mut state = self.lock();
        let result = state.operate(operation);
        let promise = state.promise();
        self.unlock(state);
        (result, promise)
    }

    /// As [`Shared::with`]; says also whether somebody who was blocked has an answer now.
    pub(super) fn with_handover<T>(
        &self,
        operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T,
    ) -> (T, Option<Promise>, bool) {
        let mut state = self.lock();
        let before = state.delivered;
        let result = state.operate(operation);
        let handed_over = state.delivered != before;
        let promise = state.promise();
        self.unlock(state);
        (result, promise, handed_over)
    }

    /// One operation that may block its connection; if it does, the verdict comes through the mailbox.
    pub(super) fn with_mailbox(
        &self,
        conn: ConnId,
        operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> Reply,
    ) -> (Reply, Option<Promise>, Option<oneshot::Receiver<Letter>>) {
        let mut state = self.lock();
        let reply = state.operate(operation);
        let promise = state.promise();
        let mailbox = matches!(reply, Reply::Blocked).then(|| {
            let (sender, receiver) = oneshot::channel();
            if state.mailboxes.len() <= conn.index() {
                state.mailboxes.resize_with(conn.index() + 1, || None);
            }
            state.mailboxes[conn.index()] = Some(sender);
            receiver
        });
        self.unlock(state);
        (reply, promise, mailbox)
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
        self.with(|table, turn| table.disconnect(turn, conn)).0
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    /// Stops giving out locks if nothing is held or waited for: whoever asks from now on is told to ask again.
    pub(super) fn close_if_unused(&self) -> bool {
        let mut state = self.lock();
        let unused = state.table.load() == Load::default();
        if unused {
            state.operate(|table, turn| table.close(turn));
        }
        unused
    }

    /// Stops giving out locks if nothing is held; whoever waits is sent away.
    pub(super) fn close_if_nothing_held(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.table.load().held == 0;
        if is_free {
            state.operate(|table, turn| table.close(turn));
        }
        is_free
    }

    /// No more grants; those who wait are sent away, but what can be resumed is left to the next server.
    pub(super) fn hand_over(&self) -> Load {
        let mut state = self.lock();
        let load = state.table.load();
        state.operate(|table, turn| table.hand_over(turn));
        load
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
        let State { table, salts, verdicts, mailboxes, used_at, delivered: count, journal, changes, .. } = self;
        let was_used = table.load() != Load::default();
        let changes = journal.is_some().then_some(changes);
        let mut turn = Turn { now: clock::server_now(), salt: &mut || salts.next(), changes, verdicts };
        if let Some(journal) = &journal
            && journal.accepts() == table.is_paused()
        {
            if journal.accepts() { table.go_on(&mut turn) } else { table.pause() }
        }
        let result = operation(table, &mut turn);
        if was_used || table.load() != Load::default() {
            *used_at = turn.now;
        }
        while let Some((conn, verdict)) = turn.verdicts.pop_front() {
            let mailbox = mailboxes.get_mut(conn.index()).and_then(Option::take);
            // Without a reader its connection is closing at this moment.
            let promise = journal.as_ref().map(|journal| journal.promise(turn.has_changes()));
            let delivered = mailbox.is_some_and(|mailbox| mailbox.send((verdict, promise)).is_ok());
            match verdict {
                _ if delivered => *count += 1,
                Verdict::Granted { stamp, .. } => table.take_back(&mut turn, conn, stamp),
                Verdict::Timeout | Verdict::Closed | Verdict::Moved => {}
            }
        }
        if let (Some(journal), Some(changes)) = (journal, turn.changes) {
            journal.add(changes);
        }
        result
    }

    /// For the answer to what was done just now.
    fn promise(&self) -> Option<Promise> {
        self.journal.as_ref().map(|journal| journal.promise(false))
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
