//! Pure: what to do while a command runs under a lock.
//!
//! The lease bounds everything: whatever else happens, the group is told to end at `term_at` and killed by
//! `dead_at`, unless better news of the lease come. Whoever carries out the actions feeds back what happens.
//!
//! A command that ends by itself has done its job, and whom it leaves behind is left alone. One that ends by force
//! leaves people behind who do not know of it: they are ended too before the lock is anybody else's.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::status::{Ending, Status};
use crate::clock::Moment;

/// A proved loss leaves no time: somebody else may have the lock already.
const GRACE_AFTER_PROVED_LOSS: Duration = Duration::from_secs(1);

/// Who was started in the moment of a KILL gets the next one.
const KILL_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command itself ended, and was reaped; `is_last` if nobody is left of its group.
    Ended {
        ending: Ending,
        is_last: bool,
    },
    /// Nobody is left of its group.
    GroupGone,
    /// It was stopped, as by Ctrl-Z.
    Stopped,
    /// We go on after having been stopped with it.
    Continued,
    /// A signal was sent to us.
    Signal(Signal),
    /// A key was typed that the terminal has sent to the command's group as this signal.
    Typed(Signal),
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
    /// The guardian kills the group at this moment unless told otherwise.
    Guard(Moment),
    /// Hand a signal on to the group.
    Pass(Signal),
    /// TERM to the whole group, and CONT so that a stopped one can obey.
    Stop,
    /// KILL to the whole group.
    Kill,
    /// Take the terminal back and stop as the command did.
    Suspend,
    /// Lend the terminal again and let the group go on.
    Resume,
    Say(String),
    /// The last action: give the locks back and end so.
    Leave(Status),
}

impl Action {
    /// In which order the actions of one moment are carried out. The guardian knows first: should we stop right
    /// here, it does the rest. Whatever is said comes when all is done.
    fn rank(&self) -> u8 {
        match self {
            Action::Guard(_) => 0,
            Action::Pass(_) | Action::Stop | Action::Kill => 1,
            Action::Suspend | Action::Resume => 2,
            Action::Say(_) => 3,
            Action::Leave(_) => 4,
        }
    }
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
    /// The command ended by force and has left others behind.
    LeftBehind,
}

#[derive(Debug)]
enum State {
    /// `told`: a signal that means an end has reached the command.
    Running {
        told: bool,
    },
    /// The group was told to end, and is killed at `kill_at`: for the first time at `next_kill`, or once more.
    Ending {
        why: Why,
        kill_at: Moment,
        next_kill: Moment,
        leader: Option<Ending>,
    },
    Left,
}

#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    term_at: Moment,
    dead_at: Moment,
    lost: bool,
    runtime_over_at: Moment,
    /// When Ctrl-C was typed last.
    interrupted_at: Option<Moment>,
    state: State,
}

impl Policy {
    /// The command has been started at `now`.
    pub fn new(now: Moment, term_at: Moment, dead_at: Moment, rules: Rules) -> Policy {
        Policy {
            rules,
            term_at,
            dead_at,
            lost: false,
            runtime_over_at: rules.max_runtime.map_or(Moment::NEVER, |most| now + most),
            interrupted_at: None,
            state: State::Running { told: false },
        }
    }

    /// When the guardian kills the group if it hears nothing else. What is only to be told kills nobody.
    pub fn guard_at(&self) -> Moment {
        let lease = if self.rules.warn_on_lost { Moment::NEVER } else { self.dead_at };
        match self.state {
            State::Running { .. } => lease,
            State::Ending { kill_at, .. } => lease.min(kill_at),
            State::Left => Moment::NEVER,
        }
    }

    /// What to do about `event`, and when to come back if nothing happens.
    pub fn next(&mut self, now: Moment, event: Event) -> (Vec<Action>, Moment) {
        let mut actions = Vec::new();
        let guarded_before = self.guard_at();
        // The deadline first: this may be the waking from any pause. Before it come only a better lease, and the
        // end of a command that did not live to see the deadline.
        match event {
            Event::Lease(Lease::Held { term_at, dead_at }) if !self.lost => {
                (self.term_at, self.dead_at) = (term_at, dead_at);
            }
            Event::Ended { ending, is_last } => self.ended(now, ending, is_last, &mut actions),
            _ => {}
        }
        self.look_at_the_clock(now, &mut actions);
        match event {
            Event::GroupGone => self.group_gone(now, &mut actions),
            Event::Stopped if matches!(self.state, State::Running { .. }) => actions.push(Action::Suspend),
            Event::Continued if matches!(self.state, State::Running { .. }) => actions.push(Action::Resume),
            Event::Signal(signal) => self.hand_on(signal, &mut actions),
            Event::Typed(signal) => self.typed(now, signal, &mut actions),
            Event::Lease(Lease::Lost { proved, why }) => self.lose(now, proved, &why, &mut actions),
            Event::Stopped | Event::Continued | Event::Ended { .. } | Event::Lease(Lease::Held { .. }) | Event::Due => {
            }
        }
        let guarded = self.guard_at();
        if guarded != guarded_before && !matches!(self.state, State::Left) {
            actions.push(Action::Guard(guarded));
        }
        actions.sort_by_key(Action::rank);
        (actions, self.next_look())
    }

    fn look_at_the_clock(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if !self.lost && now >= self.term_at {
            self.lose(now, false, "it could not be renewed in time", actions);
        }
        if now >= self.runtime_over_at && matches!(self.state, State::Running { .. }) {
            actions.push(Action::Say("the command ran longer than --max-runtime".to_owned()));
            self.end_group(Why::RuntimeOver, now + self.rules.kill_after, actions);
        }
        if let State::Ending { next_kill, .. } = &mut self.state
            && now >= *next_kill
        {
            *next_kill = now + KILL_EVERY;
            actions.push(Action::Kill);
        }
    }

    fn lose(&mut self, now: Moment, proved: bool, why: &str, actions: &mut Vec<Action>) {
        // One that ended by itself did so under the lock.
        if matches!(self.state, State::Left) {
            return;
        }
        let grace = self.rules.grace(proved);
        if self.lost {
            // Of several locks one may be proved lost after another that was not: that leaves less time.
            if proved && let State::Ending { why: Why::Lost, kill_at, next_kill, .. } = &mut self.state {
                *kill_at = (*kill_at).min(now + grace);
                *next_kill = (*next_kill).min(*kill_at);
            }
            return;
        }
        self.lost = true;
        if self.rules.warn_on_lost {
            actions.push(Action::Say(format!("the lock was lost: {why}; the command runs on (--on-lost warn)")));
            return;
        }
        actions.push(Action::Say(format!("the lock was lost: {why}; stopping the command")));
        // Never beyond the end of the lease, whatever the grace; a loss that is not proved leaves the time until then.
        let kill_at = self.dead_at.min(now + grace).max(now);
        self.end_group(Why::Lost, kill_at, actions);
    }

    fn end_group(&mut self, why: Why, kill_at: Moment, actions: &mut Vec<Action>) {
        let (why, kill_at, leader) = match self.state {
            State::Running { .. } => (why, kill_at, None),
            State::Ending { why: before, kill_at: earlier, leader, .. } => {
                // A loss is what has to be told, whatever came first.
                let worst = if why == Why::Lost { why } else { before };
                (worst, earlier.min(kill_at), leader)
            }
            State::Left => return,
        };
        self.state = State::Ending { why, kill_at, next_kill: kill_at, leader };
        actions.push(Action::Stop);
    }

    fn ended(&mut self, now: Moment, ending: Ending, is_last: bool, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Running { told } => {
                let by_force = *told || matches!(ending, Ending::Killed(_));
                // One that ended by itself inside the deadline did so under the lock. Beyond it nobody can say.
                let why = if !self.lost && now >= self.dead_at {
                    self.lost = true;
                    actions.push(Action::Say("the lock was lost: its lease ended before the command did".to_owned()));
                    if self.rules.warn_on_lost { Why::LeftBehind } else { Why::Lost }
                } else {
                    Why::LeftBehind
                };
                if is_last || why == Why::LeftBehind && !by_force {
                    self.leave(why, ending, actions);
                    return;
                }
                let kill_at = if why == Why::Lost { now } else { now + self.rules.kill_after };
                self.state = State::Ending { why, kill_at, next_kill: kill_at, leader: Some(ending) };
                actions.push(Action::Stop);
            }
            State::Ending { why, leader, .. } => {
                *leader = Some(ending);
                if is_last {
                    let why = *why;
                    self.leave(why, ending, actions);
                }
            }
            State::Left => {}
        }
    }

    fn group_gone(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let State::Ending { why, leader, kill_at, .. } = self.state else { return };
        // How one ended that was killed in the hands of a debugger is told to nobody else.
        if let Some(ending) = leader.or_else(|| (now >= kill_at).then_some(Ending::Killed(Signal::SIGKILL))) {
            self.leave(why, ending, actions);
        }
    }

    fn hand_on(&mut self, signal: Signal, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Running { told } => {
                *told |= means_an_end(signal);
                actions.push(Action::Pass(signal));
            }
            State::Ending { leader: None, .. } => actions.push(Action::Pass(signal)),
            State::Ending { .. } | State::Left => {}
        }
    }

    /// The first Ctrl-C is between the user and the command; a second one soon after it means it.
    fn typed(&mut self, now: Moment, signal: Signal, actions: &mut Vec<Action>) {
        let State::Running { told } = &mut self.state else { return };
        *told |= means_an_end(signal);
        if signal != Signal::SIGINT {
            return;
        }
        let before = self.interrupted_at.replace(now);
        if before.is_some_and(|before| now.since(before) <= self.rules.kill_after) {
            let kill_after = self.rules.kill_after;
            let seconds = kill_after.as_secs_f64();
            actions.push(Action::Say(format!("interrupted again: the command is killed in {seconds}s")));
            self.end_group(Why::Interrupted, now + kill_after, actions);
        }
    }

    fn leave(&mut self, why: Why, ending: Ending, actions: &mut Vec<Action>) {
        self.state = State::Left;
        actions.push(Action::Leave(match why {
            Why::Lost => Status::Lost,
            Why::RuntimeOver => Status::RuntimeOver,
            Why::Interrupted | Why::LeftBehind => Status::Child(ending),
        }));
    }

    fn next_look(&self) -> Moment {
        let lease = if self.lost { Moment::NEVER } else { self.term_at };
        match self.state {
            State::Running { .. } => lease.min(self.runtime_over_at),
            State::Ending { next_kill, .. } => lease.min(next_kill),
            State::Left => Moment::NEVER,
        }
    }
}

/// Whoever sends one of these wants an end, and whatever a command does then, it does because of that.
fn means_an_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM)
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

    /// It ended, and nobody is left of its group.
    fn last(ending: Ending) -> Event {
        Event::Ended { ending, is_last: true }
    }

    /// It ended, and has left others behind.
    fn among_others(ending: Ending) -> Event {
        Event::Ended { ending, is_last: false }
    }

    fn without_words(actions: Vec<Action>) -> Vec<Action> {
        actions.into_iter().filter(|action| !matches!(action, Action::Say(_))).collect()
    }

    #[test]
    fn a_command_that_ends_in_time_decides_the_status() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(1.0), last(Ending::Exited(7)));
        assert_eq!(actions, [Action::Leave(Status::Child(Ending::Exited(7)))]);
        assert_eq!(next, Moment::NEVER);
    }

    #[test]
    fn whoever_is_dead_in_the_hands_of_a_debugger_is_not_waited_for() {
        let mut policy = policy(RULES);
        policy.next(at(6.5), Event::Due);
        let (actions, _) = policy.next(at(8.0), Event::GroupGone);
        assert!(without_words(actions).is_empty(), "its own end may be read in a moment");
        policy.next(at(9.0), Event::Due);
        let (actions, _) = policy.next(at(9.05), Event::GroupGone);
        assert_eq!(without_words(actions), [Action::Leave(Status::Lost)]);
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_the_command_in_time() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(6.5), Event::Due);
        assert_eq!(without_words(actions), [Action::Stop]);
        assert_eq!(next, at(9.0), "killed when the margin begins");
        let (actions, next) = policy.next(at(9.0), Event::Due);
        assert_eq!((actions, next), (vec![Action::Kill], at(9.1)));
        let (actions, next) = policy.next(at(9.05), among_others(Ending::Killed(Signal::SIGKILL)));
        assert!(actions.is_empty(), "its group is waited for: {actions:?}");
        assert_eq!(policy.next(next, Event::Due), (vec![Action::Kill], at(9.2)), "again, as long as anybody is left");
        let (actions, _) = policy.next(at(9.15), Event::GroupGone);
        assert_eq!(actions, [Action::Leave(Status::Lost)]);
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
        assert_eq!(without_words(actions), [Action::Guard(at(2.0)), Action::Stop]);
        assert_eq!(next, at(2.0));
        let mut chosen = self::policy(Rules { kill_after: secs(3.0), kill_after_given: true, ..RULES });
        assert_eq!(chosen.next(at(1.0), lost(true)).1, at(4.0));
    }

    #[test]
    fn a_loss_that_is_proved_later_leaves_a_second_from_then() {
        let mut policy = policy(RULES);
        assert_eq!(policy.next(at(6.5), Event::Due).1, at(9.0));
        assert_eq!(policy.next(at(6.6), lost(true)), (vec![Action::Guard(at(7.6))], at(7.6)));
        assert_eq!(policy.next(at(7.6), Event::Due).0, [Action::Kill]);
    }

    #[test]
    fn while_it_is_ended_signals_are_handed_on_and_a_stop_stops_nothing_else() {
        let mut policy = policy(RULES);
        policy.next(at(6.5), Event::Due);
        assert!(policy.next(at(7.0), Event::Stopped).0.is_empty());
        let (actions, _) = policy.next(at(7.0), Event::Signal(Signal::SIGUSR1));
        assert_eq!(actions, [Action::Pass(Signal::SIGUSR1)]);
        let (actions, _) = policy.next(at(7.1), last(Ending::Killed(Signal::SIGTERM)));
        assert_eq!(actions, [Action::Leave(Status::Lost)], "nobody is left to wait for");
    }

    #[test]
    fn whom_a_command_leaves_behind_after_its_lease_is_killed_at_once() {
        let mut policy = policy(RULES);
        let (actions, _) = policy.next(at(9.5), among_others(Ending::Exited(0)));
        assert_eq!(without_words(actions), [Action::Stop, Action::Kill]);
        let mut warned = self::policy(Rules { warn_on_lost: true, ..RULES });
        let (actions, _) = warned.next(at(9.5), last(Ending::Exited(4)));
        assert_eq!(without_words(actions), [Action::Leave(Status::Child(Ending::Exited(4)))], "it is only told");
    }

    #[test]
    fn too_long_a_run_is_noticed_in_time_and_a_loss_after_it_gives_no_time() {
        let mut policy = policy(Rules { max_runtime: Some(secs(1.0)), ..RULES });
        assert_eq!(policy.next(at(0.5), Event::Due).1, at(1.0));
        assert_eq!(policy.next(at(1.0), Event::Due).1, at(6.0));
        assert_eq!(policy.next(at(2.0), lost(false)).1, at(6.0));
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
        assert!(policy.next(at(1.0), Event::Typed(Signal::SIGINT)).0.is_empty());
        assert!(policy.next(at(7.0), Event::Typed(Signal::SIGINT)).0.is_empty());
        let (actions, next) = policy.next(at(8.0), Event::Typed(Signal::SIGINT));
        assert_eq!((without_words(actions), next), (vec![Action::Guard(at(13.0)), Action::Stop], at(13.0)));
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
        policy.next(at(1.0), last(Ending::Exited(0)));
        assert!(policy.next(at(1.1), lost(true)).0.is_empty());
    }

    #[test]
    fn an_end_seen_after_the_deadline_proves_nothing() {
        let mut policy = policy(RULES);
        let (actions, _) = policy.next(at(20.0), last(Ending::Exited(0)));
        assert_eq!(without_words(actions), [Action::Leave(Status::Lost)]);
        // Between TERM time and the deadline it is still the command's own end.
        let mut policy = self::policy(RULES);
        let (actions, _) = policy.next(at(8.0), last(Ending::Exited(0)));
        assert_eq!(actions, [Action::Leave(Status::Child(Ending::Exited(0)))]);
    }

    #[test]
    fn too_long_a_run_is_ended_with_its_own_status() {
        let rules = Rules { max_runtime: Some(secs(2.0)), ..RULES };
        let mut policy = policy(rules);
        let (actions, next) = policy.next(at(2.0), Event::Due);
        assert_eq!(without_words(actions), [Action::Guard(at(7.0)), Action::Stop]);
        assert_eq!(next, at(6.5), "the lease still counts");
        policy.next(at(2.1), among_others(Ending::Killed(Signal::SIGTERM)));
        let (actions, _) = policy.next(at(2.2), Event::GroupGone);
        assert_eq!(actions, [Action::Leave(Status::RuntimeOver)]);
    }

    #[test]
    fn those_left_of_a_group_that_is_ended_have_no_more_time_than_the_lease() {
        let rules = Rules { kill_after: secs(60.0), kill_after_given: true, max_runtime: Some(secs(2.0)), ..RULES };
        let mut policy = policy(rules);
        policy.next(at(2.0), Event::Due);
        let (_, next) = policy.next(at(2.1), among_others(Ending::Killed(Signal::SIGTERM)));
        assert_eq!(next, at(6.5));
        let (_, next) = policy.next(at(6.5), Event::Due);
        assert_eq!(next, at(9.0), "not a moment that has passed, which would be looked at again and again");
        assert_eq!(policy.next(at(9.0), Event::Due), (vec![Action::Kill], at(9.1)));
        assert_eq!(policy.next(at(9.05), Event::GroupGone).0, [Action::Leave(Status::Lost)]);
    }

    #[test]
    fn told_but_not_acted_on_if_the_user_wants_that() {
        let mut policy = policy(Rules { warn_on_lost: true, ..RULES });
        assert_eq!(policy.guard_at(), Moment::NEVER, "dflock may freeze, and the command runs on");
        let (actions, next) = policy.next(at(1.0), lost(true));
        assert!(without_words(actions).is_empty());
        assert_eq!(next, Moment::NEVER);
        assert_eq!(policy.guard_at(), Moment::NEVER, "as another guardian would be told");
        let (actions, _) = policy.next(at(99.0), last(Ending::Exited(3)));
        assert_eq!(actions, [Action::Leave(Status::Child(Ending::Exited(3)))]);
    }

    #[test]
    fn the_second_interrupt_means_it() {
        let mut policy = policy(RULES);
        assert!(policy.next(at(1.0), Event::Typed(Signal::SIGINT)).0.is_empty());
        let (actions, next) = policy.next(at(1.5), Event::Typed(Signal::SIGINT));
        assert_eq!(without_words(actions), [Action::Guard(at(6.5)), Action::Stop]);
        assert_eq!(next, at(6.5));
    }

    #[test]
    fn whoever_a_death_leaves_behind_is_ended_before_the_locks_are_given_back() {
        let mut policy = policy(RULES);
        let (actions, next) = policy.next(at(1.0), among_others(Ending::Killed(Signal::SIGSEGV)));
        assert_eq!((actions, next), (vec![Action::Guard(at(6.0)), Action::Stop], at(6.0)));
        assert_eq!(policy.next(at(6.0), Event::Due).0, [Action::Kill]);
        let (actions, _) = policy.next(at(6.01), Event::GroupGone);
        assert_eq!(actions, [Action::Leave(Status::Child(Ending::Killed(Signal::SIGSEGV)))]);
    }

    #[test]
    fn an_end_that_was_asked_for_is_one_by_force() {
        for asked in [Event::Signal(Signal::SIGTERM), Event::Signal(Signal::SIGHUP), Event::Typed(Signal::SIGQUIT)] {
            let mut policy = policy(RULES);
            policy.next(at(1.0), asked);
            let (actions, _) = policy.next(at(2.0), among_others(Ending::Exited(3)));
            assert_eq!(actions, [Action::Guard(at(7.0)), Action::Stop]);
            let (actions, _) = policy.next(at(2.1), Event::GroupGone);
            assert_eq!(actions, [Action::Leave(Status::Child(Ending::Exited(3)))]);
        }
    }

    #[test]
    fn whoever_an_ordinary_end_leaves_behind_is_left_alone() {
        let mut policy = policy(RULES);
        policy.next(at(1.0), Event::Signal(Signal::SIGUSR1));
        let (actions, _) = policy.next(at(2.0), among_others(Ending::Exited(3)));
        assert_eq!(actions, [Action::Leave(Status::Child(Ending::Exited(3)))]);
    }

    #[test]
    fn a_lock_lost_while_others_are_ended_is_what_has_to_be_told() {
        let mut policy = policy(RULES);
        policy.next(at(6.0), among_others(Ending::Killed(Signal::SIGKILL)));
        assert_eq!(without_words(policy.next(at(6.5), Event::Due).0), [Action::Stop]);
        assert_eq!(policy.next(at(7.0), Event::GroupGone).0, [Action::Leave(Status::Lost)]);
    }

    #[test]
    fn nothing_is_said_before_all_is_done() {
        let mut policy = policy(RULES);
        let (actions, _) = policy.next(at(3600.0), lost(true));
        assert!(matches!(actions[..], [Action::Stop, Action::Kill, Action::Say(_)]), "{actions:?}");
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

    /// Thousands of histories: nothing runs past its lease, whoever a death leaves behind is ended too, nothing is
    /// signalled after its end, and each history ends.
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
            // The leader and somebody it has started.
            let (leader_obeys, other_obeys) = (random(2) == 0, random(2) == 0);
            let (mut leader, mut other) = (true, random(2) == 0);
            let (mut reaped, mut told, mut left) = (None, false, false);
            let (mut now, mut due, mut guarded) = (T0, term_at, dead_at);
            for step in 0.. {
                assert!(step < 1000, "seed {seed} does not end");
                let before = now;
                let event = match random(12) {
                    _ if !leader && reaped.is_none() => {
                        let ending = Ending::Killed(Signal::SIGKILL);
                        reaped = Some(ending);
                        Event::Ended { ending, is_last: !other }
                    }
                    _ if reaped.is_some() && !other => Event::GroupGone,
                    0 if random(20) == 0 && reaped.is_none() => {
                        leader = false;
                        let ending = Ending::Exited(0);
                        reaped = Some(ending);
                        Event::Ended { ending, is_last: !other }
                    }
                    1 if random(20) == 0 => {
                        leader = false;
                        continue;
                    }
                    1 => Event::Signal(Signal::SIGUSR1),
                    2 if random(10) == 0 => Event::Signal(Signal::SIGTERM),
                    2 => Event::Typed(Signal::SIGINT),
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
                told |= matches!(event, Event::Signal(Signal::SIGTERM) | Event::Typed(_)) && reaped.is_none();
                let (actions, next) = policy.next(now, event);
                due = next;
                for action in &actions {
                    assert!(!left, "seed {seed}: {action:?} after the last");
                    match action {
                        Action::Guard(moment) => guarded = *moment,
                        Action::Kill => (leader, other) = (false, false),
                        Action::Stop => {
                            told = true;
                            leader &= !leader_obeys;
                            other &= !other_obeys;
                        }
                        Action::Pass(_) => assert!(reaped.is_none(), "seed {seed}: a signal after the end"),
                        Action::Leave(_) => left = true,
                        _ => {}
                    }
                }
                let is_left_alone = !leader && reaped == Some(Ending::Exited(0)) && !told;
                let someone = leader || other && !is_left_alone;
                assert!(!(left && someone), "seed {seed}: the lock is let go of while somebody runs");
                assert!(!someone || policy.lost || before < policy.dead_at, "seed {seed}: alive past its lease");
                if let (true, State::Ending { kill_at, .. }) = (someone, &policy.state) {
                    assert!(now < *kill_at, "seed {seed}: alive past its kill");
                    assert!(guarded <= *kill_at, "seed {seed}: the guardian would kill later");
                }
                if left {
                    break;
                }
            }
        }
    }
}
