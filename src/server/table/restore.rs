//! A table that goes on where another one stopped: what was held is held again, and waits for its owner.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::{Claim, ConnId, Kind, Limits, Link, Moment, Stage, Stamp, Table};

/// How long those whose places outlived the server may take to come back before they are overtaken: as long as dflock
/// keeps trying, and the server keeps a place for it, by default.
const RETURN_WITHIN: Duration = Duration::from_secs(10);

/// A grant that outlived its server; nobody is connected for it.
#[derive(Clone, Debug)]
pub struct OldGrant {
    pub key: Arc<[u8]>,
    pub kind: Kind,
    pub stamp: Stamp,
    /// Of the place that it was granted to, if that had one.
    pub ticket: Option<Stamp>,
    pub lease_s: u64,
    /// The end of its lease, on the clock of the table.
    pub until: Moment,
}

/// A queue place that outlived its server.
#[derive(Clone, Debug)]
pub struct OldPlace {
    pub key: Arc<[u8]>,
    pub kind: Kind,
    pub ticket: Stamp,
    pub lease_s: u64,
    /// How long it waits for its owner.
    pub away_until: Moment,
}

impl Table {
    /// `last_number` is at least every fence and ticket ever given out. Places come in any order. What is kept
    /// counts for the limits, but is never refused by them.
    pub fn restored(
        limits: Limits,
        last_number: u64,
        now: Moment,
        grants: impl Iterator<Item = OldGrant>,
        places: impl Iterator<Item = OldPlace>,
    ) -> Table {
        let mut table = Table::new(limits, last_number);
        grants.for_each(|grant| table.hold_again(now, grant));
        places.for_each(|place| table.queue_again(now, place));
        if !table.queue.is_empty() {
            table.expect_until(now + RETURN_WITHIN);
        }
        table
    }

    fn hold_again(&mut self, now: Moment, grant: OldGrant) {
        let OldGrant { key, kind, stamp, ticket, lease_s, until } = grant;
        let key = self.old_key(now, key, kind);
        let claim = self.add_claim(Claim {
            key,
            conn: ConnId::NOBODY,
            stage: Stage::Held,
            // Nobody knows any more what was agreed on: its lease alone bounds it.
            agreed_ms: u32::MAX,
            order: ticket.map_or(0, |ticket| ticket.number),
            ticket_salt: ticket.and_then(|ticket| NonZeroU64::new(ticket.salt)),
            stamp,
            lease_s,
            until,
            patience: Moment::NEVER,
            link: Link::default(),
        });
        self.stamps.insert(stamp.number, claim);
        self.remember_ticket(claim);
        self.load.held += 1;
        let entry = &mut self.keys[key as usize];
        entry.holders += 1;
        entry.newest = claim;
    }

    /// Its client is away through no fault of its own, so for a while nobody overtakes it.
    fn queue_again(&mut self, now: Moment, place: OldPlace) {
        let OldPlace { key, kind, ticket, lease_s, away_until } = place;
        let key = self.old_key(now, key, kind);
        let claim = self.add_claim(Claim {
            key,
            conn: ConnId::NOBODY,
            stage: Stage::Queued,
            agreed_ms: 0,
            order: ticket.number,
            ticket_salt: NonZeroU64::new(ticket.salt),
            stamp: Stamp { number: 0, salt: 0 },
            lease_s,
            until: Moment::NEVER,
            patience: away_until,
            link: Link::default(),
        });
        self.claims[claim as usize].agree(away_until.since(now));
        self.remember_ticket(claim);
        self.keys[key as usize].waiting += 1;
        self.keys[key as usize].away += 1;
        self.load.waiting += 1;
        if self.claims[claim as usize].ticket().is_some() {
            self.queue.insert((key, ticket.number, claim));
        }
    }

    fn remember_ticket(&mut self, claim: u32) {
        if let Some(ticket) = self.claims[claim as usize].ticket() {
            self.stamps.insert(ticket.number, claim);
        }
    }

    fn old_key(&mut self, now: Moment, name: Arc<[u8]>, kind: Kind) -> u32 {
        match self.find(kind.space(), &name) {
            Some(key) => key,
            None => self.insert_key(now, name, kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::play::{LIMITS, Play, at, stamp};
    use super::super::{No, Reply, Resumed, Turn, Verdict};
    use super::*;
    use crate::lock::Space;

    fn grant(key: &str, kind: Kind, fence: u64, until: Moment) -> OldGrant {
        OldGrant { key: key.as_bytes().into(), kind, stamp: stamp(fence), ticket: None, lease_s: 10, until }
    }

    fn place(key: &str, number: u64) -> OldPlace {
        let (key, kind, ticket) = (key.as_bytes().into(), Kind::Lock, stamp(number));
        OldPlace { key, kind, ticket, lease_s: 10, away_until: at(5) }
    }

    #[test]
    fn what_was_held_is_nobody_elses_until_its_lease_ends() {
        let mut play = Play::of(LIMITS, vec![grant("a", Kind::Lock, 7, at(20))], vec![]);
        let conn = play.table.connect();
        assert!(matches!(play.acquire(conn, "a", Kind::Lock), Reply::Timeout));
        play.now = at(19);
        assert!(matches!(play.acquire(conn, "a", Kind::Lock), Reply::Timeout));
        play.now = at(20);
        assert!(matches!(play.acquire(conn, "a", Kind::Lock), Reply::Granted { stamp, .. } if stamp.number > 1000));
    }

    #[test]
    fn its_owner_comes_back_to_it_by_token() {
        let mut play = Play::of(LIMITS, vec![grant("a", Kind::Lock, 7, at(20))], vec![]);
        let conn = play.table.connect();
        assert!(matches!(play.resume(conn, "a", stamp(8)), Err(No::NotHeld)));
        assert!(matches!(play.resume(conn, "a", stamp(7)), Ok(Resumed::Held { lease_s: 10 })));
        assert!(play.table.is_busy(conn));
        let token = stamp(7).hex();
        let released = play.turn(|table, turn| table.release(turn, b"a", Space::Locks, token.as_str().as_bytes()));
        assert!(released && play.table.load().held == 0);
    }

    #[test]
    fn slots_and_their_limit_are_as_they_were() {
        let kind = Kind::Semaphore { limit: 3 };
        let held = vec![grant("s", kind, 7, at(20)), grant("s", kind, 8, at(30))];
        let mut play = Play::of(LIMITS, held, vec![]);
        let conn = play.table.connect();
        assert!(matches!(play.acquire(conn, "s", Kind::Semaphore { limit: 4 }), Reply::No(No::LimitMismatch)));
        assert!(matches!(play.acquire(conn, "s", kind), Reply::Granted { .. }));
        assert!(matches!(play.acquire(conn, "s", kind), Reply::Timeout));
        play.now = at(21);
        assert!(matches!(play.acquire(conn, "s", kind), Reply::Granted { .. }));
    }

    #[test]
    fn places_keep_their_order_for_those_who_come_back() {
        let held = vec![grant("a", Kind::Lock, 7, at(9))];
        let mut play = Play::of(LIMITS, held, vec![place("a", 12), place("a", 11), place("a", 13)]);
        assert_eq!(play.table.load().waiting, 3);
        let (second, third) = (play.table.connect(), play.table.connect());
        // The first never comes, the last is back first.
        assert!(matches!(play.resume(third, "a", stamp(13)), Ok(Resumed::Queued { .. })));
        assert!(matches!(play.resume(second, "a", stamp(12)), Ok(Resumed::Queued { .. })));
        let wait = |table: &mut Table, turn: &mut Turn<'_>, conn| {
            table.wait(turn, conn, b"a", Space::Locks, Duration::from_secs(60))
        };
        assert!(matches!(play.turn(|table, turn| wait(table, turn, third)), Reply::Blocked));
        assert!(matches!(play.turn(|table, turn| wait(table, turn, second)), Reply::Blocked));
        play.now = at(5);
        play.turn(|table, turn| table.run_out(turn));
        assert_eq!(play.table.load().waiting, 2, "the one who stayed away too long has lost its place");
        play.now = at(9);
        play.turn(|table, turn| table.run_out(turn));
        assert!(matches!(play.verdicts.pop_front(), Some((conn, Verdict::Granted { .. })) if conn == second));
        assert!(play.verdicts.is_empty());
    }

    #[test]
    fn a_ticket_leads_to_what_was_granted_to_its_place() {
        let mut old = grant("a", Kind::Lock, 7, at(9));
        old.ticket = Some(stamp(3));
        let mut play = Play::of(LIMITS, vec![old], vec![]);
        let conn = play.table.connect();
        let resumed = play.resume(conn, "a", stamp(3));
        assert!(matches!(resumed, Ok(Resumed::Granted { stamp, .. }) if stamp.number == 7));
    }

    #[test]
    fn more_than_the_limit_allows_now_is_kept_all_the_same() {
        let held = (1..=5).map(|fence| grant(&format!("k{fence}"), Kind::Lock, fence, at(20))).collect();
        let mut play = Play::of(Limits { keys: 2, ..LIMITS }, held, vec![]);
        let conn = play.table.connect();
        assert_eq!(play.table.load().held, 5);
        assert!(matches!(play.acquire(conn, "k5", Kind::Lock), Reply::Timeout));
        assert!(matches!(play.acquire(conn, "new", Kind::Lock), Reply::No(No::MaxLocks)));
    }

    #[test]
    fn no_fence_begins_anew() {
        let (grants, places) = (std::iter::empty(), std::iter::empty());
        let mut play = Play {
            table: Table::restored(LIMITS, u64::MAX, at(1), grants, places),
            ..Play::of(LIMITS, vec![], vec![])
        };
        let conn = play.table.connect();
        assert!(matches!(play.acquire(conn, "a", Kind::Lock), Reply::No(No::MaxLocks)));
        let held = vec![grant("a", Kind::Lock, u64::MAX - 5, at(20))].into_iter();
        play.table = Table::restored(LIMITS, u64::MAX - 2, at(1), held, std::iter::empty());
        play.table.check().unwrap();
        let conn = play.table.connect();
        assert!(matches!(play.resume(conn, "a", stamp(u64::MAX - 5)), Ok(Resumed::Held { .. })));
        assert!(matches!(play.acquire(conn, "b", Kind::Lock), Reply::No(No::MaxLocks)));
    }

    #[test]
    fn a_ticket_without_salt_is_none() {
        let mut old = place("a", 11);
        old.ticket.salt = 0;
        let mut play = Play::of(LIMITS, vec![], vec![old]);
        play.table.check().unwrap();
        play.now = at(6);
        play.turn(|table, turn| table.run_out(turn));
        let conn = play.table.connect();
        assert!(play.resume(conn, "a", Stamp { number: 11, salt: 0 }).is_err());
        play.table.check().unwrap();
    }

    #[test]
    fn a_pause_gives_out_nothing_and_then_serves_those_who_waited() {
        let mut play = Play::of(LIMITS, vec![grant("a", Kind::Lock, 7, at(9))], vec![]);
        let (waiting, asking) = (play.table.connect(), play.table.connect());
        let patience = Duration::from_secs(60);
        let reply = play.turn(|table, turn| table.acquire(turn, waiting, b"a", Kind::Lock, 10, patience));
        assert!(matches!(reply, Reply::Blocked));
        play.table.pause();
        assert!(matches!(play.acquire(asking, "b", Kind::Lock), Reply::No(No::Paused)));
        play.now = at(10);
        play.turn(|table, turn| table.run_out(turn));
        assert!(play.verdicts.is_empty(), "the lease ended, but nothing is given out");
        play.turn(Table::go_on);
        assert!(matches!(play.verdicts.pop_front(), Some((conn, Verdict::Granted { .. })) if conn == waiting));
    }

    #[test]
    fn handing_over_sends_waiters_away_and_leaves_places_that_can_be_resumed() {
        let mut play = Play::of(LIMITS, vec![grant("a", Kind::Lock, 7, at(9))], vec![place("a", 11)]);
        let (plain, resuming) = (play.table.connect(), play.table.connect());
        play.turn(|table, turn| table.acquire(turn, plain, b"a", Kind::Lock, 10, Duration::from_secs(60)));
        assert!(play.resume(resuming, "a", stamp(11)).is_ok());
        play.turn(|table, turn| table.wait(turn, resuming, b"a", Space::Locks, Duration::from_secs(60)));
        play.turn(Table::hand_over);
        assert_eq!(play.verdicts.len(), 2);
        assert!(play.verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Closed)));
        assert_eq!(play.table.load().waiting, 1);
        play.now = at(10);
        play.turn(|table, turn| table.run_out(turn));
        assert_eq!((play.table.load().held, play.table.load().waiting), (0, 1), "nothing is given out any more");
    }
}
