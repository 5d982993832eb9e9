//! Takes all the locks of a command, or none.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::guard::{Guard, Left};
use super::signals::Signals;
use crate::backend::{Ask, Backend, Hold, Renewal, Wait};
use crate::clock;
use crate::error::{Failure, Kind};
use crate::lease::keeper::RELEASE_WITHIN;

/// How long the server may take to agree on keeping a lock when the connection breaks.
const SECURE_WITHIN: Duration = Duration::from_secs(2);

pub(super) enum Taken {
    /// In the order they were asked for, with what a guardian has to know of them.
    All(Vec<Hold>, Vec<(Left, Option<OwnedFd>)>),
    Interrupted(Signal),
}

/// All or nothing, in one sorted order under one deadline, so that two who want the same keys never wait for
/// each other for ever. A signal ends the waiting, but nothing that is under way with a lock that was granted.
pub(super) async fn take_all(
    asks: &[Ask],
    backend: &Backend,
    guard: &Guard,
    signals: &mut Signals,
) -> Result<Taken, Failure> {
    let begin = clock::now();
    let mut order: Vec<usize> = (0..asks.len()).collect();
    order.sort_by(|a, b| asks[*a].key.cmp(&asks[*b].key));
    let mut taken: Vec<Option<Protected>> = asks.iter().map(|_| None).collect();
    for at in order {
        let mut ask = asks[at].clone();
        if let Wait::For(whole) = ask.wait {
            ask.wait = Wait::For(whole.saturating_sub(clock::now().since(begin)));
        }
        let acquired = tokio::select! {
            acquired = backend.acquire(&ask) => acquired,
            // The connection closes with us, and that is how a queue is left.
            signal = signals.end_of_wait() => {
                roll_back(taken).await;
                return Ok(Taken::Interrupted(signal));
            }
        };
        let outcome = match acquired {
            Ok(hold) => protect(&ask, hold, guard).await,
            Err(failure) => Err((failure, None)),
        };
        match outcome {
            Ok(protected) => taken[at] = Some(protected),
            Err((failure, hold)) => {
                if let Some(mut hold) = hold {
                    let _ = hold.give_back(clock::now() + RELEASE_WITHIN).await;
                }
                roll_back(taken).await;
                return Err(failure);
            }
        }
    }
    let (holds, left) = taken.into_iter().flatten().unzip();
    Ok(Taken::All(holds, left))
}

type Protected = (Hold, (Left, Option<OwnedFd>));

/// Before a command may start the guardian knows of the lock, and the server keeps it if the connection breaks.
async fn protect(ask: &Ask, mut hold: Hold, guard: &Guard) -> Result<Protected, (Failure, Option<Hold>)> {
    let left = Left { key: ask.key.clone(), space: ask.kind.space(), token: hold.grant().token.clone() };
    let lifeline = hold.lifeline();
    if let Err(why) = guard.lock(left.clone(), lifeline.as_ref()) {
        return Err((Failure::internal("tell the guardian", &why), Some(hold)));
    }
    if let Renewal::Unknown(why) = hold.secure(clock::now() + SECURE_WITHIN).await {
        let failure = Failure::new(Kind::Unreachable, format!("cannot keep {}: {why}", ask.key));
        return Err((failure.hint("the server went away just now: try again"), Some(hold)));
    }
    Ok((hold, (left, lifeline)))
}

async fn roll_back(taken: Vec<Option<Protected>>) {
    for (mut hold, _) in taken.into_iter().flatten() {
        let _ = hold.give_back(clock::now() + RELEASE_WITHIN).await;
    }
}
