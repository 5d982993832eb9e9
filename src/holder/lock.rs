//! The lock of a holder: on its way, held, or lost.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Held;
use crate::backend::{Hold, Joined};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lease::keeper::Keeper;
use crate::lease::lateness::Lateness;
use crate::lock::Token;

/// Time that a holder needs to hear of a loss before its lease ends: it has no child to stop.
const GRACE: Duration = Duration::ZERO;

/// A lock, or the way to one.
pub(super) enum Lock {
    /// Asked for, and not yet answered.
    Joining {
        task: JoinHandle<Result<Joined, Failure>>,
        stop: oneshot::Sender<()>,
        server: String,
    },
    /// In the queue, by `enqueue`.
    Waiting {
        turn: JoinHandle<Result<Hold, Failure>>,
        stop: oneshot::Sender<()>,
        server: String,
        /// When it was joined, where the server tells.
        position: Option<u64>,
    },
    Held {
        keeper: Keeper,
        held: Held,
        server: String,
        since: Moment,
    },
    Lost {
        why: String,
        server: String,
        token: Option<Token>,
    },
}

impl Lock {
    pub(super) fn hold(hold: Hold) -> Lock {
        let grant = hold.grant().clone();
        let held = Held { token: grant.token, fence: grant.fence, lease: grant.lease };
        Lock::Held {
            keeper: Keeper::start(hold, GRACE, Lateness::default()),
            held,
            server: grant.server,
            since: clock::now(),
        }
    }

    pub(super) fn server(&self) -> &str {
        match self {
            Lock::Joining { server, .. }
            | Lock::Waiting { server, .. }
            | Lock::Held { server, .. }
            | Lock::Lost { server, .. } => server,
        }
    }

    pub(super) async fn changed(&mut self) -> Change {
        match self {
            Lock::Joining { task, .. } => {
                let joined = task.await;
                Change::Joined(Box::new(joined.unwrap_or_else(|why| Err(Failure::internal("take the lock", &why)))))
            }
            Lock::Waiting { turn, .. } => {
                let turn = turn.await;
                Change::Turn(Box::new(turn.unwrap_or_else(|why| Err(Failure::internal("wait for the turn", &why)))))
            }
            Lock::Held { keeper, .. } => {
                if keeper.news.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                Change::News
            }
            Lock::Lost { .. } => std::future::pending().await,
        }
    }
}

/// What may happen to a lock by itself.
pub(super) enum Change {
    Joined(Box<Result<Joined, Failure>>),
    Turn(Box<Result<Hold, Failure>>),
    News,
}
