//! How late we wake while a lock is waited for. It is all that is known of that when the first lease begins.

use std::cell::RefCell;
use std::time::Duration;

use crate::clock;
use crate::lease::lateness::Lateness;
use crate::procfs::Refusals;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For so long it is remembered: about a lease.
const WINDOW: Duration = Duration::from_secs(10);

pub(super) struct Waking {
    refusals: Refusals,
    lateness: RefCell<Lateness>,
}

impl Waking {
    pub(super) fn begin() -> Waking {
        let (refusals, mut lateness) = (Refusals::ours(), Lateness::default());
        lateness.begin(refusals.so_far());
        Waking { refusals, lateness: RefCell::new(lateness) }
    }

    /// Never returns.
    pub(super) async fn measure(&self) {
        loop {
            let due = clock::now() + LOOK_EVERY;
            tokio::time::sleep(LOOK_EVERY).await;
            self.lateness.borrow_mut().woke(clock::now(), due, self.refusals.so_far(), WINDOW);
        }
    }

    pub(super) fn lateness(&self) -> Lateness {
        self.lateness.borrow().clone()
    }
}
