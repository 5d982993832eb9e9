//! The server's table, played by bytes: whatever is asked of it in whatever order, after each operation every index
//! agrees with every other, nobody has what somebody else has, and nobody is passed over.
//!
//! The simulator compares the table with a model of it. Here nothing has to be told apart, so that more may happen
//! at once: deadlines fall together, the table pauses, closes, and goes on from its journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use dflock::clock::Moment;
use dflock::lock::{Kind, Space};
use dflock::server::journal::downtime::Times;
use dflock::server::journal::frame::{Frame, HEADER, Header};
use dflock::server::journal::kept::Kept;
use dflock::server::journal::replay::replay;
use dflock::server::stamp::Stamp;
use dflock::server::table::{Change, ConnId, End, Limits, Load, Reply, Resumed, Table, Turn, Verdict};

use crate::choices::Choices;
use crate::harness::{Target, fuzz};
use crate::random::Random;

const SECOND: u64 = 1_000_000_000;

const KEYS: [&[u8]; 3] = [b"a", b"b", b"\xff\0"];

const CONNECTIONS: usize = 6;

#[test]
fn table() {
    fuzz(&Target { name: "table", inputs: 2_000, make, check, memory: |_| 4 * 1024 * 1024 });

    fn make(random: &mut Random) -> Vec<u8> {
        let length = 20 + random.below(500);
        (0..length).map(|_| random.next() as u8).collect()
    }

    fn check(input: &[u8]) {
        let mut choices = Choices::new(input);
        let mut play = Play::new(&mut choices);
        while !choices.is_over() {
            play.step(&mut choices);
        }
        play.end();
    }
}

/// A connection, as its client sees it.
struct Client {
    id: ConnId,
    /// Its answer is still to come.
    blocked: Option<Blocked>,
}

struct Blocked {
    key: &'static [u8],
    space: Space,
    /// By `l`, and the how many-eth who ever did.
    asked: Option<u64>,
    until: Moment,
}

/// What the changes say that is held, with its key; what is known of its end.
struct Grant {
    key: (Vec<u8>, Space),
    until: Moment,
    known: bool,
}

pub struct Play {
    pub now: Moment,
    limits: Limits,
    table: Table,
    clients: Vec<Option<Client>>,
    /// Tokens and tickets that somebody has been told, the latest last.
    proofs: Vec<(String, &'static [u8], Space)>,
    asked: u64,
    salt: u64,
    changes: Vec<Change>,
    verdicts: VecDeque<(ConnId, Verdict)>,
    /// What the changes amount to.
    kept: Kept,
    grants: BTreeMap<u64, Grant>,
    tickets: BTreeSet<u64>,
    last_fence: u64,
    is_paused: bool,
    is_closed: bool,
    /// Everything that happened since somebody took it, or since the last start.
    pub happened: Vec<Change>,
    pub restarts: usize,
}

fn limits(choices: &mut Choices<'_>) -> Limits {
    Limits {
        keys: choices.pick(&[100, 2, 1]),
        waiters: choices.pick(&[0, 0, 1, 2]),
        idle: Duration::from_secs(choices.pick(&[60, 1, 0])),
        auto_release: choices.below(5) > 0,
    }
}

impl Play {
    pub fn new(choices: &mut Choices<'_>) -> Play {
        let limits = limits(choices);
        Play {
            now: Moment::from_nanos(SECOND),
            limits,
            table: Table::new(limits, 1000),
            clients: Vec::new(),
            proofs: Vec::new(),
            asked: 0,
            salt: 0,
            changes: Vec::new(),
            verdicts: VecDeque::new(),
            kept: Kept::default(),
            grants: BTreeMap::new(),
            tickets: BTreeSet::new(),
            last_fence: 1000,
            is_paused: false,
            is_closed: false,
            happened: Vec::new(),
            restarts: 0,
        }
    }

    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// One thing more.
    pub fn step(&mut self, choices: &mut Choices<'_>) {
        let (key, space) = (choices.pick(&KEYS), choices.pick(&[Space::Locks, Space::Locks, Space::Semaphores]));
        match choices.below(20) {
            0..3 => self.acquire(choices, key, space),
            3..6 => self.enqueue(choices, key, space),
            6..8 => self.wait(choices, key, space),
            8..10 => self.prove(choices, |table, turn, key, space, proof| {
                table.release(turn, key, space, proof);
            }),
            10 => {
                let lease_s = choices.pick(&[None, Some(1), Some(5), Some(u64::MAX)]);
                let Some(client) = self.client(choices) else { return };
                let id = self.id(client);
                self.prove(choices, |table, turn, key, space, proof| {
                    table.renew(turn, id, key, space, proof, lease_s);
                });
            }
            11..13 => self.resume(choices),
            13 => self.disconnect(choices),
            14 | 15 => self.pass_time(choices),
            16 => self.turn(|table, turn| table.run_out(turn)),
            17 => self.pause(),
            18 => self.take_back(choices),
            _ if choices.below(8) == 0 => self.stop(choices),
            _ => self.restart(choices),
        }
    }

    /// A client that may ask, new or old.
    fn client(&mut self, choices: &mut Choices<'_>) -> Option<usize> {
        let at = choices.below(CONNECTIONS);
        if self.clients.len() <= at {
            self.clients.resize_with(at + 1, || None);
        }
        if self.clients[at].is_none() {
            let id = self.table.connect();
            assert!(self.clients.iter().flatten().all(|client| client.id != id), "a name given twice");
            let resume = choices.pick(&[0, 0, 1, 30]);
            if resume > 0 {
                self.table.allow_resuming(id, Duration::from_secs(resume));
            }
            self.clients[at] = Some(Client { id, blocked: None });
        }
        self.clients[at].as_ref().is_some_and(|client| client.blocked.is_none()).then_some(at)
    }

    fn id(&self, client: usize) -> ConnId {
        self.clients[client].as_ref().expect("it is there").id
    }

    fn kind(choices: &mut Choices<'_>, space: Space) -> Kind {
        match space {
            Space::Locks => Kind::Lock,
            Space::Semaphores => Kind::Semaphore { limit: choices.pick(&[2, 2, 1, i64::MAX as u64]) },
        }
    }

    fn patience(choices: &mut Choices<'_>) -> Duration {
        Duration::from_secs(choices.pick(&[0, 1, 5, 9_223_372_036]))
    }

    fn acquire(&mut self, choices: &mut Choices<'_>, key: &'static [u8], space: Space) {
        let Some(client) = self.client(choices) else { return };
        let (id, kind, lease_s) =
            (self.id(client), Play::kind(choices, space), choices.pick(&[1, 2, 5, 9_223_372_036]));
        let patience = Play::patience(choices);
        let until = self.now + patience;
        let reply = self.ask(|table, turn| table.acquire(turn, id, key, kind, lease_s, patience));
        self.asked += 1;
        let asked = Some(self.asked);
        self.hear(client, reply, Blocked { key, space, asked, until });
    }

    fn enqueue(&mut self, choices: &mut Choices<'_>, key: &'static [u8], space: Space) {
        let Some(client) = self.client(choices) else { return };
        let (id, kind, lease_s) = (self.id(client), Play::kind(choices, space), choices.pick(&[1, 2, 5]));
        let reply = self.ask(|table, turn| table.enqueue(turn, id, key, kind, lease_s));
        self.hear(client, reply, Blocked { key, space, asked: None, until: Moment::NEVER });
    }

    fn wait(&mut self, choices: &mut Choices<'_>, key: &'static [u8], space: Space) {
        let Some(client) = self.client(choices) else { return };
        let (id, patience) = (self.id(client), Play::patience(choices));
        let until = self.now + patience;
        let reply = self.ask(|table, turn| table.wait(turn, id, key, space, patience));
        self.hear(client, reply, Blocked { key, space, asked: None, until });
    }

    fn hear(&mut self, client: usize, reply: Reply, blocked: Blocked) {
        let Blocked { key, space, .. } = blocked;
        match reply {
            Reply::Granted { stamp, .. } => self.learn(stamp, key, space),
            Reply::Queued { ticket: Some(ticket) } => self.learn(ticket, key, space),
            Reply::Blocked => {
                assert!(blocked.until > self.now && !self.is_closed, "blocked for nothing");
                self.clients[client].as_mut().expect("it is there").blocked = Some(blocked);
            }
            Reply::Queued { ticket: None } | Reply::Timeout | Reply::No(_) => {}
        }
        self.deliver();
        self.look();
    }

    fn learn(&mut self, stamp: Stamp, key: &'static [u8], space: Space) {
        if let Some(grant) = self.grants.get_mut(&stamp.number) {
            grant.known = true;
        }
        self.proofs.push((stamp.hex().as_str().to_owned(), key, space));
    }

    /// Something that is proved by a token, a ticket, or neither.
    fn proof(&mut self, choices: &mut Choices<'_>) -> Option<(String, &'static [u8], Space)> {
        let back = choices.below(6);
        let (proof, key, space) = self.proofs.iter().rev().nth(back)?.clone();
        Some(match choices.below(12) {
            0 => (format!("{}{:016x}", &proof[..16], 7), key, space),
            1 => (proof, KEYS[0], space),
            _ => (proof, key, space),
        })
    }

    fn prove(
        &mut self,
        choices: &mut Choices<'_>,
        operation: impl FnOnce(&mut Table, &mut Turn<'_>, &[u8], Space, &[u8]),
    ) {
        let Some((proof, key, space)) = self.proof(choices) else { return };
        self.turn(|table, turn| operation(table, turn, key, space, proof.as_bytes()));
    }

    fn resume(&mut self, choices: &mut Choices<'_>) {
        let Some((proof, key, space)) = self.proof(choices) else { return };
        let Some(client) = self.client(choices) else { return };
        let (id, lease_s) = (self.id(client), choices.pick(&[None, Some(3)]));
        let resumed = self.ask(|table, turn| table.resume(turn, id, key, space, proof.as_bytes(), lease_s));
        if let Ok(Resumed::Granted { stamp, .. }) = resumed {
            self.learn(stamp, key, space);
        }
        self.deliver();
        self.look();
    }

    fn disconnect(&mut self, choices: &mut Choices<'_>) {
        let at = choices.below(CONNECTIONS);
        let Some(Client { id, .. }) = self.clients.get_mut(at).and_then(Option::take) else { return };
        self.turn(|table, turn| while !table.disconnect(turn, id) {});
    }

    fn pass_time(&mut self, choices: &mut Choices<'_>) {
        // Nobody waits for centuries.
        let soon = self.now + Duration::from_secs(1000);
        let due = Some(self.table.next_due()).filter(|due| *due < soon);
        self.now = match choices.below(6) {
            0 => self.now + Duration::from_nanos(1),
            1 => self.now + Duration::from_millis(500),
            2 => self.now + Duration::from_secs(1),
            3 => self.now.max(due.unwrap_or(self.now)),
            4 => self.now.max(due.unwrap_or(self.now) - Duration::from_nanos(1)),
            _ => self.now + Duration::from_secs(10),
        };
    }

    fn pause(&mut self) {
        if self.is_paused {
            self.is_paused = false;
            self.turn(Table::go_on);
        } else {
            self.table.pause();
            self.is_paused = true;
        }
    }

    fn take_back(&mut self, choices: &mut Choices<'_>) {
        let Some((proof, ..)) = self.proof(choices) else { return };
        let stamp = Stamp::parse(proof.as_bytes()).expect("a stamp");
        // As the server does of a grant that it could not deliver; tickets are never delivered as one.
        if self.grants.contains_key(&stamp.number) {
            self.turn(|table, turn| table.take_back(turn, ConnId::NOBODY, stamp));
        }
    }

    /// The server is told to stop, for good or for the next one.
    fn stop(&mut self, choices: &mut Choices<'_>) {
        self.is_closed = true;
        if choices.below(2) == 0 {
            self.turn(Table::close);
        } else {
            self.turn(Table::hand_over);
        }
        assert!(
            self.clients.iter().flatten().all(|client| client.blocked.is_none()),
            "somebody waits for a closed table"
        );
    }

    /// Another server goes on from what this one has written down. Of what was held and known, nothing is lost.
    fn restart(&mut self, choices: &mut Choices<'_>) {
        let header = Header { nonce: 1, boot: [1; 16] };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        let times = Times { server: self.now, wall: 0 };
        let records = self.kept.to_records();
        Frame { synced_to: 0, times, records: &records }.write(header, HEADER as u64, &mut bytes);
        let mut kept = replay(&bytes).expect("a journal of ours").kept;
        let then = self.now + Duration::from_secs(choices.pick(&[0, 0, 1, 20]));
        // Another boot, whose clock shows less or more.
        let now = choices.pick(&[then, Moment::from_nanos(SECOND), Moment::from_nanos(SECOND << 20)]);
        kept.wake(then, now, choices.pick(&[0, self.last_fence + 1, 1 << 50]));
        self.limits = limits(choices);
        self.table = kept.table(self.limits, now);
        self.clients.clear();
        self.is_paused = false;
        self.is_closed = false;
        self.grants.retain(|_, grant| grant.known && grant.until > then);
        for grant in self.grants.values_mut().filter(|grant| grant.until != Moment::NEVER) {
            grant.until = now + grant.until.since(then);
        }
        self.now = now;
        self.kept = kept;
        // A new file is begun with what is kept.
        self.happened.clear();
        self.restarts += 1;
        self.look();
    }

    /// An operation and nothing else.
    fn ask<T>(&mut self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> T {
        let Play { table, changes, verdicts, now, salt, .. } = self;
        let mut salt = || {
            *salt += 1;
            *salt
        };
        let done = operation(table, &mut Turn { now: *now, salt: &mut salt, changes: Some(changes), verdicts });
        self.note();
        done
    }

    fn turn<T>(&mut self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) {
        self.ask(operation);
        self.deliver();
        self.look();
    }

    /// What happened must be possible.
    fn note(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            match &change {
                Change::Granted { key, kind, stamp, ticket, until, known, .. } => {
                    assert!(!self.is_paused && !self.is_closed, "granted by a table that gives nothing out");
                    assert!(stamp.number > self.last_fence, "fence {} after {}", stamp.number, self.last_fence);
                    self.last_fence = stamp.number;
                    let key = (key.to_vec(), kind.space());
                    let holders = self.grants.values().filter(|grant| grant.key == key).count();
                    assert!((holders as u64) < kind.limit(), "granted while {holders} have it");
                    assert!(*until > self.now, "a lease that is over");
                    self.grants.insert(stamp.number, Grant { key, until: *until, known: *known });
                    if let Some(ticket) = ticket {
                        assert!(self.tickets.remove(&ticket.number), "granted to a place that is none");
                    }
                }
                Change::Renewed { fence, until, .. } => {
                    let grant = self.grants.get_mut(fence).expect("what is renewed is held");
                    grant.until = *until;
                    grant.known = true;
                }
                Change::Ended { fence, why } => {
                    let grant = self.grants.remove(fence).expect("what ends is held");
                    assert!(*why != End::Expired || grant.until <= self.now, "a lease that ends early");
                }
                Change::Queued { ticket, .. } => {
                    assert!(self.tickets.insert(ticket.number), "a ticket given twice");
                }
                Change::Left { place } => assert!(self.tickets.remove(place), "who left was not there"),
                Change::Resumed { .. } | Change::LeftBehind { .. } => {}
            }
            self.kept.apply(&change);
            self.happened.push(change);
        }
    }

    /// Hands out verdicts as the server does: what reaches nobody is taken back.
    fn deliver(&mut self) {
        while let Some((conn, verdict)) = self.verdicts.pop_front() {
            let client = self.clients.iter_mut().flatten().find(|client| client.id == conn);
            let Some(blocked) = client.and_then(|client| client.blocked.take()) else {
                if let Verdict::Granted { stamp, .. } = verdict {
                    self.ask(|table, turn| table.take_back(turn, conn, stamp));
                }
                continue;
            };
            match verdict {
                Verdict::Granted { stamp, .. } => {
                    self.learn(stamp, blocked.key, blocked.space);
                    let before = |other: &Blocked| {
                        (other.key, other.space) == (blocked.key, blocked.space)
                            && other.asked.zip(blocked.asked).is_some_and(|(other, ours)| other < ours)
                    };
                    let others = self.clients.iter().flatten().filter_map(|client| client.blocked.as_ref());
                    assert_eq!(others.filter(|other| before(other)).count(), 0, "somebody was passed over");
                }
                Verdict::Timeout => assert!(blocked.until <= self.now, "sent away too early"),
                Verdict::Closed => assert!(self.is_closed, "sent away by a table that is open"),
                Verdict::Moved => {}
            }
        }
    }

    /// Between two operations everything agrees.
    fn look(&self) {
        if let Err(why) = self.table.check() {
            panic!("the table is not sound: {why}");
        }
        let Load { held, waiting } = self.table.load();
        assert_eq!((held, self.kept.held()), (self.grants.len(), self.grants.len()), "held");
        assert_eq!(self.kept.queued(), self.tickets.len(), "queued");
        assert!(waiting >= self.tickets.len());
    }

    /// Everybody leaves. Nothing is held then, and nothing remembered.
    pub fn end(&mut self) {
        if self.is_paused {
            self.pause();
        }
        self.turn(|table, turn| table.run_out(turn));
        for client in self.clients.iter().flatten() {
            let is_over = client.blocked.as_ref().is_some_and(|blocked| blocked.until <= self.now);
            assert!(!is_over, "somebody waits for longer than he wanted to");
        }
        for client in std::mem::take(&mut self.clients).into_iter().flatten() {
            self.turn(|table, turn| while !table.disconnect(turn, client.id) {});
        }
        while self.table.next_due() != Moment::NEVER {
            self.now = self.now.max(self.table.next_due());
            self.turn(|table, turn| table.run_out(turn));
        }
        let forever = self.grants.values().filter(|grant| grant.until == Moment::NEVER).count();
        assert_eq!(self.table.load(), Load { held: forever, waiting: 0 });
    }
}
