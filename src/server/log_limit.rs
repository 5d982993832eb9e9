//! Whoever is not let in cannot fill the log: a line a second of each kind, with a count.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Event, Report};
use crate::clock::{self, Moment};

const LOG_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(super) struct LogLimit(Arc<Mutex<Unsaid>>);

#[derive(Default)]
struct Unsaid {
    count: u64,
    said_at: Option<Moment>,
}

impl LogLimit {
    /// Says so at once, or after a while together with what happens until then. `event` is handed the count.
    pub(super) fn tell(&self, report: &Report, event: impl FnOnce(u64) -> Event + Send + 'static) {
        let now = clock::server_now();
        let wait = {
            let mut unsaid = self.lock();
            unsaid.count += 1;
            match unsaid.said_at {
                Some(said_at) if now.since(said_at) < LOG_EVERY && unsaid.count > 1 => return,
                Some(said_at) => (said_at + LOG_EVERY).since(now),
                None => Duration::ZERO,
            }
        };
        if wait.is_zero() {
            return self.say(report, event);
        }
        let (limit, report) = (self.clone(), report.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            limit.say(&report, event);
        });
    }

    fn say(&self, report: &Report, event: impl FnOnce(u64) -> Event) {
        let count = {
            let mut unsaid = self.lock();
            unsaid.said_at = Some(clock::server_now());
            std::mem::take(&mut unsaid.count)
        };
        if count > 0 {
            report(event(count));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Unsaid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
