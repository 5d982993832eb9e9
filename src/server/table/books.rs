//! The moves that every operation of the table is made of. Each leaves all indexes in agreement.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Asked, Change, Claim, ConnId, EXPIRED_PLACES, End, Key, Kind, LAST_NUMBER, Link, MOST_CLAIMS, Moment, No, Place,
    Space, Stage, Stamp, Table, Turn, Verdict, index,
};

impl Claim {
    pub(super) fn ticket(&self) -> Option<Stamp> {
        self.ticket_salt.map(|salt| Stamp { number: self.order, salt: salt.get() })
    }

    pub(super) fn is_granted(&self) -> bool {
        matches!(self.stage, Stage::Held | Stage::Unclaimed)
    }

    pub(super) fn is_away(&self) -> bool {
        self.conn == ConnId::NOBODY
    }

    /// An owner before this one may come back to it for so long, at least.
    pub(super) fn agree(&mut self, absence: Duration) {
        let millis = absence.as_nanos().div_ceil(1_000_000);
        self.agreed_ms = self.agreed_ms.max(u32::try_from(millis).unwrap_or(u32::MAX));
    }

    /// It was never another connection's, on which its ticket may have led to its token.
    pub(super) fn never_moved(&self) -> bool {
        self.agreed_ms == 0
    }

    fn agreed(&self) -> Duration {
        Duration::from_millis(u64::from(self.agreed_ms))
    }

    /// When something has to be done about it.
    pub(super) fn due(&self) -> Moment {
        if self.is_granted() { self.until.min(self.patience) } else { self.patience }
    }
}

impl Table {
    pub(super) fn find(&self, space: Space, name: &[u8]) -> Option<u32> {
        self.names[space as usize].get(name).copied()
    }

    pub(super) fn owned_by(&self, conn: ConnId) -> Option<u32> {
        self.conns[conn.index()].owned.first()
    }

    /// The grant that `token` proves.
    pub(super) fn granted(&self, name: &[u8], space: Space, token: &[u8]) -> Option<u32> {
        let token = Stamp::parse(token)?;
        let claim = self.stamped(name, space, token.number)?;
        let Claim { stamp, .. } = self.claims[claim as usize];
        (self.claims[claim as usize].is_granted() && stamp.is(token)).then_some(claim)
    }

    /// The claim that `ticket` proves.
    pub(super) fn ticketed(&self, name: &[u8], space: Space, ticket: &[u8]) -> Option<u32> {
        let ticket = Stamp::parse(ticket)?;
        let claim = self.stamped(name, space, ticket.number)?;
        self.claims[claim as usize].ticket().filter(|own| own.is(ticket)).map(|_| claim)
    }

    fn stamped(&self, name: &[u8], space: Space, number: u64) -> Option<u32> {
        let claim = *self.stamps.get(&number)?;
        let key = &self.keys[self.claims[claim as usize].key as usize];
        (*key.name == *name && key.kind.space() == space).then_some(claim)
    }

    /// Whether a grant's lease runs: one whose end has come may still wait for its slice of [`Table::run_out`].
    pub(super) fn is_running(&self, claim: u32, now: Moment) -> bool {
        self.claims[claim as usize].due() > now
    }

    /// Somebody takes up what was granted to a claim, if it was: its lease starts anew.
    pub(super) fn take_up(&mut self, turn: &mut Turn<'_>, claim: u32) -> Option<(Stamp, u64)> {
        let Claim { stamp, lease_s, conn, key, .. } = self.claims[claim as usize];
        if !self.claims[claim as usize].is_granted() {
            return None;
        }
        self.close_place(conn, key, claim);
        self.claims[claim as usize].stage = Stage::Held;
        self.extend(turn, claim, lease_s);
        Some((stamp, lease_s))
    }

    /// Finds or makes the key and grants it if it is free.
    pub(super) fn ask(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        name: &[u8],
        kind: Kind,
        lease_s: u64,
        stage: Stage,
    ) -> Asked {
        if self.closed {
            return Asked::No(No::Closed);
        }
        if self.paused {
            return Asked::No(No::Paused);
        }
        if self.last_number > LAST_NUMBER {
            return Asked::No(No::MaxLocks);
        }
        if self.claims.len() >= MOST_CLAIMS.max(self.limits.keys) {
            return Asked::No(No::MaxWaiters);
        }
        let key = match self.find(kind.space(), name) {
            Some(key) => key,
            None => match self.make_key(turn.now, name, kind) {
                Some(key) => key,
                None => return Asked::No(No::MaxLocks),
            },
        };
        let entry = &mut self.keys[key as usize];
        if entry.holders + entry.waiting == 0 {
            entry.kind = kind;
        } else if entry.kind != kind {
            return Asked::No(No::LimitMismatch);
        }
        if self.keys[key as usize].holders >= kind.limit() {
            self.end_stale_holder(turn, key);
        }
        let entry = &self.keys[key as usize];
        if entry.holders < kind.limit() && !self.is_spoken_for(key) {
            let claim = self.add_claim(Claim {
                key,
                conn,
                stage,
                agreed_ms: 0,
                order: 0,
                ticket_salt: None,
                stamp: Stamp { number: 0, salt: 0 },
                lease_s,
                until: Moment::NEVER,
                patience: Moment::NEVER,
                link: Link::default(),
            });
            if stage == Stage::Unclaimed {
                self.open_place(conn, key, claim);
            }
            return Asked::Granted(self.grant(turn, claim, stage));
        }
        // A place of nobody does not keep out somebody who is there.
        if self.limits.waiters > 0 && entry.waiting - entry.away >= self.limits.waiters as u64 {
            return Asked::No(No::MaxWaiters);
        }
        Asked::Busy(key)
    }

    /// Whether one who outlived the server is expected back before anybody else is served.
    fn is_spoken_for(&self, key: u32) -> bool {
        self.keys[key as usize].waiting > 0
            && self.queue.range((key, 0, 0)..=(key, u64::MAX, u32::MAX)).next().is_some()
    }

    pub(super) fn expect_until(&mut self, moment: Moment) {
        self.expected_until = Some(moment);
        self.quiet_until = self.quiet_until.min(moment);
    }

    /// A lock's lease that is over but still waits for its slice of [`Table::run_out`] blocks nobody.
    fn end_stale_holder(&mut self, turn: &mut Turn<'_>, key: u32) {
        let Key { newest, kind, .. } = self.keys[key as usize];
        if kind == Kind::Lock && !self.is_running(newest, turn.now) {
            self.finish(turn, newest);
        }
    }

    fn make_key(&mut self, now: Moment, name: &[u8], kind: Kind) -> Option<u32> {
        if self.keys.len() >= self.limits.keys {
            let oldest = self.idle.first()?;
            self.forget_key(oldest);
        }
        Some(self.insert_key(now, name.into(), kind))
    }

    /// Whatever the limit.
    pub(super) fn insert_key(&mut self, now: Moment, name: Arc<[u8]>, kind: Kind) -> u32 {
        let born = self.next_number();
        let key = Key {
            name: name.clone(),
            kind,
            holders: 0,
            waiting: 0,
            away: 0,
            newest: 0,
            born,
            idle_since: now,
            link: Link::default(),
        };
        let key = index(self.keys.insert(key));
        self.names[kind.space() as usize].insert(name, key);
        self.idle.push(&mut self.keys, key);
        key
    }

    /// Of a key that nobody uses.
    pub(super) fn forget_key(&mut self, key: u32) {
        self.idle.remove(&mut self.keys, key);
        let gone = self.keys.remove(key as usize);
        self.names[gone.kind.space() as usize].remove(&gone.name);
    }

    pub(super) fn add_claim(&mut self, claim: Claim) -> u32 {
        let Claim { key, conn, .. } = claim;
        let due = claim.due();
        let claim = index(self.claims.insert(claim));
        if conn != ConnId::NOBODY {
            self.own(conn, claim);
        }
        self.schedule(due, claim);
        let entry = &self.keys[key as usize];
        if entry.holders + entry.waiting == 0 {
            self.idle.remove(&mut self.keys, key);
        }
        claim
    }

    fn schedule(&mut self, due: Moment, claim: u32) {
        if due != Moment::NEVER {
            self.due.insert((due, claim));
            self.quiet_until = self.quiet_until.min(due);
        }
    }

    fn own(&mut self, conn: ConnId, claim: u32) {
        self.conns[conn.index()].owned.push(&mut self.claims, claim);
    }

    fn disown(&mut self, claim: u32) {
        let conn = self.claims[claim as usize].conn;
        if conn != ConnId::NOBODY {
            self.conns[conn.index()].owned.remove(&mut self.claims, claim);
        }
    }

    /// Puts a claim at the end of the queue.
    pub(super) fn join(
        &mut self,
        conn: ConnId,
        key: u32,
        lease_s: u64,
        stage: Stage,
        patience: Moment,
        ticket_salt: Option<NonZeroU64>,
    ) -> u32 {
        let order = self.next_number();
        let stamp = Stamp { number: 0, salt: 0 };
        let until = Moment::NEVER;
        let link = Link::default();
        let agreed_ms = 0;
        let claim = self.add_claim(Claim {
            key,
            conn,
            stage,
            agreed_ms,
            order,
            ticket_salt,
            stamp,
            lease_s,
            until,
            patience,
            link,
        });
        self.keys[key as usize].waiting += 1;
        self.load.waiting += 1;
        self.queue.insert((key, order, claim));
        claim
    }

    /// Changes what a claim's deadline depends on.
    pub(super) fn change(&mut self, claim: u32, change: impl FnOnce(&mut Claim)) {
        let entry = &mut self.claims[claim as usize];
        let before = entry.due();
        change(entry);
        let after = entry.due();
        if before != after {
            if before != Moment::NEVER {
                self.due.remove(&(before, claim));
            }
            self.schedule(after, claim);
        }
    }

    /// Gives the lock to a claim that is in no queue.
    fn grant(&mut self, turn: &mut Turn<'_>, claim: u32, stage: Stage) -> Stamp {
        let stamp = Stamp { number: self.next_number(), salt: (turn.salt)() };
        let now = turn.now;
        self.change(claim, |claim| {
            claim.stage = stage;
            claim.stamp = stamp;
            claim.until = now + Duration::from_secs(claim.lease_s);
            claim.patience = Moment::NEVER;
        });
        self.stamps.insert(stamp.number, claim);
        self.load.held += 1;
        self.grants_ever += 1;
        let entry = &self.claims[claim as usize];
        let key = &mut self.keys[entry.key as usize];
        key.holders += 1;
        key.newest = claim;
        turn.record(|| Change::Granted {
            key: key.name.clone(),
            kind: key.kind,
            stamp,
            ticket: entry.ticket(),
            lease_s: entry.lease_s,
            until: entry.until,
            known: stage == Stage::Held || entry.order == 0 || entry.ticket_salt.is_some(),
        });
        stamp
    }

    pub(super) fn extend(&mut self, turn: &mut Turn<'_>, claim: u32, lease_s: u64) {
        let until = turn.now + Duration::from_secs(lease_s);
        self.change(claim, |claim| {
            claim.lease_s = lease_s;
            claim.until = until;
            if claim.is_away() {
                // Somebody is promised this lease now, whoever is away.
                claim.patience = claim.patience.max(until);
            }
        });
        let fence = self.claims[claim as usize].stamp.number;
        turn.record(|| Change::Renewed { fence, lease_s, until });
    }

    /// Grants what is free to those first in the queue.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, key: u32) {
        loop {
            let Key { holders, waiting, kind, .. } = self.keys[key as usize];
            if holders + waiting == 0 {
                self.keys[key as usize].idle_since = turn.now;
                self.idle.push(&mut self.keys, key);
                self.quiet_until = self.quiet_until.min(turn.now + self.limits.idle);
                return;
            }
            if self.paused || self.closed {
                return;
            }
            let first = self.queue.range((key, 0, 0)..=(key, u64::MAX, u32::MAX)).next().copied();
            let (Some((_, order, claim)), true) = (first, holders < kind.limit()) else { return };
            let Claim { conn, stage, lease_s, .. } = self.claims[claim as usize];
            if conn == ConnId::NOBODY && self.expected_until.is_some() {
                return;
            }
            if conn == ConnId::NOBODY || self.conns[conn.index()].gone {
                // Its connection is closed and its turn to be cleared away has not come: it is passed over.
                self.queue.remove(&(key, order, claim));
                continue;
            }
            self.unqueue(claim);
            if stage == Stage::Blocked {
                let stamp = self.grant(turn, claim, Stage::Held);
                turn.verdicts.push_back((conn, Verdict::Granted { stamp, lease_s }));
            } else {
                self.grant(turn, claim, Stage::Unclaimed);
            }
        }
    }

    /// Out of the queue and of the counts of those who wait.
    fn unqueue(&mut self, claim: u32) {
        let Claim { key, order, .. } = self.claims[claim as usize];
        self.queue.remove(&(key, order, claim));
        self.keys[key as usize].away -= u64::from(self.claims[claim as usize].is_away());
        self.keys[key as usize].waiting -= 1;
        self.load.waiting -= 1;
    }

    fn remove_claim(&mut self, claim: u32) -> Claim {
        self.disown(claim);
        self.displaced.forget_claim(claim);
        let gone = self.claims.remove(claim as usize);
        self.due.remove(&(gone.due(), claim));
        if gone.is_granted() {
            self.stamps.remove(&gone.stamp.number);
        }
        if gone.ticket_salt.is_some() {
            self.stamps.remove(&gone.order);
        }
        gone
    }

    /// A waiting claim gives up its place.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>, claim: u32) {
        self.unqueue(claim);
        let gone = self.remove_claim(claim);
        if gone.ticket_salt.is_some() {
            turn.record(|| Change::Left { place: gone.order });
        }
        self.settle(turn, gone.key);
    }

    /// A grant ends.
    pub(super) fn end(&mut self, turn: &mut Turn<'_>, claim: u32, why: End) {
        let gone = self.remove_claim(claim);
        self.load.held -= 1;
        self.keys[gone.key as usize].holders -= 1;
        if gone.stage == Stage::Unclaimed && !gone.is_away() {
            let born = self.keys[gone.key as usize].born;
            self.close_place(gone.conn, gone.key, claim);
            if why == End::Expired && self.expired_places < EXPIRED_PLACES {
                self.expired_places += 1;
                self.places.insert((gone.conn, gone.key), Place::Expired { born });
            }
        }
        turn.record(|| Change::Ended { fence: gone.stamp.number, why });
        self.settle(turn, gone.key);
    }

    /// A grant to a place, of which nobody knows, becomes the place that it was, with its client away.
    pub(super) fn put_back(&mut self, turn: &mut Turn<'_>, claim: u32) {
        let Claim { conn, key, stamp, lease_s, order, .. } = self.claims[claim as usize];
        let Some(ticket) = self.claims[claim as usize].ticket() else { return };
        self.close_place(conn, key, claim);
        self.disown(claim);
        self.stamps.remove(&stamp.number);
        let resume = self.conns[conn.index()].resume;
        let away_until = turn.now + resume;
        self.change(claim, |claim| {
            claim.conn = ConnId::NOBODY;
            claim.stage = Stage::Queued;
            claim.stamp = Stamp { number: 0, salt: 0 };
            claim.until = Moment::NEVER;
            claim.patience = away_until;
        });
        self.claims[claim as usize].agree(resume);
        self.load.held -= 1;
        self.load.waiting += 1;
        let entry = &mut self.keys[key as usize];
        entry.holders -= 1;
        entry.waiting += 1;
        entry.away += 1;
        let (name, kind) = (entry.name.clone(), entry.kind);
        turn.record(|| Change::Ended { fence: stamp.number, why: End::Disconnected });
        turn.record(|| Change::Queued { key: name, kind, ticket, lease_s, resume });
        turn.record(|| Change::LeftBehind { number: order, away_until });
        self.settle(turn, key);
    }

    /// A claim's deadline has come.
    pub(super) fn finish(&mut self, turn: &mut Turn<'_>, claim: u32) {
        let entry = &self.claims[claim as usize];
        if entry.is_granted() {
            let why = if entry.until <= turn.now { End::Expired } else { End::Disconnected };
            return self.end(turn, claim, why);
        }
        if entry.stage == Stage::Blocked && !entry.is_away() {
            turn.verdicts.push_back((entry.conn, Verdict::Timeout));
        }
        self.leave(turn, claim);
    }

    /// The connection of its owner is closed. It is the one's again that owned it before, if that is still there;
    /// else it is kept for as long as was agreed with any of its owners.
    pub(super) fn abandon(&mut self, turn: &mut Turn<'_>, claim: u32) {
        let Claim { conn, key, order, stage, stamp, .. } = self.claims[claim as usize];
        self.claims[claim as usize].agree(self.conns[conn.index()].resume);
        self.close_place(conn, key, claim);
        if let Some(heir) = self.heir(claim) {
            self.disown(claim);
            self.claims[claim as usize].conn = ConnId::NOBODY;
            self.give(claim, heir);
            self.record_owner(turn, claim);
            // While its connection was closing it may have been passed over.
            return self.settle(turn, key);
        }
        let entry = &self.claims[claim as usize];
        let (granted, has_ticket, absence) = (entry.is_granted(), entry.ticket_salt.is_some(), entry.agreed());
        // Nobody knows the token of a grant to a place without a ticket that was never waited for.
        let unknown = stage == Stage::Unclaimed && order != 0 && !has_ticket;
        let keeps = if granted {
            !unknown && (!self.limits.auto_release || !absence.is_zero())
        } else {
            let away = self.keys[key as usize].away;
            let has_room = self.limits.waiters == 0 || away < self.limits.waiters as u64;
            !absence.is_zero() && has_ticket && has_room
        };
        if !keeps {
            return if granted { self.end(turn, claim, End::Disconnected) } else { self.leave(turn, claim) };
        }
        let lets_go = !granted || self.limits.auto_release;
        let away_until = if lets_go { turn.now + absence } else { Moment::NEVER };
        self.disown(claim);
        self.change(claim, |claim| {
            claim.conn = ConnId::NOBODY;
            claim.patience = away_until;
        });
        if !granted {
            self.queue.remove(&(key, order, claim));
            self.keys[key as usize].away += 1;
        }
        let number = if granted { stamp.number } else { order };
        turn.record(|| Change::LeftBehind { number, away_until });
    }

    /// Who owned the claim before, is still there, and can have it again.
    fn heir(&self, claim: u32) -> Option<ConnId> {
        let Claim { key, stage, .. } = self.claims[claim as usize];
        let can_have =
            |conn: &ConnId| !self.conns[conn.index()].gone && (stage == Stage::Held || !self.has_place(*conn, key));
        self.displaced.of_claim(claim).map(|(_, conn)| conn).rev().find(can_have)
    }

    fn has_place(&self, conn: ConnId, key: u32) -> bool {
        matches!(self.places.get(&(conn, key)), Some(Place::Open(_)))
    }

    /// Makes `conn` the owner of a claim, instead of whoever was, and that one displaced.
    pub(super) fn adopt(
        &mut self,
        turn: &mut Turn<'_>,
        claim: u32,
        conn: ConnId,
        lease_s: Option<u64>,
    ) -> Result<(), No> {
        let Claim { conn: before, key, stage, .. } = self.claims[claim as usize];
        if before != conn {
            if stage != Stage::Held && self.has_place(conn, key) {
                return Err(No::AlreadyEnqueued);
            }
            if before != ConnId::NOBODY {
                // Forgetting one of them could end its lock.
                if self.displaced.is_full() {
                    return Err(No::MaxWaiters);
                }
                if stage == Stage::Blocked {
                    turn.verdicts.push_back((before, Verdict::Moved));
                }
                self.close_place(before, key, claim);
                self.disown(claim);
                self.displaced.remember(claim, before);
                self.claims[claim as usize].agree(self.conns[before.index()].resume);
                self.claims[claim as usize].conn = ConnId::NOBODY;
            } else if !self.claims[claim as usize].is_granted() {
                self.keys[key as usize].away -= 1;
            }
            self.give(claim, conn);
        }
        let entry = &mut self.claims[claim as usize];
        if let Some(lease_s) = lease_s {
            // Whoever was promised more since this was asked for relies on it.
            entry.lease_s = if entry.is_granted() { lease_s.max(entry.lease_s) } else { lease_s };
        }
        self.record_owner(turn, claim);
        Ok(())
    }

    fn record_owner(&self, turn: &mut Turn<'_>, claim: u32) {
        let entry = &self.claims[claim as usize];
        let number = if entry.is_granted() { entry.stamp.number } else { entry.order };
        let (lease_s, resume) = (entry.lease_s, entry.agreed().max(self.conns[entry.conn.index()].resume));
        turn.record(|| Change::Resumed { number, lease_s, resume });
    }

    /// A claim that is nobody's is this connection's from now on.
    fn give(&mut self, claim: u32, conn: ConnId) {
        let Claim { key, order, stage, .. } = self.claims[claim as usize];
        self.displaced.forget(claim, conn);
        if stage != Stage::Held {
            self.open_place(conn, key, claim);
        }
        self.own(conn, claim);
        self.change(claim, |claim| {
            claim.conn = conn;
            claim.patience = Moment::NEVER;
            if claim.stage == Stage::Blocked {
                claim.stage = Stage::Queued;
            }
        });
        if matches!(stage, Stage::Queued | Stage::Blocked) {
            self.queue.insert((key, order, claim));
        }
    }

    /// Whether a wait for the two-phase place of a connection would be answered at once.
    pub(super) fn has_answer(&self, conn: ConnId, key: u32) -> bool {
        match self.places.get(&(conn, key)) {
            Some(Place::Open(claim)) => self.claims[*claim as usize].is_granted(),
            Some(Place::Expired { .. }) => true,
            None => false,
        }
    }

    /// Takes the two-phase place of a connection, if it has one for this very key.
    pub(super) fn take_place(&mut self, conn: ConnId, key: u32) -> Option<Place> {
        let place = self.places.remove(&(conn, key))?;
        if let Place::Expired { born } = place {
            self.expired_places -= 1;
            return (born == self.keys[key as usize].born).then_some(place);
        }
        Some(place)
    }

    pub(super) fn open_place(&mut self, conn: ConnId, key: u32, claim: u32) {
        if let Some(Place::Expired { .. }) = self.places.insert((conn, key), Place::Open(claim)) {
            self.expired_places -= 1;
        }
    }

    /// A claim is no two-phase place of this connection any more, if it was one.
    pub(super) fn close_place(&mut self, conn: ConnId, key: u32, claim: u32) {
        if let Some(Place::Open(open)) = self.places.get(&(conn, key))
            && *open == claim
        {
            self.places.remove(&(conn, key));
        }
    }

    /// Gives memory back once nothing is left to remember.
    pub(super) fn shrink(&mut self) {
        if self.keys.is_empty() && self.claims.is_empty() && self.keys.capacity() > super::SLICE {
            self.keys.shrink_to_fit();
            self.claims.shrink_to_fit();
            self.stamps.shrink_to_fit();
            self.names.iter_mut().for_each(|names| names.shrink_to_fit());
        }
    }

    pub(super) fn forget_places(&mut self, conn: ConnId) {
        let all: Vec<u32> = self.places.range((conn, 0)..=(conn, u32::MAX)).map(|((_, key), _)| *key).collect();
        for key in all {
            if let Some(Place::Expired { .. }) = self.places.remove(&(conn, key)) {
                self.expired_places -= 1;
            }
        }
    }

    /// It never gets to the end of them: see [`LAST_NUMBER`].
    fn next_number(&mut self) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        self.last_number
    }
}
