//! Who holds, who waits, what runs out when. Pure: time and randomness are arguments, effects are values.
//!
//! Every request for a lock is a *claim*: it waits, is granted, and ends. Six indexes point at claims:
//! the queue by key and order, the deadlines by time, the claims of a connection, those that it owned before
//! another one resumed them, the stamps (fences of tokens, numbers of tickets), and the two-phase places by
//! connection and key. Each operation touches a bounded number of entries in each, so it costs O(log n) in keys,
//! waiters and connections.
//!
//! What a holder may rely on: *a granted claim ends by a release with its token, by the end of the lease that was
//! promised last, or, when every connection that ever owned it is gone, by the end of the longest absence that was
//! agreed with any of them.* Nothing that a connection does that is given up, late or a stranger's ends it sooner.
//!
//! A place whose connection broke may be kept for its client to resume. While the client is away the
//! place is out of the queue, so nobody absent is ever granted a lock; on return it has its old order.

mod books;
mod chain;
mod change;
mod displaced;
mod invariants;
#[cfg(test)]
mod play;
mod report;
mod restore;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use chain::{Chain, Link, Linked};
pub use change::{Change, ConnId, End, No, Reply, Resumed, Turn, Verdict};
pub use report::{Cursor, Row};
pub use restore::{OldGrant, OldPlace};

use displaced::Displaced;

use crate::clock::Moment;
use crate::lock::{Kind, Space};
use crate::server::stamp::Stamp;

/// How many deadlines or claims one call works through, so that nobody stalls behind a million of them.
const SLICE: usize = 1024;

/// How many may hold or wait, unless there may be more keys than that: whoever asks takes memory.
const MOST_CLAIMS: usize = 2_000_000;

/// Behind this one nobody is let in: a fence that begins anew would be below those before. Whoever holds, waits
/// or has a key by then takes a few numbers more, and they are fewer than are left.
const LAST_NUMBER: u64 = u64::MAX - (1 << 40);

/// How many places that slept through their grant are remembered, to be told so.
const EXPIRED_PLACES: usize = 65_536;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Keys, of locks and semaphores together.
    pub keys: usize,
    /// Waiters of one key, and as many whose client is away; 0 for any number.
    pub waiters: usize,
    /// How long a key that nobody uses is remembered.
    pub idle: Duration,
    /// Whether a connection's end ends its locks.
    pub auto_release: bool,
}

/// Totals, for limits and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub held: usize,
    pub waiting: usize,
}

pub struct Table {
    limits: Limits,
    names: [HashMap<Arc<[u8]>, u32>; 2],
    keys: Slab<Key>,
    claims: Slab<Claim>,
    conns: Slab<Conn>,
    /// Waiting claims whose client is there: (key, order, claim).
    queue: BTreeSet<(u32, u64, u32)>,
    due: BTreeSet<(Moment, u32)>,
    displaced: Displaced,
    stamps: HashMap<u64, u32, NumberHash>,
    places: BTreeMap<(ConnId, u32), Place>,
    expired_places: usize,
    /// Nothing runs out before.
    quiet_until: Moment,
    /// Keys that nobody uses, longest unused first.
    idle: Chain,
    load: Load,
    /// The last fence, ticket or birth number given out.
    last_number: u64,
    connections_ever: u64,
    grants_ever: u64,
    closed: bool,
    /// Gives out nothing for now, and takes nobody into a queue.
    paused: bool,
    /// Until then those who outlived the server, and are away, are not overtaken.
    expected_until: Option<Moment>,
}

struct Key {
    name: Arc<[u8]>,
    kind: Kind,
    holders: u64,
    waiting: u64,
    /// Of those who wait, the ones whose client is away.
    away: u64,
    /// The claim granted last: of a lock, its holder while there is one.
    newest: u32,
    /// Orders keys by when they were made; tells a key from an earlier one in the same slot.
    born: u64,
    idle_since: Moment,
    /// In the list of keys that nobody uses.
    link: Link,
}

struct Claim {
    key: u32,
    /// Its owner: the connection that took it, resumed it or, of those, used it last.
    conn: ConnId,
    stage: Stage,
    /// The longest absence agreed with an owner before this one, in milliseconds; see [`Claim::agree`].
    agreed_ms: u32,
    /// Its place in the queue, and the number of its ticket.
    order: u64,
    ticket_salt: Option<std::num::NonZeroU64>,
    /// Its token, once granted.
    stamp: Stamp,
    lease_s: u64,
    /// The end of its lease, once granted.
    until: Moment,
    /// The end of its wait while blocked, of its client's absence while away.
    patience: Moment,
    /// In the list of what its connection has.
    link: Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Joined by `e`, nobody asks for the answer yet.
    Queued,
    /// Its connection waits for the answer.
    Blocked,
    /// Granted to a place of `e` that has not been waited for.
    Unclaimed,
    Held,
}

/// What became of a two-phase place that `w` may ask for.
enum Place {
    Open(u32),
    /// It was granted, and its lease ran out; `born` says of which key.
    Expired {
        born: u64,
    },
}

struct Conn {
    /// As shown in `stats`.
    number: u64,
    resume: Duration,
    gone: bool,
    /// Its claims.
    owned: Chain,
}

impl Linked for Key {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn place(&self) -> Link {
        self.link
    }
}

impl Linked for Claim {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn place(&self) -> Link {
        self.link
    }
}

impl Table {
    /// `last_number` is at least every fence ever given out.
    pub fn new(limits: Limits, last_number: u64) -> Table {
        Table {
            limits,
            names: [HashMap::new(), HashMap::new()],
            keys: Slab::new(),
            claims: Slab::new(),
            conns: Slab::new(),
            queue: BTreeSet::new(),
            due: BTreeSet::new(),
            displaced: Displaced::new(MOST_CLAIMS.max(limits.keys)),
            stamps: HashMap::default(),
            places: BTreeMap::new(),
            expired_places: 0,
            quiet_until: Moment::NEVER,
            idle: Chain::default(),
            load: Load::default(),
            last_number,
            connections_ever: 0,
            grants_ever: 0,
            closed: false,
            paused: false,
            expected_until: None,
        }
    }

    pub fn load(&self) -> Load {
        self.load
    }

    /// How often anything was granted since this table was made.
    pub fn grants(&self) -> u64 {
        self.grants_ever
    }

    /// Whether it stopped giving out locks.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether this connection holds or waits for anything, or would again if another one ended.
    pub fn is_busy(&self, conn: ConnId) -> bool {
        self.owned_by(conn).or_else(|| self.displaced.of_conn(conn)).is_some()
    }

    pub fn connect(&mut self) -> ConnId {
        self.connections_ever += 1;
        let number = self.connections_ever;
        let conn = Conn { number, resume: Duration::ZERO, gone: false, owned: Chain::default() };
        ConnId(index(self.conns.insert(conn)))
    }

    /// From now on, what this connection leaves behind when it breaks may be resumed for so long.
    pub fn allow_resuming(&mut self, conn: ConnId, resume: Duration) {
        self.conns[conn.index()].resume = resume;
    }

    /// Lets go of what a closed connection had, a slice at a time: `false` while there is more.
    pub fn disconnect(&mut self, turn: &mut Turn<'_>, conn: ConnId) -> bool {
        self.conns[conn.index()].gone = true;
        for _ in 0..SLICE {
            if let Some(claim) = self.owned_by(conn) {
                self.abandon(turn, claim);
            } else if let Some(claim) = self.displaced.of_conn(conn) {
                self.displaced.forget(claim, conn);
                self.claims[claim as usize].agree(self.conns[conn.index()].resume);
            } else {
                self.forget_places(conn);
                self.conns.remove(conn.index());
                return true;
            }
        }
        false
    }

    pub fn acquire(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        name: &[u8],
        kind: Kind,
        lease_s: u64,
        timeout: Duration,
    ) -> Reply {
        self.run_out(turn);
        match self.ask(turn, conn, name, kind, lease_s, Stage::Held) {
            Asked::Granted(stamp) => Reply::Granted { stamp, lease_s },
            Asked::No(no) => Reply::No(no),
            Asked::Busy(_) if timeout.is_zero() => Reply::Timeout,
            Asked::Busy(key) => {
                self.join(conn, key, lease_s, Stage::Blocked, turn.now + timeout, None);
                Reply::Blocked
            }
        }
    }

    pub fn enqueue(&mut self, turn: &mut Turn<'_>, conn: ConnId, name: &[u8], kind: Kind, lease_s: u64) -> Reply {
        self.run_out(turn);
        if self.closed {
            return Reply::No(No::Closed);
        }
        if let Some(key) = self.find(kind.space(), name) {
            if let Some(Place::Open(_)) = self.places.get(&(conn, key)) {
                return Reply::No(No::AlreadyEnqueued);
            }
            self.take_place(conn, key);
        }
        match self.ask(turn, conn, name, kind, lease_s, Stage::Unclaimed) {
            Asked::Granted(stamp) => Reply::Granted { stamp, lease_s },
            Asked::No(no) => Reply::No(no),
            Asked::Busy(key) => {
                let resumable = !self.conns[conn.index()].resume.is_zero();
                let salt =
                    resumable.then(|| std::num::NonZeroU64::new((turn.salt)()).unwrap_or(std::num::NonZeroU64::MIN));
                let claim = self.join(conn, key, lease_s, Stage::Queued, Moment::NEVER, salt);
                self.open_place(conn, key, claim);
                let ticket = self.claims[claim as usize].ticket();
                if let Some(ticket) = ticket {
                    self.stamps.insert(ticket.number, claim);
                    let Key { name, kind, .. } = &self.keys[key as usize];
                    let resume = self.conns[conn.index()].resume;
                    turn.record(|| Change::Queued { key: name.clone(), kind: *kind, ticket, lease_s, resume });
                }
                Reply::Queued { ticket }
            }
        }
    }

    pub fn wait(&mut self, turn: &mut Turn<'_>, conn: ConnId, name: &[u8], space: Space, timeout: Duration) -> Reply {
        self.run_out(turn);
        let key = self.find(space, name);
        if self.closed && !key.is_some_and(|key| self.has_answer(conn, key)) {
            // A place that is kept for the next server stays what it is.
            return Reply::No(No::Closed);
        }
        let claim = match key.and_then(|key| self.take_place(conn, key)) {
            None => return Reply::No(No::NotEnqueued),
            Some(Place::Expired { .. }) => return Reply::No(No::LeaseExpired),
            Some(Place::Open(claim)) => claim,
        };
        if let Some((stamp, lease_s)) = self.take_up(turn, claim) {
            return Reply::Granted { stamp, lease_s };
        }
        if timeout.is_zero() {
            self.leave(turn, claim);
            return Reply::Timeout;
        }
        let patience = turn.now + timeout;
        self.change(claim, |claim| {
            claim.stage = Stage::Blocked;
            claim.patience = patience;
        });
        Reply::Blocked
    }

    /// Ends a grant. Any connection may, with the token.
    pub fn release(&mut self, turn: &mut Turn<'_>, name: &[u8], space: Space, token: &[u8]) -> bool {
        self.run_out(turn);
        let Some(claim) = self.granted(name, space, token) else { return false };
        self.end(turn, claim, End::Released);
        true
    }

    /// Takes back a grant that was not told on this connection, whose client is gone. A place with a ticket is again
    /// what it was before, as its client may come back to it; but it holds up nobody.
    pub fn take_back(&mut self, turn: &mut Turn<'_>, conn: ConnId, stamp: Stamp) {
        let Some(&claim) = self.stamps.get(&stamp.number) else { return };
        let entry = &self.claims[claim as usize];
        // Whoever owns it on another connection was told of it there.
        if entry.conn != conn {
            return;
        }
        if entry.ticket().is_none() {
            self.end(turn, claim, End::Disconnected);
        } else if entry.never_moved() {
            self.put_back(turn, claim);
        }
    }

    /// Whether a ticket leads to this grant: it has been a place before, of a client that may come back.
    pub fn has_ticket(&self, stamp: &Stamp) -> bool {
        self.stamps.get(&stamp.number).is_some_and(|claim| self.claims[*claim as usize].ticket().is_some())
    }

    /// Sets a grant's lease to end so many seconds from now: as many as are named, else its own. Says how many.
    ///
    /// An owner that was displaced takes its grant back. As its words may have been under way for long, they do
    /// not make the lease any shorter than what others were promised since.
    pub fn renew(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        name: &[u8],
        space: Space,
        token: &[u8],
        lease_s: Option<u64>,
    ) -> Option<u64> {
        self.run_out(turn);
        let claim = self.granted(name, space, token).filter(|claim| self.is_running(*claim, turn.now))?;
        let own = self.claims[claim as usize].lease_s;
        let mut lease_s = lease_s.unwrap_or(own);
        if self.displaced.has(claim, conn) {
            lease_s = lease_s.max(own);
            // With another place of its own for this key it cannot own this one as well; the lease counts all the same.
            let _ = self.adopt(turn, claim, conn, None);
        }
        self.extend(turn, claim, lease_s);
        Some(lease_s)
    }

    /// Makes `conn` the owner of a grant (by its token) or a place (by its ticket), wherever its client was. A
    /// lease starts anew, and is never any shorter for that.
    pub fn resume(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        name: &[u8],
        space: Space,
        proof: &[u8],
        lease_s: Option<u64>,
    ) -> Result<Resumed, No> {
        self.run_out(turn);
        let by_token = self.granted(name, space, proof).filter(|claim| self.is_running(*claim, turn.now));
        let claim = by_token.or_else(|| self.ticketed(name, space, proof)).ok_or(No::NotHeld)?;
        if by_token.is_some() {
            // Whoever knows the token was told of the grant. So it is no place any more, beside which this connection
            // could have no other.
            self.take_up(turn, claim);
        }
        self.adopt(turn, claim, conn, lease_s)?;
        // Coming back may be all that the queue was waiting for.
        self.settle(turn, self.claims[claim as usize].key);
        let ticket = self.claims[claim as usize].ticket();
        let Some((stamp, lease_s)) = self.take_up(turn, claim) else {
            return ticket.map(|ticket| Resumed::Queued { ticket }).ok_or(No::NotHeld);
        };
        Ok(if by_token.is_some() { Resumed::Held { lease_s } } else { Resumed::Granted { stamp, lease_s } })
    }

    /// Ends whatever ran out by now. Work left over is due at once, see [`Table::next_due`].
    pub fn run_out(&mut self, turn: &mut Turn<'_>) {
        if turn.now < self.quiet_until {
            return;
        }
        if self.expected_until.is_some_and(|until| turn.now >= until) {
            self.expected_until = None;
            self.settle_all(turn);
        }
        for _ in 0..SLICE {
            let Some(&(due, claim)) = self.due.first() else { break };
            if due > turn.now {
                break;
            }
            self.finish(turn, claim);
        }
        for _ in 0..SLICE {
            let Some(key) = self.idle.first() else { break };
            if self.keys[key as usize].idle_since + self.limits.idle > turn.now {
                break;
            }
            self.forget_key(key);
        }
        self.shrink();
        let claim = self.due.first().map_or(Moment::NEVER, |(due, _)| *due);
        let oldest = self.idle.first().map(|key| self.keys[key as usize].idle_since);
        let idle = oldest.map_or(Moment::NEVER, |since| since + self.limits.idle);
        self.quiet_until = claim.min(idle).min(self.expected_until.unwrap_or(Moment::NEVER));
    }

    /// When [`Table::run_out`] is to be called next; it may find that what was due then is gone.
    pub fn next_due(&self) -> Moment {
        self.quiet_until
    }

    /// Gives out no more locks and sends every waiter away, because the server stops.
    pub fn close(&mut self, turn: &mut Turn<'_>) {
        self.send_away(turn, |_| true);
    }

    /// The same, but places that can be resumed stay: another server goes on from here.
    pub fn hand_over(&mut self, turn: &mut Turn<'_>) {
        self.send_away(turn, |claim| claim.ticket_salt.is_none());
    }

    fn send_away(&mut self, turn: &mut Turn<'_>, loses_place: impl Fn(&Claim) -> bool) {
        self.closed = true;
        let waiting = |claim: &Claim| matches!(claim.stage, Stage::Queued | Stage::Blocked);
        let all: Vec<u32> = self.claims.iter().filter(|(_, claim)| waiting(claim)).map(|(at, _)| index(at)).collect();
        for claim in all {
            let Claim { conn, key, stage, .. } = self.claims[claim as usize];
            if stage == Stage::Blocked && conn != ConnId::NOBODY {
                turn.verdicts.push_back((conn, Verdict::Closed));
            }
            if loses_place(&self.claims[claim as usize]) {
                self.close_place(conn, key, claim);
                self.leave(turn, claim);
            } else if stage == Stage::Blocked {
                self.change(claim, |claim| {
                    claim.stage = Stage::Queued;
                    claim.patience = Moment::NEVER;
                });
            }
        }
    }

    /// Whether it gives nothing out for now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Gives out nothing from now on; those in a queue stay there, nobody joins them.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Gives out again, first to those who waited meanwhile.
    pub fn go_on(&mut self, turn: &mut Turn<'_>) {
        self.paused = false;
        self.settle_all(turn);
    }

    fn settle_all(&mut self, turn: &mut Turn<'_>) {
        let mut next = 0;
        while let Some((key, ..)) = self.queue.range((next, 0, 0)..).next().copied() {
            self.settle(turn, key);
            next = key + 1;
        }
    }
}

/// Hashes numbers that this table gave out itself: nobody outside chooses what is stored under them.
type NumberHash = BuildHasherDefault<NumberHasher>;

#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// What asking for a lock led to.
enum Asked {
    Granted(Stamp),
    Busy(u32),
    No(No),
}

fn index(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or_else(|_| panic!("more than 2^32 claims"))
}
