//! What etcd tells of locks: their keys in pages, and how long the leases of their holders last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::hold::failed;
use super::layout::{About, Layout, Queue, end_of};
use super::lease::Missed;
use super::messages::{KeyValue, LeaseTimeToLiveRequest, RangeRequest, RangeResponse};
use super::trouble::Trouble;
use crate::backend::{Claim, LockRow, SemaphoreRow, Stats, Status};
use crate::client::cluster::Patience;
use crate::clock;
use crate::error::Failure;
use crate::lock::{Key, Space};

/// Keys in one answer.
const PAGE: i64 = 500;

/// What is kept at the most, in bytes, and how long asking for it may take: a server may always say that there is more.
const MOST_BYTES: usize = 128 * 1024 * 1024;
const ALL_WITHIN: Duration = Duration::from_secs(60);

/// Leases that are asked for at the same time.
const AT_ONCE: usize = 32;

/// Keys by the names of their locks.
type Queues = BTreeMap<Vec<u8>, Vec<KeyValue>>;

/// All locks and semaphores whose names begin with `start`.
pub(super) async fn stats(cluster: &Arc<Cluster>, layout: &Layout, start: &[u8]) -> Result<Stats, Failure> {
    let gathering = async {
        let mut stats = Stats::default();
        for space in [Space::Locks, Space::Semaphores] {
            let mut queues = Queues::new();
            for key in all(cluster, &layout.narrowed(space, start)).await? {
                if let Some(name) = layout.name_of(space, &key.key) {
                    queues.entry(name).or_default().push(key);
                }
            }
            let limit = |queue: &[KeyValue]| if space == Space::Locks { 1 } else { limit_of(queue) };
            let holders = queues.values_mut().flat_map(|queue| {
                queue.sort_by_key(|key| key.create_revision);
                let limit = usize::try_from(limit(queue)).unwrap_or(usize::MAX);
                queue.iter().take(limit).map(|key| key.lease).collect::<Vec<_>>()
            });
            let left = leases(cluster, holders.collect()).await;
            for (name, queue) in queues {
                let name = String::from_utf8_lossy(&name).into_owned();
                match space {
                    Space::Locks => stats.locks.push(lock_row(name, &queue, &left)),
                    Space::Semaphores => stats.semaphores.push(semaphore_row(name, &queue, &left)),
                }
            }
        }
        Ok(stats)
    };
    gathering.await.map_err(|(trouble, member): Missed| trouble.into_failure("get stats", &member))
}

/// One key, everybody in its queues included.
pub(super) async fn status(
    cluster: &Arc<Cluster>,
    key: &Key,
    locks: Option<Queue>,
    semaphores: Option<Queue>,
    server: String,
) -> Result<Status, Failure> {
    let gathering = async {
        let mut found = Vec::new();
        for queue in [locks, semaphores] {
            let mut keys = match queue {
                Some(queue) => all(cluster, queue.folder()).await?,
                None => Vec::new(),
            };
            keys.sort_by_key(|key| key.create_revision);
            let left = leases(cluster, keys.iter().map(|key| key.lease).collect()).await;
            found.push((keys, left));
        }
        Ok(found)
    };
    let mut found = gathering.await.map_err(|missed| failed("look up", key, missed))?.into_iter();
    let name = key.to_string();
    let mut next = || found.next().filter(|(keys, _)| !keys.is_empty());
    Ok(Status {
        server,
        lock: next().map(|(keys, left)| lock_row(name.clone(), &keys, &left)),
        semaphore: next().map(|(keys, left)| semaphore_row(name.clone(), &keys, &left)),
    })
}

/// For one page: a cluster that cannot serve is told of soon, however long the whole takes.
fn patience(cluster: &Cluster) -> Patience {
    cluster.patience(clock::now() + cluster.access.connect_retry.max(cluster.access.connect_timeout))
}

/// All keys that begin with `start`, at one revision.
async fn all(cluster: &Cluster, start: &[u8]) -> Result<Vec<KeyValue>, Missed> {
    let mut keys: Vec<KeyValue> = Vec::new();
    let mut range =
        RangeRequest { key: start.to_vec(), range_end: end_of(start), limit: PAGE, ..RangeRequest::default() };
    let until = clock::now() + ALL_WITHIN;
    let mut bytes = 0;
    loop {
        let answered = cluster.ask(&range, patience(cluster)).await?;
        let next = next_page(&range, &answered.answer);
        bytes += answered.answer.kvs.iter().map(size_of_row).sum::<usize>();
        keys.extend(answered.answer.kvs);
        let member = || cluster.members[0].clone();
        match next {
            Ok(None) => return Ok(keys),
            Ok(Some(key)) => range.key = key,
            Err(why) => return Err((Trouble::Strange(why), member())),
        }
        if bytes > MOST_BYTES {
            let mib = MOST_BYTES / 1024 / 1024;
            return Err((
                Trouble::Refused(format!("more than {mib} MiB of keys; --key-prefix asks for fewer")),
                member(),
            ));
        }
        if clock::now() >= until {
            return Err((Trouble::Silent, member()));
        }
        if range.revision == 0 {
            range.revision = answered.revision;
        }
    }
}

/// Where the next page begins, if there is one.
fn next_page(range: &RangeRequest, page: &RangeResponse) -> Result<Option<Vec<u8>>, String> {
    let is_asked_for = |key: &KeyValue| key.key >= range.key && key.key < range.range_end;
    if !page.kvs.iter().all(is_asked_for) || !page.kvs.is_sorted_by_key(|key| &key.key) {
        return Err("it tells of keys that it was not asked for, or in another order".to_owned());
    }
    // Right behind the last one.
    Ok(page.kvs.last().filter(|_| page.more).map(|last| [last.key.as_slice(), b"\0"].concat()))
}

fn size_of_row(key: &KeyValue) -> usize {
    key.key.len() + key.value.len() + 128
}

/// How long each of these leases lasts, in seconds, as far as etcd says so.
async fn leases(cluster: &Arc<Cluster>, ids: Vec<i64>) -> BTreeMap<i64, f64> {
    let mut left = BTreeMap::new();
    for some in ids.chunks(AT_ONCE) {
        let (mut asking, patience) = (JoinSet::new(), patience(cluster));
        for id in some.iter().copied().filter(|id| *id != 0) {
            let cluster = cluster.clone();
            asking.spawn(async move { (id, cluster.ask(&LeaseTimeToLiveRequest { id }, patience).await) });
        }
        for (id, answer) in asking.join_all().await {
            if let Ok(answered) = answer
                && answered.answer.ttl >= 0
            {
                left.insert(id, answered.answer.ttl as f64);
            }
        }
    }
    left
}

/// What the eldest says that says anything.
fn limit_of(queue: &[KeyValue]) -> u64 {
    queue.iter().find_map(|key| About::read(&key.value).limit).unwrap_or(1)
}

fn claims(queue: &[KeyValue], limit: u64, left: &BTreeMap<i64, f64>) -> Vec<Claim> {
    let claim = |(at, key): (usize, &KeyValue)| {
        let (about, at) = (About::read(&key.value), at as u64);
        Claim {
            state: if at < limit { "held" } else { "waiting" }.to_owned(),
            position: if at < limit { 0 } else { at - limit + 1 },
            host: about.host,
            pid: about.pid,
            fence: key.create_revision.cast_unsigned(),
            fence_text: key.create_revision.cast_unsigned().to_string(),
            lease_left_s: left.get(&key.lease).copied(),
        }
    };
    queue.iter().enumerate().map(claim).collect()
}

fn lock_row(key: String, queue: &[KeyValue], left: &BTreeMap<i64, f64>) -> LockRow {
    let claims = claims(queue, 1, left);
    LockRow {
        key,
        owner_conn_id: 0,
        lease_expires_in_s: claims.first().and_then(|first| first.lease_left_s).unwrap_or(0.0),
        waiters: claims.len().saturating_sub(1) as u64,
        claims: Some(claims),
    }
}

fn semaphore_row(key: String, queue: &[KeyValue], left: &BTreeMap<i64, f64>) -> SemaphoreRow {
    let (limit, all) = (limit_of(queue), queue.len() as u64);
    let claims = claims(queue, limit, left);
    SemaphoreRow { key, limit, holders: all.min(limit), waiters: all.saturating_sub(limit), claims: Some(claims) }
}
