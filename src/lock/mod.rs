//! The nouns: what a lock is, before anyone holds one.

/// What kind of lock a key names in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One holder.
    Lock,
    /// Up to `limit` holders.
    Semaphore { limit: u64 },
}

/// Locks and semaphores have namespaces of their own: the same key may be both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
