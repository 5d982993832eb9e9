//! The nouns: what a lock is, what names it, what proves that we hold it.

mod key;
mod token;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use key::Key;
pub use token::Token;

use crate::clock::Moment;

/// What kind of lock a key names in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One holder.
    Lock,
    /// Up to `limit` holders.
    Semaphore { limit: u64 },
}

/// Locks and semaphores have namespaces of their own: the same key may be both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Space {
    Locks,
    Semaphores,
}

impl Kind {
    pub fn space(self) -> Space {
        match self {
            Kind::Lock => Space::Locks,
            Kind::Semaphore { .. } => Space::Semaphores,
        }
    }

    /// How many may hold it at once.
    pub fn limit(self) -> u64 {
        match self {
            Kind::Lock => 1,
            Kind::Semaphore { limit } => limit,
        }
    }
}

/// A lock that was granted.
#[derive(Clone, Debug)]
pub struct Grant {
    pub token: Token,
    /// Only where the server really gives one.
    pub fence: Option<u64>,
    pub lease: Duration,
    /// When the request for it left: the server counts the lease from later.
    pub asked: Moment,
    /// Who granted it.
    pub server: String,
}
