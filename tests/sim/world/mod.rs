//! A world of its own: one virtual clock, machines, processes, a network, a disk and a server, all in one thread.
//!
//! What decides is the real thing: `server::table`, `server::journal` (its bytes included), `lease::keeping` with
//! the loop around it, `exec::policy` and `exec::leases`, `client::retry`. Around them stand shells that take the same
//! steps as the real ones, in the same order; each file here says which shell it stands for. A history is data (see
//! `history`): the same data lead to the same events, and a decision that is left out disturbs no other one.

pub mod check;
pub mod child;
pub mod client;
pub mod disk;
pub mod env;
pub mod exec;
pub mod guardian;
pub mod history;
pub mod holder;
pub mod keeper;
pub mod ledger;
pub mod net;
mod plant;
pub mod play;
mod process;
pub mod queue;
pub mod server;
pub mod shrink;
pub mod start;
pub mod ticket;
pub mod writer;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use check::{Check, Violation};
use history::History;
pub use plant::Plant;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// At one moment of time.
const MOST_POLLS: usize = 10_000;

type Act = Box<dyn FnOnce(&Rc<World>)>;

enum What {
    Wake(Waker, Rc<Cell<bool>>),
    Do(Act),
}

struct Event {
    at: u64,
    number: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Task {
    process: usize,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

/// One of the processes of the world: dflock, guardian, command, server.
#[derive(Default)]
struct Process {
    machine: usize,
    dead: bool,
    stopped: bool,
    tasks: Vec<usize>,
    /// Tasks that were woken while it could not run.
    parked: Vec<usize>,
    /// A machine that gives too little processor time gives it as much as it wants.
    comes_first: bool,
    /// It waits for processor time.
    is_refused: bool,
    /// For how long it waited for some, in all its life.
    refused: u64,
    /// The moment that it may use, having waited.
    runs_at: u64,
}

/// Machine 0 is the server's; its clock is the true one.
#[derive(Default)]
struct Machine {
    /// By how much its clock is fast.
    ppm: i64,
    offset: u64,
    asleep_since: Option<u64>,
    slept: u64,
    /// Since when it gives its processes too little processor time, and how long one has to wait at most.
    starves: Option<(u64, u64)>,
}

pub struct World {
    pub history: Rc<History>,
    pub plant: Plant,
    now: Cell<u64>,
    count: Cell<u64>,
    over: Cell<bool>,
    events: RefCell<BinaryHeap<Reverse<Event>>>,
    tasks: RefCell<Vec<Task>>,
    ready: Arc<Mutex<VecDeque<usize>>>,
    processes: RefCell<Vec<Process>>,
    machines: RefCell<Vec<Machine>>,
    pub net: RefCell<net::Net>,
    pub server: RefCell<server::Server>,
    pub disk: RefCell<disk::Disk>,
    pub check: RefCell<Check>,
    pub clients: RefCell<Vec<play::Client>>,
    /// Decisions that wait for a number of steps.
    pub armed: RefCell<Vec<(u64, usize)>>,
    tell: bool,
    story: RefCell<Vec<String>>,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.task) {
            ready.push_back(self.task);
        }
    }
}

/// Any number, and the same for the same reasons.
pub fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |sum, number| {
        let mut mixed = (sum ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 29)
    })
}

impl World {
    pub fn new(history: Rc<History>, plant: Plant, tell: bool) -> Rc<World> {
        let server = server::Server::new();
        Rc::new(World {
            history,
            plant,
            now: Cell::new(1_000 * SECOND),
            count: Cell::new(0),
            over: Cell::new(false),
            events: RefCell::default(),
            tasks: RefCell::default(),
            ready: Arc::default(),
            processes: RefCell::default(),
            machines: RefCell::new(vec![Machine::default()]),
            net: RefCell::default(),
            server: RefCell::new(server),
            disk: RefCell::default(),
            check: RefCell::default(),
            clients: RefCell::default(),
            armed: RefCell::default(),
            tell,
            story: RefCell::default(),
        })
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    pub fn dice(&self, numbers: &[u64]) -> u64 {
        mix(&[self.history.seed, mix(numbers)])
    }

    pub fn tell(&self, who: &str, what: impl FnOnce() -> String) {
        if self.tell {
            let at = self.now().saturating_sub(1_000 * SECOND) as f64 / SECOND as f64;
            self.story.borrow_mut().push(format!("{at:>10.4}s  {who:<10} {}", what()));
        }
    }

    pub fn story(&self) -> Vec<String> {
        self.story.borrow().clone()
    }

    /// The first one counts.
    pub fn violate(&self, violation: Violation) {
        self.tell("VIOLATION", || violation.to_string());
        self.check.borrow_mut().violation.get_or_insert(violation);
    }

    fn push(&self, at: u64, what: What) {
        if self.over.get() {
            return;
        }
        self.count.set(self.count.get() + 1);
        let event = Event { at: at.max(self.now()), number: self.count.get(), what };
        self.events.borrow_mut().push(Reverse(event));
    }

    pub fn at(&self, when: u64, act: impl FnOnce(&Rc<World>) + 'static) {
        self.push(when, What::Do(Box::new(act)));
    }

    pub fn after(&self, nanos: u64, act: impl FnOnce(&Rc<World>) + 'static) {
        self.at(self.now() + nanos, act);
    }

    fn wake_at(&self, when: u64, waker: Waker, wanted: Rc<Cell<bool>>) {
        self.push(when, What::Wake(waker, wanted));
    }

    /// Lets everybody act who can, then lets time pass to the next event; `false` when there is none, or a
    /// violation.
    pub fn step(self: &Rc<World>) -> bool {
        self.run_tasks();
        if self.check.borrow().violation.is_some() {
            return false;
        }
        let Some(Reverse(event)) = self.events.borrow_mut().pop() else { return false };
        self.now.set(event.at);
        match event.what {
            What::Wake(waker, wanted) => {
                if wanted.replace(false) {
                    waker.wake();
                }
            }
            What::Do(act) => act(self),
        }
        true
    }

    fn run_tasks(&self) {
        for polls in 0.. {
            if polls > MOST_POLLS {
                let who = self.ready.lock().unwrap_or_else(PoisonError::into_inner).len();
                return self.violate(Violation::NeverEnds { what: format!("{who} tasks are busy with nothing") });
            }
            let next = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(id) = next else { return };
            let (future, waker) = {
                let process = self.tasks.borrow()[id].process;
                if self.is_frozen(process) || self.is_refused(process) {
                    self.processes.borrow_mut()[process].parked.push(id);
                    continue;
                }
                let mut tasks = self.tasks.borrow_mut();
                (tasks[id].future.take(), tasks[id].waker.clone())
            };
            let Some(mut future) = future else { continue };
            let pending = future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending;
            let process = self.tasks.borrow()[id].process;
            // It may have been killed by what it did.
            if pending && !self.is_dead(process) {
                self.tasks.borrow_mut()[id].future = Some(future);
            }
        }
    }

    /// Ends everything, so that nothing keeps the world itself alive.
    pub fn dissolve(&self) {
        self.over.set(true);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
        let running = self.server.borrow_mut().running.take();
        drop(running);
        let clients = std::mem::take(&mut *self.clients.borrow_mut());
        drop(clients);
        self.net.borrow_mut().forget();
    }
}
