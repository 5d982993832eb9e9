//! What a lock table should do, written as plainly as possible: lists, searched from end to end.

use std::time::Duration;

use dflock::clock::Moment;
use dflock::lock::Kind;

/// Connections as the schedule numbers them, not as the table does.
pub type Conn = usize;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue by `e`.
    Queued,
    /// In the queue, and its connection waits.
    Blocked,
    /// Granted to a place that was not waited for.
    Unclaimed,
    Held,
}

#[derive(Clone, Debug)]
pub struct Claim {
    pub key: usize,
    pub kind: Kind,
    pub conn: Option<Conn>,
    /// Who owned it before another one resumed it, and is still there; the last one last.
    pub displaced: Vec<Conn>,
    /// The longest absence that was agreed with an owner before this one.
    pub agreed: Duration,
    pub state: State,
    pub has_ticket: bool,
    pub was_queued: bool,
    pub lease_s: u64,
    pub until: Moment,
    pub patience: Moment,
    /// Order of joining.
    pub order: u64,
}

impl Claim {
    pub fn is_granted(&self) -> bool {
        matches!(self.state, State::Held | State::Unclaimed)
    }

    /// To the next millisecond.
    fn agree(&mut self, absence: Duration) {
        let millis = absence.as_nanos().div_ceil(1_000_000);
        self.agreed = self.agreed.max(Duration::from_millis(u64::try_from(millis).expect("not for ever")));
    }

    fn due(&self) -> Moment {
        if self.is_granted() { self.until.min(self.patience) } else { self.patience }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Granted(usize),
    Queued(usize),
    Blocked(usize),
    Timeout,
    MaxLocks,
    MaxWaiters,
    LimitMismatch,
    NotEnqueued,
    AlreadyEnqueued,
    LeaseExpired,
}

/// What happened to somebody who was not asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Granted(Conn, usize),
    /// Granted to a place that nobody waits for at the moment.
    GrantedSilently(usize),
    Timeout(Conn),
    /// Another connection resumed its place.
    Moved(Conn),
}

pub struct Model {
    pub claims: Vec<Option<Claim>>,
    /// Connections: how long what they leave may be resumed.
    pub resume: Vec<Duration>,
    /// (connection, key, is semaphore): places whose lease ran out unclaimed.
    pub slept: Vec<(Conn, usize, bool)>,
    pub max_waiters: usize,
    pub max_keys: usize,
    pub auto_release: bool,
    pub told: Vec<Told>,
    order: u64,
}

fn is_semaphore(kind: Kind) -> bool {
    matches!(kind, Kind::Semaphore { .. })
}

impl Model {
    pub fn new(max_waiters: usize, max_keys: usize, auto_release: bool) -> Model {
        Model {
            claims: Vec::new(),
            resume: Vec::new(),
            slept: Vec::new(),
            max_waiters,
            max_keys,
            auto_release,
            told: Vec::new(),
            order: 0,
        }
    }

    fn on(&self, key: usize, kind: Kind) -> impl Iterator<Item = (usize, &Claim)> {
        let all = self.claims.iter().enumerate().filter_map(|(id, claim)| Some((id, claim.as_ref()?)));
        all.filter(move |(_, claim)| claim.key == key && is_semaphore(claim.kind) == is_semaphore(kind))
    }

    pub fn holders(&self, key: usize, kind: Kind) -> Vec<usize> {
        self.on(key, kind).filter(|(_, claim)| claim.is_granted()).map(|(id, _)| id).collect()
    }

    pub fn waiting(&self, key: usize, kind: Kind) -> usize {
        self.on(key, kind).filter(|(_, claim)| !claim.is_granted()).count()
    }

    /// Places whose client may come back, but for this one.
    fn away(&self, key: usize, kind: Kind, but: Option<usize>) -> usize {
        let is_away = |claim: &Claim| !claim.is_granted() && claim.has_ticket && claim.conn.is_none();
        self.on(key, kind).filter(|(id, claim)| Some(*id) != but && is_away(claim)).count()
    }

    fn keys_in_use(&self) -> usize {
        let mut names: Vec<_> =
            self.claims.iter().flatten().map(|claim| (claim.key, is_semaphore(claim.kind))).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    fn ask(&mut self, conn: Conn, key: usize, kind: Kind, lease_s: u64, now: Moment, two_phase: bool) -> Said {
        let used = self.on(key, kind).next().map(|(_, claim)| claim.kind);
        match used {
            None if self.keys_in_use() >= self.max_keys => return Said::MaxLocks,
            Some(used) if used != kind => return Said::LimitMismatch,
            _ => {}
        }
        self.order += 1;
        let mut claim = Claim {
            key,
            kind,
            conn: Some(conn),
            displaced: Vec::new(),
            agreed: Duration::ZERO,
            state: if two_phase { State::Queued } else { State::Blocked },
            has_ticket: false,
            was_queued: false,
            lease_s,
            until: Moment::NEVER,
            patience: Moment::NEVER,
            order: self.order,
        };
        let id = self.claims.len();
        if (self.holders(key, kind).len() as u64) < kind.limit() {
            claim.state = if two_phase { State::Unclaimed } else { State::Held };
            claim.until = now + Duration::from_secs(lease_s);
            self.claims.push(Some(claim));
            return Said::Granted(id);
        }
        let present = self.waiting(key, kind) - self.away(key, kind, None);
        if self.max_waiters > 0 && present >= self.max_waiters {
            return Said::MaxWaiters;
        }
        claim.was_queued = true;
        claim.has_ticket = two_phase && !self.resume[conn].is_zero();
        self.claims.push(Some(claim));
        if two_phase { Said::Queued(id) } else { Said::Blocked(id) }
    }

    pub fn acquire(
        &mut self,
        conn: Conn,
        key: usize,
        kind: Kind,
        lease_s: u64,
        timeout: Duration,
        now: Moment,
    ) -> Said {
        match self.ask(conn, key, kind, lease_s, now, false) {
            Said::Blocked(id) if timeout.is_zero() => {
                self.claims[id] = None;
                Said::Timeout
            }
            Said::Blocked(id) => {
                self.claim(id).patience = now + timeout;
                Said::Blocked(id)
            }
            said => said,
        }
    }

    pub fn place(&self, conn: Conn, key: usize, kind: Kind) -> Option<usize> {
        let open = |claim: &Claim| matches!(claim.state, State::Queued | State::Unclaimed) && claim.conn == Some(conn);
        self.on(key, kind).find(|(_, claim)| open(claim)).map(|(id, _)| id)
    }

    fn forget_slept(&mut self, conn: Conn, key: usize, kind: Kind) -> bool {
        let before = self.slept.len();
        self.slept.retain(|slept| *slept != (conn, key, is_semaphore(kind)));
        self.slept.len() < before
    }

    pub fn enqueue(&mut self, conn: Conn, key: usize, kind: Kind, lease_s: u64, now: Moment) -> Said {
        if self.place(conn, key, kind).is_some() {
            return Said::AlreadyEnqueued;
        }
        self.forget_slept(conn, key, kind);
        self.ask(conn, key, kind, lease_s, now, true)
    }

    pub fn wait(&mut self, conn: Conn, key: usize, kind: Kind, timeout: Duration, now: Moment) -> Said {
        let Some(id) = self.place(conn, key, kind) else {
            return if self.forget_slept(conn, key, kind) { Said::LeaseExpired } else { Said::NotEnqueued };
        };
        let claim = self.claim(id);
        if claim.state == State::Unclaimed {
            claim.state = State::Held;
            claim.until = now + Duration::from_secs(claim.lease_s);
            return Said::Granted(id);
        }
        if timeout.is_zero() {
            self.end(id, now);
            return Said::Timeout;
        }
        claim.state = State::Blocked;
        claim.patience = now + timeout;
        Said::Blocked(id)
    }

    pub fn claim(&mut self, id: usize) -> &mut Claim {
        self.claims[id].as_mut().expect("the claim is there")
    }

    pub fn is_granted(&self, id: usize) -> bool {
        self.claims[id].as_ref().is_some_and(Claim::is_granted)
    }

    pub fn end(&mut self, id: usize, now: Moment) {
        let gone = self.claims[id].take().expect("the claim is there");
        self.settle(gone.key, gone.kind, now);
    }

    pub fn settle(&mut self, key: usize, kind: Kind, now: Moment) {
        loop {
            let holders = self.holders(key, kind).len() as u64;
            let present = |claim: &Claim| !claim.is_granted() && claim.conn.is_some();
            let first = self.on(key, kind).filter(|(_, claim)| present(claim)).min_by_key(|(_, claim)| claim.order);
            let Some((id, claim)) = first.filter(|(_, claim)| holders < claim.kind.limit()) else { return };
            let (conn, blocked) = (claim.conn.expect("present"), claim.state == State::Blocked);
            let claim = self.claim(id);
            claim.state = if blocked { State::Held } else { State::Unclaimed };
            claim.until = now + Duration::from_secs(claim.lease_s);
            claim.patience = Moment::NEVER;
            self.told.push(if blocked { Told::Granted(conn, id) } else { Told::GrantedSilently(id) });
        }
    }

    /// Says for how many seconds.
    pub fn renew(&mut self, id: usize, conn: Conn, lease_s: Option<u64>, now: Moment) -> u64 {
        let claim = self.claim(id).clone();
        let mut lease_s = lease_s.unwrap_or(claim.lease_s);
        if claim.displaced.contains(&conn) {
            lease_s = lease_s.max(claim.lease_s);
            let takes_back = self.can_own(conn, id);
            if takes_back {
                self.change_owner(id, conn);
            }
        }
        let claim = self.claim(id);
        claim.lease_s = lease_s;
        claim.until = now + Duration::from_secs(lease_s);
        if claim.conn.is_none() {
            claim.patience = claim.patience.max(claim.until);
        }
        lease_s
    }

    /// One connection has one two-phase place of a key.
    fn can_own(&self, conn: Conn, id: usize) -> bool {
        let claim = self.claims[id].as_ref().expect("the claim is there");
        claim.state == State::Held || self.place(conn, claim.key, claim.kind).is_none()
    }

    fn change_owner(&mut self, id: usize, conn: Conn) {
        let before = self.claim(id).conn;
        let absence = before.map_or(Duration::ZERO, |before| self.resume[before]);
        let claim = self.claim(id);
        claim.agree(absence);
        claim.displaced.retain(|other| *other != conn);
        claim.displaced.extend(before);
        claim.conn = Some(conn);
        claim.patience = Moment::NEVER;
        if claim.state == State::Blocked {
            claim.state = State::Queued;
        }
        if claim.state != State::Held {
            let (key, kind) = (claim.key, claim.kind);
            self.forget_slept(conn, key, kind);
        }
    }

    pub fn next_due(&self) -> Moment {
        self.claims.iter().flatten().map(Claim::due).min().unwrap_or(Moment::NEVER)
    }

    /// Ends what is due by `now`, earliest first.
    pub fn run_out(&mut self, now: Moment) {
        loop {
            let all = self.claims.iter().enumerate().filter_map(|(id, claim)| Some((claim.as_ref()?.due(), id)));
            let Some((_, id)) = all.min().filter(|(due, _)| *due <= now) else { return };
            let claim = self.claim(id).clone();
            match (&claim.state, claim.conn) {
                (State::Blocked, Some(conn)) => self.told.push(Told::Timeout(conn)),
                (State::Unclaimed, Some(conn)) if claim.until <= now => {
                    self.slept.push((conn, claim.key, is_semaphore(claim.kind)));
                }
                _ => {}
            }
            self.end(id, now);
        }
    }

    pub fn disconnect(&mut self, conn: Conn, now: Moment) {
        let resume = self.resume[conn];
        let mine = |claim: &Option<Claim>| claim.as_ref().is_some_and(|claim| claim.conn == Some(conn));
        // Nobody who is gone is granted anything, whatever is let go of first.
        let all: Vec<usize> = (0..self.claims.len()).filter(|id| mine(&self.claims[*id])).collect();
        for id in &all {
            self.claim(*id).conn = None;
        }
        for claim in self.claims.iter_mut().flatten().filter(|claim| claim.displaced.contains(&conn)) {
            claim.displaced.retain(|other| *other != conn);
            claim.agree(resume);
        }
        for id in all {
            let auto_release = self.auto_release;
            self.claim(id).agree(resume);
            let before = self.claim(id).displaced.clone();
            let heir = before.into_iter().rev().find(|heir| self.can_own(*heir, id));
            if let Some(heir) = heir {
                self.change_owner(id, heir);
                let (key, kind) = (self.claim(id).key, self.claim(id).kind);
                self.settle(key, kind, now);
                continue;
            }
            let (key, kind) = (self.claim(id).key, self.claim(id).kind);
            let has_room = self.max_waiters == 0 || self.away(key, kind, Some(id)) < self.max_waiters;
            let claim = self.claim(id);
            let resume = claim.agreed;
            let unknown = claim.state == State::Unclaimed && claim.was_queued && !claim.has_ticket;
            let keeps = if claim.is_granted() {
                !unknown && (!auto_release || !resume.is_zero())
            } else {
                claim.has_ticket && !resume.is_zero() && has_room
            };
            if keeps {
                let lets_go = !claim.is_granted() || auto_release;
                claim.patience = if lets_go { now + resume } else { Moment::NEVER };
            } else {
                self.claims[id] = None;
            }
            self.settle(key, kind, now);
        }
        self.slept.retain(|(slept, ..)| *slept != conn);
    }

    /// `None`: refused.
    pub fn resume(&mut self, id: usize, conn: Conn, by_token: bool, lease_s: Option<u64>, now: Moment) -> Option<()> {
        let claim = self.claims[id].clone()?;
        if by_token {
            // Whoever knows the token was told: it is no place any more.
            self.claim(id).state = State::Held;
        }
        if claim.conn != Some(conn) {
            if !self.can_own(conn, id) {
                return None;
            }
            if let (State::Blocked, Some(before)) = (&claim.state, claim.conn) {
                self.told.push(Told::Moved(before));
            }
            self.change_owner(id, conn);
        }
        let entry = self.claim(id);
        if let Some(lease_s) = lease_s {
            entry.lease_s = if entry.is_granted() { lease_s.max(entry.lease_s) } else { lease_s };
        }
        self.settle(claim.key, claim.kind, now);
        let entry = self.claim(id);
        if entry.is_granted() {
            entry.state = State::Held;
            entry.until = now + Duration::from_secs(entry.lease_s);
        }
        Some(())
    }
}
