//! Tells a person at a terminal what is waited for, and for how long already.

use std::time::Duration;

use tokio::time::timeout;

use super::{Job, User};
use crate::backend::Backend;
use crate::clock;

/// How often the line is renewed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often the server is asked who has the lock: once in so many lines.
const LOOK_EVERY: u32 = 10;

/// How long it may take to say so.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Never returns. Whoever has the lock is looked up on a connection of its own.
pub(super) async fn tell(user: &dyn User, backend: &Backend, job: &Job) {
    if !user.is_watching() {
        return std::future::pending().await;
    }
    let begin = clock::now();
    let key = &job.asks[0].key;
    let mut known = None;
    for line in 0.. {
        tokio::time::sleep(TELL_EVERY).await;
        if line % LOOK_EVERY == 0 {
            // If the server does not say, the line goes without it.
            known = timeout(LOOK_WITHIN, backend.status(key)).await.ok().and_then(Result::ok);
        }
        user.waiting(clock::now().since(begin), known.as_ref());
    }
}
