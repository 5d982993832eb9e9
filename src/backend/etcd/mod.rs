//! etcd: for those who outgrow one machine.
//!
//! One lease and one key for whoever wants a lock; see `layout` for the keys, `queue` for whose turn it is,
//! `lease` for how it is proved. The create revision of the key is the fence. A lost connection is not a lost
//! lock: another member is asked until there is no more time. What etcd says to be gone is lost.
//!
//! Works with etcd 3.4 and later. A leader that was frozen for longer than a lease, and wakes when another member
//! leads, may revoke leases that were kept alive meanwhile: it does so before it has heard of its successor. Since
//! 3.4.31 and 3.5.13 it looks first whether it still leads, but not if its clock has just ticked, as it has on waking
//! (seen with 3.6.9, with `etcdctl` alone). Then a lock is lost while its command runs: that is stopped as soon as
//! the watch of its key tells, and the next one may start some milliseconds before.

mod cluster;
mod hold;
pub mod layout;
mod lease;
mod link;
pub mod messages;
mod queue;
mod report;
mod trouble;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Ask, Inherited, Stats, Status, Wait};
use crate::client::cluster::Patience;
use crate::client::shards::shard_of;
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind as Wrong};
use crate::lock::{Grant, Key, Kind, Space, Token};
use crate::net::Address;
pub use cluster::{Access, Cluster, Login};
pub use hold::Hold;
use hold::{delete, failed, not_held};
pub use layout::Layout;
use layout::{Proof, Queue};
use lease::{Own, Proved, prove, revoke, whole_seconds};
use queue::{Stop, is_full};

/// How long to wait before queueing anew when a place was lost.
const ANEW: Duration = Duration::from_millis(200);

pub struct Servers {
    clusters: Vec<Arc<Cluster>>,
    /// The cluster of every key, if one was picked by hand.
    picked: Option<usize>,
    layout: Layout,
}

/// One lock, and where it is.
#[derive(Clone)]
struct Site {
    cluster: Arc<Cluster>,
    queue: Queue,
    key: Key,
    kind: Kind,
}

pub struct Place {
    site: Site,
    place: queue::Place,
    lease: Option<Duration>,
}

pub enum Joined {
    Held(Hold),
    Queued(Place),
}

impl Servers {
    pub fn new(shards: Vec<Vec<Address>>, picked: Option<usize>, access: &Access, layout: Layout) -> Servers {
        let cluster = |members| Arc::new(Cluster::new(members, access.clone()));
        Servers { clusters: shards.into_iter().map(cluster).collect(), picked, layout }
    }

    pub fn server_of(&self, key: &Key) -> (usize, String) {
        let at = self.picked.unwrap_or_else(|| shard_of(key.as_bytes(), self.clusters.len()));
        (at, self.clusters[at].to_string())
    }

    fn site(&self, key: &Key, kind: Kind) -> Result<Site, Failure> {
        let (at, _) = self.server_of(key);
        let queue = self.layout.queue(key, kind.space()).map_err(|why| {
            let mut failure = Failure::usage(why);
            failure.key = Some(key.to_string());
            failure.hint("use another key, or leave --etcd-prefix out")
        })?;
        Ok(Site { cluster: self.clusters[at].clone(), queue, key: key.clone(), kind })
    }

    pub async fn acquire(&self, ask: &Ask) -> Result<Hold, Failure> {
        let site = self.site(&ask.key, ask.kind)?;
        let until = match ask.wait {
            Wait::For(time) => clock::now() + time,
            Wait::Forever => Moment::NEVER,
        };
        loop {
            let at_once = ask.wait == Wait::For(Duration::ZERO);
            match site.take(ask.lease, until, at_once).await {
                Ok(hold) => return Ok(hold),
                // It was never ours; another place is at the end of the queue.
                Err(Stop::Gone) if clock::now() + ANEW < until => tokio::time::sleep(ANEW).await,
                Err(stop) => return Err(site.failure("take", stop)),
            }
        }
    }

    pub async fn enqueue(&self, ask: &Ask) -> Result<Joined, Failure> {
        let site = self.site(&ask.key, ask.kind)?;
        let access = &site.cluster.access;
        let patience = site.cluster.patience(clock::now() + access.connect_timeout.max(access.connect_retry));
        let joining = async {
            let mut place = site.join(ask.lease, patience).await?;
            if place.is_ours() {
                return site.take_up(place, ask.lease).await.map(Joined::Held);
            }
            place.start_pulse();
            Ok(Joined::Queued(Place { site: site.clone(), place, lease: ask.lease }))
        };
        joining.await.map_err(|stop| site.failure("queue for", stop))
    }

    /// Goes on keeping a lock by its token.
    pub async fn take_over(&self, key: &Key, kind: Kind, left: Inherited) -> Result<Hold, Failure> {
        let site = self.site(key, kind)?;
        let Inherited { token, fence, lease } = left;
        let Some(own) = site.own(&token) else { return Err(not_held("take over", key, &site.cluster)) };
        match prove(&site.cluster, &own, None, self.one_try(&site).until).await {
            Proved::Ours { asked, time, revision } => {
                let server = site.cluster.to_string();
                let grant = Grant { token, fence, lease: lease.min(time), asked, server };
                Ok(Hold::new(site.cluster, key.clone(), own, grant, time, revision))
            }
            Proved::Gone => Err(not_held("take over", key, &site.cluster)),
            Proved::Unknown(missed) => Err(failed("take over", key, missed)),
        }
    }

    pub async fn release(&self, key: &Key, space: Space, token: &Token) -> Result<(), Failure> {
        let site = self.site(key, kind_of(space))?;
        let Some(own) = site.own(token) else { return Err(not_held("release", key, &site.cluster)) };
        let patience = self.one_try(&site);
        let deleted = site.cluster.ask(&delete(&own), patience).await;
        if !deleted.map_err(|missed| failed("release", key, missed))?.answer.succeeded {
            return Err(not_held("release", key, &site.cluster));
        }
        // It has no key any more: if nobody revokes it, it ends by itself.
        let _ = revoke(&site.cluster, own.lease, patience.until).await;
        Ok(())
    }

    pub async fn renew(&self, key: &Key, space: Space, token: &Token, lease: Option<Duration>) -> Result<u64, Failure> {
        let site = self.site(key, kind_of(space))?;
        let Some(own) = site.own(token) else { return Err(not_held("renew", key, &site.cluster)) };
        match prove(&site.cluster, &own, None, self.one_try(&site).until).await {
            Proved::Ours { time, .. } if lease.is_some_and(|lease| lease > time) => {
                let mut failure = Failure::new(
                    Wrong::Refused,
                    format!("cannot renew {key} for longer: etcd keeps this lease for {}s each time", time.as_secs()),
                );
                failure.key = Some(key.to_string());
                failure.server = Some(site.cluster.to_string());
                Err(failure
                    .hint("it was renewed for that long; only taking the lock says how long its lease can be (-l)"))
            }
            Proved::Ours { time, .. } => Ok(lease.map_or(time.as_secs(), whole_seconds)),
            Proved::Gone => Err(not_held("renew", key, &site.cluster)),
            Proved::Unknown(missed) => Err(failed("renew", key, missed)),
        }
    }

    /// Long enough to ride out the election of a leader.
    fn one_try(&self, site: &Site) -> Patience {
        let access = &site.cluster.access;
        site.cluster.patience(clock::now() + access.connect_timeout + access.connect_retry)
    }

    pub async fn stats(&self, start: &[u8]) -> Vec<(String, Result<Stats, Failure>)> {
        let mut asking = JoinSet::new();
        for (at, cluster) in self.clusters.iter().enumerate() {
            if self.picked.is_none_or(|picked| picked == at) {
                let (cluster, layout, start) = (cluster.clone(), self.layout.clone(), start.to_vec());
                asking.spawn(async move { (at, cluster.to_string(), report::stats(&cluster, &layout, &start).await) });
            }
        }
        let mut all = asking.join_all().await;
        all.sort_by_key(|(at, ..)| *at);
        all.into_iter().map(|(_, server, stats)| (server, stats)).collect()
    }

    pub async fn status(&self, key: &Key) -> Result<Status, Failure> {
        let (at, server) = self.server_of(key);
        let cluster = &self.clusters[at];
        let queue = |space| self.layout.queue(key, space).ok();
        report::status(cluster, key, queue(Space::Locks), queue(Space::Semaphores), server).await
    }

    /// Revokes what dropped attempts left behind.
    pub async fn tidy(&self, until: Moment) {
        for cluster in &self.clusters {
            for lease in cluster.take_leftovers() {
                // It ends by itself if that fails.
                let _ = revoke(cluster, lease, until).await;
            }
        }
    }
}

impl Site {
    async fn take(&self, lease: Option<Duration>, wait_until: Moment, at_once: bool) -> Result<Hold, Stop> {
        let access = &self.cluster.access;
        let until = if at_once { clock::now() + access.connect_timeout } else { wait_until };
        let patience = self.cluster.patience(until);
        // Of many that come only to see that it is taken, none writes anything.
        if at_once && is_full(&self.cluster, &self.queue, self.kind, patience).await? {
            return Err(Stop::Busy);
        }
        let mut place = self.join(lease, patience).await?;
        if !place.is_ours() {
            place = if at_once { place.leave().await? } else { place.wait_for_turn(wait_until).await? };
        }
        self.take_up(place, lease).await
    }

    async fn join(&self, lease: Option<Duration>, patience: Patience) -> Result<queue::Place, Stop> {
        queue::Place::join(&self.cluster, self.queue.clone(), self.kind, lease, patience).await
    }

    async fn take_up(&self, place: queue::Place, wish: Option<Duration>) -> Result<Hold, Stop> {
        let queue::TakenUp { ticket, own, asked, time, revision } = place.take_up(wish).await?;
        let proof = Proof { created: own.created, lease: own.lease };
        let token = proof.token().map_err(|_| Stop::Gone)?;
        let lease = wish.unwrap_or(time).min(time);
        let fence = Some(own.created.cast_unsigned());
        let grant = Grant { token, fence, lease, asked, server: self.cluster.to_string() };
        ticket.hand_over();
        Ok(Hold::new(self.cluster.clone(), self.key.clone(), own, grant, time, revision))
    }

    fn own(&self, token: &Token) -> Option<Own> {
        let Proof { created, lease } = Proof::of(token)?;
        Some(Own { key: self.queue.key(lease), created, lease })
    }

    fn failure(&self, verb: &str, stop: Stop) -> Failure {
        let (key, cluster) = (&self.key, &self.cluster);
        let mut failure = match stop {
            Stop::Busy => {
                let what = match self.kind {
                    Kind::Lock => "is held by somebody else",
                    Kind::Semaphore { .. } => "has no free slot",
                };
                Failure::new(Wrong::Busy, format!("{key} {what} (on {cluster})"))
                    .hint("-w DUR waits longer, dflock status KEY shows more")
            }
            Stop::Gone => Failure::new(
                Wrong::Lost,
                format!("cannot {verb} {key}: the place in its queue went away (on {cluster})"),
            )
            .hint("its lease may have ended while this machine slept, or somebody deleted it: try again"),
            Stop::OtherLimit(other) => Failure::new(
                Wrong::Refused,
                format!("cannot {verb} {key} on {cluster}: it is in use as a semaphore with the limit {other}"),
            )
            .hint("all users of a semaphore must name the same --limit"),
            Stop::Missed(missed) => return failed(verb, key, missed),
        };
        failure.key = Some(key.to_string());
        failure.server = Some(cluster.to_string());
        failure
    }
}

impl Place {
    pub fn server(&self) -> String {
        self.site.cluster.to_string()
    }

    pub fn position(&self) -> Option<u64> {
        self.place.position()
    }

    pub async fn wait(self) -> Result<Hold, Failure> {
        let Place { site, place, lease } = self;
        let waiting = async {
            let place = place.wait_for_turn(Moment::NEVER).await?;
            site.take_up(place, lease).await
        };
        waiting.await.map_err(|stop| site.failure("wait for", stop))
    }
}

fn kind_of(space: Space) -> Kind {
    match space {
        Space::Locks => Kind::Lock,
        // The limit does not matter to a key that is there already.
        Space::Semaphores => Kind::Semaphore { limit: 1 },
    }
}
