//! Pure: whether a guardian still hears. It answers every order, and one that is stopped, frozen, or in the hands of a
//! debugger does not.

use std::time::Duration;

use crate::clock::Moment;

/// How long an answer may take, from one that has nothing else to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The same from one that wants to run and may not. Another one would not come sooner.
const ANSWER_WITHIN_WHEN_BUSY: Duration = Duration::from_secs(10);

/// One that was ordered nothing for so long is asked.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Who looks so much later than he wanted did not run himself: it may have slept with us.
const WE_SLEPT: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub struct Hearing {
    ordered: u64,
    heard: u64,
    last_order: Option<Moment>,
    /// From when on an answer is waited for; what we slept through does not count.
    since: Option<Moment>,
    look_at: Option<Moment>,
    /// We slept while it was to answer, and it was given more time for that.
    was_excused: bool,
}

impl Hearing {
    /// It was sent something that it answers.
    pub fn ordered(&mut self, now: Moment) {
        self.ordered += 1;
        self.last_order = Some(now);
        if self.since.is_none() {
            self.wait(now);
        }
    }

    /// It says that it has heard so many orders.
    pub fn answered(&mut self, now: Moment, heard: u64) {
        if heard <= self.heard {
            return;
        }
        self.heard = heard;
        if heard >= self.ordered {
            (self.since, self.look_at) = (None, None);
        } else {
            self.wait(now);
        }
    }

    /// How many orders it has to answer in all.
    pub fn orders(&self) -> u64 {
        self.ordered
    }

    /// Whether it has answered so many.
    pub fn has_heard(&self, orders: u64) -> bool {
        self.heard >= orders
    }

    fn wait(&mut self, now: Moment) {
        (self.since, self.look_at, self.was_excused) = (Some(now), Some(now + ANSWER_WITHIN), false);
    }

    /// When to look for its answer, or to ask.
    pub fn look_at(&self) -> Moment {
        self.look_at.or(self.last_order.map(|last| last + ASK_EVERY)).unwrap_or(Moment::NEVER)
    }

    /// Whether it is to be asked, having answered all before.
    pub fn has_to_be_asked(&self, now: Moment) -> bool {
        self.look_at.is_none() && now >= self.look_at()
    }

    /// Whether it is to be given up. `is_busy`: it wants to run.
    pub fn is_silent(&mut self, now: Moment, is_busy: impl FnOnce() -> bool) -> bool {
        let (Some(since), Some(look_at)) = (self.since, self.look_at) else { return false };
        if now < look_at {
            return false;
        }
        let unwatched = now.since(look_at);
        let since = since + unwatched;
        // Once: whoever only looks seldom would wait for ever.
        let have_slept = unwatched > WE_SLEPT && !self.was_excused;
        self.was_excused |= have_slept;
        let may_take_longer = have_slept || is_busy();
        if may_take_longer && now.since(since) < ANSWER_WITHIN_WHEN_BUSY {
            (self.since, self.look_at) = (Some(since), Some(now + ANSWER_WITHIN));
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::from_nanos(1_000_000_000_000) + Duration::from_secs_f64(seconds)
    }

    fn ordered() -> Hearing {
        let mut hearing = Hearing::default();
        hearing.ordered(at(0.0));
        hearing
    }

    #[test]
    fn one_that_answers_is_left_alone() {
        let mut hearing = ordered();
        hearing.ordered(at(0.1));
        assert!(!hearing.has_to_be_asked(at(99.0)));
        hearing.answered(at(0.2), 2);
        assert!(!hearing.is_silent(at(99.0), || false));
        assert!(hearing.has_heard(2) && !hearing.has_heard(3));
        assert_eq!(hearing.look_at(), at(2.1));
        assert!(!hearing.has_to_be_asked(at(2.0)) && hearing.has_to_be_asked(at(2.1)));
        // To the next order the old answer is none.
        hearing.ordered(at(100.0));
        hearing.answered(at(100.1), 2);
        assert_eq!(hearing.look_at(), at(101.0));
        assert!(hearing.is_silent(at(101.0), || false));
    }

    #[test]
    fn more_orders_are_no_reason_to_wait_longer_but_an_answer_is() {
        let mut hearing = ordered();
        hearing.ordered(at(0.9));
        assert!(!hearing.is_silent(at(0.99), || false));
        assert!(hearing.is_silent(at(1.0), || false));
        hearing.answered(at(1.0), 1);
        assert!(!hearing.is_silent(at(1.9), || false));
        assert!(hearing.is_silent(at(2.0), || false));
    }

    #[test]
    fn one_that_wants_to_run_has_time_for_it_but_not_for_ever() {
        let mut hearing = ordered();
        let mut now = at(0.0);
        let silent_at = loop {
            now = now + Duration::from_millis(100);
            if hearing.is_silent(now, || true) {
                break now;
            }
        };
        assert!(silent_at >= at(10.0) && silent_at < at(11.0), "{silent_at:?}");
    }

    #[test]
    fn a_sleep_of_ours_is_no_silence_of_its() {
        let mut hearing = ordered();
        assert!(!hearing.is_silent(at(3600.0), || false));
        assert!(!hearing.is_silent(at(3600.9), || false));
        assert!(hearing.is_silent(at(3601.0), || false));
        // One that answered in between is given the time again.
        hearing.answered(at(3601.0), 1);
        hearing.ordered(at(3602.0));
        assert!(!hearing.is_silent(at(7200.0), || false));
        // Who always looks late finds it out all the same, and soon.
        let mut hearing = ordered();
        let looks = (1..99).find(|look| hearing.is_silent(at(f64::from(*look) * 5.0), || false));
        assert_eq!(looks, Some(2));
    }
}
