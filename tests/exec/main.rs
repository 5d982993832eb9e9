//! `dflock exec` as its users meet it: real commands, real signals, real servers.

#[path = "../house/mod.rs"]
mod house;
#[allow(unreachable_pub, reason = "shared with another test program")]
#[path = "../sim/random.rs"]
mod random;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

mod answers;
mod codes;
mod confined;
mod contain;
mod contain_cgroup;
mod contain_chased;
mod contain_pidns;
mod guardian;
mod guardian_born;
mod guardian_deaf;
mod hidden;
mod kept;
mod loss;
mod manners;
mod min_hold;
mod pty;
mod pty_jobs;
mod reapers;
mod rules;
mod starved;
mod stuck;
mod suid;
mod swept;
mod terminal;
mod times;
mod trials;
mod trials_checker;
mod trials_faults;
mod trials_figures;
mod trials_fleet;
mod unanswered;

/// Tests begin in the order of their names, and this one takes longest.
#[test]
fn a_fleet_meets_faults() {
    trials::trials();
}

static LOAD: RwLock<()> = RwLock::new(());

/// For tests that a starved machine would fail, together: a margin of half a second is for clocks, not for a processor
/// that others have.
fn quiet() -> RwLockReadGuard<'static, ()> {
    house::watchdog::in_turn(|| LOAD.read().unwrap_or_else(PoisonError::into_inner))
}

/// For the trials, and for whoever else loads the machine to its limit: none of those is beside them.
fn loud() -> RwLockWriteGuard<'static, ()> {
    house::watchdog::in_turn(|| LOAD.write().unwrap_or_else(PoisonError::into_inner))
}
