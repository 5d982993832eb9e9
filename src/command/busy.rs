//! Who has a busy lock, for those who want to know.

use std::time::Duration;

use tokio::time::timeout;

use super::manner::Manner;
use crate::backend::Backend;
use crate::error::{Failure, Kind};
use crate::lock::Key;
use crate::output;

/// How long finding out may take.
const WITHIN: Duration = Duration::from_secs(1);

/// Adds to a failure what the server says of the lock, if a person reads it or it was asked for.
pub(crate) async fn who_has_it(backend: &Backend, key: &Key, mut failure: Failure, manner: Manner) -> Failure {
    let is_wanted = manner.verbose || (output::is_person_there() && !manner.quiet && !manner.json);
    if failure.kind != Kind::Busy || !is_wanted {
        return failure;
    }
    if let Ok(Ok(status)) = timeout(WITHIN, backend.status(key)).await {
        let lock = status.lock.map(|row| {
            let (holder, left, waiters) = (row.holder(), row.lease_expires_in_s, row.waiters);
            format!("{holder} has it, {left:.0}s of its lease are left, {waiters} wait")
        });
        let semaphore = status
            .semaphore
            .map(|row| format!("{} of {} slots are held, {} wait", row.holders, row.limit, row.waiters));
        failure.hint = lock.or(semaphore).or(failure.hint);
    }
    failure
}
