//! Leases: asking for one, proving that it and its key are still ours, giving it up.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Answered, Cluster, random};
use super::messages::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use super::trouble::Trouble;
use crate::client::cluster::Patience;
use crate::clock::{self, Moment};
use crate::net::Address;

/// The lease where none is wished for.
pub(super) const DEFAULT: Duration = Duration::from_secs(30);

/// The longest that etcd gives, in seconds.
const MOST_S: u64 = 9_000_000_000;

/// How often a proof is tried again when the leader changes under it.
const PROOFS: usize = 5;
const PROOF_PAUSE: Duration = Duration::from_millis(50);

pub(super) type Missed = (Trouble, Address);

/// A lease, and everything that hangs on it. Dropped without a word it is remembered by the cluster, to be
/// revoked when there is time for that: a queue is left so by whoever is interrupted in it.
pub(super) struct Ticket {
    pub(super) cluster: Arc<Cluster>,
    pub(super) id: i64,
    is_mine: bool,
}

/// A lease that was granted: for how long, and from when.
pub(super) struct Granted {
    pub(super) time: Duration,
    pub(super) asked: Moment,
}

impl Ticket {
    /// The number is ours to choose, so that a lease is known even if the answer to the request is lost.
    pub(super) fn new(cluster: &Arc<Cluster>) -> Ticket {
        let id = (random() >> 1).max(1).cast_signed();
        Ticket { cluster: cluster.clone(), id, is_mine: true }
    }

    /// From now on somebody else sees to it.
    pub(super) fn hand_over(mut self) -> i64 {
        self.is_mine = false;
        self.id
    }

    /// Gives it up at once, if that can be done by `until`.
    pub(super) async fn give_up(self, until: Moment) {
        if revoke(&self.cluster, self.id, until).await.is_ok() {
            self.hand_over();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_mine {
            self.cluster.leave_behind(self.id);
        }
    }
}

/// Asks for a lease of `wish`, rounded up to seconds. etcd may grant a longer one. `None`: it is there already,
/// by an earlier request of ours whose answer was lost; with another number nothing is in doubt.
pub(super) async fn grant(ticket: &Ticket, wish: Duration, patience: Patience) -> Result<Option<Granted>, Missed> {
    let ttl = whole_seconds(wish).clamp(1, MOST_S).cast_signed();
    match ticket.cluster.ask(&LeaseGrantRequest { ttl, id: ticket.id }, patience).await {
        Ok(Answered { answer, asked, .. }) => {
            let time = Duration::from_secs(answer.ttl.max(0).cast_unsigned());
            Ok(Some(Granted { time, asked }))
        }
        Err((Trouble::Refused(why), _)) if why.contains("lease already exists") => Ok(None),
        Err(missed) => Err(missed),
    }
}

/// `false`: there was none any more, before it was asked for.
pub(super) async fn revoke(cluster: &Cluster, id: i64, until: Moment) -> Result<bool, Missed> {
    let patience = Patience { until, retry: Duration::MAX, outlasts_drain: false };
    match cluster.ask_counted(&LeaseRevokeRequest { id }, patience).await {
        (Ok(_), _) => Ok(true),
        // Of one that was asked twice, the first time without an answer, it cannot be told.
        (Err((Trouble::LeaseGone, _)), sent) => Ok(sent > 1),
        (Err(missed), _) => Err(missed),
    }
}

/// A key of ours, as it was made.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) key: Vec<u8>,
    pub(super) created: i64,
    pub(super) lease: i64,
}

impl Own {
    pub(super) fn is_there(&self) -> Compare {
        Compare::created(&self.key, self.created)
    }
}

pub(super) enum Proved {
    /// The lease runs for `time` from `asked`, and at `revision` the key was there.
    Ours {
        asked: Moment,
        time: Duration,
        revision: i64,
    },
    Gone,
    Unknown(Missed),
}

/// What a keep-alive says: from when the lease runs and for how long, if whoever led in this term still does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) asked: Moment,
    pub(super) time: Duration,
    pub(super) term: u64,
}

/// `None`: the server knows no such lease.
pub(super) async fn keep(cluster: &Cluster, lease: i64, patience: Patience) -> Result<Option<Kept>, Missed> {
    match cluster.ask(&LeaseKeepAliveRequest { id: lease }, patience).await {
        Ok(Answered { answer, asked, term, .. }) if answer.ttl > 0 => {
            Ok(Some(Kept { asked, time: Duration::from_secs(answer.ttl.cast_unsigned()), term }))
        }
        Ok(_) | Err((Trouble::LeaseGone, _)) => Ok(None),
        Err(missed) => Err(missed),
    }
}

/// Keeps the lease alive, and then looks whether our key is still the one that we made; `mark` is written
/// into it if it is.
///
/// Both are needed. A member that still takes itself for the leader answers a keep-alive although another
/// one leads by now and lets the lease end: so the look, which needs a majority, must find the same term as
/// the keep-alive did. And the key may be gone although the lease is there.
pub(super) async fn prove(cluster: &Cluster, own: &Own, mark: Option<Vec<u8>>, until: Moment) -> Proved {
    let patience = Patience { until, retry: Duration::MAX, outlasts_drain: false };
    for attempt in 0..PROOFS {
        if attempt > 0 {
            tokio::time::sleep(PROOF_PAUSE).await;
            if clock::now() >= until {
                break;
            }
        }
        let kept = match keep(cluster, own.lease, patience).await {
            Ok(kept) => kept,
            Err(missed) => return Proved::Unknown(missed),
        };
        let (is_there, term, revision) = match look(cluster, own, mark.as_ref(), patience).await {
            Ok(seen) => seen,
            Err(missed) => return Proved::Unknown(missed),
        };
        match kept {
            _ if !is_there => return Proved::Gone,
            Some(kept) if kept.term == term => {
                return Proved::Ours { asked: kept.asked, time: kept.time, revision };
            }
            // Another leader, or one that has not read all of its log: once more.
            Some(_) | None => {}
        }
    }
    let why = Trouble::Unable("its leader changed".to_owned());
    Proved::Unknown((why, cluster.members[0].clone()))
}

async fn look(
    cluster: &Cluster,
    own: &Own,
    mark: Option<&Vec<u8>>,
    patience: Patience,
) -> Result<(bool, u64, i64), Missed> {
    if let Some(value) = mark {
        let put = PutRequest { key: own.key.clone(), value: value.clone(), lease: own.lease };
        let marking =
            TxnRequest { compare: vec![own.is_there()], success: vec![RequestOp::put(put)], failure: Vec::new() };
        return match cluster.ask(&marking, patience).await {
            Ok(Answered { answer, term, revision, .. }) => Ok((answer.succeeded, term, revision)),
            Err((Trouble::LeaseGone, _)) => Ok((false, 0, 0)),
            Err(missed) => Err(missed),
        };
    }
    let range = RangeRequest { key: own.key.clone(), limit: 1, ..RangeRequest::default() };
    let Answered { answer, term, revision, .. } = cluster.ask(&range, patience).await?;
    Ok((answer.kvs.iter().any(|found| found.create_revision == own.created), term, revision))
}

/// Rounded up: etcd has no fractions.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Keeps a lease alive in the background, while its owner waits; ends with it.
pub(super) struct Pulse {
    beating: tokio::task::JoinHandle<()>,
}

impl Pulse {
    pub(super) fn start(cluster: Arc<Cluster>, lease: i64, time: Duration) -> Pulse {
        let pause = (time / 3).max(Duration::from_millis(200));
        Pulse {
            beating: tokio::spawn(async move {
                loop {
                    tokio::time::sleep(pause).await;
                    let until = clock::now() + pause;
                    let patience = Patience { until, retry: Duration::MAX, outlasts_drain: false };
                    let kept = cluster.ask(&LeaseKeepAliveRequest { id: lease }, patience).await;
                    if kept.is_ok_and(|kept| kept.answer.ttl <= 0) {
                        return;
                    }
                }
            }),
        }
    }

    /// Returns when the server says that the lease is gone.
    pub(super) async fn stopped(&mut self) {
        let _ = (&mut self.beating).await;
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.beating.is_finished()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.beating.abort();
    }
}
