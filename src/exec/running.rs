//! A command that runs under its locks: started, watched, stopped.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};

use super::contain::Containment;
use super::group::{self, Command, Group, Happened};
use super::guard::duty::WhyEarly;
use super::guard::{Guard, Line};
use super::key_listener::KeyListener;
use super::leases::{Times, next_news, soonest};
use super::policy::{Action, Event, Lease, Policy};
use super::reach::MARK;
use super::signals::Signals;
use super::status::{Ending, Status};
use super::take::Kept;
use super::terminal::Terminal;
use super::{Job, SHORTEST_LEASE, Say};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lease::keeper::Keeper;
use crate::lease::timer::BoottimeTimer;
use crate::lock::Grant;

/// So many ends are read before the clock is looked at again.
const MOST_AT_ONCE: usize = 64;

/// How long leftovers of a stopped group are looked for at a time.
const SWEEP_EVERY: Duration = Duration::from_millis(5);

/// The time that it may take to look who descends from the command; if there is less, it is not done.
const LOOK_WITHIN: Duration = Duration::from_millis(100);

/// How long it may take to start another guardian.
const ATTEND_WITHIN: Duration = Duration::from_millis(100);

pub(super) struct Run {
    pub(super) keepers: Vec<Keeper>,
    pub(super) guard: Guard,
    pub(super) group: Group,
    pub(super) terminal: Option<Terminal>,
    /// Where there is a terminal to type at.
    listener: Option<KeyListener>,
    policy: Policy,
    timer: BoottimeTimer,
    due: Moment,
    /// The group is being ended and its end is looked for.
    sweeping: bool,
    /// A signal was handed on to the command.
    was_told: bool,
    /// There is no guardian, and that was said.
    is_unguarded: bool,
}

impl Run {
    /// Starts the command if there is still time for it.
    pub(super) async fn start(
        job: &Job,
        taken: Vec<Kept>,
        mut guard: Guard,
        containment: &Containment,
        signals: &mut Signals,
    ) -> Result<Run, (Failure, Guard, Vec<Keeper>)> {
        let (keepers, lines): (Vec<Keeper>, Vec<Line>) =
            taken.into_iter().map(|Kept { keeper, line }| (keeper, line)).unzip();
        let leases = keepers.iter().map(|keeper| keeper.grant.lease);
        if let Some(short) = leases.min().filter(|lease| *lease < SHORTEST_LEASE) {
            let message = format!("a lease of {}s leaves no time to stop a command", short.as_secs_f64());
            return Err((Failure::usage(message).hint("-l must be at least 2s"), guard, keepers));
        }
        let Times { term_at, dead_at, ends_at } = soonest(&keepers);
        if clock::now() >= term_at {
            return Err((group::too_late(), guard, keepers));
        }
        let hung_up = |line: &Line| line.as_deref().is_some_and(is_hung_up);
        if keepers.iter().zip(&lines).any(|(keeper, line)| !keeper.can_move && hung_up(line)) {
            return Err((group::gone_before(), guard, keepers));
        }
        // Before anybody lives it knows by when they must be dead.
        let policy = Policy::new(clock::now(), term_at, dead_at, job.rules);
        guard.held_until(ends_at);
        guard.kill_at(policy.guard_at());
        if let Err(why) = guard.attend() {
            return Err((Failure::internal("tell the guardian", &why), guard, keepers));
        }
        signals.hear_stops();
        let terminal = Terminal::find();
        let environment = environment(job, keepers.first().map(|keeper| &keeper.grant), &containment.mark);
        let device = terminal.as_ref().and_then(Terminal::to_lend);
        let command = Command { program: &job.program, environment: &environment, terminal: device, containment };
        // After a loss that is only told, the command outlives even us.
        let dies_with_us = !job.rules.warn_on_lost;
        let group = match begin(&command, &mut guard, term_at, dies_with_us) {
            Ok(group) => group,
            Err(failure) => {
                if let Some(terminal) = &terminal {
                    terminal.take_back();
                }
                return Err((failure, guard, keepers));
            }
        };
        // It has said its number by itself. If there is nobody to tell it to, that is tried again soon.
        let _ = guard.leader(group.identity());
        containment.remove_leftovers();
        // Without it only the command hears Ctrl-C, which is what matters most.
        let listener = terminal.as_ref().and_then(|_| KeyListener::put_into(group.leader()).ok());
        Ok(Run {
            keepers,
            guard,
            group,
            terminal,
            listener,
            policy,
            timer: BoottimeTimer::new(),
            // At once: the policy says when the first look is due.
            due: clock::now(),
            sweeping: false,
            was_told: false,
            is_unguarded: false,
        })
    }

    /// The loop: one event at a time, until the policy says how we leave.
    pub(super) async fn watch(&mut self, signals: &mut Signals, say: Say<'_>) -> Status {
        let mut is_all_reaped = true;
        loop {
            // To end those who cannot be ended may take all of our time, and the locks are to be renewed meanwhile.
            tokio::task::yield_now().await;
            let sweep_at = if self.sweeping { clock::now() + SWEEP_EVERY } else { Moment::NEVER };
            let next = self.due.min(sweep_at).min(self.attend_at());
            // To look around takes its time, which has to be there.
            let look_until = clock::now() + LOOK_WITHIN;
            let remember_at = if next > look_until { self.group.remember(look_until) } else { next };
            let next = if is_all_reaped { next.min(remember_at) } else { clock::now() };
            let keepers = &mut self.keepers;
            let mut events = Vec::new();
            tokio::select! {
                biased;
                () = self.timer.wait_until(next) => events.push(Event::Due),
                _ = signals.child.recv() => {}
                signal = signals.sent.next() => self.was_sent(signal, &mut events),
                typed = heard(self.listener.as_ref()) => events.push(Event::Typed(typed)),
                () = self.group.has_news() => {}
                news = next_news(keepers) => events.extend(news.into_iter().map(Event::Lease)),
            }
            // Before the end of a command is read: it may be the answer to these.
            while let Some(signal) = signals.sent.at_once().await {
                self.was_sent(signal, &mut events);
            }
            if let Some(status) = self.feed(events, say) {
                return status;
            }
            self.guard.held_until(soonest(&self.keepers).ends_at);
            for keeper in &mut self.keepers {
                if keeper.lifeline.has_changed().unwrap_or(false) {
                    let line = keeper.lifeline.borrow_and_update().clone();
                    self.guard.reconnected(&keeper.grant.token, line);
                }
            }
            self.attend_to_guardian(say);
            is_all_reaped = false;
            for _ in 0..MOST_AT_ONCE {
                let Some(happened) = self.group.reap_one() else {
                    is_all_reaped = true;
                    break;
                };
                let events = match happened {
                    Happened::ReaperLost => {
                        say("somebody has killed a reaper, to whom orphans of the command go: the command is killed");
                        continue;
                    }
                    Happened::ParentSent(signal) if !signals.sent.hears(signal) => continue,
                    happened => self.happened(happened).await,
                };
                if let Some(status) = self.feed(events, say) {
                    return status;
                }
            }
            if self.sweeping
                && self.group.is_gone()
                && let Some(status) = self.feed(vec![Event::GroupGone], say)
            {
                return status;
            }
        }
    }

    /// When to look after the guardian. To start another one takes a moment, which is not there right before a kill.
    fn attend_at(&self) -> Moment {
        let at = self.guard.attend_at();
        let is_soon = self.sweeping && self.due.since(clock::now()) < ATTEND_WITHIN;
        if is_soon { at.max(self.due + ATTEND_WITHIN) } else { at }
    }

    fn attend_to_guardian(&mut self, say: Say<'_>) {
        if clock::now() < self.attend_at() {
            return;
        }
        let attended = self.guard.attend();
        if let Err(why) = &attended
            && !self.is_unguarded
        {
            say(&format!(
                "the guardian is gone and cannot be replaced: {why}; if dflock is killed now, the command runs on"
            ));
        }
        self.is_unguarded = !self.guard.is_there() && (self.is_unguarded || attended.is_err());
    }

    /// Where the terminal is ours and not lent, a key that is typed reaches us as a signal.
    fn was_sent(&self, signal: Signal, events: &mut Vec<Event>) {
        events.push(Event::Signal(signal));
        let may_be_typed = |terminal: &Terminal| !terminal.is_lent() && terminal.is_ours();
        if signal == Signal::SIGINT && self.terminal.as_ref().is_some_and(may_be_typed) {
            events.push(Event::Typed(signal));
        }
    }

    /// The clock is looked at with every event, and before it: see the policy.
    fn feed(&mut self, events: Vec<Event>, say: Say<'_>) -> Option<Status> {
        events.into_iter().find_map(|event| {
            self.was_told |= matches!(event, Event::Typed(_));
            let (actions, due) = self.policy.next(clock::now(), event);
            self.due = due;
            actions.into_iter().find_map(|action| self.act(action, say))
        })
    }

    async fn happened(&mut self, happened: Happened) -> Vec<Event> {
        let mut events = Vec::new();
        match happened {
            Happened::Ended(ending) => {
                if let Some(listener) = self.listener.take() {
                    events.extend(listener.close().await.into_iter().map(Event::Typed));
                }
                // To look for everybody takes longer than many a command; of one that ends by itself nobody asks
                // whom it leaves behind.
                let is_told = self.was_told || self.sweeping || !events.is_empty();
                let is_last = (is_told || matches!(ending, Ending::Killed(_))) && self.group.is_gone();
                if matches!(ending, Ending::Killed(_))
                    && let Some(why) = self.guard.has_killed()
                {
                    let why = match why {
                        WhyEarly::Starved => "this machine does not give the guardian enough processor time",
                        WhyEarly::Stopped => "the guardian does not run now and then, and may not run when it has to",
                    };
                    events.push(Event::Lease(Lease::Lost { proved: false, why: why.to_owned() }));
                }
                events.push(Event::Ended { ending, is_last });
            }
            Happened::Stopped(signal) if self.suspends(signal) => events.push(Event::Stopped),
            Happened::Other(pid) if self.listener.as_ref().is_some_and(|listener| listener.is(pid)) => {
                self.listener = None;
            }
            // Another guardian is started when all else is done.
            Happened::Other(pid) => self.guard.was_reaped(pid),
            Happened::OtherStopped(pid) => self.guard.was_stopped(pid),
            Happened::Stopped(_) | Happened::ReaperLost => {}
            Happened::ParentSent(signal) => events.push(Event::Signal(signal)),
        }
        events
    }

    /// Whether a stop of the command is one of the terminal's, and so stops us too.
    fn suspends(&mut self, signal: Signal) -> bool {
        let Some(terminal) = &self.terminal else { return false };
        // Whoever is about to be killed is stopped before.
        if self.guard.has_killed().is_some() {
            return false;
        }
        if matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && terminal.lend(self.group.leader()) {
            // It asked for the terminal, and `fg` had given that to us without a word.
            self.group.signal(Signal::SIGCONT);
            return false;
        }
        // Whoever stops the command by hand means it alone; but a terminal that nobody reads is no use.
        signal != Signal::SIGSTOP || terminal.is_lent()
    }

    /// Carries out one action; the last one says how we leave.
    fn act(&mut self, action: Action, say: Say<'_>) -> Option<Status> {
        match action {
            Action::Pass(signal) => {
                self.was_told = true;
                self.group.signal(signal);
            }
            Action::Stop => {
                self.group.signal_all(Signal::SIGTERM);
                self.group.signal_all(Signal::SIGCONT);
                self.sweeping = true;
            }
            Action::Kill => self.group.signal_all(Signal::SIGKILL),
            Action::Guard(moment) => self.guard.kill_at(moment),
            Action::Suspend => {
                if let Some(terminal) = &self.terminal {
                    terminal.take_back();
                    terminal.stop_our_group();
                    let (actions, due) = self.policy.next(clock::now(), Event::Continued);
                    self.due = due;
                    return actions.into_iter().find_map(|action| self.act(action, say));
                }
            }
            Action::Resume => {
                // In the background it goes on by the CONT that was sent to us, which is passed on.
                if self.terminal.as_ref().is_some_and(|terminal| terminal.lend_again(self.group.leader())) {
                    self.group.signal(Signal::SIGCONT);
                }
            }
            Action::Say(text) => say(&text),
            Action::Leave(status) => return Some(status),
        }
        None
    }
}

/// Before anybody lives the guardian knows by what they are known.
fn begin(command: &Command<'_>, guard: &mut Guard, not_after: Moment, dies_with_us: bool) -> Result<Group, Failure> {
    let mut kin = group::kin(command.containment, |pid| guard.is_guardian(pid));
    let orphans = command.find_place(&mut kin, guard.announcement(not_after, dies_with_us))?;
    let cgroup = command.containment.cgroup().and_then(|cgroup| cgroup.directory());
    guard.kin(kin.clone(), cgroup).map_err(|why| Failure::internal("tell the guardian", &why))?;
    Group::spawn(command, guard.announcement(not_after, dies_with_us), kin, orphans)
}

/// Whether the other end is closed, or was about to say so. With it the locks are gone that a server ties to
/// the connection, and a process that was stopped in this moment has not heard of it.
fn is_hung_up(connection: &OwnedFd) -> bool {
    let mut first = [0; 5];
    match recv(connection.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(length) => length == 0 || &first == b"error",
        Err(why) => why != Errno::EAGAIN,
    }
}

async fn heard(listener: Option<&KeyListener>) -> Signal {
    match listener {
        Some(listener) => listener.hear().await,
        None => std::future::pending().await,
    }
}

/// Ours after those of the commands around this one: whoever ends one of them ends this one too.
fn marks(ours: &str) -> OsString {
    let mut marks = std::env::var_os(MARK).unwrap_or_default();
    if !marks.is_empty() {
        marks.push(" ");
    }
    marks.push(ours);
    marks
}

/// What the command may know of its lock.
fn environment(job: &Job, grant: Option<&Grant>, mark: &str) -> Vec<(&'static str, Option<OsString>)> {
    use std::os::unix::ffi::OsStringExt;

    let Some((ask, grant)) = job.asks.first().zip(grant) else { return Vec::new() };
    let text = |text: String| Some(OsString::from(text));
    let mut variables = vec![
        ("DFLOCK_KEY", Some(OsString::from_vec(ask.key.as_bytes().to_vec()))),
        ("DFLOCK_TOKEN", text(grant.token.as_str().to_owned())),
        ("DFLOCK_LEASE", text(grant.lease.as_secs_f64().to_string())),
        ("DFLOCK_SERVER", text(grant.server.clone())),
        // One of an enclosing dflock would be taken for ours.
        ("DFLOCK_FENCE", grant.fence.and_then(|fence| text(fence.to_string()))),
        ("DFLOCK_HELD", Some(job.held.clone())),
        (MARK, Some(marks(mark))),
    ];
    variables.extend(job.secrets.iter().map(|name| (*name, None)));
    variables
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_that_is_over_is_seen_at_a_glance() {
        let (mut server, ours) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        assert!(!is_hung_up(&ours));
        server.write_all(b"ok 33\n").unwrap();
        assert!(!is_hung_up(&ours), "an answer to a renewal");
        let (mut server, ours) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        server.write_all(b"error\n").unwrap();
        assert!(is_hung_up(&ours), "what the original says before it cuts");
        let (server, ours) = UnixStream::pair().unwrap();
        drop(server);
        let ours = OwnedFd::from(ours);
        // A process that another test starts has the other end, too, until its program begins.
        while !is_hung_up(&ours) {
            std::thread::yield_now();
        }
    }
}
