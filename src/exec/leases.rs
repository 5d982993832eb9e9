//! Several leases as one: whatever happens to any of them counts for all.

use std::borrow::{Borrow, BorrowMut};

use super::policy::Lease;
use crate::clock::Moment;
use crate::lease::keeper::{Keeper, News};

/// When the first of them ends: when a command is told, and when it must be dead.
pub(super) fn soonest<K: Borrow<Keeper>>(keepers: &[K]) -> (Moment, Moment) {
    let (mut term, mut dead) = (Moment::NEVER, Moment::NEVER);
    for keeper in keepers {
        match &*keeper.borrow().news.borrow() {
            News::Held { term_at, dead_at, .. } | News::InDanger { term_at, dead_at, .. } => {
                term = term.min(*term_at);
                dead = dead.min(*dead_at);
            }
            News::Lost { .. } => (term, dead) = (Moment::from_nanos(0), Moment::from_nanos(0)),
        }
    }
    (term, dead)
}

/// Waits until any of the leases has news.
pub(super) async fn next_news<K: BorrowMut<Keeper>>(keepers: &mut [K]) -> Lease {
    let mut changes: Vec<_> = keepers.iter_mut().map(|keeper| Box::pin(keeper.borrow_mut().news.changed())).collect();
    std::future::poll_fn(|cx| {
        let ready = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(changes);
    let mut lost = None;
    for keeper in keepers.iter() {
        if let News::Lost { proved, why } = &*keeper.borrow().news.borrow()
            && (lost.is_none() || *proved)
        {
            lost = Some(Lease::Lost { proved: *proved, why: why.clone() });
        }
    }
    if let Some(lost) = lost {
        return lost;
    }
    let (term_at, dead_at) = soonest(keepers);
    Lease::Held { term_at, dead_at }
}
