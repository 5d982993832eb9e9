//! Who has a busy lock, for those who want to know.

use std::time::Duration;

use tokio::time::timeout;

use super::manner::Manner;
use crate::backend::{Backend, LockRow, SemaphoreRow, Status};
use crate::error::{Failure, Kind};
use crate::lock::Key;
use crate::output;
use crate::settings::duration;

/// How long finding out may take.
const WITHIN: Duration = Duration::from_secs(1);

/// Adds to a failure what the server says of the lock, if a person reads it or it was asked for.
pub(crate) async fn who_has_it(backend: &Backend, key: &Key, mut failure: Failure, manner: Manner) -> Failure {
    let is_wanted = manner.verbose || (output::is_person_there() && !manner.quiet && !manner.json);
    if failure.kind != Kind::Busy || !is_wanted {
        return failure;
    }
    if let Ok(Ok(status)) = timeout(WITHIN, backend.status(key)).await {
        failure.hint = in_words(&status).or(failure.hint);
    }
    failure
}

pub(crate) fn lease_left(row: &LockRow) -> String {
    duration::in_words(duration::seconds(row.lease_expires_in_s))
}

/// What the server says of a lock that is held.
pub(crate) fn in_words(status: &Status) -> Option<String> {
    let lock = status.lock.as_ref().filter(|row| row.is_held()).map(|row| {
        let (holder, left, waiters) = (row.holder(), lease_left(row), row.waiters);
        format!("{holder} has it, {left} of its lease are left, {waiters} wait")
    });
    let slots = |row: &SemaphoreRow| {
        let (holders, limit, waiters) = (row.holders, row.limit, row.waiters);
        format!("{holders} of {limit} slots are held, {waiters} wait")
    };
    lock.or_else(|| status.semaphore.as_ref().map(slots))
}
