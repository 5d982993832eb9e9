//! What one lock needs of its servers, and how its failures are told.

use crate::client::cluster::Shard;
use crate::client::connection::{No, Said};
use crate::client::{Access, Trouble};
use crate::error::{Failure, Kind as Wrong};
use crate::lock::{Key, Kind};
use crate::net::Address;

#[derive(Clone)]
pub(super) struct Site {
    pub(super) shard: Shard,
    pub(super) access: Access,
    pub(super) key: Key,
    pub(super) kind: Kind,
}

impl Site {
    pub(super) fn named(&self, mut failure: Failure, server: &Address) -> Failure {
        failure.key = Some(self.key.to_string());
        failure.server = Some(server.to_string());
        failure
    }

    pub(super) fn trouble(&self, verb: &str, trouble: Trouble, server: &Address) -> Failure {
        let failure = trouble.into_failure(&format!("{verb} {}", self.key), server);
        self.named(failure, server)
    }

    pub(super) fn busy(&self, server: &Address) -> Failure {
        let what = match self.kind {
            Kind::Lock => "is held by somebody else",
            Kind::Semaphore { .. } => "has no free slot",
        };
        let failure = Failure::new(Wrong::Busy, format!("{} {what} (on {server})", self.key));
        self.named(failure.hint("-w DUR waits longer, dflock status KEY shows more"), server)
    }

    pub(super) fn lost(&self, verb: &str, server: &Address) -> Failure {
        let message = format!("cannot {verb} {}: it is not held with this token any more (on {server})", self.key);
        self.named(
            Failure::new(Wrong::Lost, message).hint("its lease may have ended, or it was released before"),
            server,
        )
    }

    pub(super) fn refused(&self, verb: &str, no: &No, server: &Address) -> Failure {
        let key = &self.key;
        let (why, hint) = match no {
            No::MaxLocks => ("the server has as many keys as it may (--max-locks)", "try again later"),
            No::MaxWaiters => ("as many wait for it already as may (--max-waiters)", "try again later"),
            No::LimitMismatch => (
                "it is in use as a semaphore with another limit",
                "all users of a semaphore must name the same --limit",
            ),
            No::AlreadyEnqueued => ("this connection is in its queue already", "wait for it"),
            No::NotEnqueued => ("this connection is not in its queue", "enqueue first"),
            No::LeaseExpired => ("it was granted, and its lease ended before it was taken up", "try again"),
            No::NotLeader(_) => (
                "the server is a member of a cluster and does not lead it",
                "name all members: --servers dflockd://a:6388,b:6388,c:6388",
            ),
            No::Unsaid => ("the server says error, and no more", "it may be stopping, or older than it should be"),
            No::Other(_) => ("the server refuses", "its log may say more"),
        };
        let said = if let No::Other(word) = no { format!(" with {word:?}") } else { String::new() };
        let failure = Failure::new(Wrong::Refused, format!("cannot {verb} {key} on {server}: {why}{said}"));
        self.named(failure.hint(hint), server)
    }

    pub(super) fn nonsense(&self, verb: &str, said: &Said, server: &Address) -> Failure {
        self.trouble(verb, Trouble::Nonsense(format!("{} is no answer to that", in_words(said))), server)
    }

    pub(super) fn released(&self, said: &Said, server: &Address) -> Result<(), Failure> {
        match said {
            Said::Done => Ok(()),
            Said::Refused(No::Unsaid) => Err(self.lost("release", server)),
            Said::Refused(no) => Err(self.refused("release", no, server)),
            said => Err(self.nonsense("release", said, server)),
        }
    }
}

/// The word that an answer begins with; what follows may be a token.
pub(super) fn in_words(said: &Said) -> &'static str {
    match said {
        Said::Done | Said::Left(_) | Said::Granted { .. } | Said::Document(_) => "\"ok\"",
        Said::Acquired { .. } => "\"acquired\"",
        Said::Queued { .. } => "\"queued\"",
        Said::Timeout => "\"timeout\"",
        Said::Refused(_) => "\"error\"",
    }
}
