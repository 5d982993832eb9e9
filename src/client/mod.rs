//! The native protocol, spoken to one server or to many.

pub mod cluster;
pub mod connection;
pub mod retry;
pub mod shards;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Failure, Kind};
use crate::net::{Address, DialError, DialKind, Tls};

/// What every connection is made with.
#[derive(Clone)]
pub struct Access {
    pub tls: Option<Tls>,
    pub secret: Option<Arc<[u8]>>,
    pub allow_plaintext_secret: bool,
    pub connect_timeout: Duration,
    /// How long an unreachable server is tried again.
    pub connect_retry: Duration,
    /// How long the server is to keep the connection's locks when it breaks; asked for in the greeting.
    pub resume_s: Option<u64>,
    /// Starts the server where nobody listens, if it is one that we may start.
    pub starter: Option<Starter>,
    /// Whether nobody is to be told of that.
    pub starts_silently: bool,
    /// Nobody named the server, so it must be of somebody whom we trust anyway.
    pub is_unnamed: bool,
}

/// Returns when somebody listens, or with why not by that moment. Whether the user is told is the other argument.
pub type Starter = Arc<dyn Fn(Moment, bool) -> Starting + Send + Sync>;

pub type Starting = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// Why an exchange with a server gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke, or was closed by the server.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Not even the greeting, which every server answers at once.
    #[error("it accepts connections, but does not answer")]
    Mute,
    /// The server lives, but this request got no answer.
    #[error("no answer in time")]
    Silent,
    #[error("it does not speak the protocol: {0}")]
    Nonsense(String),
    #[error("the auth token was refused")]
    WrongSecret,
    #[error("it asks for an auth token")]
    SecretNeeded,
    #[error("the auth token would be sent in clear text")]
    SecretInTheOpen,
    #[error("it has no room for another connection")]
    Full,
    #[error("it is stopping")]
    Draining,
    /// As long as it cannot write down what it gives out.
    #[error("it gives nothing out at the moment")]
    Paused,
    #[error("no member of the cluster leads it at the moment")]
    NoLeader,
    /// One of several members, and yet alone.
    #[error("it is no member of a cluster")]
    NoCluster,
    #[error("{0}")]
    NotStarted(Box<Failure>),
    #[error("it belongs to another user there (number {user}), and nobody named it")]
    Stranger { user: u32 },
}

impl Trouble {
    /// Whether another try, or another member, may have better luck.
    pub fn passes(&self) -> bool {
        match self {
            Trouble::Dial(error) => matches!(error.kind, DialKind::Unreachable | DialKind::Nobody),
            Trouble::Broken(_)
            | Trouble::Mute
            | Trouble::Silent
            | Trouble::Full
            | Trouble::Draining
            | Trouble::Paused
            | Trouble::NoLeader => true,
            Trouble::Nonsense(_)
            | Trouble::WrongSecret
            | Trouble::SecretNeeded
            | Trouble::SecretInTheOpen
            | Trouble::NoCluster
            | Trouble::NotStarted(_)
            | Trouble::Stranger { .. } => false,
        }
    }

    /// Whether nothing at all is there.
    fn is_of_nobody(&self) -> bool {
        matches!(self, Trouble::Dial(error) if error.kind == DialKind::Nobody)
    }

    fn kind(&self) -> Kind {
        match self {
            Trouble::Dial(error) => error.kind.failure(),
            Trouble::WrongSecret | Trouble::SecretNeeded | Trouble::SecretInTheOpen | Trouble::Stranger { .. } => {
                Kind::Denied
            }
            Trouble::NotStarted(why) => why.kind,
            Trouble::Nonsense(_) | Trouble::Full | Trouble::Paused | Trouble::NoCluster => Kind::Refused,
            Trouble::Broken(_) | Trouble::Mute | Trouble::Silent | Trouble::Draining | Trouble::NoLeader => {
                Kind::Unreachable
            }
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Trouble::Dial(error) => error.hint,
            Trouble::Broken(_) => "it may expect TLS (--tls), or have been restarted: try again",
            Trouble::Mute | Trouble::Silent => "the server may be frozen or overloaded",
            Trouble::Nonsense(_) => "another program may listen there, or it expects TLS (--tls)",
            Trouble::WrongSecret => "check --auth-token-file, DFLOCK_AUTH_TOKEN_FILE or DFLOCK_AUTH_TOKEN",
            Trouble::SecretNeeded => {
                "give one with --auth-token-file or DFLOCK_AUTH_TOKEN_FILE; a command of dflock exec inherits no DFLOCK_AUTH_TOKEN"
            }
            Trouble::SecretInTheOpen => "use --tls, or --allow-plaintext-token if the network is to be trusted",
            Trouble::Full => "raise --max-connections of the server, or try again later",
            Trouble::Draining => "try again in a moment, or name another server with --servers",
            Trouble::Paused => "its state directory may be gone, or its disk full: its log says more",
            Trouble::NoLeader => "wait longer with -w, or look at the cluster's log",
            Trouble::NoCluster => {
                "each server would grant the lock; name one of them, or a:6388,b:6388 without dflockd:// for shards"
            }
            Trouble::NotStarted(_) => "",
            Trouble::Stranger { .. } => "if it is to be trusted, name it with --servers or DFLOCK_SERVERS",
        }
    }

    /// As the user meets it; `tried` completes "cannot …".
    pub fn into_failure(self, tried: &str, server: &Address) -> Failure {
        if let Trouble::NotStarted(mut why) = self {
            why.server = Some(server.to_string());
            return *why;
        }
        let mut failure = Failure::new(self.kind(), format!("cannot {tried} on {server}: {self}"));
        failure.server = Some(server.to_string());
        failure.hint(self.hint())
    }
}
