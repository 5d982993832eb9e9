//! Pure: what to do while a command runs under a lock.
//!
//! The lease bounds everything: whatever else happens, the group is told to end at `term_at` and killed by
//! `dead_at`, unless better news of the lease come. Whoever carries out the actions feeds back what happens.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::status::{Ending, Status};
use crate::clock::Moment;

/// A proved loss leaves no time: somebody else may have the lock already.
const GRACE_AFTER_PROVED_LOSS: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command itself ended, and was reaped.
    Ended(Ending),
    /// Nobody is left of its group.
    GroupGone,
    /// It was stopped, as by Ctrl-Z.
    Stopped,
    /// We go on after having been stopped with it.
    Continued,
    /// A signal was sent to us.
    Signal(Signal),
    /// Ctrl-C was typed; the terminal has sent it to the command's group.
    Interrupt,
    Lease(Lease),
    /// The time that was asked for has come.
    Due,
}

/// What is known of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    Held { term_at: Moment, dead_at: Moment },
    Lost { proved: bool, why: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand a signal on to the group.
    Pass(Signal),
    /// TERM to the whole group, and CONT so that a stopped one can obey.
    Stop,
    /// KILL to the whole group.
    Kill,
    /// The guardian kills the group at this moment unless told otherwise.
    Guard(Moment),
    /// Take the terminal back and stop as the command did.
    Suspend,
    /// Lend the terminal again and let the group go on.
    Resume,
    Say(String),
    /// Give the locks back.
    Release,
    /// The last action.
    Leave(Status),
}

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Between TERM and KILL.
    pub kill_after: Duration,
    /// Whether the user chose `kill_after`.
    pub kill_after_given: bool,
    /// A loss is only told, not acted on.
    pub warn_on_lost: bool,
    pub max_runtime: Option<Duration>,
}

impl Rules {
    /// Between TERM and KILL after a loss.
    fn grace(&self, proved: bool) -> Duration {
        let shortest = proved && !self.kill_after_given;
        if shortest { self.kill_after.min(GRACE_AFTER_PROVED_LOSS) } else { self.kill_after }
    }
}

/// Why the group is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Lost,
    RuntimeOver,
    /// The user insisted.
    Interrupted,
}

#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    term_at: Moment,
    dead_at: Moment,
    runtime_over_at: Moment,
    /// The group is being ended: why, and when it is killed.
    ending: Option<(Why, Moment)>,
    killed: bool,
    leader: Option<Ending>,
    lost: bool,
    /// When Ctrl-C was typed last.
    interrupted_at: Option<Moment>,
    left: bool,
}

impl Policy {
    /// The command has been started at `now`.
    pub fn new(now: Moment, term_at: Moment, dead_at: Moment, rules: Rules) -> Policy {
        Policy {
            rules,
            term_at,
            dead_at,
            runtime_over_at: rules.max_runtime.map_or(Moment::NEVER, |most| now + most),
            ending: None,
            killed: false,
            leader: None,
            lost: false,
            interrupted_at: None,
            left: false,
        }
    }

    /// What to do about `event`, and when to come back if nothing happens.
    pub fn next(&mut self, now: Moment, event: Event) -> (Vec<Action>, Moment) {
        let mut actions = Vec::new();
        if self.left {
            return (actions, Moment::NEVER);
        }
        // The deadline first: this may be the waking from any pause. A better lease comes before it, though.
        if let Event::Lease(Lease::Held { term_at, dead_at }) = event
            && !self.lost
        {
            (self.term_at, self.dead_at) = (term_at, dead_at);
            actions.push(Action::Guard(dead_at));
        }
        if let Event::Ended(ending) = event {
            self.leader = Some(ending);
        }
        self.look_at_the_clock(now, &mut actions);
        match event {
            Event::Ended(ending) => self.ended(now, ending, &mut actions),
            Event::GroupGone => self.group_gone(&mut actions),
            Event::Stopped => {
                if self.ending.is_none() {
                    actions.push(Action::Suspend);
                }
            }
            Event::Continued => {
                if self.leader.is_none() && self.ending.is_none() {
                    actions.push(Action::Resume);
                }
            }
            Event::Signal(signal) => {
                if self.leader.is_none() {
                    actions.push(Action::Pass(signal));
                }
            }
            Event::Interrupt => self.interrupted(now, &mut actions),
            Event::Lease(Lease::Lost { proved, why }) => self.lose(now, proved, &why, &mut actions),
            Event::Lease(Lease::Held { .. }) | Event::Due => {}
        }
        (actions, self.next_look())
    }

    fn look_at_the_clock(&mut self, now: Moment, actions: &mut Vec<Action>) {
        // One that ended by itself has left already; of a group that is being ended, others may still be there.
        if !self.lost && now >= self.term_at && (self.leader.is_none() || self.ending.is_some()) {
            self.lose(now, false, "it could not be renewed in time", actions);
        }
        if now >= self.runtime_over_at && self.ending.is_none() && self.leader.is_none() {
            actions.push(Action::Say("the command ran longer than --max-runtime".to_owned()));
            self.end_group(Why::RuntimeOver, now + self.rules.kill_after, actions);
        }
        if let Some((_, kill_at)) = self.ending
            && now >= kill_at
            && !self.killed
        {
            self.killed = true;
            actions.push(Action::Kill);
        }
    }

    fn lose(&mut self, now: Moment, proved: bool, why: &str, actions: &mut Vec<Action>) {
        if self.leader.is_some() && self.ending.is_none() || self.lost && !proved {
            // It ended by itself while the lock was held; or this is known already.
            return;
        }
        if self.lost {
            // Of several locks one may be proved lost after another that was not: that leaves less time.
            if let Some((_, kill_at)) = &mut self.ending {
                *kill_at = (*kill_at).min(now + self.rules.grace(proved));
            }
            return;
        }
        self.lost = true;
        if self.rules.warn_on_lost {
            actions.push(Action::Say(format!("the lock was lost: {why}; the command runs on (--on-lost warn)")));
            actions.push(Action::Guard(Moment::NEVER));
            return;
        }
        actions.push(Action::Say(format!("the lock was lost: {why}; stopping the command")));
        let grace = self.rules.grace(proved);
        // Never beyond the end of the lease, whatever the grace; a loss that is not proved leaves the time until then.
        let kill_at = self.dead_at.min(now + grace).max(now);
        self.end_group(Why::Lost, kill_at, actions);
    }

    fn end_group(&mut self, why: Why, kill_at: Moment, actions: &mut Vec<Action>) {
        let before = self.ending.map_or(Moment::NEVER, |(_, at)| at);
        let worst = match self.ending {
            // A loss is what has to be told, whatever came first.
            Some((before, _)) if why != Why::Lost => before,
            _ => why,
        };
        self.ending = Some((worst, before.min(kill_at)));
        actions.push(Action::Stop);
    }

    fn ended(&mut self, now: Moment, ending: Ending, actions: &mut Vec<Action>) {
        if self.ending.is_some() {
            // Those it left behind are ended too; their end is waited for.
            return;
        }
        // One that ended by itself inside the deadline did so under the lock. Beyond it nobody can say.
        let status = if !self.lost && now >= self.dead_at {
            actions.push(Action::Say("the lock was lost: its lease ended before the command did".to_owned()));
            Status::Lost
        } else {
            Status::Child(ending)
        };
        self.leave(status, actions);
    }

    fn group_gone(&mut self, actions: &mut Vec<Action>) {
        let (Some((why, _)), Some(ending)) = (self.ending, self.leader) else { return };
        let status = match why {
            Why::Lost => Status::Lost,
            Why::RuntimeOver => Status::RuntimeOver,
            Why::Interrupted => Status::Child(ending),
        };
        self.leave(status, actions);
    }

    /// The first Ctrl-C is between the user and the command; a second one soon after it means it.
    fn interrupted(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let before = self.interrupted_at.replace(now);
        let again = before.is_some_and(|before| now.since(before) <= self.rules.kill_after);
        if again && self.ending.is_none() && self.leader.is_none() {
            let kill_after = self.rules.kill_after;
            let seconds = kill_after.as_secs_f64();
            actions.push(Action::Say(format!("interrupted again: the command is killed in {seconds}s")));
            self.end_group(Why::Interrupted, now + kill_after, actions);
        }
    }

    fn leave(&mut self, status: Status, actions: &mut Vec<Action>) {
        self.left = true;
        actions.push(Action::Release);
        actions.push(Action::Leave(status));
    }

    fn next_look(&self) -> Moment {
        if self.left {
            return Moment::NEVER;
        }
        let lease = if self.lost { Moment::NEVER } else { self.term_at };
        match self.ending {
            Some((_, kill_at)) if !self.killed => kill_at.min(lease),
            Some(_) => lease,
            None => lease.min(self.runtime_over_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn at(seconds: f64) -> Moment {
        T0 + secs(seconds)
    }

    const RULES: Rules =
        Rules { kill_after: Duration::from_secs(5), kill_after_given: false, warn_on_lost: false, max_runtime: None };

    /// A lease of ten seconds, as `lease::plan` counts it.
    fn policy(rules: Rules) -> Policy {
        Policy::new(T0, at(6.5), at(9.0), rules)
    }

    fn lost(proved: bool) -> Event {
        Event::Lease(Lease::Lost { proved, why: "x".to_owned() })
    }

    fn without_words(actions: Vec<Action>) -> Vec<Action> {
        actions.into_iter().filter(|action| !matches!(action, Action::Say(_))).collect()
    }

    #[test]
    fn a_command_that_ends_in_time_decides_the_status() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(1.0), Event::Ended(Ending::Exited(7)));
        assert_eq!(actions, [Action::Release, Action::Leave(Status::Child(Ending::Exited(7)))]);
        assert_eq!(next, Moment::NEVER);
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_the_command_in_time() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(6.5), Event::Due);
        assert_eq!(without_words(actions), [Action::Stop]);
        assert_eq!(next, at(9.0), "killed when the margin begins");
        let (actions, _) = policy.next(at(9.0), Event::Due);
        assert_eq!(actions, [Action::Kill]);
        let (actions, _) = policy.next(at(9.1), Event::Ended(Ending::Killed(Signal::SIGKILL)));
        assert!(actions.is_empty(), "its group is waited for: {actions:?}");
        let (actions, _) = policy.next(at(9.2), Event::GroupGone);
        assert_eq!(actions, [Action::Release, Action::Leave(Status::Lost)]);
    }

    #[test]
    fn better_news_move_the_deadline_and_the_guardian() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(3.0), Event::Lease(Lease::Held { term_at: at(9.5), dead_at: at(12.0) }));
        assert_eq!(actions, [Action::Guard(at(12.0))]);
        assert_eq!(next, at(9.5));
    }

    #[test]
    fn a_proved_loss_leaves_a_second_at_most() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(1.0), lost(true));
        assert_eq!(without_words(actions), [Action::Stop]);
        assert_eq!(next, at(2.0));
        let mut chosen = self::policy(Rules { kill_after: secs(3.0), kill_after_given: true, ..RULES });
        assert_eq!(chosen.next(at(1.0), lost(true)).1, at(4.0));
    }

    #[test]
    fn a_loss_that_is_proved_later_leaves_a_second_from_then() {
        let mut policy = policy(RULES);
        assert_eq!(policy.next(at(6.5), Event::Due).1, at(9.0));
        assert_eq!(policy.next(at(6.6), lost(true)), (Vec::new(), at(7.6)));
        assert_eq!(policy.next(at(7.6), Event::Due).0, [Action::Kill]);
    }

    #[test]
    fn better_news_after_a_loss_change_nothing() {
        let mut policy = policy(RULES);
        policy.next(at(1.0), lost(true));
        let held = Event::Lease(Lease::Held { term_at: at(9.5), dead_at: at(12.0) });
        let (actions, next) = policy.next(at(1.5), held);
        assert!(actions.is_empty(), "the guardian keeps its moment: {actions:?}");
        assert_eq!(next, at(2.0), "and so does the kill");
    }

    #[test]
    fn two_interrupts_far_apart_are_two_first_ones() {
        let mut policy = Policy::new(T0, at(3590.0), at(3595.0), RULES);
        assert!(policy.next(at(1.0), Event::Interrupt).0.is_empty());
        assert!(policy.next(at(7.0), Event::Interrupt).0.is_empty());
        let (actions, next) = policy.next(at(8.0), Event::Interrupt);
        assert_eq!((without_words(actions), next), (vec![Action::Stop], at(13.0)));
    }

    #[test]
    fn after_a_pause_past_the_lease_the_kill_comes_first() {
        let mut policy = policy(RULES);
        let (actions, _) = policy.next(at(3600.0), Event::Signal(Signal::SIGUSR1));
        let actions = without_words(actions);
        assert_eq!(actions[..2], [Action::Stop, Action::Kill]);
    }

    #[test]
    fn a_loss_after_the_end_changes_nothing() {
        let mut policy = policy(RULES);
        policy.next(at(1.0), Event::Ended(Ending::Exited(0)));
        assert!(policy.next(at(1.1), lost(true)).0.is_empty());
    }

    #[test]
    fn an_end_seen_after_the_deadline_proves_nothing() {
        let mut policy = policy(RULES);
        let (actions, _) = policy.next(at(20.0), Event::Ended(Ending::Exited(0)));
        assert_eq!(without_words(actions), [Action::Release, Action::Leave(Status::Lost)]);
        // Between TERM time and the deadline it is still the command's own end.
        let mut policy = self::policy(RULES);
        let (actions, _) = policy.next(at(8.0), Event::Ended(Ending::Exited(0)));
        assert_eq!(actions, [Action::Release, Action::Leave(Status::Child(Ending::Exited(0)))]);
    }

    #[test]
    fn too_long_a_run_is_ended_with_its_own_status() {
        let rules = Rules { max_runtime: Some(secs(2.0)), ..RULES };
        let mut policy = policy(rules);
        let (actions, next) = policy.next(at(2.0), Event::Due);
        assert_eq!(without_words(actions), [Action::Stop]);
        assert_eq!(next, at(6.5), "the lease still counts");
        policy.next(at(2.1), Event::Ended(Ending::Killed(Signal::SIGTERM)));
        let (actions, _) = policy.next(at(2.2), Event::GroupGone);
        assert_eq!(actions, [Action::Release, Action::Leave(Status::RuntimeOver)]);
    }

    #[test]
    fn those_left_of_a_group_that_is_ended_have_no_more_time_than_the_lease() {
        let rules = Rules { kill_after: secs(60.0), kill_after_given: true, max_runtime: Some(secs(2.0)), ..RULES };
        let mut policy = policy(rules);
        policy.next(at(2.0), Event::Due);
        let (_, next) = policy.next(at(2.1), Event::Ended(Ending::Killed(Signal::SIGTERM)));
        assert_eq!(next, at(6.5));
        let (_, next) = policy.next(at(6.5), Event::Due);
        assert_eq!(next, at(9.0), "not a moment that has passed, which would be looked at again and again");
        assert_eq!(policy.next(at(9.0), Event::Due), (vec![Action::Kill], Moment::NEVER));
        assert_eq!(policy.next(at(9.1), Event::GroupGone).0, [Action::Release, Action::Leave(Status::Lost)]);
    }

    #[test]
    fn told_but_not_acted_on_if_the_user_wants_that() {
        let mut policy = policy(Rules { warn_on_lost: true, ..RULES });
        let (actions, next) = policy.next(at(1.0), lost(true));
        assert_eq!(without_words(actions), [Action::Guard(Moment::NEVER)]);
        assert_eq!(next, Moment::NEVER);
        let (actions, _) = policy.next(at(99.0), Event::Ended(Ending::Exited(3)));
        assert_eq!(actions, [Action::Release, Action::Leave(Status::Child(Ending::Exited(3)))]);
    }

    #[test]
    fn the_second_interrupt_means_it() {
        let mut policy = policy(RULES);
        assert!(policy.next(at(1.0), Event::Interrupt).0.is_empty());
        let (actions, next) = policy.next(at(1.5), Event::Interrupt);
        assert_eq!(without_words(actions), [Action::Stop]);
        assert_eq!(next, at(6.5));
    }

    #[test]
    fn stopped_and_continued() {
        let mut policy = policy(RULES);
        assert_eq!(policy.next(at(1.0), Event::Stopped).0, [Action::Suspend]);
        assert_eq!(policy.next(at(2.0), Event::Continued).0, [Action::Resume]);
        assert_eq!(policy.next(at(3.0), Event::Stopped).0, [Action::Suspend]);
        // Continued too late: first the deadline, and no going on.
        let actions = without_words(policy.next(at(60.0), Event::Continued).0);
        assert_eq!(actions, [Action::Stop, Action::Kill]);
    }

    /// Thousands of histories: nothing runs past its lease, nothing is signalled after its end, and each ends.
    #[test]
    fn every_history_ends_and_none_outlives_its_lease() {
        for seed in 0..10_000u64 {
            let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
            let mut random = move |end: u64| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (number >> 33) % end
            };
            let rules = Rules {
                kill_after: Duration::from_millis(random(8000)),
                kill_after_given: random(2) == 0,
                warn_on_lost: false,
                max_runtime: (random(3) == 0).then(|| Duration::from_millis(random(20_000) + 1)),
            };
            let (mut term_at, mut dead_at) = (at(6.5), at(9.0));
            let mut policy = Policy::new(T0, term_at, dead_at, rules);
            let obeys = random(2) == 0;
            let (mut now, mut due) = (T0, term_at);
            let (mut alive, mut reaped, mut left) = (true, false, false);
            for step in 0.. {
                assert!(step < 1000, "seed {seed} does not end");
                let before = now;
                let event = match random(12) {
                    _ if !alive && !reaped => {
                        reaped = true;
                        Event::Ended(Ending::Killed(Signal::SIGKILL))
                    }
                    _ if reaped => Event::GroupGone,
                    0 if random(20) == 0 => {
                        alive = false;
                        reaped = true;
                        Event::Ended(Ending::Exited(0))
                    }
                    1 => Event::Signal(Signal::SIGUSR1),
                    2 => Event::Interrupt,
                    3 if random(10) == 0 => lost(random(2) == 0),
                    4 => {
                        (term_at, dead_at) = (now + secs(6.5), now + secs(9.0));
                        Event::Lease(Lease::Held { term_at, dead_at })
                    }
                    5 if random(10) == 0 => Event::Stopped,
                    _ => {
                        now = now.max(due.min(now + secs(3.0)));
                        Event::Due
                    }
                };
                let (actions, next) = policy.next(now, event);
                due = next;
                for action in &actions {
                    assert!(!left, "seed {seed}: {action:?} after the last");
                    match action {
                        Action::Kill => alive = false,
                        Action::Stop if obeys => alive = false,
                        Action::Pass(_) | Action::Stop => assert!(!reaped, "seed {seed}: a signal after the end"),
                        Action::Leave(_) => left = true,
                        _ => {}
                    }
                }
                assert!(!alive || policy.lost || before < policy.dead_at, "seed {seed}: alive past its lease");
                if policy.lost && alive {
                    let (_, kill_at) = policy.ending.expect("a loss ends the group");
                    assert!(now < kill_at, "seed {seed}: alive past its kill");
                }
                if left {
                    break;
                }
            }
        }
    }
}
