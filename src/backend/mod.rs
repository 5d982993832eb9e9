//! Where locks are kept: the promise that every kind of lock service makes to verbs, holders and `exec`.
//!
//! A [`Backend`] takes and asks; a [`Hold`] is one lock that was taken, kept by `lease::keeper`. What a
//! service cannot do is said by [`Backend::check`] before any network call.

pub mod dflockd;
pub mod etcd;
mod report;

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use report::{Claim, IdleRow, LockRow, SemaphoreRow, Stats, Status};

use crate::clock::Moment;
use crate::error::Failure;
use crate::lock::{Grant, Key, Kind, Space, Token};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Ask {
    pub key: Key,
    pub kind: Kind,
    /// The server's own, if none is named.
    pub lease: Option<Duration>,
    pub wait: Wait,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Zero: not at all.
    For(Duration),
    Forever,
}

/// A lock that another process of ours leaves to us.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inherited {
    pub token: Token,
    pub fence: Option<u64>,
    pub lease: Duration,
}

/// Something that not every service can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Semaphores,
    TwoPhase,
    Stats,
    Status,
}

pub enum Backend {
    Dflockd(dflockd::Servers),
    Etcd(etcd::Servers),
}

/// A lock that was taken.
#[expect(clippy::large_enum_variant, reason = "a process has one or a few")]
pub enum Hold {
    Dflockd(dflockd::Hold),
    Etcd(etcd::Hold),
}

/// A place in a queue.
#[expect(clippy::large_enum_variant, reason = "a process has one or a few")]
pub enum Place {
    Dflockd(dflockd::Place),
    Etcd(etcd::Place),
}

/// What joining a queue led to.
pub enum Joined {
    Held(Hold),
    Queued(Place),
}

/// What the server's last answer says of a lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When the request left that was answered: the server counts the lease from later.
    pub asked: Moment,
    pub lease: Duration,
    /// For how long the lock is kept for us if the server does not hear of us, where that may be less than the
    /// lease.
    pub unheard_limit: Option<Duration>,
    /// Whether the lock outlives a broken connection for long enough to come back to it.
    pub outlives_connection: bool,
}

/// What came of an attempt to renew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed(Terms),
    /// The server says that we do not hold it.
    Gone,
    /// No answer; we may still hold it. The text says why.
    Unknown(String),
}

impl Backend {
    /// Refuses what this service cannot do, without asking it.
    pub fn check(&self, feature: Feature) -> Result<(), Failure> {
        match (self, feature) {
            (
                Backend::Dflockd(_) | Backend::Etcd(_),
                Feature::Semaphores | Feature::TwoPhase | Feature::Stats | Feature::Status,
            ) => Ok(()),
        }
    }

    /// Which of the configured servers has this key, as the user wrote it.
    pub fn server_of(&self, key: &Key) -> (usize, String) {
        match self {
            Backend::Dflockd(servers) => servers.server_of(key),
            Backend::Etcd(servers) => servers.server_of(key),
        }
    }

    /// Dropped before it is done it leaves the queue, with [`Backend::tidy`] at once.
    pub async fn acquire(&self, ask: &Ask) -> Result<Hold, Failure> {
        match self {
            Backend::Dflockd(servers) => servers.acquire(ask).await.map(Hold::Dflockd),
            Backend::Etcd(servers) => servers.acquire(ask).await.map(Hold::Etcd),
        }
    }

    pub async fn enqueue(&self, ask: &Ask) -> Result<Joined, Failure> {
        match self {
            Backend::Dflockd(servers) => Ok(match servers.enqueue(ask).await? {
                dflockd::Joined::Held(hold) => Joined::Held(Hold::Dflockd(hold)),
                dflockd::Joined::Queued(place) => Joined::Queued(Place::Dflockd(place)),
            }),
            Backend::Etcd(servers) => Ok(match servers.enqueue(ask).await? {
                etcd::Joined::Held(hold) => Joined::Held(Hold::Etcd(hold)),
                etcd::Joined::Queued(place) => Joined::Queued(Place::Etcd(place)),
            }),
        }
    }

    /// Goes on keeping a lock that another process of ours took, and leaves to us.
    pub async fn take_over(&self, key: &Key, kind: Kind, left: Inherited) -> Result<Hold, Failure> {
        match self {
            Backend::Dflockd(servers) => servers.take_over(key, kind, left).await.map(Hold::Dflockd),
            Backend::Etcd(servers) => servers.take_over(key, kind, left).await.map(Hold::Etcd),
        }
    }

    /// Gives back a lock that no holder of ours keeps.
    pub async fn release(&self, key: &Key, space: Space, token: &Token) -> Result<(), Failure> {
        match self {
            Backend::Dflockd(servers) => servers.release(key, space, token).await,
            Backend::Etcd(servers) => servers.release(key, space, token).await,
        }
    }

    /// Renews a lock that no holder of ours keeps; returns the seconds remaining.
    pub async fn renew(&self, key: &Key, space: Space, token: &Token, lease: Option<Duration>) -> Result<u64, Failure> {
        match self {
            Backend::Dflockd(servers) => servers.renew(key, space, token, lease).await,
            Backend::Etcd(servers) => servers.renew(key, space, token, lease).await,
        }
    }

    /// Every server, and what it holds of keys that begin with `start`, or why it does not say.
    pub async fn stats(&self, start: &[u8]) -> Vec<(String, Result<Stats, Failure>)> {
        match self {
            Backend::Dflockd(servers) => servers.stats(start).await,
            Backend::Etcd(servers) => servers.stats(start).await,
        }
    }

    pub async fn status(&self, key: &Key) -> Result<Status, Failure> {
        match self {
            Backend::Dflockd(servers) => servers.status(key).await,
            Backend::Etcd(servers) => servers.status(key).await,
        }
    }

    /// Leaves the queues that dropped attempts are still in.
    pub async fn tidy(&self, until: Moment) {
        match self {
            Backend::Dflockd(servers) => servers.tidy(until).await,
            Backend::Etcd(servers) => servers.tidy(until).await,
        }
    }
}

impl Place {
    /// Waits for the turn, however long; dropping it leaves the queue, with [`Backend::tidy`] at once.
    pub async fn wait(self) -> Result<Hold, Failure> {
        match self {
            Place::Dflockd(place) => place.wait().await.map(Hold::Dflockd),
            Place::Etcd(place) => place.wait().await.map(Hold::Etcd),
        }
    }

    pub fn server(&self) -> String {
        match self {
            Place::Dflockd(place) => place.server(),
            Place::Etcd(place) => place.server(),
        }
    }

    /// Whose turn it is, counted from 1, where the server tells.
    pub fn position(&self) -> Option<u64> {
        match self {
            Place::Dflockd(_) => None,
            Place::Etcd(place) => place.position(),
        }
    }
}

impl Hold {
    pub fn grant(&self) -> &Grant {
        match self {
            Hold::Dflockd(hold) => hold.grant(),
            Hold::Etcd(hold) => hold.grant(),
        }
    }

    pub fn terms(&self) -> Terms {
        match self {
            Hold::Dflockd(hold) => hold.terms(),
            Hold::Etcd(hold) => hold.terms(),
        }
    }

    /// Asks the server to keep the lock when the connection breaks.
    pub async fn make_resumable(&mut self, until: Moment) -> Renewal {
        match self {
            Hold::Dflockd(hold) => hold.make_resumable(until).await,
            // It is kept without one.
            Hold::Etcd(hold) => Renewal::Renewed(hold.terms()),
        }
    }

    /// Sets the lease to run from now, for `lease`, or for less if the server says so. If this is dropped before it is
    /// done, the way to the server is broken.
    pub async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        match self {
            Hold::Dflockd(hold) => hold.renew(lease, until).await,
            Hold::Etcd(hold) => hold.renew(lease, until).await,
        }
    }

    /// A duplicate of the connection that the lock is tied to, if it is tied to one.
    pub fn lifeline(&self) -> Option<OwnedFd> {
        match self {
            Hold::Dflockd(hold) => hold.lifeline(),
            Hold::Etcd(_) => None,
        }
    }

    /// Returns, with the reason, when the way to the server is seen to be broken.
    pub async fn broken(&mut self) -> String {
        match self {
            Hold::Dflockd(hold) => hold.broken().await,
            Hold::Etcd(hold) => hold.broken().await,
        }
    }

    /// Finds a new way to the server and takes the lock over on it, for `lease` from then.
    pub async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        match self {
            Hold::Dflockd(hold) => hold.restore(lease, until).await,
            Hold::Etcd(hold) => hold.restore(lease, until).await,
        }
    }

    /// Gives the lock back. `Err` says why that is not certain.
    pub async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        match self {
            Hold::Dflockd(hold) => hold.give_back(until).await,
            Hold::Etcd(hold) => hold.give_back(until).await,
        }
    }
}
