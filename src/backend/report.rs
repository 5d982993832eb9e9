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
    /// Everybody in order, where the server knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<Claim>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SemaphoreRow {
    pub key: String,
    pub limit: u64,
    pub holders: u64,
    pub waiters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<Claim>>,
}

impl LockRow {
    /// Somebody has it; else somebody waits whose turn has not come.
    pub fn is_held(&self) -> bool {
        self.owner_conn_id > 0
            || self.lease_expires_in_s > 0.0
            || self.claims.as_ref().is_some_and(|claims| claims.iter().any(|claim| claim.state == "held"))
    }

    /// The server keeps it for a client that is gone, until its lease ends or it comes back.
    pub fn is_nobodys(&self) -> bool {
        self.is_held() && self.claims.is_none() && self.owner_conn_id == 0
    }

    /// Who has it, as far as the server says.
    pub fn holder(&self) -> String {
        if self.is_nobodys() {
            return "a client that is not connected".to_owned();
        }
        match self.claims.as_ref().and_then(|claims| claims.first()) {
            None => format!("connection {}", self.owner_conn_id),
            Some(Claim { host: Some(host), pid: Some(pid), .. }) => format!("process {pid} on {host}"),
            Some(_) => "somebody".to_owned(),
        }
    }
}

/// One who holds a lock or waits for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// `held` or `waiting`.
    pub state: String,
    /// In the queue, counted from 1; 0 for a holder.
    pub position: u64,
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub fence: u64,
    pub fence_text: String,
    pub lease_left_s: Option<f64>,
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
