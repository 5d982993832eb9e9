//! A background process that keeps a lock between two shell commands.
//!
//! The life of a holder: `start` re-executes this program with a [`Job`]; the new process (`run`) takes the
//! lock, reports one line through its stdout, and stays. It owns the connection and renews. It ends, and the
//! lock with it, when `release` asks for it, when its owner ends, or when `--max-hold` is over. A holder that
//! lost its lock stays to say so until one of these. Commands find holders through the `registry` and talk
//! to them over a Unix socket (`control`). Where the owner is to be told of a loss, a `witness` sees to that, so that it
//! happens also when the holder itself is killed.

mod caller;
pub mod control;
mod door;
mod lock;
pub mod owner;
pub mod places;
pub mod registry;
pub mod run;
pub mod start;
pub mod witness;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::backend::Inherited;
use crate::lock::{Key, Kind, Token};
use crate::sys;
use owner::Owner;

/// How a holder's first argument begins, and what `ps` shows of it.
pub const TITLE: &str = "dflock: holding ";

/// Where the servers are and how to speak to them, as a holder is told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Site {
    /// As the user wrote them.
    pub servers: String,
    pub shard: Option<usize>,
    pub tls: bool,
    pub tls_ca: Option<PathBuf>,
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    pub tls_name: Option<String>,
    #[serde(deserialize_with = "hide")]
    pub secret: Option<Vec<u8>>,
    pub allow_plaintext_secret: bool,
    pub etcd_prefix: Option<String>,
    /// User and password.
    #[serde(deserialize_with = "hide")]
    pub etcd_login: Option<(String, Vec<u8>)>,
    pub connect_timeout: Duration,
    pub connect_retry: Duration,
    /// Nobody named a server.
    pub is_default: bool,
    /// Whether that server may be started.
    pub autostart: bool,
}

/// Whoever is told a secret hides it, as those do who read it.
fn hide<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    let secret = Option::deserialize(from)?;
    if secret.is_some() {
        sys::hide_memory();
    }
    Ok(secret)
}

/// What a holder is to do.
#[derive(Clone, Serialize, Deserialize)]
pub struct Job {
    pub site: Site,
    pub key: Key,
    pub kind: Kind,
    pub lease: Option<Duration>,
    /// `None` for ever.
    pub wait: Option<Duration>,
    /// Join the queue and report at once.
    pub two_phase: bool,
    pub owner: Option<Owner>,
    pub max_hold: Option<Duration>,
    pub signal_on_lost: Option<i32>,
    /// Instead of taking the lock: it is ours already.
    pub inherited: Option<Inherited>,
}

/// What a holder says once it has the lock, or its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub pid: u32,
    pub server: String,
    /// `None` while it waits.
    pub grant: Option<Held>,
    /// In the queue, where the server tells.
    #[serde(default)]
    pub position: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    pub token: Token,
    pub fence: Option<u64>,
    pub lease: Duration,
}
