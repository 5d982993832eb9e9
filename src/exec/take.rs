//! Takes all the locks of a command, or none.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Job;
use super::after::give_back;
use super::guard::{Guard, HeldLock, Line};
use super::leases::next_news;
use super::policy::Lease;
use super::signals::Signals;
use super::waking::Waking;
use crate::backend::{Ask, Backend, Hold, Wait};
use crate::clock;
use crate::error::{Failure, Kind};
use crate::lease::keeper::{Keeper, RELEASE_WITHIN, make_resumable};

pub(super) enum Taken {
    /// In the order they were asked for.
    All(Vec<Kept>),
    Interrupted(Signal),
}

/// A lock that is kept, and the connection it depends on.
pub(super) struct Kept {
    pub(super) keeper: Keeper,
    pub(super) line: Line,
}

/// All or nothing, in one sorted order under one deadline, so that two who want the same keys never wait for
/// each other for ever. What is taken is kept from that moment on: waiting for the next may take longer than
/// its lease. A signal ends the waiting, but nothing that is under way with a lock that was granted.
pub(super) async fn take_all(
    job: &Job,
    backend: &Backend,
    guard: &mut Guard,
    signals: &mut Signals,
    waking: &Waking,
) -> Result<Taken, Failure> {
    let begin = clock::now();
    let mut order: Vec<usize> = (0..job.asks.len()).collect();
    order.sort_by(|a, b| job.asks[*a].key.cmp(&job.asks[*b].key));
    let mut taken: Vec<(usize, Kept)> = Vec::new();
    for at in order {
        let mut ask = job.asks[at].clone();
        if let Wait::For(whole) = ask.wait {
            ask.wait = Wait::For(whole.saturating_sub(clock::now().since(begin)));
        }
        let acquired = tokio::select! {
            biased;
            // The connection closes with us, and that is how a queue is left.
            signal = signals.end_of_wait() => {
                roll_back(taken).await;
                return Ok(Taken::Interrupted(signal));
            }
            failure = lost_while_waiting(&mut taken) => Err(failure),
            acquired = backend.acquire(&ask) => acquired,
        };
        let kept = match acquired {
            Ok(hold) => keep(&ask, hold, guard, job.rules.kill_after, waking).await,
            Err(failure) => Err((failure, None)),
        };
        match kept {
            Ok(kept) => taken.push((at, kept)),
            Err((failure, hold)) => {
                if let Some(mut hold) = hold {
                    let _ = hold.give_back(clock::now() + RELEASE_WITHIN).await;
                }
                roll_back(taken).await;
                return Err(failure);
            }
        }
    }
    taken.sort_by_key(|(at, _)| *at);
    Ok(Taken::All(taken.into_iter().map(|(_, kept)| kept).collect()))
}

/// Before a command may start the guardian knows of the lock, and the server keeps it if the connection breaks.
async fn keep(
    ask: &Ask,
    mut hold: Hold,
    guard: &mut Guard,
    grace: Duration,
    waking: &Waking,
) -> Result<Kept, (Failure, Option<Hold>)> {
    let lock = HeldLock::of(ask, hold.grant());
    let mut line: Line = hold.lifeline().map(Arc::new);
    if let Err(why) = guard.lock(lock, line.clone()) {
        return Err((Failure::internal("tell the guardian", &why), Some(hold)));
    }
    let asked = hold.terms().asked;
    if let Err(failure) = make_resumable(&mut hold, &ask.key).await {
        return Err((failure, Some(hold)));
    }
    if hold.terms().asked != asked {
        // That took another connection.
        line = hold.lifeline().map(Arc::new);
        guard.reconnected(&hold.grant().token, line.clone());
    }
    Ok(Kept { keeper: Keeper::start(hold, grace, waking.lateness()), line })
}

/// Returns when a lock that was taken is lost before all are.
async fn lost_while_waiting(taken: &mut [(usize, Kept)]) -> Failure {
    let mut keepers: Vec<&mut Keeper> = taken.iter_mut().map(|(_, kept)| &mut kept.keeper).collect();
    loop {
        if let Some(Lease::Lost { why, .. }) = next_news(&mut keepers).await.pop() {
            let message = format!("a lock was lost while others were waited for: {why}");
            return Failure::new(Kind::Unreachable, message).hint("nothing was started: try again");
        }
    }
}

async fn roll_back(taken: Vec<(usize, Kept)>) {
    give_back(taken.into_iter().map(|(_, kept)| kept.keeper).collect(), None, &|_| ()).await;
}
