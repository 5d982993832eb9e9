//! The deciding machines under seeded random schedules, against naive models of what they should do.
//!
//! `DFLOCK_HISTORIES=N` plays N histories instead of a few thousand; `DFLOCK_SEED=S` plays the one of seed S
//! and prints it.

#![allow(unreachable_pub, reason = "a test program has no outside")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failing seed tells its story")]

#[path = "../house/mod.rs"]
mod house;

mod model;
mod plants;
mod random;
mod simulator;
mod table;
mod world;

use std::time::Duration;

/// How many histories to play, from which seed on, and whether to tell the story.
struct Plan {
    seeds: std::ops::Range<u64>,
    tell: bool,
}

impl Plan {
    fn from_environment(histories: u64) -> Plan {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        if let Some(seed) = number("DFLOCK_SEED") {
            return Plan { seeds: seed..seed + 1, tell: true };
        }
        let histories = number("DFLOCK_HISTORIES").unwrap_or(histories);
        house::watchdog::may_take(Duration::from_secs(120 + histories / 10));
        Plan { seeds: 0..histories, tell: false }
    }
}
