//! Pure: how much time passed while no server ran, as far as it can be proved.
//!
//! A lease runs on the machine's monotonic clock, which begins anew with every boot, and which a time namespace
//! may show as another. So within a boot the wall clock must confirm it, and the lesser counts. Across a boot
//! nothing can be proved: there is only the wall clock, which anybody may have set, and which a machine without a
//! battery guesses. One wrong witness never ends a lease early; at worst leases end later than they would have.

use std::time::Duration;

use crate::clock::Moment;

/// One start of a machine; zero where the system does not say.
pub type Boot = [u8; 16];

/// What the clocks showed when something was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The clock that leases run on.
    pub server: Moment,
    /// Nanoseconds since 1970.
    pub wall: u64,
}

/// What the clocks show.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    pub boot: Boot,
    pub times: Times,
}

/// What the server clock of `boot` would show now, at the least: then it showed `times`.
pub fn at_least(boot: Boot, times: Times, now: Clocks) -> Moment {
    if boot != now.boot || boot == Boot::default() {
        return times.server;
    }
    let by_the_wall = Duration::from_nanos(now.times.wall.saturating_sub(times.wall));
    times.server + now.times.server.since(times.server).min(by_the_wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Boot = [1; 16];
    const B: Boot = [2; 16];
    const THEN: Times = Times { server: Moment::from_nanos(5_000), wall: 1_000_000 };

    fn passed(boot: Boot, server: u64, wall: u64) -> u64 {
        let times = Times { server: Moment::from_nanos(server), wall };
        at_least(A, THEN, Clocks { boot, times }).as_nanos() - 5_000
    }

    #[test]
    fn within_a_boot_the_lesser_witness_counts() {
        assert_eq!(passed(A, 5_300, 1_000_300), 300);
        assert_eq!(passed(A, 5_000, 1_000_000), 0);
        // A time namespace whose clock is ahead, and a wall clock that was set forward.
        assert_eq!(passed(A, 9_000_000, 1_000_300), 300);
        assert_eq!(passed(A, 5_300, u64::MAX), 300);
        // Either of them behind its last record.
        assert_eq!(passed(A, 4_999, 1_000_300), 0);
        assert_eq!(passed(A, 5_300, 5), 0);
    }

    #[test]
    fn across_a_boot_nothing_is_proved() {
        assert_eq!(passed(B, 200, 1_000_700), 0);
        assert_eq!(passed(B, 9_000_000, u64::MAX), 0);
    }

    #[test]
    fn an_unknown_boot_is_never_the_same() {
        let times = Times { server: Moment::from_nanos(9_000), wall: 1_000_050 };
        let now = Clocks { boot: Boot::default(), times };
        assert_eq!(at_least(Boot::default(), THEN, now).as_nanos(), 5_000);
    }
}
