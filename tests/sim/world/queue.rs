//! Queues as they should be: who came first is served first, of those who are there.

use std::rc::Rc;

use dflock::lock::Space;
use dflock::server::table::{OldPlace, Resumed, Verdict};

use super::World;
use super::check::Violation;

/// How long those who outlived the server may take to come back before they are overtaken.
const RETURN_WITHIN: u64 = 10_000_000_000;

/// That the server began to count a moment before its journal was read is no offence.
const SLACK: u64 = 100_000_000;

/// What is queued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lock {
    pub key: u8,
    pub semaphore: bool,
}

/// Somebody in a queue.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// The connection that has the place, and before it those that had it and are still there.
    links: Vec<usize>,
    ticket: Option<u64>,
    present: bool,
    /// One of its connections agreed on being away.
    resumes: bool,
    /// It outlived the server, and is not overtaken before.
    expected_until: u64,
    /// Until when its place is kept, while it is away.
    away_until: u64,
    promised: bool,
}

impl Lock {
    pub fn of(name: &[u8], space: Space) -> Lock {
        Lock { key: name.last().map_or(0, |digit| digit - b'0'), semaphore: space == Space::Semaphores }
    }
}

impl World {
    pub fn joined_queue(&self, link: usize, (key, space): (u8, Space), ticket: Option<u64>) {
        let lock = Lock { key, semaphore: space == Space::Semaphores };
        let resumes = ticket.is_some();
        let waiter = Waiter {
            links: vec![link],
            ticket,
            present: true,
            resumes,
            expected_until: 0,
            away_until: 0,
            promised: false,
        };
        self.check.borrow_mut().queues.entry(lock).or_default().push(waiter);
    }

    /// It waited long enough.
    pub fn left_queue(&self, link: usize, (key, space): (u8, Space)) {
        let lock = Lock { key, semaphore: space == Space::Semaphores };
        if let Some(queue) = self.check.borrow_mut().queues.get_mut(&lock) {
            queue.retain(|waiter| waiter.links.last() != Some(&link));
        }
    }

    pub fn sent_away(&self, verdicts: &[(usize, Verdict)]) {
        for (link, verdict) in verdicts {
            if matches!(verdict, Verdict::Timeout) {
                for queue in self.check.borrow_mut().queues.values_mut() {
                    queue.retain(|waiter| waiter.links.last() != Some(link));
                }
            }
        }
    }

    /// A connection is over; says whether a place of its owner is kept.
    pub fn owner_left(&self, link: usize, resumes: bool) -> bool {
        let mut kept = false;
        for queue in self.check.borrow_mut().queues.values_mut() {
            for waiter in queue.iter_mut().filter(|waiter| waiter.links.contains(&link)) {
                waiter.links.retain(|other| *other != link);
                waiter.resumes |= resumes;
                waiter.present = !waiter.links.is_empty();
                kept |= !waiter.present && waiter.ticket.is_some() && waiter.resumes;
            }
            queue.retain(|waiter| {
                waiter.present || !waiter.links.is_empty() || waiter.ticket.is_some() && waiter.resumes
            });
        }
        kept
    }

    pub fn owner_returned(&self, link: usize, proof: dflock::server::stamp::Stamp, resumed: Option<Resumed>) {
        if resumed.is_none() {
            return;
        }
        self.with_place(proof.number, |waiter| {
            waiter.present = true;
            waiter.expected_until = 0;
            waiter.links.retain(|other| *other != link);
            waiter.links.push(link);
        });
    }

    fn with_place(&self, ticket: u64, change: impl FnOnce(&mut Waiter)) {
        let mut check = self.check.borrow_mut();
        let mut all = check.queues.values_mut().flatten();
        if let Some(waiter) = all.find(|waiter| waiter.ticket == Some(ticket)) {
            change(waiter);
        }
    }

    pub fn place_is_away(&self, ticket: u64, until: u64) {
        self.with_place(ticket, |waiter| waiter.away_until = until);
    }

    pub fn place_resumes(&self, ticket: u64, nanos: u64) {
        self.check.borrow_mut().resumes.insert(ticket, nanos);
    }

    pub fn place_promised(&self, ticket: u64) {
        self.with_place(ticket, |waiter| waiter.promised = true);
    }

    pub fn place_left(&self, ticket: u64) {
        for queue in self.check.borrow_mut().queues.values_mut() {
            queue.retain(|waiter| waiter.ticket != Some(ticket));
        }
    }

    /// The server knows no such place.
    pub fn place_denied(&self, ticket: u64) {
        let now = self.now();
        let mut kept = false;
        self.with_place(ticket, |waiter| kept = waiter.promised && (waiter.present || waiter.away_until > now));
        if kept {
            self.violate(Violation::PlaceLost { ticket });
        }
    }

    /// A grant must go to whoever is first of those who are there, or are expected back after a restart.
    pub fn check_turn(
        self: &Rc<World>,
        lock: Lock,
        fence: u64,
        ticket: Option<u64>,
        own: Option<u64>,
        verdicts: &[(usize, Verdict)],
    ) {
        let told = |(_, verdict): &&(usize, Verdict)| match verdict {
            Verdict::Granted { stamp, .. } => stamp.number == fence,
            Verdict::Timeout | Verdict::Closed | Verdict::Moved => false,
        };
        let link = verdicts.iter().find(told).map(|(link, _)| *link);
        let now = self.now();
        let mut check = self.check.borrow_mut();
        let queue = check.queues.entry(lock).or_default();
        let is_expected = |waiter: &Waiter| waiter.present || waiter.expected_until > now;
        let first = queue.iter().position(is_expected);
        if own == Some(fence) {
            drop(check);
            if first.is_some() {
                self.violate(Violation::OutOfTurn { lock });
            }
            return;
        }
        let is_theirs = |waiter: &Waiter| match (link, ticket) {
            (Some(link), _) => waiter.links.last() == Some(&link),
            (None, Some(ticket)) => waiter.ticket == Some(ticket),
            // To a place without a ticket that is not waited for: its owner will see.
            (None, None) => waiter.ticket.is_none(),
        };
        let absent = queue.iter().find(|waiter| !waiter.present && waiter.ticket.is_some() && waiter.ticket == ticket);
        let violation = if let Some(absent) = absent {
            Some(Violation::GrantedToAbsent { ticket: absent.ticket.unwrap_or(0) })
        } else if let Some(at) = first.filter(|at| is_theirs(&queue[*at])) {
            queue.remove(at);
            None
        } else {
            Some(Violation::OutOfTurn { lock })
        };
        drop(check);
        if let Some(violation) = violation {
            self.violate(violation);
        }
    }

    /// The server is gone, and with it every connection.
    pub fn went_down(&self) {
        self.tell("server", || "is gone".to_owned());
        for queue in self.check.borrow_mut().queues.values_mut() {
            for waiter in queue {
                waiter.present = false;
                waiter.links.clear();
            }
        }
    }

    /// Places wait for their owners for as long as was agreed, from the restart on.
    pub fn places_read_back(&self, places: &[OldPlace]) {
        let now = self.now();
        let mut check = self.check.borrow_mut();
        let before = std::mem::take(&mut check.queues);
        let kept = |waiter: &&Waiter| places.iter().any(|place| Some(place.ticket.number) == waiter.ticket);
        let was_there = |waiter: &&Waiter| waiter.promised && (waiter.away_until == 0 || waiter.away_until > now);
        let lost = before.values().flatten().filter(was_there).find(|waiter| !kept(waiter));
        let lost = lost.and_then(|waiter| waiter.ticket);
        for place in places {
            let ticket = Some(place.ticket.number);
            let known = before.values().flatten().find(|waiter| waiter.ticket == ticket);
            let promised = known.is_some_and(|waiter| waiter.promised);
            let resume = check.resumes.get(&place.ticket.number).copied().unwrap_or(0);
            let (links, resumes) = (Vec::new(), true);
            let (away_until, expected_until) = (now + resume, now + resume.min(RETURN_WITHIN).saturating_sub(SLACK));
            let waiter = Waiter { links, ticket, present: false, resumes, expected_until, away_until, promised };
            check.queues.entry(Lock::of(&place.key, place.kind.space())).or_default().push(waiter);
        }
        check.queues.values_mut().for_each(|queue| queue.sort_by_key(|waiter| waiter.ticket));
        drop(check);
        if let Some(ticket) = lost {
            self.violate(Violation::PlaceLost { ticket });
        }
    }
}
