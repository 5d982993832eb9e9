//! Time: one clock that runs through suspend, one that does not, and moments that tests wind by hand.

use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// A moment on a clock, in nanoseconds. Moments of different clocks are not comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Later than every moment that a clock shows.
    pub const NEVER: Moment = Moment(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing when it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Ends at [`Moment::NEVER`], so that a wait of centuries cannot wrap into the past.
    fn add(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_sub(nanos))
    }
}

/// Now, on the clock that a lease is counted on by its holder: it runs while the machine sleeps.
pub fn now() -> Moment {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    // On macOS this clock runs through sleep; elsewhere it is the best there is.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    read(CLOCK)
}

/// Now, on the clock that a server counts leases on: it stands still while the machine sleeps,
/// so that a lease given here never ends before its holder, who counts the sleep too, believes it does.
pub fn server_now() -> Moment {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970 by the wall clock, for log lines and the first fence. Never for a lease.
pub fn wall_nanos() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Moment {
    let time = clock_gettime(clock).unwrap_or_else(|why| panic!("the system clock cannot be read: {why}"));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_centuries_ends_at_never() {
        assert_eq!(now() + Duration::MAX, Moment::NEVER);
        assert_eq!(Moment::from_nanos(5) - Duration::MAX, Moment::from_nanos(0));
    }

    #[test]
    fn since_is_nothing_for_a_moment_to_come() {
        let moment = now();
        assert_eq!(moment.since(moment + Duration::from_secs(1)), Duration::ZERO);
    }
}
