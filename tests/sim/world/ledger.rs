//! What the server gave out and what it promised, kept beside it; and what a restart must have kept of that.

use std::rc::Rc;

use dflock::clock::Moment;
use dflock::server::stamp::Stamp;
use dflock::server::table::{Change, End, OldGrant, OldPlace};

use super::World;
use super::check::{Violation, Why};
use super::history::Site;
use super::queue::Lock;
use super::server::{Effects, Promise};

/// A lease as the table has it. All times are true ones.
#[derive(Clone, Debug)]
pub struct Grant {
    pub lock: Lock,
    pub limit: u64,
    pub until: u64,
    /// The latest end that it ever had.
    longest: u64,
    pub live: bool,
    pub ended: Option<Why>,
    /// A break or a restart without a journal ended it, which its client could not prevent.
    pub freed_by_break: bool,
    /// Until when its client was promised it.
    promised_until: Option<u64>,
    release_promised: bool,
}

impl World {
    fn end_of(&self, moment: Moment) -> u64 {
        if moment == Moment::NEVER { u64::MAX } else { self.server.borrow().true_time(moment) }
    }

    /// Everything that an operation did.
    pub fn take_note(self: &Rc<World>, effects: &Effects, own: Option<u64>) {
        self.sent_away(&effects.verdicts);
        for change in &effects.changes {
            match change {
                Change::Granted { key, kind, stamp, ticket, until, .. } => {
                    let lock = Lock::of(key, kind.space());
                    let until = self.end_of(*until);
                    self.granted(lock, kind.limit(), stamp.number, until);
                    let ticket = ticket.map(|ticket| ticket.number);
                    self.check_turn(lock, stamp.number, ticket, own, &effects.verdicts);
                }
                Change::Renewed { fence, until, .. } => {
                    let until = self.end_of(*until);
                    if let Some(grant) = self.check.borrow_mut().grants.get_mut(fence) {
                        grant.until = until;
                        grant.longest = grant.longest.max(until);
                    }
                }
                Change::Ended { fence, why } => {
                    let why = match why {
                        End::Released => Why::Released,
                        End::Expired => Why::Expired,
                        End::Disconnected => Why::Disconnected,
                    };
                    self.tell("server", || format!("{fence} ended: {why:?}"));
                    self.lease_ended(*fence, why);
                }
                Change::LeftBehind { number, away_until } => {
                    let away_until = self.end_of(*away_until);
                    if let Some(grant) = self.check.borrow_mut().grants.get_mut(number) {
                        grant.promised_until = grant.promised_until.map(|until| until.min(away_until));
                    }
                    self.place_is_away(*number, away_until);
                }
                Change::Queued { ticket, resume, .. } => self.place_resumes(ticket.number, resume.as_nanos() as u64),
                Change::Resumed { number, resume, .. } => self.place_resumes(*number, resume.as_nanos() as u64),
                Change::Left { place } => self.place_left(*place),
            }
        }
    }

    fn granted(&self, lock: Lock, limit: u64, fence: u64, until: u64) {
        self.tell("server", || format!("grants {lock:?} with {fence}"));
        let mut check = self.check.borrow_mut();
        let before = check.newest.insert(lock, fence).unwrap_or(0);
        let (ended, freed_by_break, promised_until, release_promised) = (None, false, None, false);
        let grant = Grant {
            lock,
            limit,
            until,
            longest: until,
            live: true,
            ended,
            freed_by_break,
            promised_until,
            release_promised,
        };
        check.grants.insert(fence, grant);
        let holders = check.grants.values().filter(|grant| grant.lock == lock && grant.live).count() as u64;
        drop(check);
        if before >= fence {
            self.violate(Violation::FenceNotGrowing { lock, before, fence });
        }
        if holders > limit {
            self.violate(Violation::TooManyHolders { lock });
        }
    }

    pub fn lease_of(&self, stamp: Stamp) -> Promise {
        let check = self.check.borrow();
        check
            .grants
            .get(&stamp.number)
            .map_or(Promise::Nothing, |grant| Promise::Lease { fence: stamp.number, until: grant.until })
    }

    /// An answer leaves: from now on its client relies on it.
    pub fn promised(&self, mark: u64, promise: Promise) {
        let safe = self.disk.borrow().safe_mark();
        if self.history.site == Site::Journal && !matches!(promise, Promise::Nothing) && safe < mark {
            self.violate(Violation::NotDurable { mark, safe });
        }
        let mut check = self.check.borrow_mut();
        match promise {
            Promise::Nothing => {}
            Promise::Lease { fence, until } => {
                if let Some(grant) = check.grants.get_mut(&fence).filter(|grant| grant.live) {
                    grant.promised_until = Some(grant.promised_until.unwrap_or(0).max(until));
                }
            }
            Promise::Released { fence } => {
                if let Some(grant) = check.grants.get_mut(&fence) {
                    grant.release_promised = true;
                }
            }
            Promise::Place { ticket } => {
                drop(check);
                self.place_promised(ticket);
            }
        }
    }

    /// The server says `error` to the proof of a lease or a place.
    pub fn denied(&self, number: u64) {
        let now = self.now();
        let check = self.check.borrow();
        let grant = check.grants.get(&number).filter(|grant| grant.live);
        let held = grant.and_then(|grant| grant.promised_until).is_some_and(|until| until > now);
        drop(check);
        if held {
            self.violate(Violation::LeaseLost { fence: number, how: "its token was refused" });
        }
        self.place_denied(number);
    }

    /// A server without a journal begins.
    pub fn forgot_all(self: &Rc<World>) {
        let live: Vec<u64> = {
            let mut check = self.check.borrow_mut();
            check.newest.clear();
            check.queues.clear();
            check.grants.iter().filter(|(_, grant)| grant.live).map(|(fence, _)| *fence).collect()
        };
        live.into_iter().for_each(|fence| self.lease_ended(fence, Why::Forgotten));
    }

    /// Its clock begins anew, or the one that must confirm it was set back: a lease may end later than it would have,
    /// as not all of the time can be proved.
    pub fn clock_is_lost(&self) {
        self.check.borrow_mut().grants.values_mut().for_each(|grant| grant.longest = u64::MAX);
    }

    /// What a restarted server goes on from, against what was promised.
    pub fn read_back(self: &Rc<World>, grants: &[OldGrant], places: &[OldPlace]) {
        let now = self.now();
        let known: Vec<u64> = self.check.borrow().grants.keys().copied().collect();
        for fence in known {
            let restored = grants.iter().find(|grant| grant.stamp.number == fence);
            let mut check = self.check.borrow_mut();
            let Some(grant) = check.grants.get_mut(&fence) else { continue };
            let Some(restored) = restored else {
                let lost = grant.promised_until.is_some_and(|until| until > now) && grant.ended.is_none();
                let was_live = grant.live;
                drop(check);
                if lost {
                    self.violate(Violation::LeaseLost { fence, how: "a restart forgot it" });
                } else if was_live {
                    self.lease_ended(fence, Why::Expired);
                }
                continue;
            };
            let until = self.server.borrow().true_time(restored.until);
            let shorter = grant.promised_until.is_some_and(|promised| promised > now && until + 1000 < promised);
            let longer = until > grant.longest.saturating_add(1000);
            let undone = grant.release_promised;
            (grant.live, grant.ended, grant.until, grant.longest) = (true, None, until, until);
            drop(check);
            if shorter {
                self.violate(Violation::LeaseLost { fence, how: "a restart made it shorter" });
            }
            if longer {
                self.violate(Violation::LeaseTooLong { fence });
            }
            if undone {
                self.violate(Violation::ReleasedIsHeld { fence });
            }
        }
        self.places_read_back(places);
    }
}
