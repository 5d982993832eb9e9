//! The server: stands for `server::shared` and `server::session`. The table decides; an answer leaves when what
//! it follows from is on disk.

mod session;

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
use super::{Act, Plant, SECOND, World};

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
    /// What happened to it while it stands still, if it does: about which connection, and what is to be done.
    pub frozen: Option<Vec<(Option<usize>, Act)>>,
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
        Server {
            powered: true,
            down: false,
            boot,
            booted_at: 0,
            wall,
            incarnation: 0,
            process: 0,
            running: None,
            frozen: None,
        }
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
                (None, Verdict::Granted { stamp, .. }) => table.take_back(&mut turn, conn, stamp),
                (None, Verdict::Timeout | Verdict::Closed | Verdict::Moved) => {}
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
                Verdict::Closed | Verdict::Moved => (Said::Error, Promise::Nothing),
            };
            self.answer(link, said, promise);
            self.go_on_with(link);
        }
        self.set_timer();
    }

    /// With a plant only: whoever connects from now on is served by one that knows of nothing that is held. Those who
    /// are connected already hear nothing more, which matters to nobody: their leases go on.
    pub fn serve_beside_the_old_one(&self) {
        let now = self.now();
        let mut server = self.server.borrow_mut();
        let wall = server.wall + now;
        if let Some(running) = &mut server.running {
            running.table = Table::new(LIMITS, wall);
            running.sessions.clear();
            running.links.clear();
        }
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
            world.when_it_goes_on(None, move |world| {
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
            })
        });
    }

    /// Does it now, or once the server does not stand still any more.
    pub fn when_it_goes_on(self: &Rc<World>, link: Option<usize>, act: impl FnOnce(&Rc<World>) + 'static) {
        if let Some(waiting) = &mut self.server.borrow_mut().frozen {
            return waiting.push((link, Box::new(act)));
        }
        act(self);
    }

    /// It finds everything at once, and takes the connections in any order.
    pub fn thaw_server(self: &Rc<World>) {
        let process = self.server.borrow().process;
        let Some(mut waiting) = self.server.borrow_mut().frozen.take() else { return };
        self.tell("server", || format!("goes on, with {} things to do", waiting.len()));
        self.go_on(process);
        let mut round = 0;
        while !waiting.is_empty() {
            round += 1;
            let any = self.dice(&[12, self.now(), round]) as usize % waiting.len();
            let link = waiting[any].0;
            let first = waiting.iter().position(|(of, _)| *of == link).unwrap_or(any);
            let (_, act) = waiting.remove(first);
            act(self);
        }
    }

    /// Its process ends; with `power` its whole machine.
    pub fn crash(self: &Rc<World>, power: bool) {
        let (running, process) = {
            let mut server = self.server.borrow_mut();
            server.incarnation += 1;
            server.frozen = None;
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
