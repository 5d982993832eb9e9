//! Pure: what a guardian does for somebody who relies on a lock without a command under it.

use crate::clock::Moment;

/// What it knows of the lock, and of whether the owner was told that it ends.
#[derive(Debug)]
pub(super) struct Vigil {
    /// Until when the owner may rely on the lock. `NEVER`: there is none yet.
    held_until: Moment,
    has_told: bool,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this moment, unless something happens.
    Wait(Moment),
    /// Send the owner its signal.
    Tell,
    /// Give the lock back, and leave.
    Release,
}

impl Vigil {
    pub(super) fn new() -> Vigil {
        Vigil { held_until: Moment::NEVER, has_told: false }
    }

    pub(super) fn set_held_until(&mut self, moment: Moment) {
        self.held_until = moment;
    }

    pub(super) fn told(&mut self) {
        self.has_told = true;
    }

    /// A lock that nobody renews any more is not given back while its owner may be at work under it: it has the rest
    /// of the lease to hear of it and to stop. With the owner, or with the lease, the lock goes.
    pub(super) fn step(&self, now: Moment, is_alone: bool, is_owner_gone: bool) -> Step {
        if is_owner_gone || self.held_until == Moment::NEVER {
            return if is_alone { Step::Release } else { Step::Wait(Moment::NEVER) };
        }
        // One who is stopped renews nothing.
        let is_over = now >= self.held_until;
        match is_alone {
            _ if (is_alone || is_over) && !self.has_told => Step::Tell,
            true if is_over => Step::Release,
            false if is_over => Step::Wait(Moment::NEVER),
            _ => Step::Wait(self.held_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(1_000_000_000_000) + Duration::from_secs(seconds)
    }

    fn vigil() -> Vigil {
        let mut vigil = Vigil::new();
        vigil.set_held_until(at(9));
        vigil
    }

    #[test]
    fn the_owner_of_a_killed_holder_is_told_before_the_lock_is_free() {
        let mut vigil = vigil();
        assert_eq!(vigil.step(at(1), false, false), Step::Wait(at(9)));
        assert_eq!(vigil.step(at(1), true, false), Step::Tell);
        vigil.told();
        assert_eq!(vigil.step(at(1), true, false), Step::Wait(at(9)), "it has time to stop");
        assert_eq!(vigil.step(at(2), true, true), Step::Release, "nobody relies on it");
        assert_eq!(vigil.step(at(9), true, false), Step::Release);
    }

    #[test]
    fn the_owner_of_a_stopped_holder_is_told_once_when_the_lease_is_over() {
        let mut vigil = vigil();
        vigil.set_held_until(at(12));
        assert_eq!(vigil.step(at(9), false, false), Step::Wait(at(12)), "it was renewed");
        assert_eq!(vigil.step(at(12), false, false), Step::Tell);
        vigil.told();
        assert_eq!(vigil.step(at(13), false, false), Step::Wait(Moment::NEVER));
        assert_eq!(vigil.step(at(13), true, false), Step::Release);
    }

    #[test]
    fn nobody_is_told_of_nothing() {
        let waiting = Vigil::new();
        assert_eq!(waiting.step(at(99), false, false), Step::Wait(Moment::NEVER));
        assert_eq!(waiting.step(at(99), true, false), Step::Release);
        assert_eq!(vigil().step(at(1), true, true), Step::Release, "there is nobody to tell");
        assert_eq!(vigil().step(at(99), false, true), Step::Wait(Moment::NEVER), "the holder ends with its owner");
    }

    /// Whatever is known, a step that is carried out leads to another one: nothing spins.
    #[test]
    fn every_wait_ends_later_than_now() {
        for bits in 0..32u8 {
            let has = |bit: u8| bits & (1 << bit) != 0;
            let mut vigil = if has(0) { vigil() } else { Vigil::new() };
            if has(1) {
                vigil.told();
            }
            let (now, is_alone, is_owner_gone) = (if has(2) { at(9) } else { at(1) }, has(3), has(4));
            match vigil.step(now, is_alone, is_owner_gone) {
                Step::Wait(until) => assert!(until > now, "{vigil:?}"),
                Step::Tell => {
                    vigil.told();
                    assert_ne!(vigil.step(now, is_alone, is_owner_gone), Step::Tell, "{vigil:?}");
                }
                Step::Release => assert!(is_alone, "{vigil:?}"),
            }
        }
    }
}
