//! What becomes of the locks when the command has ended.

use super::guard::{Guard, HeldLock};
use super::signals::Signals;
use super::{Job, Say, User};
use crate::clock;
use crate::error::{Failure, Kind};
use crate::lease::keeper::{Keeper, LeaseNews};
use crate::lease::timer::BoottimeTimer;

/// Gives everything back, and sends the guardian away. Bounded; a failure is told. Returns why a lock was gone in the
/// middle of a lease that we believed in: then others may have had it beside us.
pub(super) async fn give_back(keepers: Vec<Keeper>, mut guard: Option<Guard>, say: Say<'_>) -> Option<Failure> {
    let mut releasing = tokio::task::JoinSet::new();
    for keeper in keepers {
        let ends_at = match *keeper.news.borrow() {
            LeaseNews::Held { ends_at, .. } | LeaseNews::InDanger { ends_at, .. } => Some(ends_at),
            LeaseNews::Lost { .. } => None,
        };
        releasing.spawn(async move {
            let released = keeper.release().await;
            let was_believed = ends_at.is_some_and(|end| clock::now() < end);
            (released, was_believed)
        });
    }
    // The guardian ends while the server answers: by now there is nobody left to kill.
    tokio::task::yield_now().await;
    if let Some(guard) = &mut guard {
        guard.say_farewell();
    }
    let mut gone = None;
    while let Some(released) = releasing.join_next().await {
        match released {
            Ok((Err(failure), true)) if failure.kind == Kind::Lost => gone = Some(failure),
            Ok((Err(failure), _)) => say(&format!("the lock may not have been given back: {}", failure.message)),
            Ok((Ok(()), _)) | Err(_) => {}
        }
    }
    if let Some(guard) = guard {
        guard.see_off();
    }
    gone
}

/// Keeps the locks for as long as --min-hold says: by holders, so that we can leave, or by staying where no
/// holder can have them. Returns those that are to be given back now.
pub(super) async fn hold_on(
    keepers: Vec<Keeper>,
    job: &Job,
    guard: &mut Guard,
    user: &dyn User,
    signals: &mut Signals,
) -> Vec<Keeper> {
    if job.min_hold.is_zero() {
        return keepers;
    }
    let until = keepers.iter().map(|keeper| keeper.grant.asked).max().unwrap_or(clock::now()) + job.min_hold;
    let mut ours = Vec::new();
    for (keeper, ask) in keepers.into_iter().zip(&job.asks) {
        let left = until.since(clock::now());
        if left.is_zero() || !keeper.can_move {
            ours.push(keeper);
            continue;
        }
        let lock = HeldLock::of(ask, &keeper.grant);
        // The guardian hears of it first. Should we be killed right here, the lock is nobody's to let go of: it
        // ends with its lease, or is the holder's.
        let known = guard.handed_over(lock.clone());
        if known.is_ok() && user.hand_over(ask, &keeper.grant, left).await.is_ok() {
            keeper.leave().await;
        } else {
            // Kept by ourselves. If the guardian cannot be told, it will not let go of it, which is as safe.
            let _ = guard.lock(lock, None);
            ours.push(keeper);
        }
    }
    if !ours.is_empty() {
        let mut timer = BoottimeTimer::new();
        tokio::select! {
            () = timer.wait_until(until) => {}
            // Whoever tells us to end now means the waiting.
            _ = signals.end_of_wait() => {}
            () = all_lost(&mut ours) => {}
        }
    }
    ours
}

/// Returns when there is nothing left to keep.
async fn all_lost(keepers: &mut [Keeper]) {
    for keeper in keepers {
        while !matches!(*keeper.news.borrow_and_update(), LeaseNews::Lost { .. }) {
            if keeper.news.changed().await.is_err() {
                break;
            }
        }
    }
}
