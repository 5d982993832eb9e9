//! Several leases as one: whatever happens to any of them counts for all.

use std::borrow::{Borrow, BorrowMut};

use super::policy::Lease;
use crate::clock::Moment;
use crate::lease::keeper::{Keeper, LeaseNews};

/// When a command is told to end, when it must be dead, and when somebody else may have a lock.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub term_at: Moment,
    pub dead_at: Moment,
    pub ends_at: Moment,
}

/// As the first of them says.
pub fn soonest<K: Borrow<Keeper>>(keepers: &[K]) -> Times {
    let mut soonest = Times { term_at: Moment::NEVER, dead_at: Moment::NEVER, ends_at: Moment::NEVER };
    for keeper in keepers {
        let (term_at, dead_at, ends_at) = match *keeper.borrow().news.borrow() {
            LeaseNews::Held { term_at, dead_at, ends_at, .. }
            | LeaseNews::InDanger { term_at, dead_at, ends_at, .. } => (term_at, dead_at, ends_at),
            LeaseNews::Lost { dead_at, .. } => (Moment::from_nanos(0), dead_at, dead_at),
        };
        soonest.term_at = soonest.term_at.min(term_at);
        soonest.dead_at = soonest.dead_at.min(dead_at);
        soonest.ends_at = soonest.ends_at.min(ends_at);
    }
    soonest
}

/// Waits until any of the leases has news: until when they are held, and whether one was lost. Both are told,
/// because a loss leaves no more time than its lease did at last.
pub async fn next_news<K: BorrowMut<Keeper>>(keepers: &mut [K]) -> Vec<Lease> {
    // One that will never tell anything again has told of its loss before: see `lease::keeper`.
    let mut changes: Vec<_> = keepers.iter_mut().map(|keeper| Box::pin(changed(keeper.borrow_mut()))).collect();
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
    let Times { term_at, dead_at, .. } = soonest(keepers);
    // Of a lock that is lost the loss itself says more than that its time is over.
    let term_at = if lost.is_some() { dead_at } else { term_at };
    [Lease::Held { term_at, dead_at }].into_iter().chain(lost).collect()
}

async fn changed(keeper: &mut Keeper) {
    if keeper.news.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::backend::{Renewal, Terms};
    use crate::error::Failure;
    use crate::lease::keeper::{KeptLock, LeaseClock};
    use crate::lease::lateness::Lateness;
    use crate::lock::{Grant, Token};

    const LEASE: Duration = Duration::from_secs(30);

    /// Whoever keeps it fails at once.
    struct Failing;

    impl KeptLock for Failing {
        fn terms(&self) -> Terms {
            let asked = Moment::from_nanos(0);
            Terms { asked, lease: LEASE, unheard_limit: None, outlives_connection: false }
        }

        async fn broken(&mut self) -> String {
            panic!("a planted panic")
        }

        async fn renew(&mut self, _lease: Duration, _until: Moment) -> Renewal {
            Renewal::Gone
        }

        async fn restore(&mut self, _lease: Duration, _until: Moment) -> Renewal {
            Renewal::Gone
        }

        async fn give_back(&mut self, _until: Moment) -> Result<(), Failure> {
            Ok(())
        }
    }

    impl LeaseClock for Failing {
        fn now(&self) -> Moment {
            Moment::from_nanos(0)
        }

        async fn wait_until(&mut self, _moment: Moment) {
            std::future::pending().await
        }
    }

    /// A command is ended for it, by a loop that waits and does not spin.
    #[tokio::test]
    async fn a_keeper_that_failed_is_a_lost_lock_and_is_told_once() {
        let token = Token::new("0123").unwrap();
        let grant = Grant { token, fence: None, lease: LEASE, asked: Moment::from_nanos(0), server: String::new() };
        let (keeper, keeping) = Keeper::of(Failing, grant, Duration::ZERO, Failing, Lateness::default());
        assert!(tokio::spawn(keeping).await.is_err(), "it panics");
        let mut keepers = [keeper];
        let news = next_news(&mut keepers).await;
        assert!(matches!(news.last(), Some(Lease::Lost { proved: false, .. })), "{news:?}");
        let mut again = std::pin::pin!(next_news(&mut keepers));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(again.as_mut().poll(&mut context), Poll::Pending));
        assert!(matches!(again.as_mut().poll(&mut context), Poll::Pending), "and it may be asked again");
    }
}
