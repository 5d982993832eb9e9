//! Pure: how much time passed while no server ran, as far as it can be proved.
//!
//! A lease runs on the machine's monotonic clock, which begins anew with every boot. Across a boot, two
//! witnesses are heard: the wall clock, which somebody may have set, and the age of the new boot, which
//! proves nothing if the journal came from another machine. The lesser counts, so that one wrong witness
//! never ends a lease early; at worst leases end later than they would have.

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
    /// The age of this boot, with the time that the machine slept.
    pub since_boot: Duration,
}

/// What the server clock of `boot` would show now, at the least: then it showed `times`.
pub fn at_least(boot: Boot, times: Times, now: Clocks) -> Moment {
    let same_boot = boot == now.boot && boot != Boot::default();
    if same_boot && now.times.server >= times.server {
        return now.times.server;
    }
    let by_the_wall = Duration::from_nanos(now.times.wall.saturating_sub(times.wall));
    times.server + by_the_wall.min(now.since_boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Boot = [1; 16];
    const B: Boot = [2; 16];
    const THEN: Times = Times { server: Moment::from_nanos(5_000), wall: 1_000_000 };

    fn passed(boot: Boot, server: u64, wall: u64, since_boot: u64) -> u64 {
        let times = Times { server: Moment::from_nanos(server), wall };
        let now = Clocks { boot, times, since_boot: Duration::from_nanos(since_boot) };
        at_least(A, THEN, now).as_nanos() - 5_000
    }

    #[test]
    fn within_a_boot_the_clock_itself_says() {
        assert_eq!(passed(A, 5_300, 1_000_300, 9_000), 300);
        // Whatever the wall clock says.
        assert_eq!(passed(A, 5_300, 0, 9_000), 300);
        assert_eq!(passed(A, 5_300, u64::MAX, 9_000), 300);
        assert_eq!(passed(A, 5_000, 1_000_000, 9_000), 0);
    }

    #[test]
    fn across_a_boot_the_lesser_witness_counts() {
        assert_eq!(passed(B, 200, 1_000_700, 250), 250);
        assert_eq!(passed(B, 9_000_000, 1_000_700, 9_000_000), 700);
    }

    #[test]
    fn a_wall_clock_that_went_back_proves_nothing() {
        assert_eq!(passed(B, 200, 999_999, 250), 0);
        assert_eq!(passed(B, 200, 0, 250), 0);
        assert_eq!(passed(B, 200, 1_000_000, 250), 0);
    }

    #[test]
    fn a_wall_clock_that_is_far_ahead_cannot_end_a_lease_early() {
        assert_eq!(passed(B, 200, u64::MAX, 250), 250);
    }

    #[test]
    fn a_clock_behind_its_last_record_is_another_clock() {
        assert_eq!(passed(A, 4_999, 1_000_100, 9_000), 100);
        assert_eq!(passed(A, 4_999, 1_000_100, 30), 30);
        assert_eq!(passed(A, 4_999, 5, 9_000), 0);
    }

    #[test]
    fn an_unknown_boot_is_never_the_same() {
        let times = Times { server: Moment::from_nanos(9_000), wall: 1_000_050 };
        let now = Clocks { boot: Boot::default(), times, since_boot: Duration::from_nanos(9_000) };
        assert_eq!(at_least(Boot::default(), THEN, now).as_nanos(), 5_050);
    }
}
