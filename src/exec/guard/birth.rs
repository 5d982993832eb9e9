//! Pure: when another guardian is started, and how long it may take to answer.

use std::time::Duration;

use crate::clock::Moment;

/// From one start to the next at least: one that cannot live must not keep us busy.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the first one may take. If that was too short, the next one has more.
const BORN_WITHIN: Duration = Duration::from_secs(2);
const BORN_WITHIN_AT_MOST: Duration = Duration::from_secs(10);

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One start after the other.
#[derive(Debug)]
pub(super) struct Births {
    next_at: Moment,
    patience: Duration,
}

/// One that has not answered yet.
#[derive(Debug)]
pub(super) struct Birth {
    look_at: Moment,
    over_at: Moment,
}

impl Default for Births {
    fn default() -> Births {
        Births { next_at: Moment::from_nanos(0), patience: BORN_WITHIN }
    }
}

impl Births {
    pub(super) fn next_at(&self) -> Moment {
        self.next_at
    }

    pub(super) fn begin(&mut self, now: Moment) -> Birth {
        self.next_at = now + PAUSE;
        let over_at = now + self.patience;
        self.patience = (self.patience * 2).min(BORN_WITHIN_AT_MOST);
        Birth { look_at: now + LOOK_EVERY, over_at }
    }

    pub(super) fn succeeded(&mut self) {
        self.patience = BORN_WITHIN;
    }
}

impl Birth {
    pub(super) fn look_at(&self) -> Moment {
        self.look_at
    }

    /// To be asked when it was looked for: one that has answered while we slept is born.
    pub(super) fn is_over(&mut self, now: Moment) -> bool {
        self.look_at = now + LOOK_EVERY;
        now >= self.over_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_too_slow_is_followed_by_one_that_has_more_time_until_one_is_born() {
        let mut births = Births::default();
        let mut now = births.next_at();
        for seconds in [2, 4, 8, 10, 10] {
            let mut birth = births.begin(now);
            assert!(births.next_at() > now && birth.look_at() > now);
            now = now + Duration::from_secs(seconds);
            assert!(!birth.is_over(now - Duration::from_millis(1)));
            assert!(birth.is_over(now));
            assert!(birth.look_at() > now, "nobody looks for it all the time");
        }
        births.succeeded();
        assert!(births.begin(now).is_over(now + Duration::from_secs(2)));
    }
}
