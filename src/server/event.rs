//! What a server tells its log.

use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Event {
    Listening {
        address: String,
    },
    /// Anyone who can reach this address may take and release locks.
    Open {
        address: String,
    },
    ConnectionsRefused {
        why: &'static str,
        count: u64,
    },
    AcceptFailed {
        error: String,
    },
    TlsFailed {
        peer: String,
        error: String,
    },
    AuthFailed {
        peer: String,
    },
    Draining {
        connections: usize,
        held: usize,
        waiting: usize,
    },
    Drained,
    DrainTimeout {
        held: usize,
    },
    EndedBySecondSignal {
        held: usize,
    },
    IdleExit {
        after: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
}

/// A named detail of an event.
pub type Field = (&'static str, String);

impl Event {
    /// Its machine name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Listening { .. } => "listening",
            Event::Open { .. } => "open",
            Event::ConnectionsRefused { .. } => "connections_refused",
            Event::AcceptFailed { .. } => "accept_failed",
            Event::TlsFailed { .. } => "tls_failed",
            Event::AuthFailed { .. } => "auth_failed",
            Event::Draining { .. } => "draining",
            Event::Drained => "drained",
            Event::DrainTimeout { .. } => "drain_timeout",
            Event::EndedBySecondSignal { .. } => "second_signal",
            Event::IdleExit { .. } => "idle_exit",
        }
    }

    pub fn level(&self) -> Level {
        match self {
            Event::Listening { .. } | Event::Draining { .. } | Event::Drained | Event::IdleExit { .. } => Level::Info,
            _ => Level::Warn,
        }
    }

    pub fn message(&self) -> &'static str {
        match self {
            Event::Listening { .. } => "listening",
            Event::Open { .. } => "anyone who reaches this address may take and release locks: set --auth-token-file",
            Event::ConnectionsRefused { .. } => "connections refused",
            Event::AcceptFailed { .. } => "cannot accept connections, trying on",
            Event::TlsFailed { .. } => "TLS handshake failed",
            Event::AuthFailed { .. } => "wrong auth token",
            Event::Draining { .. } => "stopping: waiters are sent away, holders may renew and release",
            Event::Drained => "stopped: nothing is held any more",
            Event::DrainTimeout { .. } => "stopped: the shutdown timeout is over",
            Event::EndedBySecondSignal { .. } => "stopped at once by a second signal",
            Event::IdleExit { .. } => "stopped: unused for --idle-exit",
        }
    }

    pub fn fields(&self) -> Vec<Field> {
        match self {
            Event::Listening { address } | Event::Open { address } => vec![("address", address.clone())],
            Event::ConnectionsRefused { why, count } => vec![("why", (*why).to_owned()), ("count", count.to_string())],
            Event::AcceptFailed { error } => vec![("error", error.clone())],
            Event::TlsFailed { peer, error } => vec![("peer", peer.clone()), ("error", error.clone())],
            Event::AuthFailed { peer } => vec![("peer", peer.clone())],
            Event::Draining { connections, held, waiting } => vec![
                ("connections", connections.to_string()),
                ("held", held.to_string()),
                ("waiting", waiting.to_string()),
            ],
            Event::Drained => Vec::new(),
            Event::DrainTimeout { held } | Event::EndedBySecondSignal { held } => vec![("held", held.to_string())],
            Event::IdleExit { after } => vec![("after_s", after.as_secs_f64().to_string())],
        }
    }
}
