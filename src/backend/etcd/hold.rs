//! One lock that was taken: kept alive, watched, proved, given back.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::lease::{Own, Proved, prove, revoke};
use super::messages::{RequestOp, TxnRequest};
use super::trouble::Trouble;
use super::watch::Watch;
use crate::backend::{Renewal, Terms};
use crate::client::cluster::Patience;
use crate::client::retry::Backoff;
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind as Wrong};
use crate::lock::{Grant, Key};

/// How long finding a member to watch at may take before it is told.
const WATCH_WITHIN: Duration = Duration::from_secs(5);

/// A watch that lasted so long did not fail at once.
const LASTING: Duration = Duration::from_secs(10);

pub struct Hold {
    cluster: Arc<Cluster>,
    key: Key,
    own: Own,
    grant: Grant,
    /// How long etcd keeps the lease. That cannot be changed: a shorter one that is wished for ends earlier
    /// for us alone, a longer one is cut to this.
    time: Duration,
    /// The revision at which our key was seen last.
    seen: i64,
    watch: Option<OwnWatch>,
    backoff: Backoff,
}

/// Looks for the end of our key in the background; ends with its owner.
struct OwnWatch {
    watching: JoinHandle<String>,
    since: Moment,
}

impl Drop for OwnWatch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Hold {
    pub(super) fn new(cluster: Arc<Cluster>, key: Key, own: Own, grant: Grant, time: Duration, seen: i64) -> Hold {
        Hold { cluster, key, own, grant, time, seen, watch: None, backoff: Backoff::default() }
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    pub fn terms(&self) -> Terms {
        // A lease there depends on its renewals alone.
        let Grant { asked, lease, .. } = self.grant;
        Terms { asked, lease, unheard_limit: None, outlives_connection: true }
    }

    /// One keep-alive, at any member, and a look at the key.
    pub async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        match prove(&self.cluster, &self.own, None, until).await {
            Proved::Ours { asked, time, revision } => {
                self.time = time;
                self.seen = revision;
                self.grant.asked = asked;
                self.grant.lease = lease.min(time);
                Renewal::Renewed(self.terms())
            }
            Proved::Gone => Renewal::Gone,
            Proved::Unknown((trouble, member)) => Renewal::Unknown(format!("{member}: {trouble}")),
        }
    }

    /// Returns when our key is gone, or when nobody tells us of it any more.
    pub async fn broken(&mut self) -> String {
        let why = match &mut self.watch {
            Some(watch) => (&mut watch.watching).await,
            None => (&mut self.start_watch().watching).await,
        };
        self.watch = None;
        why.unwrap_or_else(|why| why.to_string())
    }

    fn start_watch(&mut self) -> &mut OwnWatch {
        let now = clock::now();
        let (cluster, key, seen) = (self.cluster.clone(), self.own.key.clone(), self.seen);
        let pause = self.backoff.next(now.as_nanos());
        let watching = tokio::spawn(async move {
            // Not at once: most locks are held for a moment only, and one watch after the other may fail.
            tokio::time::sleep(pause).await;
            let until = clock::now() + WATCH_WITHIN;
            let patience = Patience { until, retry: Duration::MAX, outlasts_drain: false };
            let mut watch = match Watch::start(&cluster, &[key], seen, false, patience).await {
                Ok(watch) => watch,
                Err((trouble, member)) => return format!("{member}: {trouble}"),
            };
            match watch.next().await {
                Ok(_) => "its key was deleted".to_owned(),
                Err(trouble) => trouble.to_string(),
            }
        });
        self.watch.insert(OwnWatch { watching, since: now })
    }

    /// Tries all members in turn, until `until`.
    pub async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        if self.watch.as_ref().is_none_or(|watch| clock::now().since(watch.since) > LASTING) {
            self.backoff = Backoff::default();
        }
        let mut backoff = Backoff::default();
        loop {
            // Each attempt has its own limit, shared by the members.
            let attempt_until = (clock::now() + self.cluster.access.connect_timeout).min(until);
            let why = match self.renew(lease, attempt_until).await {
                Renewal::Unknown(why) => why,
                known => return known,
            };
            let pause = backoff.next(clock::now().as_nanos());
            if clock::now() + pause >= until {
                return Renewal::Unknown(why);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Revokes the lease, and with it goes the key: nobody else's hangs on it.
    pub async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        self.watch = None;
        match revoke(&self.cluster, self.own.lease, until).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.lost()),
            Err(missed) => Err(failed("release", &self.key, missed)),
        }
    }

    fn lost(&self) -> Failure {
        not_held("release", &self.key, &self.cluster)
    }
}

/// Deletes a key if it is still the one that was made.
pub(super) fn delete(own: &Own) -> TxnRequest {
    TxnRequest { compare: vec![own.is_there()], success: vec![RequestOp::delete(&own.key)], failure: Vec::new() }
}

pub(super) fn not_held(verb: &str, key: &Key, cluster: &Cluster) -> Failure {
    let message = format!("cannot {verb} {key}: it is not held with this token any more (on {cluster})");
    let mut failure = Failure::new(Wrong::Lost, message);
    failure.key = Some(key.to_string());
    failure.server = Some(cluster.to_string());
    failure.hint("its lease may have ended, or it was released before")
}

/// Of a `Trouble` that concerns one key.
pub(super) fn failed(verb: &str, key: &Key, (trouble, member): (Trouble, crate::net::Address)) -> Failure {
    let mut failure = trouble.into_failure(&format!("{verb} {key}"), &member);
    failure.key = Some(key.to_string());
    failure
}
