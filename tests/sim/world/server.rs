//! The server: stands for `server::shared` and `server::session`. The table decides; an answer leaves when what
//! it follows from is on disk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use dflock::clock::Moment;
use dflock::server::journal::downtime::Boot;
use dflock::server::stamp::Stamp;
use dflock::server::table::{Change, ConnId, Limits, No, Reply, Resumed, Table, Turn, Verdict};

use super::history::Site;
use super::net::{Packet, Said};
use super::writer::Line;
use super::{Plant, SECOND, World};

pub const LIMITS: Limits = Limits { keys: 100, waiters: 0, idle: Duration::from_secs(5), auto_release: true };

/// The longest that a broken connection's locks may be kept, as in `server`.
const MAX_RESUME_S: u64 = 300;

/// The original cuts a connection that is silent for so long.
const IDLE_CUT: u64 = 23 * SECOND;

pub struct Server {
    pub powered: bool,
    /// Between a crash and the next start.
    pub down: bool,
    pub boot: Boot,
    pub booted_at: u64,
    pub wall: u64,
    /// Counts its lives.
    pub incarnation: u64,
    /// Its process, from the beginning of its start on.
    pub process: usize,
    pub running: Option<Running>,
}

pub struct Running {
    pub table: Table,
    pub sessions: BTreeMap<usize, Session>,
    pub links: HashMap<ConnId, usize>,
    pub line: Line,
    timer_at: u64,
    salts: u64,
}

pub struct Session {
    pub conn: ConnId,
    pub blocked: bool,
    /// What was asked while it was blocked.
    ahead: VecDeque<Packet>,
    /// Answers that wait for the disk: up to which mark, and what they promise.
    out: VecDeque<(u64, Said, Promise)>,
    heard_at: u64,
    resumes: bool,
}

/// What an answer tells the client it may rely on.
#[derive(Clone, Copy, Debug)]
pub enum Promise {
    Nothing,
    Lease { fence: u64, until: u64 },
    Released { fence: u64 },
    Place { ticket: u64 },
}

/// What an operation did besides its reply.
pub struct Effects {
    pub changes: Vec<Change>,
    pub verdicts: Vec<(usize, Verdict)>,
}

pub fn name(key: u8) -> [u8; 4] {
    [b'k', b'e', b'y', b'0' + key]
}

impl Server {
    pub fn new() -> Server {
        let mut boot = Boot::default();
        boot[0] = 1;
        let wall = 1_700_000_000 * SECOND;
        Server { powered: true, down: false, boot, booted_at: 0, wall, incarnation: 0, process: 0, running: None }
    }

    /// The clock that leases run on here.
    pub fn clock(&self, now: u64) -> Moment {
        Moment::from_nanos(now - self.booted_at)
    }

    pub fn true_time(&self, moment: Moment) -> u64 {
        moment.as_nanos().saturating_add(self.booted_at)
    }
}

impl Running {
    pub fn new(table: Table, line: Line, incarnation: u64) -> Running {
        let (sessions, links) = (BTreeMap::new(), HashMap::new());
        Running { table, sessions, links, line, timer_at: u64::MAX, salts: incarnation << 32 }
    }
}

type Operation<'a, T> = &'a mut dyn FnMut(&mut Table, &mut Turn<'_>) -> T;

impl World {
    /// As `Shared::with`: one operation, and whoever has an answer by it. `None`: the server is down.
    pub fn operate<T>(self: &Rc<World>, operation: Operation<'_, T>) -> Option<(T, Effects)> {
        let now = self.now();
        let mut server = self.server.borrow_mut();
        let clock = server.clock(now);
        let Running { table, sessions, links, line, salts, .. } = server.running.as_mut()?;
        if !line.accepts && !table.is_paused() {
            table.pause();
        }
        let (mut changes, mut pending) = (Vec::new(), VecDeque::new());
        let mut salt = || {
            *salts += 1;
            super::mix(&[7, *salts])
        };
        let mut turn = Turn { now: clock, salt: &mut salt, changes: Some(&mut changes), verdicts: &mut pending };
        let result = operation(table, &mut turn);
        let mut verdicts = Vec::new();
        while let Some((conn, verdict)) = turn.verdicts.pop_front() {
            let link = links.get(&conn).copied();
            let session = link.and_then(|link| sessions.get_mut(&link)).filter(|session| session.blocked);
            match (session, verdict) {
                (Some(session), _) => {
                    session.blocked = false;
                    verdicts.push((link.unwrap_or_default(), verdict));
                }
                (None, Verdict::Granted { stamp, .. }) => table.take_back(&mut turn, stamp),
                (None, Verdict::Timeout | Verdict::Off) => {}
            }
        }
        line.add(&changes);
        Some((result, Effects { changes, verdicts }))
    }

    /// What follows from an operation: checks, answers to those who were blocked, the timer. `own` is what the
    /// asking connection itself was granted at once.
    pub fn follow_up(self: &Rc<World>, effects: Effects, own: Option<u64>) {
        self.take_note(&effects, own);
        for (link, verdict) in effects.verdicts {
            let (said, promise) = match verdict {
                Verdict::Granted { stamp, .. } => (Said::Granted { stamp }, self.lease_of(stamp)),
                Verdict::Timeout => (Said::Timeout, Promise::Nothing),
                Verdict::Off => (Said::Error, Promise::Nothing),
            };
            self.answer(link, said, promise);
            self.go_on_with(link);
        }
        self.set_timer();
    }

    fn set_timer(&self) {
        let mut server = self.server.borrow_mut();
        let booted_at = server.booted_at;
        let incarnation = server.incarnation;
        let Some(running) = &mut server.running else { return };
        let due = running.table.next_due();
        let at = if due == Moment::NEVER { u64::MAX } else { (due.as_nanos() + booted_at).max(self.now()) };
        if at >= running.timer_at {
            return;
        }
        running.timer_at = at;
        drop(server);
        self.at(at, move |world| {
            let mut server = world.server.borrow_mut();
            if server.incarnation != incarnation {
                return;
            }
            let Some(running) = &mut server.running else { return };
            running.timer_at = u64::MAX;
            drop(server);
            let done = world.operate(&mut |table, turn| table.run_out(turn));
            if let Some(((), effects)) = done {
                world.follow_up(effects, None);
            }
        });
    }

    pub fn connected(self: &Rc<World>, link: usize) {
        let now = self.now();
        let mut server = self.server.borrow_mut();
        if let Some(running) = &mut server.running {
            let conn = running.table.connect();
            running.links.insert(conn, link);
            let (ahead, out) = (VecDeque::new(), VecDeque::new());
            running.sessions.insert(link, Session { conn, blocked: false, ahead, out, heard_at: now, resumes: false });
        }
        drop(server);
        self.watch_idle(link);
    }

    /// As the original does.
    fn watch_idle(self: &Rc<World>, link: usize) {
        if self.history.site != Site::Original {
            return;
        }
        let incarnation = self.server.borrow().incarnation;
        self.after(IDLE_CUT, move |world| {
            let server = world.server.borrow();
            let session = server.running.as_ref().and_then(|running| running.sessions.get(&link));
            let Some(Session { blocked, heard_at, .. }) = session.filter(|_| server.incarnation == incarnation) else {
                return;
            };
            let idle = !*blocked && world.now() - heard_at >= IDLE_CUT;
            drop(server);
            if idle {
                world.disconnected(link, incarnation);
                world.close_far(link);
            } else {
                world.watch_idle(link);
            }
        });
    }

    pub fn disconnected(self: &Rc<World>, link: usize, incarnation: u64) {
        let (conn, resumes) = {
            let mut server = self.server.borrow_mut();
            if server.incarnation != incarnation {
                return;
            }
            let Some(running) = &mut server.running else { return };
            let Some(session) = running.sessions.remove(&link) else { return };
            (session.conn, session.resumes)
        };
        self.tell("server", || format!("connection {link} of client {} is over", self.client_of(link)));
        let absent = self.owner_left(link, resumes);
        if self.plant == Plant::GrantToAbsent && absent {
            return;
        }
        self.check.borrow_mut().breaks = !resumes;
        while let Some((done, effects)) = self.operate(&mut |table, turn| table.disconnect(turn, conn)) {
            self.follow_up(effects, None);
            if done {
                break;
            }
        }
        self.check.borrow_mut().breaks = false;
        if let Some(running) = &mut self.server.borrow_mut().running {
            running.links.remove(&conn);
        }
    }

    pub fn receive(self: &Rc<World>, link: usize, incarnation: u64, packet: Packet) {
        let now = self.now();
        {
            let mut server = self.server.borrow_mut();
            if server.incarnation != incarnation {
                return;
            }
            let Some(session) = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link)) else {
                return;
            };
            session.heard_at = now;
            if session.blocked {
                return session.ahead.push_back(packet);
            }
        }
        self.handle(link, packet);
    }

    /// A connection is not blocked any more.
    fn go_on_with(self: &Rc<World>, link: usize) {
        loop {
            let next = {
                let mut server = self.server.borrow_mut();
                let session = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link));
                session.filter(|session| !session.blocked).and_then(|session| session.ahead.pop_front())
            };
            match next {
                Some(packet) => self.handle(link, packet),
                None => return,
            }
        }
    }

    fn handle(self: &Rc<World>, link: usize, packet: Packet) {
        let conn = {
            let server = self.server.borrow();
            let Some(session) = server.running.as_ref().and_then(|running| running.sessions.get(&link)) else { return };
            session.conn
        };
        self.tell("server", || format!("client {} on {link}: {packet:?}", self.client_of(link)));
        match packet {
            Packet::Info { resume_s } => self.say_info(link, conn, resume_s),
            Packet::Acquire { key, kind, timeout_s, lease_s } => {
                let patience = Duration::from_secs(timeout_s);
                let done =
                    self.operate(&mut |table, turn| table.acquire(turn, conn, &name(key), kind, lease_s, patience));
                self.reply(link, done, (key, kind.space()), |stamp| Said::Granted { stamp });
            }
            Packet::Enqueue { key, kind, lease_s } => {
                let done = self.operate(&mut |table, turn| table.enqueue(turn, conn, &name(key), kind, lease_s));
                self.reply(link, done, (key, kind.space()), |stamp| Said::Acquired { stamp });
            }
            Packet::Wait { key, space, timeout_s } => {
                let patience = Duration::from_secs(timeout_s);
                let done = self.operate(&mut |table, turn| table.wait(turn, conn, &name(key), space, patience));
                let Some((reply, effects)) = done else { return };
                self.block_if(link, reply);
                self.follow_up(effects, None);
                if matches!(reply, Reply::Timeout) {
                    self.left_queue(link, (key, space));
                }
                self.answer_reply(link, reply, |stamp| Said::Granted { stamp });
            }
            Packet::Release { key, space, token } => {
                let text = token.hex();
                let text = text.as_str().as_bytes();
                let done = self.operate(&mut |table, turn| table.release(turn, &name(key), space, text));
                let Some((released, effects)) = done else { return };
                self.follow_up(effects, None);
                let promise = Promise::Released { fence: token.number };
                if released {
                    self.answer(link, Said::Done, promise);
                } else {
                    self.answer(link, Said::Error, Promise::Nothing);
                }
            }
            Packet::Renew { key, space, token, lease_s } => {
                let text = token.hex();
                let text = text.as_str().as_bytes();
                let done = self.operate(&mut |table, turn| table.renew(turn, &name(key), space, text, lease_s));
                let Some((renewed, effects)) = done else { return };
                self.follow_up(effects, None);
                self.answer_about(link, token, renewed);
            }
            Packet::Resume { key, space, proof, lease_s } if self.history.site != Site::Original => {
                let text = proof.hex();
                let text = text.as_str().as_bytes();
                let done = self.operate(&mut |table, turn| table.resume(turn, conn, &name(key), space, text, lease_s));
                let Some((resumed, effects)) = done else { return };
                self.owner_returned(link, proof, resumed);
                self.follow_up(effects, None);
                match resumed {
                    None => self.answer_about(link, proof, false),
                    Some(Resumed::Held { .. }) => self.answer_about(link, proof, true),
                    Some(Resumed::Queued { ticket }) => {
                        self.answer(
                            link,
                            Said::Queued { ticket: Some(ticket) },
                            Promise::Place { ticket: ticket.number },
                        );
                    }
                    Some(Resumed::Granted { stamp, .. }) => {
                        self.answer(link, Said::Acquired { stamp }, self.lease_of(stamp));
                    }
                }
            }
            Packet::Resume { .. } => self.answer(link, Said::Error, Promise::Nothing),
        }
    }

    fn say_info(self: &Rc<World>, link: usize, conn: ConnId, resume_s: Option<u64>) {
        if self.history.site == Site::Original {
            return self.answer(link, Said::Error, Promise::Nothing);
        }
        let agreed = resume_s.map_or(MAX_RESUME_S, |wish| wish.min(MAX_RESUME_S));
        if resume_s.is_some()
            && let Some(running) = &mut self.server.borrow_mut().running
        {
            running.table.allow_resuming(conn, Duration::from_secs(agreed));
            if let Some(session) = running.sessions.get_mut(&link) {
                session.resumes = agreed > 0;
            }
        }
        self.answer(link, Said::About { resume_s: agreed }, Promise::Nothing);
    }

    /// To `l` and `e`.
    fn reply(
        self: &Rc<World>,
        link: usize,
        done: Option<(Reply, Effects)>,
        lock: (u8, dflock::lock::Space),
        granted: fn(Stamp) -> Said,
    ) {
        let Some((reply, effects)) = done else { return };
        self.block_if(link, reply);
        let own = if let Reply::Granted { stamp, .. } = reply { Some(stamp.number) } else { None };
        self.follow_up(effects, own);
        match reply {
            Reply::Blocked => self.joined_queue(link, lock, None),
            Reply::Queued { ticket } => self.joined_queue(link, lock, ticket.map(|ticket| ticket.number)),
            _ => {}
        }
        self.answer_reply(link, reply, granted);
    }

    fn block_if(&self, link: usize, reply: Reply) {
        let mut server = self.server.borrow_mut();
        if let Some(session) = server.running.as_mut().and_then(|running| running.sessions.get_mut(&link)) {
            session.blocked |= matches!(reply, Reply::Blocked);
        }
    }

    fn answer_reply(self: &Rc<World>, link: usize, reply: Reply, granted: fn(Stamp) -> Said) {
        let (said, promise) = match reply {
            Reply::Granted { stamp, .. } => (granted(stamp), self.lease_of(stamp)),
            Reply::Queued { ticket } => {
                let promise = ticket.map_or(Promise::Nothing, |ticket| Promise::Place { ticket: ticket.number });
                (Said::Queued { ticket }, promise)
            }
            Reply::Blocked => return,
            Reply::Timeout => (Said::Timeout, Promise::Nothing),
            Reply::No(No::Paused) => (Said::Error, Promise::Nothing),
            Reply::No(_) => (Said::Refused, Promise::Nothing),
        };
        self.answer(link, said, promise);
    }

    fn answer_about(self: &Rc<World>, link: usize, token: Stamp, held: bool) {
        if held {
            return self.answer(link, Said::Left, self.lease_of(token));
        }
        self.denied(token.number);
        self.answer(link, Said::Error, Promise::Nothing);
    }

    /// Leaves when everything that happened so far is on disk.
    fn answer(self: &Rc<World>, link: usize, said: Said, promise: Promise) {
        let mut server = self.server.borrow_mut();
        let Some(running) = &mut server.running else { return };
        let mark = running.line.mark();
        if let Some(session) = running.sessions.get_mut(&link) {
            session.out.push_back((mark, said, promise));
        }
        drop(server);
        self.send_what_may_leave(Some(link));
    }

    /// To one connection, or to all.
    pub fn send_what_may_leave(self: &Rc<World>, link: Option<usize>) {
        let mut leaving = Vec::new();
        {
            let mut server = self.server.borrow_mut();
            let Some(Running { sessions, line, .. }) = &mut server.running else { return };
            let kept = line.kept();
            let of_link = |(at, session): (&usize, &mut Session)| {
                while session.out.front().is_some_and(|(mark, ..)| *mark <= kept) {
                    leaving.extend(session.out.pop_front().map(|(mark, said, promise)| (*at, mark, said, promise)));
                }
            };
            match link {
                Some(link) => sessions.get_mut(&link).map(|session| (&link, session)).into_iter().for_each(of_link),
                None => sessions.iter_mut().for_each(of_link),
            }
        }
        for (link, mark, said, promise) in leaving {
            self.tell("server", || format!("to client {} on {link}: {said:?}", self.client_of(link)));
            self.promised(mark, promise);
            self.send_down(link, said);
        }
    }

    /// Its process ends; with `power` its whole machine.
    pub fn crash(self: &Rc<World>, power: bool) {
        let (running, process) = {
            let mut server = self.server.borrow_mut();
            server.incarnation += 1;
            server.powered &= !power;
            (server.running.take(), server.process)
        };
        self.kill(process);
        if running.is_some() {
            self.went_down();
        }
        if power {
            self.clock_is_lost();
            let dice = self.dice(&[3, self.now()]);
            self.disk.borrow_mut().lose_power(dice);
        }
        self.cut_all(power);
    }
}
