//! Connections that owned a claim until another one resumed it, and that are still there.
//!
//! *A pair of claim and connection is in this index exactly while the connection is open, the claim is there, and
//! the connection owned it and lost it to another one.* Such a connection is no stranger: what it says of its claim
//! counts, and when the owner's connection ends, the claim is the last one's that is here. So an attempt to resume
//! that its client gave up, and that is handled late, can take a claim but never end it.

use std::collections::BTreeMap;

use super::ConnId;

pub(super) struct Displaced {
    /// By claim, in the order in which they were displaced.
    by_claim: BTreeMap<(u32, u64), ConnId>,
    by_conn: BTreeMap<(ConnId, u32), u64>,
    last_order: u64,
    /// How many pairs there may be.
    most: usize,
}

impl Displaced {
    pub(super) fn new(most: usize) -> Displaced {
        Displaced { by_claim: BTreeMap::new(), by_conn: BTreeMap::new(), last_order: 0, most }
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    pub(super) fn remember(&mut self, claim: u32, conn: ConnId) {
        self.forget(claim, conn);
        self.last_order += 1;
        self.by_claim.insert((claim, self.last_order), conn);
        self.by_conn.insert((conn, claim), self.last_order);
    }

    pub(super) fn has(&self, claim: u32, conn: ConnId) -> bool {
        self.by_conn.contains_key(&(conn, claim))
    }

    pub(super) fn forget(&mut self, claim: u32, conn: ConnId) {
        if let Some(order) = self.by_conn.remove(&(conn, claim)) {
            self.by_claim.remove(&(claim, order));
        }
    }

    /// The claim is gone.
    pub(super) fn forget_claim(&mut self, claim: u32) {
        loop {
            let next = self.of_claim(claim).next();
            let Some((order, conn)) = next else { return };
            self.by_claim.remove(&(claim, order));
            self.by_conn.remove(&(conn, claim));
        }
    }

    /// Those who owned it, the last one last.
    pub(super) fn of_claim(&self, claim: u32) -> impl DoubleEndedIterator<Item = (u64, ConnId)> {
        self.by_claim.range((claim, 0)..=(claim, u64::MAX)).map(|((_, order), conn)| (*order, *conn))
    }

    pub(super) fn len(&self) -> usize {
        self.by_conn.len()
    }

    /// All of them, as claim and connection.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u32, ConnId)> {
        self.by_claim.iter().map(|((claim, _), conn)| (*claim, *conn))
    }

    /// Some claim that this connection owned.
    pub(super) fn of_conn(&self, conn: ConnId) -> Option<u32> {
        self.by_conn.range((conn, 0)..=(conn, u32::MAX)).next().map(|((_, claim), _)| *claim)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::play::{LIMITS, Play, at};
    use super::super::{No, Reply, Resumed, Verdict};
    use super::*;
    use crate::lock::{Kind, Space};
    use crate::server::stamp::Stamp;

    /// A table in which a connection holds `a` for 60 s, and one waits for it.
    fn held(resume_s: u64) -> (Play, ConnId, Stamp, ConnId) {
        let mut play = Play::of(LIMITS, vec![], vec![]);
        let (owner, waiter) = (play.connect(resume_s), play.connect(0));
        let ask = |play: &mut Play, conn| {
            play.turn(|table, turn| table.acquire(turn, conn, b"a", Kind::Lock, 60, Duration::from_secs(1000)))
        };
        let Reply::Granted { stamp, .. } = ask(&mut play, owner) else { panic!("it is free") };
        assert!(matches!(ask(&mut play, waiter), Reply::Blocked));
        (play, owner, stamp, waiter)
    }

    fn is_granted(play: &Play, to: ConnId) -> bool {
        play.verdicts.iter().any(|(conn, verdict)| *conn == to && matches!(verdict, Verdict::Granted { .. }))
    }

    #[test]
    fn an_attempt_that_ends_gives_the_lock_back_to_the_one_before() {
        let (mut play, owner, token, waiter) = held(1);
        let late = play.connect(1);
        assert!(matches!(play.resume(late, "a", token), Ok(Resumed::Held { .. })));
        assert!(play.table.is_busy(owner), "it would own the lock again");
        play.close(late);
        play.wait_until(50);
        assert!(!is_granted(&play, waiter));
        assert_eq!(play.renew(owner, "a", token, None), Some(60));
        play.wait_until(100);
        assert!(!is_granted(&play, waiter));
        play.close(owner);
        play.wait_until(101);
        assert!(is_granted(&play, waiter), "the agreed second is over");
    }

    #[test]
    fn many_attempts_in_any_order_leave_it_to_the_last_one_that_is_there() {
        let (mut play, owner, token, waiter) = held(1);
        let attempts: Vec<ConnId> = (0..500).map(|_| play.connect(1)).collect();
        for attempt in &attempts {
            assert!(play.resume(*attempt, "a", token).is_ok());
        }
        play.close(owner);
        for attempt in attempts.iter().filter(|attempt| **attempt != attempts[250]) {
            play.close(*attempt);
        }
        assert_eq!(play.renew(attempts[250], "a", token, None), Some(60));
        play.wait_until(59);
        assert!(!is_granted(&play, waiter));
        assert!(play.table.displaced.by_conn.is_empty());
        play.close(attempts[250]);
        play.wait_until(61);
        assert!(is_granted(&play, waiter));
    }

    #[test]
    fn a_renewal_takes_the_lock_back_and_is_never_shorter_for_being_late() {
        let (mut play, owner, token, waiter) = held(0);
        let other = play.connect(0);
        assert!(play.resume(other, "a", token).is_ok());
        assert_eq!(play.renew(owner, "a", token, Some(1)), Some(60));
        play.close(other);
        play.wait_until(59);
        assert!(!is_granted(&play, waiter));
        assert_eq!(play.renew(owner, "a", token, Some(1)), Some(1), "its owner's word is what it says");
        play.wait_until(60);
        assert!(is_granted(&play, waiter));
    }

    #[test]
    fn a_stranger_ties_nothing_to_its_connection() {
        let (mut play, owner, token, waiter) = held(30);
        let stranger = play.connect(0);
        assert_eq!(play.renew(stranger, "a", token, None), Some(60));
        play.close(stranger);
        let stranger = play.connect(0);
        play.close(owner);
        assert!(play.resume(stranger, "a", token).is_ok());
        play.close(stranger);
        play.wait_until(30);
        assert!(!is_granted(&play, waiter), "what was agreed with its owner counts");
        play.wait_until(31);
        assert!(is_granted(&play, waiter));
    }

    #[test]
    fn what_is_promised_while_its_owner_is_away_is_kept() {
        let (mut play, owner, token, waiter) = held(5);
        play.close(owner);
        play.wait_until(5);
        let stranger = play.connect(0);
        assert_eq!(play.renew(stranger, "a", token, Some(20)), Some(20));
        play.wait_until(24);
        assert!(!is_granted(&play, waiter));
        play.wait_until(25);
        assert!(is_granted(&play, waiter));
    }

    #[test]
    fn where_no_more_can_be_remembered_a_resume_is_refused_and_ends_nothing() {
        let mut play = Play::of(LIMITS, vec![], vec![]);
        play.table.displaced = Displaced::new(0);
        let owner = play.connect(9);
        let Reply::Granted { stamp, .. } = play.acquire(owner, "a", Kind::Lock) else { panic!("it is free") };
        let other = play.connect(9);
        assert!(matches!(play.resume(other, "a", stamp), Err(No::MaxWaiters)));
        assert_eq!(play.renew(owner, "a", stamp, None), Some(10));
    }

    #[test]
    fn a_place_goes_back_too_and_is_served_in_its_turn() {
        let (mut play, owner, token, waiter) = held(0);
        let queued = play.connect(30);
        let enqueue = |play: &mut Play| play.turn(|table, turn| table.enqueue(turn, queued, b"a", Kind::Lock, 60));
        let Reply::Queued { ticket: Some(ticket) } = enqueue(&mut play) else { panic!("it resumes") };
        let late = play.connect(0);
        assert!(matches!(play.resume(late, "a", ticket), Ok(Resumed::Queued { .. })));
        play.close(waiter);
        // Closing, it is passed over; its place is there all the same.
        play.table.conns[late.index()].gone = true;
        assert!(play.turn(|table, turn| table.release(turn, b"a", Space::Locks, token.hex().as_str().as_bytes())));
        play.close(late);
        let wait = play.turn(|table, turn| table.wait(turn, queued, b"a", Space::Locks, Duration::ZERO));
        assert!(matches!(wait, Reply::Granted { .. }));
        play.close(owner);
        assert_eq!(play.now, at(1));
    }

    /// Grants `a` to a place with a ticket; returns its connection, the ticket and the token.
    fn granted_to_place(play: &mut Play, owner: ConnId, waiter: ConnId, token: Stamp) -> (ConnId, Stamp, Stamp) {
        play.close(waiter);
        let queued = play.connect(30);
        let enqueue = |play: &mut Play| play.turn(|table, turn| table.enqueue(turn, queued, b"a", Kind::Lock, 60));
        let Reply::Queued { ticket: Some(ticket) } = enqueue(play) else { panic!("it resumes") };
        let patience = Duration::from_secs(60);
        play.turn(|table, turn| table.wait(turn, queued, b"a", Space::Locks, patience));
        assert!(play.turn(|table, turn| table.release(turn, b"a", Space::Locks, token.hex().as_str().as_bytes())));
        play.close(owner);
        match play.verdicts.pop_back() {
            Some((conn, Verdict::Granted { stamp, .. })) if conn == queued => (queued, ticket, stamp),
            _ => panic!("it is its turn"),
        }
    }

    #[test]
    fn a_grant_that_was_never_told_is_a_place_again_and_the_next_ones() {
        let (mut play, owner, token, waiter) = held(0);
        let (queued, ticket, stamp) = granted_to_place(&mut play, owner, waiter, token);
        let next = play.connect(0);
        let patience = Duration::from_secs(60);
        play.turn(|table, turn| table.acquire(turn, next, b"a", Kind::Lock, 60, patience));
        play.turn(|table, turn| table.take_back(turn, queued, stamp));
        assert!(is_granted(&play, next));
        play.close(queued);
        let back = play.connect(0);
        assert!(play.renew(back, "a", stamp, None).is_none(), "nobody ever had that token");
        assert!(matches!(play.resume(back, "a", ticket), Ok(Resumed::Queued { .. })));
    }

    #[test]
    fn a_grant_that_a_ticket_led_to_is_not_taken_back() {
        let (mut play, owner, token, waiter) = held(0);
        let (queued, ticket, stamp) = granted_to_place(&mut play, owner, waiter, token);
        let other = play.connect(30);
        assert!(matches!(play.resume(other, "a", ticket), Ok(Resumed::Granted { .. })));
        play.turn(|table, turn| table.take_back(turn, queued, stamp));
        play.close(other);
        // It is the first one's again, and somebody knows the token.
        play.turn(|table, turn| table.take_back(turn, queued, stamp));
        play.close(queued);
        let back = play.connect(0);
        assert_eq!(play.renew(back, "a", stamp, None), Some(60));
    }

    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    fn of_claim(index: &Displaced, claim: u32) -> Vec<ConnId> {
        index.of_claim(claim).map(|(_, conn)| conn).collect()
    }

    #[test]
    fn the_last_one_comes_last_and_each_is_there_once() {
        let mut index = Displaced::new(100);
        index.remember(7, A);
        index.remember(7, B);
        index.remember(8, B);
        index.remember(7, A);
        assert_eq!((of_claim(&index, 7), of_claim(&index, 8), index.len()), (vec![B, A], vec![B], 3));
        index.forget(7, A);
        assert!(!index.has(7, A) && index.has(7, B));
        assert_eq!((index.of_conn(A), index.of_conn(B)), (None, Some(7)));
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let mut index = Displaced::new(100);
        for conn in [A, B] {
            (0..5).for_each(|claim| index.remember(claim, conn));
        }
        index.forget_claim(3);
        while let Some(claim) = index.of_conn(A) {
            index.forget(claim, A);
        }
        assert_eq!((index.len(), index.by_claim.len()), (4, 4));
        (0..5).for_each(|claim| index.forget_claim(claim));
        assert_eq!((index.len(), index.by_claim.len()), (0, 0));
    }
}
