//! What a lock service tells of itself.

use serde::{Deserialize, Serialize};

/// What one server holds; the fields are those of the original.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    pub connections: u64,
    /// How often it has granted anything, of a server that counts.
    pub grants: Option<u64>,
    pub locks: Vec<LockRow>,
    pub semaphores: Vec<SemaphoreRow>,
    pub idle_locks: Vec<IdleRow>,
    pub idle_semaphores: Vec<IdleRow>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LockRow {
    pub key: String,
    pub owner_conn_id: u64,
    pub lease_expires_in_s: f64,
    pub waiters: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SemaphoreRow {
    pub key: String,
    pub limit: u64,
    pub holders: u64,
    pub waiters: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IdleRow {
    pub key: String,
    pub idle_s: f64,
}

/// One key, as lock and as semaphore.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub server: String,
    pub lock: Option<LockRow>,
    pub semaphore: Option<SemaphoreRow>,
}
