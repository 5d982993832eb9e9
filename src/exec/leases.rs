//! Several leases as one: whatever happens to any of them counts for all.

use std::borrow::{Borrow, BorrowMut};

use super::policy::Lease;
use crate::clock::Moment;
use crate::lease::keeper::{Keeper, LeaseNews};

/// When the first of them ends: when a command is told, and when it must be dead.
pub(super) fn soonest<K: Borrow<Keeper>>(keepers: &[K]) -> (Moment, Moment) {
    let (mut term, mut dead) = (Moment::NEVER, Moment::NEVER);
    for keeper in keepers {
        let (term_at, dead_at) = match &*keeper.borrow().news.borrow() {
            LeaseNews::Held { term_at, dead_at, .. } | LeaseNews::InDanger { term_at, dead_at, .. } => {
                (*term_at, *dead_at)
            }
            LeaseNews::Lost { dead_at, .. } => (Moment::from_nanos(0), *dead_at),
        };
        term = term.min(term_at);
        dead = dead.min(dead_at);
    }
    (term, dead)
}

/// Waits until any of the leases has news: until when they are held, and whether one was lost. Both are told,
/// because a loss leaves no more time than its lease did at last.
pub(super) async fn next_news<K: BorrowMut<Keeper>>(keepers: &mut [K]) -> Vec<Lease> {
    let mut changes: Vec<_> = keepers.iter_mut().map(|keeper| Box::pin(keeper.borrow_mut().news.changed())).collect();
    std::future::poll_fn(|cx| {
        let ready = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(changes);
    let mut lost = None;
    for keeper in keepers.iter() {
        if let LeaseNews::Lost { proved, why, .. } = &*keeper.borrow().news.borrow()
            && (lost.is_none() || *proved)
        {
            lost = Some(Lease::Lost { proved: *proved, why: why.clone() });
        }
    }
    let (term_at, dead_at) = soonest(keepers);
    // Of a lock that is lost the loss itself says more than that its time is over.
    let term_at = if lost.is_some() { dead_at } else { term_at };
    [Lease::Held { term_at, dead_at }].into_iter().chain(lost).collect()
}
