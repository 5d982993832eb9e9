//! What a server tells its log.

use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Event {
    /// Another server is there, and may be leaving.
    Waiting {
        place: String,
        up_to: Duration,
    },
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
    /// Requests for locks that were refused.
    OutOfMemory {
        count: u64,
    },
    /// Here and below, `count` is of all that were not told yet, and the rest is about the one that is told.
    AcceptFailed {
        error: String,
        count: u64,
    },
    TlsFailed {
        peer: String,
        error: String,
        count: u64,
    },
    AuthFailed {
        peer: String,
        count: u64,
    },
    /// New certificates and auth tokens are in force.
    Reloaded {
        tokens: usize,
        tls: bool,
    },
    ReloadFailed {
        error: String,
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
    LeftWithoutState,
    /// What was kept is held and queued again.
    StateOpened {
        dir: String,
        held: usize,
        queued: usize,
        /// Bytes of the old journal and of the new.
        read: usize,
        written: u64,
        down: Duration,
        took: Duration,
    },
    StateTorn {
        file: String,
        at: usize,
        bytes: usize,
    },
    StateFailing {
        dir: String,
        what: &'static str,
        error: String,
    },
    StateRecovered {
        after: Duration,
    },
    /// Stopped without waiting for holders, because what they hold is kept.
    StateKept {
        dir: String,
        held: usize,
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
            Event::Waiting { .. } => "waiting",
            Event::Listening { .. } => "listening",
            Event::Open { .. } => "open",
            Event::ConnectionsRefused { .. } => "connections_refused",
            Event::OutOfMemory { .. } => "out_of_memory",
            Event::AcceptFailed { .. } => "accept_failed",
            Event::TlsFailed { .. } => "tls_failed",
            Event::AuthFailed { .. } => "auth_failed",
            Event::Reloaded { .. } => "reloaded",
            Event::ReloadFailed { .. } => "reload_failed",
            Event::Draining { .. } => "draining",
            Event::Drained => "drained",
            Event::DrainTimeout { .. } => "drain_timeout",
            Event::EndedBySecondSignal { .. } => "second_signal",
            Event::IdleExit { .. } => "idle_exit",
            Event::LeftWithoutState => "left_without_state",
            Event::StateOpened { .. } => "state_opened",
            Event::StateTorn { .. } => "state_torn",
            Event::StateFailing { .. } => "state_failing",
            Event::StateRecovered { .. } => "state_recovered",
            Event::StateKept { .. } => "state_kept",
        }
    }

    pub fn level(&self) -> Level {
        match self {
            Event::Waiting { .. }
            | Event::Listening { .. }
            | Event::Reloaded { .. }
            | Event::Draining { .. }
            | Event::Drained
            | Event::IdleExit { .. }
            | Event::StateOpened { .. }
            | Event::StateRecovered { .. }
            | Event::StateKept { .. } => Level::Info,
            _ => Level::Warn,
        }
    }

    pub fn message(&self) -> &'static str {
        match self {
            Event::Waiting { .. } => "another server is there: waiting for it to leave",
            Event::Listening { .. } => "listening",
            Event::Open { .. } => "anyone who reaches this address may take and release locks: set --auth-token-file",
            Event::ConnectionsRefused { .. } => "connections refused",
            Event::OutOfMemory { .. } => "locks refused: three quarters of --max-memory are in use",
            Event::AcceptFailed { .. } => "cannot accept connections, trying on",
            Event::TlsFailed { .. } => "TLS handshake failed",
            Event::AuthFailed { .. } => "wrong auth token",
            Event::Reloaded { .. } => "certificates and auth tokens were read anew; connections that are open stay",
            Event::ReloadFailed { .. } => "certificates and auth tokens stay as they were: they cannot be read anew",
            Event::Draining { .. } => {
                "stopping: whoever asks for a lock is told to ask again, holders may renew and release"
            }
            Event::Drained => "stopped: nothing is held any more",
            Event::DrainTimeout { .. } => "stopped: the shutdown timeout is over",
            Event::EndedBySecondSignal { .. } => "stopped at once by a second signal",
            Event::IdleExit { .. } => "stopped: unused for --idle-exit",
            Event::LeftWithoutState => "stopped: the state cannot be kept, and nothing is held",
            Event::StateOpened { .. } => "state opened",
            Event::StateTorn { .. } => "the journal's end was torn by a crash and is cut off; nobody was promised it",
            Event::StateFailing { .. } => {
                "no locks are given out: the state cannot be kept; renewals and releases go on as far as they can"
            }
            Event::StateRecovered { .. } => "the state can be kept again: locks are given out",
            Event::StateKept { .. } => "stopped: what is held is kept for the next start",
        }
    }

    pub fn fields(&self) -> Vec<Field> {
        match self {
            Event::Waiting { place, up_to } => {
                vec![("place", place.clone()), ("up_to_s", up_to.as_secs_f64().to_string())]
            }
            Event::Listening { address } | Event::Open { address } => vec![("address", address.clone())],
            Event::ConnectionsRefused { why, count } => vec![("why", (*why).to_owned()), ("count", count.to_string())],
            Event::OutOfMemory { count } => vec![("count", count.to_string())],
            Event::AcceptFailed { error, count } => vec![("error", error.clone()), ("count", count.to_string())],
            Event::TlsFailed { peer, error, count } => {
                vec![("peer", peer.clone()), ("error", error.clone()), ("count", count.to_string())]
            }
            Event::AuthFailed { peer, count } => vec![("peer", peer.clone()), ("count", count.to_string())],
            Event::Reloaded { tokens, tls } => vec![("tokens", tokens.to_string()), ("tls", tls.to_string())],
            Event::ReloadFailed { error } => vec![("error", error.clone())],
            Event::Draining { connections, held, waiting } => vec![
                ("connections", connections.to_string()),
                ("held", held.to_string()),
                ("waiting", waiting.to_string()),
            ],
            Event::Drained | Event::LeftWithoutState => Vec::new(),
            Event::DrainTimeout { held } | Event::EndedBySecondSignal { held } => vec![("held", held.to_string())],
            Event::StateOpened { dir, held, queued, read, written, down, took } => vec![
                ("dir", dir.clone()),
                ("held", held.to_string()),
                ("queued", queued.to_string()),
                ("bytes_read", read.to_string()),
                ("bytes_written", written.to_string()),
                ("down_s", down.as_secs_f64().to_string()),
                ("took_s", took.as_secs_f64().to_string()),
            ],
            Event::StateTorn { file, at, bytes } => {
                vec![("file", file.clone()), ("at", at.to_string()), ("bytes", bytes.to_string())]
            }
            Event::StateFailing { dir, what, error } => {
                vec![("dir", dir.clone()), ("what", (*what).to_owned()), ("error", error.clone())]
            }
            Event::StateRecovered { after } => vec![("after_s", after.as_secs_f64().to_string())],
            Event::StateKept { dir, held } => vec![("dir", dir.clone()), ("held", held.to_string())],
            Event::IdleExit { after } => vec![("after_s", after.as_secs_f64().to_string())],
        }
    }
}
