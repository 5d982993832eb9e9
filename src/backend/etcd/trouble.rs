//! Why an exchange with etcd gave no answer that can be used, and what the user is told of it.

use std::error::Error;

use tonic::{Code, Status};

use crate::client;
use crate::error::{Failure, Kind};
use crate::net::{Address, DialError, DialKind};

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke, or was closed by the server.
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer in time")]
    Silent,
    /// The member lives, but cannot serve: there is no leader, or it is starting or stopping.
    #[error("the cluster cannot serve it at the moment ({0})")]
    Unable(String),
    #[error("the user or the password was refused")]
    WrongLogin,
    #[error("it asks for a user and a password")]
    LoginNeeded,
    #[error("the password would be sent in clear text")]
    LoginInTheOpen,
    /// Ours is too old, or of a member that was restarted; another one will do.
    #[error("it does not know our login any more ({0})")]
    LoginOver(String),
    #[error("it knows no users")]
    NoLogins,
    #[error("the user may not read and write this key")]
    Forbidden,
    #[error("the lease is gone")]
    LeaseGone,
    #[error("it belongs to another cluster than the members asked before")]
    OtherCluster,
    #[error("its database is full")]
    Full,
    #[error("it is not an etcd: {0}")]
    Strange(String),
    #[error("the server refuses: {0}")]
    Refused(String),
}

impl From<&Status> for Trouble {
    fn from(status: &Status) -> Trouble {
        if status.source().is_some() {
            return Trouble::Broken(innermost(status));
        }
        let text = status.message().to_owned();
        let says = |part: &str| text.contains(part);
        match status.code() {
            _ if says("invalid auth token") || says("revision of auth store is old") => Trouble::LoginOver(text),
            _ if says("authentication failed") => Trouble::WrongLogin,
            _ if says("user name is empty") || says("user name not found") => Trouble::LoginNeeded,
            _ if says("authentication is not enabled") => Trouble::NoLogins,
            _ if says("requested lease not found") => Trouble::LeaseGone,
            _ if says("database space exceeded") => Trouble::Full,
            Code::Unauthenticated => Trouble::LoginOver(text),
            Code::PermissionDenied => Trouble::Forbidden,
            Code::Unimplemented => Trouble::Strange(text),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::ResourceExhausted => Trouble::Unable(text),
            _ => Trouble::Refused(text),
        }
    }
}

/// What it was in the end that broke.
fn innermost(why: &dyn Error) -> String {
    let mut why = why;
    while let Some(deeper) = why.source() {
        why = deeper;
    }
    why.to_string()
}

impl Trouble {
    /// Whether another try, or another member, may have better luck.
    pub(super) fn passes(&self) -> bool {
        match self {
            Trouble::Dial(error) => matches!(error.kind, DialKind::Unreachable | DialKind::Nobody),
            Trouble::Broken(_) | Trouble::Silent | Trouble::Unable(_) | Trouble::LoginOver(_) => true,
            Trouble::WrongLogin
            | Trouble::LoginNeeded
            | Trouble::LoginInTheOpen
            | Trouble::NoLogins
            | Trouble::Forbidden
            | Trouble::LeaseGone
            | Trouble::OtherCluster
            | Trouble::Full
            | Trouble::Strange(_)
            | Trouble::Refused(_) => false,
        }
    }

    /// Whether somebody is there, so that a quorum may come back.
    pub(super) fn is_of_the_living(&self) -> bool {
        matches!(self, Trouble::Silent | Trouble::Unable(_) | Trouble::LoginOver(_))
    }

    fn kind(&self) -> Kind {
        match self {
            Trouble::Dial(error) => error.kind.failure(),
            Trouble::Broken(_) | Trouble::Silent | Trouble::Unable(_) => Kind::Unreachable,
            Trouble::WrongLogin
            | Trouble::LoginNeeded
            | Trouble::LoginInTheOpen
            | Trouble::LoginOver(_)
            | Trouble::Forbidden => Kind::Denied,
            Trouble::LeaseGone => Kind::Lost,
            Trouble::NoLogins | Trouble::OtherCluster | Trouble::Full | Trouble::Strange(_) | Trouble::Refused(_) => {
                Kind::Refused
            }
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Trouble::Dial(error) => error.hint,
            Trouble::Broken(_) => "it may expect TLS (--tls), be no etcd, or have been restarted: try again",
            Trouble::Silent => "it may be frozen or overloaded, or have lost its quorum: etcdctl endpoint status",
            Trouble::Unable(_) => {
                "more than half of the members must be up and see each other: etcdctl endpoint status"
            }
            Trouble::WrongLogin => "check --etcd-user, and --etcd-password-file or DFLOCK_ETCD_PASSWORD",
            Trouble::LoginNeeded => "give --etcd-user, and --etcd-password-file or DFLOCK_ETCD_PASSWORD",
            Trouble::LoginInTheOpen => "use --tls, or --allow-plaintext-token if the network is to be trusted",
            Trouble::LoginOver(_) => "try again",
            Trouble::NoLogins => "leave out --etcd-user",
            Trouble::Forbidden => {
                "its role needs readwrite on the range that begins with dflock/, or with what --etcd-prefix says"
            }
            Trouble::LeaseGone => "it ended, or somebody revoked it",
            Trouble::OtherCluster => "all members of one etcd:// must belong to one cluster",
            Trouble::Full => "make room: etcdctl compact, defrag, alarm disarm",
            Trouble::Strange(_) => "another program may listen there: its clients' port is wanted, 2379 as a rule",
            Trouble::Refused(_) => "its log may say more",
        }
    }

    /// As the user meets it; `tried` completes "cannot …".
    pub(super) fn into_failure(self, tried: &str, server: &Address) -> Failure {
        if let Trouble::Dial(error) = self {
            return client::Trouble::Dial(error).into_failure(tried, server);
        }
        let mut failure = Failure::new(self.kind(), format!("cannot {tried} on {server}: {self}"));
        failure.server = Some(server.to_string());
        failure.hint(self.hint())
    }
}
