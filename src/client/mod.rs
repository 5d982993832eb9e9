//! The native protocol, spoken to one server or to many.

pub mod cluster;
pub mod connection;
pub mod retry;
pub mod shards;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Failure, Kind};
use crate::net::{Address, DialError, Tls};

/// What every connection is made with.
#[derive(Clone)]
pub struct Access {
    pub tls: Option<Tls>,
    pub secret: Option<Arc<[u8]>>,
    pub allow_plaintext_secret: bool,
    pub connect_timeout: Duration,
}

/// Why an exchange with a server gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke, or was closed by the server.
    #[error("the connection broke: {0}")]
    Broken(String),
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
}

impl Trouble {
    /// Whether another try, or another member, may have better luck.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Trouble::Dial(DialError::Unreachable(_))
                | Trouble::Broken(_)
                | Trouble::Silent
                | Trouble::Full
                | Trouble::Draining
        )
    }

    /// As the user meets it; `tried` completes "cannot …".
    pub fn into_failure(self, tried: &str, server: &Address) -> Failure {
        let kind = match &self {
            Trouble::Dial(DialError::Untrusted(_)) => Kind::Denied,
            Trouble::WrongSecret | Trouble::SecretNeeded | Trouble::SecretInTheOpen => Kind::Denied,
            Trouble::Nonsense(_) | Trouble::Full => Kind::Refused,
            _ => Kind::Unreachable,
        };
        let mut failure = Failure::new(kind, format!("cannot {tried} on {server}: {self}"));
        failure.server = Some(server.to_string());
        match &self {
            Trouble::Dial(DialError::Unreachable(_)) => {
                failure.hint("is the server running there? --servers or DFLOCK_SERVERS names another")
            }
            Trouble::WrongSecret => {
                failure.hint("check --auth-token-file, DFLOCK_AUTH_TOKEN_FILE or DFLOCK_AUTH_TOKEN")
            }
            Trouble::SecretNeeded => failure.hint("give one with --auth-token-file or DFLOCK_AUTH_TOKEN_FILE"),
            Trouble::SecretInTheOpen => {
                failure.hint("use --tls, or --allow-plaintext-token if the network is to be trusted")
            }
            Trouble::Nonsense(_) => failure.hint("another program may listen there, or it expects TLS (--tls)"),
            Trouble::Full => failure.hint("raise --max-connections of the server, or try again later"),
            Trouble::Silent => failure.hint("the server may be frozen or overloaded"),
            _ => failure,
        }
    }
}
