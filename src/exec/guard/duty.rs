//! Pure: what a guardian knows, and what it has to do next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::lease::lateness::Lateness;

/// Pauses between two attempts to end somebody who did not end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// For so long after the end of the lease somebody who cannot be ended is still tried. There is nothing left then
/// that could be kept from others.
const PERSISTENCE: Duration = Duration::from_secs(60);

/// Who wakes later than this has no time for anything but the end.
const AWAKE: Duration = Duration::from_millis(50);

/// How late we woke is remembered for as long as a lease lasts, and at least for so long.
const REMEMBER_LEAST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Duty {
    /// There is somebody to end if need be.
    has_command: bool,
    /// When they must be dead.
    kill_at: Moment,
    /// Until when the locks are held for sure.
    held_until: Moment,
    lateness: Lateness,
    remember_for: Duration,
    /// How much sooner than the end of this lease is the last moment for one who is stopped again and again.
    stop_margin: Duration,
    /// Dflock is gone without a word.
    is_alone: bool,
    /// They were ended, and nobody was left.
    is_done: bool,
    next_attempt: Moment,
    pause: Duration,
}

impl Default for Duty {
    fn default() -> Duty {
        Duty::new()
    }
}

/// Why a guardian does not wait for the moment that it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyEarly {
    /// The machine gives it too little processor time.
    Starved,
    /// It did not run, again and again, and that may be for any reason.
    Stopped,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this moment, unless something is told.
    Wait(Moment),
    /// End everybody, and look whether anybody is left.
    End,
    /// Give the locks back, and leave.
    Release,
    /// Leave; there is nothing to give back.
    Leave,
}

impl Duty {
    pub fn new() -> Duty {
        Duty {
            has_command: false,
            kill_at: Moment::NEVER,
            held_until: Moment::NEVER,
            lateness: Lateness::default(),
            remember_for: REMEMBER_LEAST,
            stop_margin: Duration::ZERO,
            is_alone: false,
            is_done: false,
            next_attempt: Moment::from_nanos(0),
            pause: FIRST_PAUSE,
        }
    }

    pub fn command_begins(&mut self) {
        self.has_command = true;
        self.begin_anew();
    }

    /// By itself, with the lock held.
    pub fn command_ended(&mut self) {
        self.has_command = false;
    }

    pub fn set_kill_at(&mut self, moment: Moment) {
        self.kill_at = moment;
        self.begin_anew();
    }

    pub fn set_held_until(&mut self, now: Moment, moment: Moment) {
        self.held_until = moment;
        self.remember_for = moment.since(now).max(REMEMBER_LEAST);
        // A lease that is good is not over for stops before it, and the next one has time to be renewed.
        let was_stopped = self.lateness.margin() > self.lateness.starved_margin();
        self.stop_margin = if was_stopped { self.lateness.margin().min(moment.since(now) / 2) } else { Duration::ZERO };
    }

    /// Awake `now`, though it should have been at `due`, or was to be awake for nothing but what is told: see
    /// [`Lateness::woke`].
    pub fn woke(&mut self, now: Moment, due: Moment, refused: Option<Duration>) {
        match due {
            Moment::NEVER => self.lateness.looked(now, refused, self.remember_for),
            due => self.lateness.woke(now, due, refused, self.remember_for),
        }
    }

    /// Whether we woke as soon as we wanted, of late.
    pub fn is_awake(&self) -> bool {
        self.lateness.worst() < AWAKE
    }

    /// When the command is ended. Who may wake late cannot wait for the moment that he was told.
    fn end_at(&self) -> Moment {
        match self.kill_at {
            Moment::NEVER => Moment::NEVER,
            told => told.min(self.held_until - self.lateness.starved_margin().max(self.stop_margin)),
        }
    }

    /// Why the command is ended now, if dflock would not expect that.
    pub fn why_early(&self, now: Moment) -> Option<WhyEarly> {
        if self.is_alone || now >= self.kill_at {
            return None;
        }
        let is_starved = now >= self.held_until - self.lateness.starved_margin();
        Some(if is_starved && self.lateness.is_told() { WhyEarly::Starved } else { WhyEarly::Stopped })
    }

    /// Nothing more will be told.
    pub fn dflock_is_gone(&mut self) {
        self.is_alone = true;
        self.begin_anew();
    }

    pub fn has_command(&self) -> bool {
        self.has_command
    }

    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    fn begin_anew(&mut self) {
        (self.is_done, self.next_attempt, self.pause) = (false, Moment::from_nanos(0), FIRST_PAUSE);
    }

    pub fn step(&self, now: Moment) -> Step {
        if self.is_alone {
            return self.step_alone(now);
        }
        if !self.has_command || self.is_done {
            // What dflock does when it wakes, it does itself.
            return Step::Wait(Moment::NEVER);
        }
        let at = self.end_at().max(self.next_attempt);
        if now >= at { Step::End } else { Step::Wait(at) }
    }

    fn step_alone(&self, now: Moment) -> Step {
        if !self.has_command || self.is_done {
            Step::Release
        } else if self.kill_at == Moment::NEVER && now >= self.held_until {
            // The lock was lost already, and the user wants the command to run on then.
            Step::Leave
        } else if now >= self.next_attempt {
            let is_over = now >= self.kill_at + PERSISTENCE;
            if is_over && self.pause >= LONGEST_PAUSE { Step::Leave } else { Step::End }
        } else {
            Step::Wait(self.next_attempt)
        }
    }

    /// They were told to end at `now`; whether any of them is left.
    pub fn attempted(&mut self, now: Moment, is_anyone_left: bool) {
        self.is_done = !is_anyone_left;
        self.next_attempt = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::from_nanos(1_000_000_000_000) + Duration::from_secs_f64(seconds)
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A command that must be dead at second nine.
    fn duty() -> Duty {
        let mut duty = Duty::new();
        duty.command_begins();
        duty.set_kill_at(at(9.0));
        duty.set_held_until(at(0.0), at(9.0));
        duty
    }

    #[test]
    fn who_wakes_late_ends_the_command_so_much_sooner() {
        let mut duty = duty();
        duty.set_held_until(at(0.0), at(10.0));
        duty.woke(at(1.0), at(1.0), Some(secs(0.0)));
        duty.woke(at(1.4), at(1.1), Some(secs(0.3)));
        assert_eq!(duty.step(at(1.4)), Step::Wait(at(9.0)), "the margin is large enough");
        duty.woke(at(2.9), at(1.9), Some(secs(1.3)));
        assert_eq!(duty.step(at(2.9)), Step::Wait(at(7.0)));
        assert_eq!(duty.step(at(7.0)), Step::End);
        assert_eq!(duty.why_early(at(7.0)), Some(WhyEarly::Starved));
        assert_eq!(duty.why_early(at(9.0)), None);
        // Renewed, so that there is time again.
        duty.set_held_until(at(7.0), at(17.0));
        duty.set_kill_at(at(16.0));
        assert_eq!(duty.step(at(7.0)), Step::Wait(at(14.0)));
        // It is forgotten in time.
        duty.woke(at(15.0), at(15.0), Some(secs(1.3)));
        assert_eq!(duty.step(at(15.0)), Step::Wait(at(16.0)));
        // There is no time at all.
        duty.woke(at(15.5), at(11.0), Some(secs(5.8)));
        assert_eq!(duty.step(at(15.5)), Step::End);
        // What is only told kills nobody, however late.
        duty.set_kill_at(Moment::NEVER);
        assert_eq!(duty.step(at(15.5)), Step::Wait(Moment::NEVER));
    }

    #[test]
    fn stops_end_no_lease_that_is_good_and_count_for_the_next_one() {
        let mut duty = duty();
        duty.set_held_until(at(0.0), at(10.0));
        for woke in [3.0, 5.9] {
            duty.woke(at(woke - 2.4), at(woke - 2.4), Some(secs(0.1)));
            duty.woke(at(woke), at(woke - 2.3), Some(secs(0.1)));
            assert_eq!(duty.step(at(woke)), Step::Wait(at(9.0)));
        }
        duty.set_held_until(at(6.0), at(16.0));
        duty.set_kill_at(at(15.0));
        assert_eq!(duty.step(at(6.0)), Step::Wait(at(11.0)), "half of it is left to renew it");
        assert_eq!((duty.step(at(11.0)), duty.why_early(at(11.0))), (Step::End, Some(WhyEarly::Stopped)));
    }

    #[test]
    fn lateness_is_remembered_for_a_lease_and_at_least_for_ten_seconds() {
        for (lease, remembered_at, forgotten_at) in [(100.0, 90.0, 120.0), (4.0, 9.0, 20.0)] {
            let mut duty = Duty::new();
            duty.command_begins();
            duty.set_held_until(at(0.0), at(lease));
            assert!(duty.is_awake());
            duty.woke(at(1.0), at(1.0), Some(secs(0.0)));
            duty.woke(at(2.0), at(1.5), Some(secs(0.5)));
            assert!(!duty.is_awake());
            for (now, is_awake) in [(remembered_at, false), (forgotten_at, true)] {
                duty.woke(at(now), at(now), Some(secs(0.5)));
                assert_eq!(duty.is_awake(), is_awake, "{now} s into a lease of {lease} s");
            }
        }
    }

    #[test]
    fn why_a_command_ends_sooner_is_said_as_far_as_it_is_known() {
        let late = |refused: fn(f64) -> Option<Duration>| {
            let mut duty = duty();
            duty.set_held_until(at(0.0), at(10.0));
            duty.woke(at(0.1), at(0.1), refused(0.0));
            duty.woke(at(1.5), at(0.2), refused(1.3));
            duty.woke(at(2.9), at(1.6), refused(2.6));
            duty
        };
        assert_eq!(late(|seconds| Some(secs(seconds))).why_early(at(7.0)), Some(WhyEarly::Starved));
        // Where the system does not tell, it may have been stopped.
        assert_eq!(late(|_| None).why_early(at(7.0)), Some(WhyEarly::Stopped));
        let mut alone = late(|seconds| Some(secs(seconds)));
        alone.dflock_is_gone();
        assert_eq!(alone.why_early(at(7.0)), None, "the end of dflock is reason enough");
    }

    /// Its number may come later than the moment at which all were ended.
    #[test]
    fn what_is_told_after_the_end_begins_it_anew() {
        let ended = || {
            let mut duty = duty();
            assert_eq!(duty.step(at(9.0)), Step::End);
            duty.attempted(at(9.0), false);
            assert_eq!(duty.step(at(9.1)), Step::Wait(Moment::NEVER));
            duty
        };
        let mut begun = ended();
        begun.command_begins();
        assert_eq!(begun.step(at(9.1)), Step::End);
        let mut told = ended();
        told.set_held_until(at(9.1), at(12.0));
        told.set_kill_at(at(12.0));
        assert_eq!(told.step(at(9.1)), Step::Wait(at(12.0)));
        assert_eq!(told.step(at(12.0)), Step::End);
        let mut alone = ended();
        alone.dflock_is_gone();
        assert_eq!(alone.step(at(9.1)), Step::End, "dflock may have started somebody since");
    }

    /// The messages that come before a command begins are the first that a guardian is woken by.
    #[test]
    fn who_was_late_for_what_it_was_told_ends_the_first_lease_sooner() {
        let mut duty = Duty::new();
        duty.woke(at(0.0), Moment::NEVER, Some(secs(0.1)));
        duty.woke(at(1.1), Moment::NEVER, Some(secs(1.1)));
        duty.command_begins();
        duty.set_held_until(at(1.2), at(10.0));
        duty.set_kill_at(at(9.0));
        assert_eq!(duty.step(at(1.2)), Step::Wait(at(7.0)));
    }

    #[test]
    fn a_frozen_dflock_loses_its_command_at_the_deadline_and_not_before() {
        let mut duty = duty();
        assert_eq!(duty.step(at(8.9)), Step::Wait(at(9.0)));
        duty.set_held_until(at(8.9), at(12.0));
        duty.set_kill_at(at(12.0));
        assert_eq!(duty.step(at(9.0)), Step::Wait(at(12.0)), "the lease was renewed");
        assert_eq!(duty.step(at(12.0)), Step::End);
        duty.attempted(at(12.0), true);
        assert_eq!(duty.step(at(12.0)), Step::Wait(at(12.001)));
        assert_eq!(duty.step(at(12.1)), Step::End, "somebody was left");
        duty.attempted(at(12.1), false);
        assert_eq!(duty.step(at(99.0)), Step::Wait(Moment::NEVER), "what is left to do, dflock does when it wakes");
    }

    #[test]
    fn a_killed_dflock_loses_its_command_before_its_lock() {
        let mut duty = duty();
        duty.dflock_is_gone();
        assert_eq!(duty.step(at(1.0)), Step::End);
        duty.attempted(at(1.0), true);
        assert_eq!(duty.step(at(2.0)), Step::End);
        duty.attempted(at(2.0), false);
        assert_eq!(duty.step(at(2.0)), Step::Release);
    }

    #[test]
    fn a_killed_dflock_without_a_command_leaves_its_locks_to_be_given_back() {
        let mut duty = Duty::new();
        assert_eq!(duty.step(at(1.0)), Step::Wait(Moment::NEVER));
        duty.dflock_is_gone();
        assert_eq!(duty.step(at(1.0)), Step::Release);
        let mut over = self::duty();
        over.command_ended();
        assert_eq!(over.step(at(99.0)), Step::Wait(Moment::NEVER), "whom it left behind is left alone");
        over.dflock_is_gone();
        assert_eq!(over.step(at(99.0)), Step::Release);
    }

    #[test]
    fn who_cannot_be_ended_is_tried_for_as_long_as_that_keeps_the_lock() {
        let mut duty = duty();
        duty.dflock_is_gone();
        let (mut now, mut attempts) = (at(1.0), 0);
        loop {
            match duty.step(now) {
                Step::End => {
                    attempts += 1;
                    duty.attempted(now, true);
                }
                Step::Wait(until) => now = until,
                Step::Leave => break,
                Step::Release => panic!("somebody lives"),
            }
        }
        assert!(now >= at(69.0) && now < at(70.0), "{now:?}");
        assert!((600..1000).contains(&attempts), "{attempts}");
        // Woken from a long sleep it does its work first.
        let mut late = self::duty();
        late.dflock_is_gone();
        assert_eq!(late.step(at(9999.0)), Step::End);
    }

    #[test]
    fn a_loss_that_is_only_told_ends_nobody() {
        let warned = |dies_at| {
            let mut duty = duty();
            duty.set_kill_at(Moment::NEVER);
            assert_eq!(duty.step(at(99.0)), Step::Wait(Moment::NEVER), "frozen");
            duty.dflock_is_gone();
            duty.step(dies_at)
        };
        // Killed while the lock is held, its command goes with it; afterwards it is the user's affair.
        assert_eq!(warned(at(8.0)), Step::End);
        assert_eq!(warned(at(9.0)), Step::Leave);
        assert_eq!(warned(at(99.0)), Step::Leave);
    }
}
