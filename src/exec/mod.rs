//! A child process under a lease. The story: guardian, locks, command, watch, stop, sweep, release.
//!
//! `policy` and `lease::plan` decide; the loop in `running` feeds the policy what happens and carries out what
//! it says. The guardian (`guard`) does the one thing that dflock cannot do for itself: end the group when
//! dflock is dead or frozen.

mod after;
pub mod contain;
mod group;
pub mod guard;
mod hunt;
mod key_listener;
mod kin;
pub mod leases;
mod lineage;
mod namespace;
mod not_found;
mod orphans;
pub mod policy;
mod reach;
mod running;
mod signals;
pub mod status;
mod take;
mod terminal;
mod waiting;
mod waking;

use std::ffi::OsString;
use std::pin::Pin;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{self, Ask, Backend};
use crate::clock;
use crate::error::Failure;
use crate::lease::keeper::{Keeper, RELEASE_WITHIN};
use crate::lock::Grant;
use contain::Containment;
use guard::Guard;
use leases::{Times, soonest};
use policy::Rules;
use running::Run;
use signals::Signals;
use status::Status;
use take::{Kept, Taken, take_all};
use waking::Waking;

/// The shortest lease that leaves time to stop a command.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Descriptors that are kept free until the command runs.
const SPARE: usize = 6;

pub struct Job {
    /// The key of the command line first, then those of --also; all are taken in one sorted order.
    pub asks: Vec<Ask>,
    pub program: Vec<OsString>,
    pub rules: Rules,
    /// Variables for the child besides those of the lock.
    pub held: OsString,
    /// Variables that the command does not inherit.
    pub secrets: &'static [&'static str],
    /// Before anything is asked for.
    pub first_pause: Duration,
    /// The locks are kept for so long at least, even if the command ends before.
    pub min_hold: Duration,
}

/// How it went: a status, or a signal that ended us while we waited.
pub enum Outcome {
    Ran(Status),
    Interrupted(Signal),
}

/// Whoever started us, and may be watching.
pub trait User {
    fn say(&self, text: &str);
    /// Whether anybody reads [`User::waiting`].
    fn is_watching(&self) -> bool;
    /// We still wait for the lock, and have for so long; the server says so much of it.
    fn waiting(&self, time: Duration, known: Option<&backend::Status>);
    /// We do not wait any more.
    fn waited(&self);
    /// All locks are taken, after so long; this is the first.
    fn took(&self, time: Duration, first: &Grant);
    /// The command has ended, after so long.
    fn ended(&self, time: Duration);
    /// Has somebody else keep a lock for so long, when we have ended.
    fn hand_over<'a>(&'a self, ask: &'a Ask, grant: &'a Grant, time: Duration) -> Handing<'a>;
}

/// Handing a lock over, beside which the other locks are renewed.
pub type Handing<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

type Say<'a> = &'a dyn Fn(&str);

/// Takes the locks, runs the command, gives the locks back. The guardian was forked before, and what holds the command
/// together was made.
pub async fn run(
    job: Job,
    backend: &Backend,
    mut guard: Guard,
    containment: Containment,
    user: &dyn User,
) -> Result<Outcome, Failure> {
    // What it takes to end a command must be there when it is needed.
    let spare: Result<Vec<_>, _> = (0..SPARE).map(|_| std::fs::File::open("/dev/null")).collect();
    let spare = spare.map_err(|why| Failure::internal("open enough files", &why))?;
    let mut signals = Signals::listen().map_err(|why| Failure::internal("listen for signals", &why))?;
    if !job.first_pause.is_zero() {
        tokio::select! {
            signal = signals.end_of_wait() => {
                guard.farewell();
                return Ok(Outcome::Interrupted(signal));
            }
            () = tokio::time::sleep(job.first_pause) => {}
        }
    }
    let asked = clock::now();
    let waking = Waking::begin();
    let taken = tokio::select! {
        taken = take_all(&job, backend, &mut guard, &mut signals, &waking) => taken,
        () = waking.measure() => Err(Failure::internal("wait", &"the clock stopped")),
        () = waiting::tell(user, backend, &job) => Err(Failure::internal("wait", &"the clock stopped")),
    };
    user.waited();
    if !matches!(taken, Ok(Taken::All(..))) {
        // Where a queue is not left with a connection.
        backend.tidy(clock::now() + RELEASE_WITHIN).await;
    }
    let taken = match taken {
        Ok(Taken::All(taken)) => taken,
        Ok(Taken::Interrupted(signal)) => {
            guard.farewell();
            return Ok(Outcome::Interrupted(signal));
        }
        Err(failure) => {
            guard.farewell();
            return Err(failure);
        }
    };
    if let Some(outcome) = wait_for_guardian(&mut guard, &taken, &mut signals).await {
        let keepers = taken.into_iter().map(|kept| kept.keeper).collect();
        after::give_back(keepers, Some(guard), &|_| ()).await;
        return outcome;
    }
    let began = clock::now();
    if let Some(first) = taken.first() {
        user.took(began.since(asked), &first.keeper.grant);
    }
    let mut run = match Run::start(&job, taken, guard, &containment, &mut signals).await {
        Ok(run) => run,
        Err((failure, guard, keepers)) => {
            after::give_back(keepers, Some(guard), &|_| ()).await;
            return Err(failure);
        }
    };
    drop(spare);
    let say: Say<'_> = &|text| user.say(text);
    let status = run.watch(&mut signals, say).await;
    user.ended(clock::now().since(began));
    let Run { keepers, mut guard, terminal, group, .. } = run;
    // Nobody is left whom it could end; and whom the command left behind on purpose is left alone.
    if guard.command_ended().is_err() {
        say(
            "the guardian is gone and cannot be replaced; if dflock is killed now, the lock stays until its lease ends",
        );
    }
    drop((containment, group));
    if let Some(terminal) = &terminal {
        terminal.take_back();
    }
    if status == Status::Lost {
        // Nothing is held; a server that still keeps the lock for us is told not to.
        after::give_back(keepers, Some(guard), &|_| ()).await;
        return Ok(Outcome::Ran(status));
    }
    let keepers = after::hold_on(keepers, &job, &mut guard, user, &mut signals).await;
    let Some(gone) = after::give_back(keepers, Some(guard), say).await else { return Ok(Outcome::Ran(status)) };
    // What was kept for longer may have gone when the command had ended.
    if !job.min_hold.is_zero() {
        say(&format!("the lock was gone before its time: {}", gone.message));
        return Ok(Outcome::Ran(status));
    }
    say(&format!("the lock was lost while the command ran: {}", gone.message));
    let is_told_only = job.rules.warn_on_lost || status == Status::RuntimeOver;
    Ok(Outcome::Ran(if is_told_only { status } else { Status::Lost }))
}

/// No command begins without a guardian that has answered; the locks are renewed while it is waited for. Returns how it
/// went if none can begin.
async fn wait_for_guardian(
    guard: &mut Guard,
    taken: &[Kept],
    signals: &mut Signals,
) -> Option<Result<Outcome, Failure>> {
    let keepers: Vec<&Keeper> = taken.iter().map(|kept| &kept.keeper).collect();
    let Times { term_at, ends_at, .. } = soonest(&keepers);
    guard.held_until(ends_at);
    if clock::now() >= term_at {
        // That is told where the command would begin.
        return None;
    }
    tokio::select! {
        biased;
        answered = guard.answered(term_at) => answered.err().map(|why| Err(Failure::internal("start the guardian", &why))),
        signal = signals.end_of_wait() => Some(Ok(Outcome::Interrupted(signal))),
    }
}
