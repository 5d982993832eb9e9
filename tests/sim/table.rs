//! The server's table against the model: the same schedule for both, and every word of theirs compared.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dflock::clock::Moment;
use dflock::lock::Kind;
use dflock::server::stamp::Stamp;
use dflock::server::table::{Change, ConnId, End, Limits, No, Reply, Resumed, Row, Table, Turn, Verdict};

use crate::Plan;
use crate::model::{Claim, Conn, Model, Said, State, Told};
use crate::random::Random;

const STEPS: usize = 150;
const KEYS: u64 = 4;

#[test]
fn the_table_does_what_the_model_does() {
    let Plan { seeds, tell } = Plan::from_environment(2000);
    for seed in seeds {
        let mut play = Play::new(seed, tell);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.run()));
        if let Err(why) = outcome {
            eprintln!("seed {seed} failed at step {}; DFLOCK_SEED={seed} tells its story", play.step);
            std::panic::resume_unwind(why);
        }
    }
}

struct Play {
    random: Random,
    tell: bool,
    step: usize,
    now: Moment,
    table: Table,
    model: Model,
    /// The table's name of each connection that is open.
    conns: Vec<Option<ConnId>>,
    /// Connections that wait for an answer, with the claim it is about.
    blocked: HashMap<Conn, usize>,
    /// Tokens and tickets by claim.
    tokens: HashMap<usize, String>,
    tickets: HashMap<usize, String>,
    /// Until when a claim is held, as somebody was told last.
    promised: HashMap<usize, Moment>,
    /// Connections that ever owned a claim.
    owners: HashMap<usize, Vec<Conn>>,
    /// When connections closed.
    closed_at: HashMap<Conn, Moment>,
    /// Unused keys are forgotten during the play, and with them who slept through a grant of theirs.
    forgets_keys: bool,
    last_fence: u64,
    changes: Vec<Change>,
    verdicts: VecDeque<(ConnId, Verdict)>,
}

impl Play {
    fn new(seed: u64, tell: bool) -> Play {
        let mut random = Random::new(seed);
        let waiters = *random.pick(&[0, 0, 2, 5]);
        let keys = *random.pick(&[8, 8, 3]);
        let auto_release = random.chance(85);
        let idle = Duration::from_secs(*random.pick(&[7, 1_000_000]));
        let limits = Limits { keys, waiters, idle, auto_release };
        Play {
            random,
            tell,
            step: 0,
            now: Moment::from_nanos(1_000_000_000),
            table: Table::new(limits, 1000),
            model: Model::new(waiters, keys, auto_release),
            conns: Vec::new(),
            blocked: HashMap::new(),
            tokens: HashMap::new(),
            tickets: HashMap::new(),
            promised: HashMap::new(),
            owners: HashMap::new(),
            closed_at: HashMap::new(),
            forgets_keys: idle < Duration::from_secs(100) || keys < 8,
            last_fence: 1000,
            changes: Vec::new(),
            verdicts: VecDeque::new(),
        }
    }

    fn run(&mut self) {
        while self.step < STEPS {
            self.step += 1;
            self.pass_time();
            self.do_something();
            self.compare();
        }
        self.end();
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        if self.tell {
            println!("{:>4} {:>14} {text}", self.step, self.now.as_nanos());
        }
    }

    /// Any odd number of nanoseconds, so that no two deadlines fall together.
    fn pass_time(&mut self) {
        let millis = *self.random.pick(&[0, 0, 1, 100, 900, 3000]);
        let later = self.now + Duration::from_nanos(millis * 1_000_000 + self.random.below(999_983) + 1);
        if self.random.chance(50) {
            // A timer that is on time.
            while self.table.next_due().min(self.model.next_due()) <= later {
                self.now = self.table.next_due().max(self.now).min(later);
                self.run_out();
            }
        }
        self.now = later;
    }

    fn run_out(&mut self) {
        self.say(format_args!("timer"));
        self.turn(|table, turn| table.run_out(turn));
        self.model.run_out(self.now);
        self.check_told(None);
    }

    fn turn<T>(&mut self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> T {
        let Play { table, random, changes, verdicts, now, .. } = self;
        let mut turn = Turn { now: *now, salt: &mut || random.next(), changes: Some(changes), verdicts };
        operation(table, &mut turn)
    }

    fn open(&mut self) -> Conn {
        let conn = self.table.connect();
        assert!(!self.conns.contains(&Some(conn)), "a connection's name given twice");
        self.conns.push(Some(conn));
        // Odd nanoseconds, so that no absence ends in the very moment that a lease does.
        let resume = Duration::from_nanos(*self.random.pick(&[0, 0, 1_000_000_003, 5_000_000_003]));
        if !resume.is_zero() {
            self.table.allow_resuming(conn, resume);
        }
        self.model.resume.push(resume);
        self.say(format_args!("c{} connects, resume {resume:?}", self.conns.len() - 1));
        self.conns.len() - 1
    }

    /// A connection that may ask, new or old.
    fn somebody(&mut self) -> (Conn, ConnId) {
        let free: Vec<Conn> =
            (0..self.conns.len()).filter(|at| self.conns[*at].is_some() && !self.blocked.contains_key(at)).collect();
        let conn = if free.is_empty() || (free.len() < 6 && self.random.chance(30)) {
            self.open()
        } else {
            *self.random.pick(&free)
        };
        (conn, self.conns[conn].expect("open"))
    }

    fn some_kind(&mut self) -> Kind {
        match self.random.below(5) {
            0 => Kind::Semaphore { limit: 2 },
            1 => Kind::Semaphore { limit: *self.random.pick(&[1, 2, 3]) },
            _ => Kind::Lock,
        }
    }

    fn do_something(&mut self) {
        let key = self.random.below(KEYS) as usize;
        let name = format!("key-{key}").into_bytes();
        let kind = self.some_kind();
        let lease_s = *self.random.pick(&[1, 2, 5, 30]);
        // Odd nanoseconds, so that no wait ends in the very moment that a lease does.
        let timeout = Duration::from_nanos(*self.random.pick(&[0, 500_000_007, 2_000_000_007, 60_000_000_007]));
        match self.random.below(100) {
            0..35 => {
                let (conn, id) = self.somebody();
                self.say(format_args!("c{conn} acquires {key} {kind:?} lease {lease_s} timeout {timeout:?}"));
                let reply = self.turn(|table, turn| table.acquire(turn, id, &name, kind, lease_s, timeout));
                self.model.run_out(self.now);
                let said = self.model.acquire(conn, key, kind, lease_s, timeout, self.now);
                self.check_reply(conn, reply, said, false);
            }
            35..50 => {
                let (conn, id) = self.somebody();
                self.say(format_args!("c{conn} enqueues {key} {kind:?} lease {lease_s}"));
                let reply = self.turn(|table, turn| table.enqueue(turn, id, &name, kind, lease_s));
                self.model.run_out(self.now);
                let said = self.model.enqueue(conn, key, kind, lease_s, self.now);
                self.check_reply(conn, reply, said, false);
            }
            50..60 => {
                let (conn, id) = self.somebody();
                self.say(format_args!("c{conn} waits for {key} {kind:?} timeout {timeout:?}"));
                let reply = self.turn(|table, turn| table.wait(turn, id, &name, kind.space(), timeout));
                self.model.run_out(self.now);
                let said = self.model.wait(conn, key, kind, timeout, self.now);
                self.check_reply(conn, reply, said, true);
            }
            60..78 => self.release_or_renew(lease_s),
            78..88 => self.resume(),
            88..98 => self.close_one(),
            _ => self.run_out(),
        }
    }

    fn release_or_renew(&mut self, lease_s: u64) {
        let Some((claim, token)) = self.some_proof(&self.tokens.clone()) else { return };
        self.model.run_out(self.now);
        let known = self.model.claims[claim].clone().filter(|_| self.model.is_granted(claim));
        let wrong = self.random.chance(10);
        let token = if wrong { format!("{}{}", &token[..16], &"0".repeat(16)) } else { token };
        let (key, kind) = known.as_ref().map_or((0, Kind::Lock), |claim| (claim.key, claim.kind));
        let name = format!("key-{key}").into_bytes();
        let expected = known.is_some() && !wrong;
        if self.random.chance(60) {
            self.say(format_args!("token of claim {claim} releases, wrong {wrong}"));
            let done = self.turn(|table, turn| table.release(turn, &name, kind.space(), token.as_bytes()));
            assert_eq!(done, expected, "release of claim {claim}");
            if expected {
                self.model.end(claim, self.now);
            }
        } else {
            let lease_s = *self.random.pick(&[None, Some(lease_s)]);
            let (conn, id) = self.somebody();
            self.say(format_args!("c{conn} renews claim {claim} for {lease_s:?}, wrong {wrong}"));
            let space = kind.space();
            let done = self.turn(|table, turn| table.renew(turn, id, &name, space, token.as_bytes(), lease_s));
            assert_eq!(done.is_some(), expected, "renewal of claim {claim}");
            if let Some(seconds) = done {
                assert_eq!(seconds, self.model.renew(claim, conn, lease_s, self.now));
                self.promised.insert(claim, self.now + Duration::from_secs(seconds));
            }
        }
        self.check_told(None);
    }

    fn some_proof(&mut self, from: &HashMap<usize, String>) -> Option<(usize, String)> {
        let mut all: Vec<_> = from.iter().map(|(claim, proof)| (*claim, proof.clone())).collect();
        all.sort_unstable();
        let recent = all.split_off(all.len().saturating_sub(8));
        (!recent.is_empty()).then(|| self.random.pick(&recent).clone())
    }

    fn resume(&mut self) {
        let by_ticket = self.random.chance(50);
        let proofs = if by_ticket { self.tickets.clone() } else { self.tokens.clone() };
        let Some((claim, proof)) = self.some_proof(&proofs) else { return };
        let (conn, id) = self.somebody();
        self.model.run_out(self.now);
        let known = self.model.claims[claim].clone();
        let (key, kind) = known.as_ref().map_or((0, Kind::Lock), |claim| (claim.key, claim.kind));
        let name = format!("key-{key}").into_bytes();
        let lease_s = *self.random.pick(&[None, Some(3)]);
        self.say(format_args!("c{conn} resumes claim {claim}, by ticket {by_ticket}, lease {lease_s:?}"));
        let resumed = self.turn(|table, turn| table.resume(turn, id, &name, kind.space(), proof.as_bytes(), lease_s));
        let possible = known.is_some_and(|known| if by_ticket { known.has_ticket } else { known.is_granted() });
        let done = if possible { self.model.resume(claim, conn, !by_ticket, lease_s, self.now) } else { None };
        assert_eq!(resumed.is_ok(), done.is_some(), "resuming claim {claim}: {resumed:?}");
        self.check_told(None);
        let Ok(resumed) = resumed else { return };
        self.owners.entry(claim).or_default().push(conn);
        match resumed {
            Resumed::Held { lease_s } | Resumed::Granted { lease_s, .. } => {
                self.promised.insert(claim, self.now + Duration::from_secs(lease_s));
                assert_eq!(self.model.claim(claim).state, State::Held);
                assert_eq!(lease_s, self.model.claim(claim).lease_s);
            }
            Resumed::Queued { ticket } => {
                assert_eq!(self.model.claim(claim).state, State::Queued);
                assert_eq!(self.tickets[&claim], ticket.hex().as_str());
            }
        }
        if let Resumed::Granted { stamp, .. } = resumed {
            assert_eq!(self.tokens[&claim], stamp.hex().as_str());
        }
    }

    fn close_one(&mut self) {
        let open: Vec<Conn> = (0..self.conns.len()).filter(|at| self.conns[*at].is_some()).collect();
        if !open.is_empty() {
            let conn = *self.random.pick(&open);
            self.close(conn);
        }
    }

    fn close(&mut self, conn: Conn) {
        self.say(format_args!("c{conn} closes"));
        let id = self.conns[conn].take().expect("open");
        self.blocked.remove(&conn);
        self.closed_at.insert(conn, self.now);
        while !self.turn(|table, turn| table.disconnect(turn, id)) {}
        // The closing itself does not look at the clock, so neither does the model here.
        self.model.disconnect(conn, self.now);
        self.check_told(None);
    }

    fn check_reply(&mut self, conn: Conn, reply: Reply, said: Said, was_place: bool) {
        let own = match reply {
            // What `w` answers was granted to the place before, maybe in the same breath.
            Reply::Granted { stamp, .. } if !was_place => Some(stamp.number),
            _ => None,
        };
        match (reply, said) {
            (Reply::Granted { stamp, lease_s }, Said::Granted(claim)) => {
                assert_eq!(lease_s, self.model.claim(claim).lease_s);
                self.tokens.insert(claim, stamp.hex().as_str().to_owned());
                self.promised.insert(claim, self.now + Duration::from_secs(lease_s));
                self.owners.entry(claim).or_default().push(conn);
            }
            (Reply::Queued { ticket }, Said::Queued(claim)) => {
                self.owners.entry(claim).or_default().push(conn);
                assert_eq!(ticket.is_some(), self.model.claim(claim).has_ticket);
                if let Some(ticket) = ticket {
                    self.tickets.insert(claim, ticket.hex().as_str().to_owned());
                }
            }
            (Reply::Blocked, Said::Blocked(claim)) => {
                self.owners.entry(claim).or_default().push(conn);
                self.blocked.insert(conn, claim);
            }
            (Reply::Timeout, Said::Timeout)
            | (Reply::No(No::MaxLocks), Said::MaxLocks)
            | (Reply::No(No::MaxWaiters), Said::MaxWaiters)
            | (Reply::No(No::LimitMismatch), Said::LimitMismatch)
            | (Reply::No(No::NotEnqueued), Said::NotEnqueued)
            | (Reply::No(No::AlreadyEnqueued), Said::AlreadyEnqueued)
            | (Reply::No(No::LeaseExpired), Said::LeaseExpired) => {}
            (Reply::No(No::NotEnqueued), Said::LeaseExpired) if self.forgets_keys => {}
            (reply, said) => panic!("the table says {reply:?}, the model {said:?}"),
        }
        self.check_told(own);
    }

    /// Those who were not asking must have been told the same, in the same order.
    fn check_told(&mut self, own: Option<u64>) {
        let mut grants: Vec<(Stamp, std::sync::Arc<[u8]>, Kind)> = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Granted { stamp, key, kind, .. } => {
                    assert!(stamp.number > self.last_fence, "fence {} after {}", stamp.number, self.last_fence);
                    self.last_fence = stamp.number;
                    grants.push((stamp, key, kind));
                }
                Change::Ended { fence, why } if why != End::Released => self.check_promise(fence),
                _ => {}
            }
        }
        let verdicts = std::mem::take(&mut self.verdicts);
        let told_of = |grant: &Stamp| {
            let same = |(_, verdict): &(ConnId, Verdict)| match verdict {
                Verdict::Granted { stamp, .. } => stamp.number == grant.number,
                _ => false,
            };
            verdicts.iter().any(same)
        };
        // Grants that nobody was told of: to places that nobody waits for.
        grants.retain(|(grant, ..)| !told_of(grant) && Some(grant.number) != own);
        let mut verdicts = verdicts.clone();
        for told in std::mem::take(&mut self.model.told) {
            let conn = match told {
                Told::GrantedSilently(claim) => {
                    // The token will be seen at `w`; the schedule may use it before.
                    // Of one key they come in order; which key comes first when a connection closes does not matter.
                    let Claim { key, kind, .. } = self.model.claim(claim).clone();
                    let name = format!("key-{key}").into_bytes();
                    let at = grants.iter().position(|(_, key, k)| **key == *name && k.space() == kind.space());
                    let at = at.unwrap_or_else(|| panic!("claim {claim} was not granted"));
                    let (stamp, ..) = grants.remove(at);
                    self.tokens.insert(claim, stamp.hex().as_str().to_owned());
                    continue;
                }
                Told::Granted(conn, _) | Told::Timeout(conn) | Told::Moved(conn) => conn,
            };
            let at = verdicts.iter().position(|(id, _)| Some(*id) == self.conns[conn]);
            let at = at.unwrap_or_else(|| panic!("{told:?} was not told, or to somebody else, or to the dead"));
            let (_, verdict) = verdicts.remove(at).expect("found");
            assert!(self.blocked.remove(&conn).is_some(), "{told:?} to one who does not wait");
            match (verdict, told) {
                (Verdict::Granted { stamp, lease_s }, Told::Granted(_, claim)) => {
                    self.promised.insert(claim, self.now + Duration::from_secs(lease_s));
                    self.tokens.insert(claim, stamp.hex().as_str().to_owned());
                }
                (Verdict::Timeout, Told::Timeout(_)) | (Verdict::Moved, Told::Moved(_)) => {}
                (verdict, told) => panic!("the table tells {verdict:?}, the model {told:?}"),
            }
        }
        assert!(verdicts.is_empty(), "told without reason: {verdicts:?}");
        assert!(grants.is_empty(), "granted without reason: {grants:?}");
    }

    /// A grant ended that was not released. What was promised must be over, or whoever owned it be gone, for as long
    /// as was agreed with any of them.
    fn check_promise(&self, fence: u64) {
        let prefix = format!("{fence:016x}");
        let Some((claim, _)) = self.tokens.iter().find(|(_, token)| token.starts_with(&prefix)) else { return };
        if self.promised.get(claim).is_none_or(|until| *until <= self.now) {
            return;
        }
        let owners = &self.owners[claim];
        let closed: Vec<_> = owners.iter().map(|conn| self.closed_at.get(conn).copied()).collect();
        assert!(closed.iter().all(Option::is_some), "claim {claim} ended though one of {owners:?} is there");
        let agreed = owners.iter().map(|conn| self.model.resume[*conn]).max().unwrap_or_default();
        let last = closed.into_iter().flatten().max().expect("somebody owned it");
        assert!(last + agreed <= self.now, "claim {claim} ended before an absence of {agreed:?} was over");
    }

    /// What the table reports is what the model holds.
    fn compare(&mut self) {
        self.table.check().expect("the table is sound");
        let mut rows = Vec::new();
        let mut cursor = Some(self.table.begin_report());
        while let Some(at) = cursor {
            cursor = self.table.report(at, self.now, 3, |row| {
                match row {
                    Row::Lock { key, left, waiting, owner } => {
                        rows.push((key.to_vec(), 1, u64::from(!left.is_zero()), waiting, owner))
                    }
                    Row::Semaphore { key, limit, holders, waiting } => {
                        rows.push((key.to_vec(), 100 + limit, holders, waiting, 0))
                    }
                    Row::Idle { .. } | Row::EndOfGroup => {}
                }
                true
            });
        }
        rows.sort_unstable();
        let mut expected = Vec::new();
        for key in 0..KEYS as usize {
            for any in [Kind::Lock, Kind::Semaphore { limit: 1 }] {
                let holders = self.model.holders(key, any);
                let waiting = self.model.waiting(key, any) as u64;
                let of = self
                    .model
                    .claims
                    .iter()
                    .flatten()
                    .find(|claim| claim.key == key && claim.kind.space() == any.space());
                let Some(kind) = of.map(|claim| claim.kind) else { continue };
                assert!(holders.len() as u64 <= kind.limit(), "{} holders of {kind:?} {key}", holders.len());
                let tag = if kind == Kind::Lock { 1 } else { 100 + kind.limit() };
                // A lease that is over shows no time left until the timer comes.
                let late = kind == Kind::Lock && holders.iter().any(|id| self.model.claim(*id).until <= self.now);
                // Connections are numbered from one on.
                let lock_holder = holders.first().filter(|_| kind == Kind::Lock);
                let owner = lock_holder.and_then(|id| self.model.claim(*id).conn).map_or(0, |conn| conn as u64 + 1);
                expected.push((
                    format!("key-{key}").into_bytes(),
                    tag,
                    if late { 0 } else { holders.len() as u64 },
                    waiting,
                    owner,
                ));
            }
        }
        expected.sort_unstable();
        assert_eq!(rows, expected);
        let held = self.model.claims.iter().flatten().filter(|claim| claim.is_granted()).count();
        assert_eq!(self.table.load().held, held);
    }

    /// Everybody leaves; nobody may be left waiting, and nothing remembered.
    fn end(&mut self) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].is_some() {
                self.close(conn);
            }
        }
        while self.table.next_due() != Moment::NEVER {
            self.now = self.table.next_due().max(self.now);
            self.run_out();
        }
        assert!(self.blocked.is_empty(), "left waiting: {:?}", self.blocked);
        assert_eq!(self.table.load().held + self.table.load().waiting, 0);
        assert!(self.model.claims.iter().flatten().next().is_none());
    }
}
