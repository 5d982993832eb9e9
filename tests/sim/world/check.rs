//! What must hold at every step: about leases as their holders believe in them, and about commands that run.
//!
//! With a server that keeps its promises (a journal, or resuming), a command runs only while its lock could be
//! given to nobody else. Where the server frees a lock because a connection broke (the original, or whoever
//! does not ask for resuming) or because it was restarted with nothing in its memory, a command may go on until
//! what was promised for that: dead by the end of its lease less the margin, and by one second (or the
//! `--kill-after` that was given) after its dflock heard of it. On a machine that slept past a deadline the
//! command may run for `WAKING` until it is killed.

mod children;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use dflock::clock::Moment;
use dflock::exec::status::Ending;
use dflock::lock::Space;

use super::env::Env;
use super::ledger::Grant;
use super::play::Client;
use super::queue::{Lock, Waiter};
use super::{MS, SECOND, World};

/// Between a decision to kill and the end of who is killed.
const SLACK: u64 = 20 * MS;

/// How long after a machine's waking the deadline is looked at, at the latest.
const WAKING: u64 = 150 * MS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// More believe that they hold a lock than may.
    Overlap {
        lock: Lock,
        clients: Vec<usize>,
    },
    /// The server gave out more than it may.
    TooManyHolders {
        lock: Lock,
    },
    BelievesPastLease {
        client: usize,
        fence: u64,
        why: Why,
    },
    ChildPastLease {
        client: usize,
        fence: u64,
        why: Why,
    },
    /// Longer than what is admitted where a lock was freed by a break.
    ChildPastBound {
        client: usize,
        fence: u64,
    },
    FenceNotGrowing {
        lock: Lock,
        before: u64,
        fence: u64,
    },
    OutOfTurn {
        lock: Lock,
    },
    GrantedToAbsent {
        ticket: u64,
    },
    /// An acknowledged lease that has not ended is not kept.
    LeaseLost {
        fence: u64,
        how: &'static str,
    },
    LeaseTooLong {
        fence: u64,
    },
    /// An acknowledged release is undone.
    ReleasedIsHeld {
        fence: u64,
    },
    PlaceLost {
        ticket: u64,
    },
    /// It was said before it was on disk.
    NotDurable {
        mark: u64,
        safe: u64,
    },
    Refused {
        why: String,
    },
    /// A grant that its client will never know of, on a connection that is kept open.
    Orphan {
        client: usize,
    },
    NeverEnds {
        what: String,
    },
    /// A short restart of the server ended a job with a long lease.
    Disturbed {
        client: usize,
    },
}

/// Why a grant ended at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Released,
    Expired,
    Disconnected,
    /// A server without a journal was started.
    Forgotten,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

pub struct Belief {
    client: usize,
    process: usize,
    lock: Lock,
    until: u64,
    secured: bool,
    /// It is being given back, or known to be lost.
    over: bool,
    link: Option<usize>,
    /// When its owner heard that it is lost.
    told_at: Option<u64>,
}

struct Child {
    client: usize,
    process: usize,
    fences: Vec<u64>,
    leader: bool,
    straggler: bool,
    /// It was told to end.
    told: bool,
    /// Whom it left behind when it ended by itself is left alone.
    by_itself: bool,
}

impl Child {
    fn lives(&self) -> bool {
        self.leader || self.straggler && !self.by_itself
    }
}

#[derive(Default)]
pub struct Check {
    pub violation: Option<Violation>,
    /// By fence.
    pub grants: BTreeMap<u64, Grant>,
    pub newest: BTreeMap<Lock, u64>,
    pub queues: BTreeMap<Lock, Vec<Waiter>>,
    pub resumes: BTreeMap<u64, u64>,
    /// A connection that did not ask for resuming is being cleared away.
    pub breaks: bool,
    /// By fence.
    beliefs: BTreeMap<u64, Belief>,
    children: Vec<Child>,
}

impl Env {
    /// Somebody relies on a lock until `dead_at` on its own clock.
    pub fn believes(&self, client: usize, (key, space, fence): (u8, Space, u64), dead_at: Moment, secured: bool) {
        let (world, process) = (&self.world, self.process);
        let until = world.true_time(self.machine(), dead_at);
        let lock = Lock { key, semaphore: space == Space::Semaphores };
        let now = world.now();
        let mut check = world.check.borrow_mut();
        // Who stopped relying on it never begins again.
        let before = check.beliefs.get(&fence).map(|belief| (belief.over, belief.link, belief.told_at));
        let (over, link, told_at) = before.unwrap_or_default();
        let belief = Belief { client, process, lock, until, secured, over, link, told_at };
        check.beliefs.insert(fence, belief);
        let grant = check.grants.get(&fence);
        let live = grant.is_some_and(|grant| grant.live || grant.freed_by_break);
        let limit = grant.map_or(1, |grant| grant.limit);
        let why = grant.and_then(|grant| grant.ended).unwrap_or(Why::Expired);
        let believers: Vec<usize> = check
            .beliefs
            .iter()
            .filter(|(_, belief)| belief.lock == lock && !belief.over && belief.until > now)
            .filter(|(_, belief)| !world.is_dead(belief.process))
            .filter(|(fence, _)| check.grants.get(fence).is_some_and(|grant| !grant.freed_by_break))
            .map(|(_, belief)| belief.client)
            .collect();
        drop(check);
        world.tell(&format!("client {client}"), || {
            format!("holds key {key} with {fence} until {:.4}s", (until.saturating_sub(1000 * SECOND)) as f64 / 1e9)
        });
        if over {
            return;
        }
        if !live && until > now {
            world.violate(Violation::BelievesPastLease { client, fence, why });
        } else if believers.len() as u64 > limit {
            world.violate(Violation::Overlap { lock, clients: believers });
        }
    }
}

impl World {
    /// Its owner stops relying on it, and says so to the server.
    pub fn gives_back(&self, fence: u64) {
        if let Some(belief) = self.check.borrow_mut().beliefs.get_mut(&fence) {
            belief.over = true;
        }
    }

    pub fn lease_on_link(&self, link: usize, fence: u64) {
        if let Some(belief) = self.check.borrow_mut().beliefs.get_mut(&fence) {
            belief.link = Some(link);
        }
    }

    /// A loss that is not proved leaves the time until the end of the lease.
    pub fn told_of_loss(self: &Rc<World>, fence: u64, proved: bool) {
        let now = self.now();
        if let Some(belief) = self.check.borrow_mut().beliefs.get_mut(&fence) {
            belief.over = true;
            if proved {
                belief.told_at.get_or_insert(now);
            }
        }
        self.look_at_bound(fence);
    }

    /// A client that can do something hears that a connection is over: where that frees the lock, it counts as
    /// being told.
    pub fn noticed_break(self: &Rc<World>, link: usize) {
        let check = self.check.borrow();
        let mine = |(_, belief): &(&u64, &Belief)| belief.link == Some(link) && !belief.secured && !belief.over;
        let found = check.beliefs.iter().find(mine).map(|(fence, belief)| (*fence, belief.process));
        drop(check);
        let Some((fence, process)) = found else { return };
        // Time to read it; one that is stopped just then hears of it later, and says so itself.
        self.after(MS, move |world| {
            if world.is_frozen(process) || world.is_dead(process) {
                return;
            }
            let now = world.now();
            if let Some(belief) = world.check.borrow_mut().beliefs.get_mut(&fence) {
                belief.told_at.get_or_insert(now);
            }
            world.look_at_bound(fence);
        });
    }

    /// A grant ended at the server: from now on somebody else may have its lock.
    pub fn lease_ended(self: &Rc<World>, fence: u64, why: Why) {
        let now = self.now();
        let mut broke = None;
        {
            let mut check = self.check.borrow_mut();
            let secured = check.beliefs.get(&fence).is_some_and(|belief| belief.secured);
            let by_break = why == Why::Forgotten || why == Why::Disconnected && check.breaks && !secured;
            if let Some(grant) = check.grants.get_mut(&fence) {
                grant.live = false;
                grant.ended = Some(why);
                grant.freed_by_break |= by_break;
            }
            if !by_break
                && let Some(belief) = check.beliefs.get(&fence)
                && belief.until > now
                && !belief.over
                && !self.is_dead(belief.process)
            {
                broke = Some(Violation::BelievesPastLease { client: belief.client, fence, why });
            }
        }
        for child in self.children_of(fence) {
            let (client, process) = {
                let check = self.check.borrow();
                (check.children[child].client, check.children[child].process)
            };
            let freed = self.check.borrow().grants.get(&fence).is_some_and(|grant| grant.freed_by_break);
            if freed {
                self.look_at_bound(fence);
            } else if self.is_frozen(process) {
                // Its machine sleeps: see `woke`.
            } else if !self.is_waking(process) {
                broke = Some(Violation::ChildPastLease { client, fence, why });
            }
        }
        if let Some(violation) = broke {
            self.violate(violation);
        }
    }
}
