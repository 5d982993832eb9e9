//! Who may connect: limits on connections in all and from one address, and places for those who come back.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::clock::{self, Moment};
use crate::net::listen::Origin;

/// For those who come back there are so many more places than a limit says, and at most so many; none where it is low.
const EXTRA_OF: usize = 16;
const MOST_EXTRAS: usize = 64;
const LOW: usize = 64;

/// Descriptors that a server needs besides its connections.
const OWN_DESCRIPTORS: usize = 32;
const FEW_DESCRIPTORS: usize = 256;

const TOO_MANY_OF_ONE: &str = "--max-connections-per-ip";
pub(super) const NO_DESCRIPTORS: &str = "no descriptors left: raise the limit (ulimit -n)";

/// Zero is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doors {
    connections: usize,
    connections_per_ip: usize,
    /// As memory allows.
    most_extras: usize,
    /// What is said of the first limit.
    why_full: &'static str,
}

impl Doors {
    /// With few descriptors they are not counted beforehand.
    pub(super) fn new(named: usize, connections_per_ip: usize, descriptors: usize, most_extras: usize) -> Doors {
        let room = descriptors.saturating_sub(OWN_DESCRIPTORS + MOST_EXTRAS.min(descriptors / EXTRA_OF));
        let is_counted = descriptors >= FEW_DESCRIPTORS && (named == 0 || named > room);
        let connections = if is_counted { room } else { named };
        let why_full = if is_counted { NO_DESCRIPTORS } else { "--max-connections" };
        Doors { connections, connections_per_ip, most_extras: most_extras.min(MOST_EXTRAS), why_full }
    }

    fn beyond(&self, limit: usize) -> usize {
        if limit < LOW { 0 } else { self.most_extras.min(limit / EXTRA_OF) }
    }
}

pub(super) struct Gate {
    doors: Doors,
    inside: Mutex<Inside>,
    /// Woken when the last connection is gone.
    pub(super) emptied: Notify,
}

#[derive(Default)]
struct Inside {
    connections: usize,
    by_ip: HashMap<IpAddr, usize>,
    /// Those that may have to give way, the oldest first.
    extras: VecDeque<Extra>,
    extras_ever: u64,
    /// When the last one left.
    emptied_at: Option<Moment>,
}

struct Extra {
    number: u64,
    origin: Origin,
    give_way: oneshot::Sender<()>,
}

/// A connection that was let in; counted until dropped, or until it had to give way.
pub(super) struct Admission {
    gate: Arc<Gate>,
    origin: Origin,
    extra: Option<ExtraPlace>,
}

struct ExtraPlace {
    number: u64,
    why: &'static str,
}

impl Gate {
    pub(super) fn new(doors: Doors) -> Arc<Gate> {
        Arc::new(Gate { doors, inside: Mutex::default(), emptied: Notify::new() })
    }

    /// Whoever is too many is let in all the same, to an extra place: it may be somebody who holds a lock and comes back.
    /// It has to give way to the next one when there are no others, which the receiver hears; to one of its own origin
    /// first, so that a flood from elsewhere does not push it out. `has_memory` says whether there is enough for one more
    /// beside so many, on an extra place or not. `Err` says which limit was reached.
    pub(super) fn admit(
        self: &Arc<Gate>,
        origin: Origin,
        has_memory: impl Fn(usize, bool) -> bool,
    ) -> Result<(Admission, Option<oneshot::Receiver<()>>), &'static str> {
        let mut inside = self.lock();
        let (mut extra, mut told) = (None, None);
        if let Some(why) = self.limit_reached(&inside, origin, false, &has_memory) {
            let full = self.limit_reached(&inside, origin, true, &has_memory);
            if full.is_some() || inside.extras.len() >= self.doors.most_extras {
                let own = inside.extras.iter().position(|extra| extra.origin == origin);
                let oldest = if full == Some(TOO_MANY_OF_ONE) { own } else { own.or(Some(0)) };
                let Some(Extra { origin, give_way, .. }) = oldest.and_then(|at| inside.extras.remove(at)) else {
                    return Err(why);
                };
                inside.leave(origin);
                // One that is just ending has left its place, too.
                let _ = give_way.send(());
            }
            let (give_way, receiver) = oneshot::channel();
            inside.extras_ever += 1;
            let number = inside.extras_ever;
            inside.extras.push_back(Extra { number, origin, give_way });
            (extra, told) = (Some(ExtraPlace { number, why }), Some(receiver));
        }
        inside.connections += 1;
        if let Origin::Address(ip) = origin {
            *inside.by_ip.entry(ip).or_default() += 1;
        }
        Ok((Admission { gate: self.clone(), origin, extra }, told))
    }

    fn limit_reached(
        &self,
        inside: &Inside,
        origin: Origin,
        is_extra: bool,
        has_memory: impl Fn(usize, bool) -> bool,
    ) -> Option<&'static str> {
        let Doors { connections, connections_per_ip, why_full, .. } = self.doors;
        let beyond = |limit| if is_extra { self.doors.beyond(limit) } else { 0 };
        let is_full = |count: usize, limit: usize| limit > 0 && count >= limit + beyond(limit);
        let of_one = match origin {
            Origin::Address(ip) => inside.by_ip.get(&ip).copied().unwrap_or(0),
            Origin::User(_) => 0,
        };
        if is_full(of_one, connections_per_ip) {
            Some(TOO_MANY_OF_ONE)
        } else if is_full(inside.connections, connections) {
            Some(why_full)
        } else if !has_memory(inside.connections, is_extra) {
            Some("--max-memory")
        } else {
            None
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Since when nobody is connected; `None` while somebody is, or nobody ever was.
    pub(super) fn empty_since(&self) -> Option<Moment> {
        let inside = self.lock();
        inside.emptied_at.filter(|_| inside.connections == 0)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn leave(&mut self, origin: Origin) {
        self.connections -= 1;
        if let Origin::Address(ip) = origin
            && let Some(count) = self.by_ip.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                self.by_ip.remove(&ip);
            }
        }
    }

    /// From then on it does not have to give way. `false`: it had to already.
    fn take_extra(&mut self, number: u64) -> bool {
        let at = self.extras.iter().position(|extra| extra.number == number);
        at.and_then(|at| self.extras.remove(at)).is_some()
    }
}

impl Admission {
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Why somebody new has no place here: what may be asked for is a lock that is there already.
    pub(super) fn why_extra(&self) -> Option<&'static str> {
        self.extra.as_ref().map(|extra| extra.why)
    }

    /// It is one like the others from now on. `false`: it had to give way just now.
    pub(super) fn stays(&mut self) -> bool {
        let Some(extra) = &self.extra else { return true };
        let stays = self.gate.lock().take_extra(extra.number);
        if stays {
            self.extra = None;
        }
        stays
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        if let Some(extra) = &self.extra
            && !inside.take_extra(extra.number)
        {
            // Another one has its place.
            return;
        }
        inside.leave(self.origin);
        let last = inside.connections == 0;
        if last {
            inside.emptied_at = Some(clock::server_now());
        }
        drop(inside);
        if last {
            self.gate.emptied.notify_one();
        }
    }
}
