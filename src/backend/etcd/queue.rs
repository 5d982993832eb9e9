//! Joining the queue for a lock, and waiting for the turn.
//!
//! Whoever comes puts a key of his own, and is before everybody whose key has a higher create revision. He
//! holds the lock while fewer than the limit are before him. Nobody watches the whole queue:
//!
//! - for a lock, everybody watches the key right before his own. If that goes, either he is the first now, or
//!   somebody left the queue, and he watches the next one;
//! - for a semaphore that would not do: any of the N holders may go first. So the first in the queue watches
//!   the keys of all holders, and everybody else the key right before his own, for its end or for the mark by
//!   which its owner, when he becomes a holder, says that the one behind him is the first now. Whoever dies
//!   between his turn and his mark is missed when his lease ends, no sooner.
//!
//! A watch begins right after the revision that the queue was looked at, so nothing is missed; when the way
//! to the server breaks, or that revision is no more, the queue is looked at again. In the queue a lease is
//! kept alive by a `Pulse`. The eldest in the queue for a semaphore, be its limit 1, decides on the limit: whoever
//! comes with another one leaves at once. One who is slow to leave may be the eldest himself for a moment, and let in
//! others like him; so nobody takes his turn while one with another limit is before him.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Answered, Cluster};
use super::layout::{About, Queue, end_of};
use super::lease::{self, Granted, Kept, Missed, Own, Proved, Pulse, Ticket, keep, prove};
use super::messages::{
    ASCEND, BY_CREATE, Compare, DESCEND, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use super::trouble::Trouble;
use super::watch::Watch;
use crate::client::cluster::Patience;
use crate::client::retry::Backoff;
use crate::clock::{self, Moment};
use crate::lock::Kind;

/// A lease that is older than this, or than a tenth of it, is proved before it is believed.
const FRESH: Duration = Duration::from_millis(500);

/// How long leaving a queue may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no lock.
pub(super) enum Stop {
    Busy,
    /// Our key or our lease went away while we waited.
    Gone,
    /// Others use it with this limit.
    OtherLimit(u64),
    Missed(Missed),
}

impl From<Missed> for Stop {
    fn from(missed: Missed) -> Stop {
        Stop::Missed(missed)
    }
}

/// What the look at a queue says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    Ours,
    /// Until one of these keys goes, or is marked.
    Behind {
        keys: Vec<Vec<u8>>,
        heed_marks: bool,
    },
    Gone,
}

/// A place in a queue, which may be the place of a holder.
pub(super) struct Place {
    own: Own,
    ticket: Ticket,
    granted: Granted,
    queue: Queue,
    kind: Kind,
    turn: Turn,
    /// The revision at which the queue was looked at.
    pub(super) revision: i64,
    /// How many came before.
    pub(super) ahead: Option<u64>,
    has_waited: bool,
    /// A keep-alive right before the last look, if both were of one term: together they prove the lease.
    kept: Option<Kept>,
    pulse: Option<Pulse>,
}

/// A place that was taken up: the lease, from when and for how long, and what was seen last.
pub(super) struct TakenUp {
    pub(super) ticket: Ticket,
    pub(super) own: Own,
    pub(super) asked: Moment,
    pub(super) time: Duration,
    pub(super) revision: i64,
}

/// Whether as many hold or wait for it already as may hold it.
pub(super) async fn is_full(cluster: &Cluster, queue: &Queue, kind: Kind, patience: Patience) -> Result<bool, Stop> {
    let range = RangeRequest { limit: 1, sort_order: ASCEND, sort_target: BY_CREATE, ..all_of(queue) };
    let RangeResponse { kvs, count, .. } = cluster.ask(&range, patience).await?.answer;
    match other_limit(kind, &kvs) {
        Some(other) => Err(Stop::OtherLimit(other)),
        None => Ok(count.max(0).cast_unsigned() >= kind.limit()),
    }
}

impl Place {
    pub(super) async fn join(
        cluster: &Arc<Cluster>,
        queue: Queue,
        kind: Kind,
        wish: Option<Duration>,
        patience: Patience,
    ) -> Result<Place, Stop> {
        let ticket = Ticket::new(cluster);
        let lease = ticket.id;
        let key = queue.key(lease);
        let put = PutRequest { key: key.clone(), value: about(kind.limit(), false).write(), lease };
        let mut success = vec![RequestOp::put(put)];
        success.extend(looks(&queue, kind, None));
        let own_key = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let joining =
            TxnRequest { compare: vec![Compare::created(&key, 0)], success, failure: vec![RequestOp::range(own_key)] };
        // Both at once: they are carried out in one order or the other, and in the wrong one nothing is put.
        let (joined, granted) = tokio::join!(
            cluster.ask(&joining, patience),
            lease::grant(&ticket, wish.unwrap_or(lease::DEFAULT), patience)
        );
        let granted = granted?.ok_or(Stop::Gone)?;
        let joined = match joined {
            Err((Trouble::LeaseGone, _)) => cluster.ask(&joining, patience).await,
            joined => joined,
        };
        let Answered { answer, revision, .. } = match joined {
            Err((Trouble::LeaseGone, _)) => return Err(Stop::Gone),
            joined => joined?,
        };
        let own = Own { key, created: revision, lease };
        let created_before = |answer: &TxnResponse| {
            let first = answer.responses.first();
            first.and_then(|said| said.range.as_ref()?.kvs.first()).map(|own| own.create_revision)
        };
        let mut place = Place {
            own,
            ticket,
            granted,
            queue,
            kind,
            turn: Turn::Gone,
            revision,
            ahead: None,
            has_waited: false,
            kept: None,
            pulse: None,
        };
        let looked = if answer.succeeded {
            place.ahead = Some(place.read(&answer, revision));
            answer
        } else {
            // An earlier request of ours was carried out, and its answer was lost.
            place.own.created = created_before(&answer).ok_or(Stop::Gone)?;
            place.look(patience).await?
        };
        if let Some(other) = found(&looked).1.and_then(|first| other_limit(kind, first)) {
            // If that fails it is left to whoever tidies up.
            place.ticket.give_up(clock::now() + LEAVE_WITHIN).await;
            return Err(Stop::OtherLimit(other));
        }
        Ok(place)
    }

    fn cluster(&self) -> &Arc<Cluster> {
        &self.ticket.cluster
    }

    pub(super) fn is_ours(&self) -> bool {
        self.turn == Turn::Ours
    }

    /// How many of those who wait come before, and one.
    pub(super) fn position(&self) -> Option<u64> {
        self.ahead.map(|ahead| ahead.saturating_sub(self.kind.limit()) + 1)
    }

    /// Looks at the queue.
    async fn look(&mut self, patience: Patience) -> Result<TxnResponse, Missed> {
        let success = looks(&self.queue, self.kind, Some(self.own.created)).collect();
        let looking = TxnRequest { success, ..TxnRequest::default() };
        let Answered { answer, revision, term, .. } = self.cluster().ask(&looking, patience).await?;
        self.read(&answer, revision);
        self.kept = self.kept.filter(|kept| kept.term == term);
        Ok(answer)
    }

    /// Keeps the lease alive first, so that it is proved if the look finds that it is our turn.
    async fn look_to_take(&mut self, patience: Patience) -> Result<TxnResponse, Missed> {
        self.kept = keep(self.cluster(), self.own.lease, patience).await?;
        self.look(patience).await
    }

    /// Takes in what a look found; says how many are before us if nobody is behind.
    fn read(&mut self, answer: &TxnResponse, revision: i64) -> u64 {
        let (last, first) = found(answer);
        self.turn = last.map_or(Turn::Gone, |last| turn_of(&self.own.key, self.kind, &last.kvs, first));
        self.revision = revision;
        last.map_or(0, |last| last.count.saturating_sub(1).max(0).cast_unsigned())
    }

    pub(super) fn start_pulse(&mut self) {
        let pulse = || Pulse::start(self.ticket.cluster.clone(), self.own.lease, self.granted.time);
        if self.pulse.is_none() {
            self.pulse = Some(pulse());
        }
    }

    /// Waits until it is ours. Leaves the queue before it says `Busy`.
    pub(super) async fn wait_for_turn(mut self, until: Moment) -> Result<Place, Stop> {
        let mut backoff = Backoff::default();
        self.start_pulse();
        while !self.is_ours() {
            self.has_waited = true;
            let (keys, heed_marks) = match &self.turn {
                Turn::Behind { keys, heed_marks } => (keys.clone(), *heed_marks),
                Turn::Ours => break,
                Turn::Gone => return Err(Stop::Gone),
            };
            let begin = clock::now();
            let cluster = self.cluster().clone();
            // A server that is restarted may come back; one that nobody can reach for long will not.
            let may_be_away = cluster.access.connect_timeout.max(cluster.access.connect_retry);
            let patience = || Patience { until, retry: may_be_away, outlasts_drain: false };
            let watching = async {
                let mut watch = Watch::start(&cluster, &keys, self.revision, heed_marks, patience()).await?;
                // However it ends, the queue is looked at again.
                Ok::<_, Missed>(watch.next().await.is_ok())
            };
            let pulse = self.pulse.as_mut();
            let heard = tokio::select! {
                biased;
                heard = watching => Some(heard),
                () = stopped(pulse) => Some(Ok(true)),
                () = tokio::time::sleep(until.since(clock::now())) => None,
            };
            let seen = match heard {
                Some(Ok(something_happened)) => {
                    if something_happened || clock::now().since(begin) > may_be_away {
                        backoff = Backoff::default();
                    } else {
                        tokio::time::sleep(backoff.next(begin.as_nanos())).await;
                    }
                    self.look_to_take(patience()).await
                }
                Some(Err(missed)) => Err(missed),
                None => return self.leave().await,
            };
            match seen {
                // It stopped of a lease that is gone, and with it the key should be.
                Ok(_) if self.pulse.as_ref().is_some_and(Pulse::has_stopped) => {
                    if !matches!(self.turn, Turn::Gone) {
                        tokio::time::sleep(backoff.next(begin.as_nanos())).await;
                        self.pulse = None;
                        self.start_pulse();
                    }
                }
                Ok(_) => {}
                // Somebody was before us when it was looked at last, and there is no news of that.
                Err((trouble, _)) if trouble.passes() && clock::now() + FRESH >= until => {
                    return self.leave().await;
                }
                Err(missed) => return Err(Stop::Missed(missed)),
            }
        }
        Ok(self)
    }

    pub(super) async fn leave(self) -> Result<Place, Stop> {
        drop(self.pulse);
        self.ticket.give_up(clock::now() + LEAVE_WITHIN).await;
        Err(Stop::Busy)
    }

    /// Makes sure of it: the one before us may have gone while our own lease went too. What was granted at
    /// once is believed.
    pub(super) async fn take_up(self, wish: Option<Duration>) -> Result<TakenUp, Stop> {
        let (ticket, Granted { time, asked }) = (self.ticket, self.granted);
        let lease = wish.unwrap_or(time).min(time);
        if !self.has_waited && clock::now().since(asked) < FRESH.min(lease / 10) {
            return Ok(TakenUp { ticket, own: self.own, asked, time, revision: self.revision });
        }
        if let Some(Kept { asked, time, .. }) = self.kept
            && self.kind.limit() == 1
            && clock::now().since(asked) < FRESH.min(lease / 10)
        {
            return Ok(TakenUp { ticket, own: self.own, asked, time, revision: self.revision });
        }
        let mark = (self.has_waited && self.kind.limit() > 1).then(|| about(self.kind.limit(), true).write());
        let until = clock::now() + ticket.cluster.access.connect_timeout;
        match prove(&ticket.cluster, &self.own, mark, until).await {
            Proved::Ours { asked, time, revision } => Ok(TakenUp { ticket, own: self.own, asked, time, revision }),
            Proved::Gone => Err(Stop::Gone),
            Proved::Unknown(missed) => Err(Stop::Missed(missed)),
        }
    }
}

async fn stopped(pulse: Option<&mut Pulse>) {
    match pulse {
        Some(pulse) => pulse.stopped().await,
        None => std::future::pending().await,
    }
}

fn about(limit: u64, holds: bool) -> About {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    About { limit: Some(limit), host, pid: Some(std::process::id()), holds }
}

fn all_of(queue: &Queue) -> RangeRequest {
    let folder = queue.folder();
    RangeRequest { key: folder.to_vec(), range_end: end_of(folder), ..RangeRequest::default() }
}

/// What is asked to know whose turn it is, of those up to `created` or of all: the last two, and for a
/// semaphore the first ones, up to one more than may hold it.
fn looks(queue: &Queue, kind: Kind, created: Option<i64>) -> impl Iterator<Item = RequestOp> {
    let range = |order, limit| {
        RequestOp::range(RangeRequest {
            limit,
            sort_order: order,
            sort_target: BY_CREATE,
            max_create_revision: created.unwrap_or(0),
            ..all_of(queue)
        })
    };
    let holders = i64::try_from(kind.limit()).unwrap_or(i64::MAX).saturating_add(1);
    let first = matches!(kind, Kind::Semaphore { .. }).then(|| range(ASCEND, holders));
    [range(DESCEND, 2)].into_iter().chain(first)
}

/// What `looks` found: the last two, and for a semaphore the first ones.
fn found(answer: &TxnResponse) -> (Option<&RangeResponse>, Option<&[KeyValue]>) {
    let mut ranges = answer.responses.iter().filter_map(|said| said.range.as_ref());
    let last = ranges.next();
    (last, ranges.next().map(|first| first.kvs.as_slice()))
}

/// The limit of a semaphore is that of the eldest in its queue that says one; `None` if it is ours.
fn other_limit(kind: Kind, first: &[KeyValue]) -> Option<u64> {
    let Kind::Semaphore { limit } = kind else { return None };
    let eldest = first.iter().find_map(|one| About::read(&one.value).limit);
    eldest.filter(|eldest| *eldest != limit)
}

/// Whether anybody of these counts slots otherwise: one of them may believe that he is alone.
fn has_other_limit(kind: Kind, before: &[KeyValue]) -> bool {
    before.iter().any(|one| About::read(&one.value).limit.is_some_and(|limit| limit != kind.limit()))
}

/// `last` are the last two, ours being the very last; `first` are the first ones of a semaphore.
fn turn_of(own: &[u8], kind: Kind, last: &[KeyValue], first: Option<&[KeyValue]>) -> Turn {
    if last.first().is_none_or(|ours| ours.key != own) {
        return Turn::Gone;
    }
    let Some(before) = last.get(1) else { return Turn::Ours };
    let behind = |keys: &[KeyValue], heed_marks| Turn::Behind {
        keys: keys.iter().map(|one| one.key.clone()).collect(),
        heed_marks,
    };
    // One slot is handed on as a lock is.
    let Some(first) = first.filter(|_| kind.limit() > 1) else { return behind(std::slice::from_ref(before), false) };
    let limit = usize::try_from(kind.limit()).unwrap_or(usize::MAX);
    match first.iter().position(|one| one.key == own) {
        Some(at) if at < limit && !has_other_limit(kind, &first[..at]) => Turn::Ours,
        Some(at) => behind(&first[..at], false),
        None => behind(std::slice::from_ref(before), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str], limit: u64) -> Vec<KeyValue> {
        let value = about(limit, false).write();
        names
            .iter()
            .map(|name| KeyValue { key: name.as_bytes().to_vec(), value: value.clone(), ..KeyValue::default() })
            .collect()
    }

    fn turn(queue: &[&str], own: &str, limit: u64) -> Turn {
        let until_own: Vec<&str> = queue
            .iter()
            .copied()
            .take(queue.iter().position(|one| *one == own).map_or(queue.len(), |at| at + 1))
            .collect();
        let last: Vec<&str> = until_own.iter().rev().copied().take(2).collect();
        let first: Vec<&str> = until_own.iter().copied().take(usize::try_from(limit).unwrap() + 1).collect();
        let kind = if limit > 1 { Kind::Semaphore { limit } } else { Kind::Lock };
        turn_of(own.as_bytes(), kind, &entries(&last, limit), (limit > 1).then(|| entries(&first, limit)).as_deref())
    }

    fn behind(keys: &[&str], heed_marks: bool) -> Turn {
        Turn::Behind { keys: keys.iter().map(|key| key.as_bytes().to_vec()).collect(), heed_marks }
    }

    #[test]
    fn of_a_lock_everybody_watches_the_one_before() {
        let queue = ["a", "b", "c", "d"];
        assert_eq!(turn(&queue, "a", 1), Turn::Ours);
        assert_eq!(turn(&queue, "b", 1), behind(&["a"], false));
        assert_eq!(turn(&queue, "d", 1), behind(&["c"], false));
        assert_eq!(turn(&queue, "x", 1), Turn::Gone);
        assert_eq!(turn(&[], "x", 1), Turn::Gone);
    }

    #[test]
    fn of_a_semaphore_only_the_first_who_waits_watches_the_holders() {
        let queue = ["a", "b", "c", "d", "e"];
        assert_eq!(turn(&queue, "a", 2), Turn::Ours);
        assert_eq!(turn(&queue, "b", 2), Turn::Ours);
        assert_eq!(turn(&queue, "c", 2), behind(&["a", "b"], false));
        assert_eq!(turn(&queue, "d", 2), behind(&["c"], true));
        assert_eq!(turn(&queue, "e", 2), behind(&["d"], true));
        assert_eq!(turn(&["b", "c"], "c", 2), Turn::Ours);
    }

    #[test]
    fn nobody_takes_his_turn_behind_one_with_another_limit() {
        let first = [entries(&["a"], 1), entries(&["b"], 2)].concat();
        let last = [entries(&["b"], 2), entries(&["a"], 1)].concat();
        assert_eq!(turn_of(b"b", Kind::Semaphore { limit: 2 }, &last, Some(&first)), behind(&["a"], false));
        assert_eq!(turn(&["a", "b"], "b", 2), Turn::Ours);
    }

    #[test]
    fn the_eldest_decides_on_the_limit_and_foreign_values_do_not() {
        let limited = |limit| Kind::Semaphore { limit };
        let (mine, other, single) = (entries(&["b"], 3), entries(&["a"], 2), entries(&["c"], 1));
        assert_eq!(other_limit(limited(3), &[other.clone(), mine.clone()].concat()), Some(2));
        assert_eq!(other_limit(limited(1), &[other.clone(), single.clone()].concat()), Some(2));
        assert_eq!(other_limit(limited(2), &[single, other.clone()].concat()), Some(1));
        assert_eq!(other_limit(limited(3), &[mine.clone(), other.clone()].concat()), None);
        let mut foreign = entries(&["a"], 2);
        foreign[0].value = Vec::new();
        assert_eq!(other_limit(limited(3), &[foreign, mine].concat()), None);
        assert_eq!(other_limit(Kind::Lock, &other), None);
        assert_eq!(other_limit(limited(1), &[]), None);
    }
}
