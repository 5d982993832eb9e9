//! A child process under a lease. The story: guardian, locks, command, watch, stop, sweep, release.
//!
//! `script` and `lease::plan` decide; the loop here feeds the script what happens and carries out what it
//! says. The guardian (`guard`) does the one thing that dflock cannot do for itself: end the group when
//! dflock is dead or frozen.

mod ear;
mod group;
pub mod guard;
pub mod script;
mod signals;
pub mod status;
mod terminal;

use std::borrow::{Borrow, BorrowMut};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::{Ask, Backend, Hold, Renewal, Wait};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};
use crate::lease::alarm::Alarm;
use crate::lease::keeper::{Keeper, News, RELEASE_WITHIN};
use crate::lock::Grant;
use ear::Ear;
use group::{Group, Happened};
use guard::{Guard, Left, LetGo};
use script::{Action, Event, Lease, Rules, Script};
use signals::Signals;
use status::Status;
use terminal::Terminal;

/// The shortest lease that leaves time to stop a command.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// How long the server may take to agree on keeping a lock when the connection breaks.
const SECURE_WITHIN: Duration = Duration::from_secs(2);

/// How long leftovers of a stopped group are looked for at a time.
const SWEEP_EVERY: Duration = Duration::from_millis(5);

pub struct Job {
    /// The key of the command line first, then those of --also; all are taken in one sorted order.
    pub asks: Vec<Ask>,
    pub program: Vec<OsString>,
    pub rules: Rules,
    /// Variables for the child besides those of the lock.
    pub held: OsString,
}

/// How it went: a status, or a signal that ended us while we waited.
pub enum Outcome {
    Ran(Status),
    Interrupted(Signal),
}

/// Whoever started us, and may be watching.
pub trait User {
    fn say(&self, text: &str);
    /// We still wait for the lock, and have for so long.
    fn waiting(&self, time: Duration);
    /// We do not wait any more.
    fn waited(&self);
}

type Say<'a> = &'a dyn Fn(&str);

/// How often a user who waits hears of it.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Takes the locks, runs the command, gives the locks back. The guardian was forked before.
pub async fn run(
    job: Job,
    backend: &Backend,
    guard: Guard,
    let_go: LetGo<'_>,
    user: &dyn User,
) -> Result<Outcome, Failure> {
    let mut signals = Signals::listen().map_err(|why| Failure::internal("listen for signals", &why))?;
    let taken = tokio::select! {
        taken = take_all(&job, backend, &guard, &mut signals) => taken,
        () = tell_the_time(user) => Err(Failure::internal("wait", &"the clock stopped")),
    };
    user.waited();
    let taken = match taken {
        Ok(Taken::All(taken)) => taken,
        Ok(Taken::Interrupted(signal)) => {
            guard.farewell();
            return Ok(Outcome::Interrupted(signal));
        }
        Err(failure) => {
            guard.farewell();
            return Err(failure);
        }
    };
    let mut run = match Run::start(job, taken, guard).await {
        Ok(run) => run,
        Err((failure, guard, keepers)) => {
            give_back(keepers, &|_: &str| ()).await;
            guard.farewell();
            return Err(failure);
        }
    };
    let say: Say<'_> = &|text| user.say(text);
    let status = run.watch(&mut signals, let_go, say).await;
    let Run { keepers, guard, terminal, .. } = run;
    if let Some(terminal) = &terminal {
        terminal.take_back();
    }
    // After a loss nothing is held; a server that still keeps the lock for us is told not to.
    let nothing: Say<'_> = &|_| ();
    give_back(keepers, if status == Status::Lost { nothing } else { say }).await;
    if let Some(guard) = guard {
        guard.farewell();
    }
    Ok(Outcome::Ran(status))
}

/// Never returns.
async fn tell_the_time(user: &dyn User) {
    let begin = clock::now();
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        user.waiting(clock::now().since(begin));
    }
}

async fn interrupted(signals: &mut Signals) -> Signal {
    loop {
        match signals.sent.recv().await {
            Some(signal) if signals::ends_a_wait(signal) => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

enum Taken {
    /// In the order they were asked for.
    All(Vec<Protected>),
    Interrupted(Signal),
}

/// All or nothing, in one sorted order under one deadline, so that two who want the same keys never wait for
/// each other for ever. What is taken is kept from that moment on: waiting for the next may take longer than its
/// lease. A signal ends the waiting, but nothing that is under way with a lock that was granted.
async fn take_all(job: &Job, backend: &Backend, guard: &Guard, signals: &mut Signals) -> Result<Taken, Failure> {
    let begin = clock::now();
    let mut order: Vec<usize> = (0..job.asks.len()).collect();
    order.sort_by(|a, b| job.asks[*a].key.cmp(&job.asks[*b].key));
    let mut taken: Vec<(usize, Protected)> = Vec::new();
    for at in order {
        let mut ask = job.asks[at].clone();
        if let Wait::For(whole) = ask.wait {
            ask.wait = Wait::For(whole.saturating_sub(clock::now().since(begin)));
        }
        let acquired = tokio::select! {
            biased;
            // The connection closes with us, and that is how a queue is left.
            signal = interrupted(signals) => {
                roll_back(taken).await;
                return Ok(Taken::Interrupted(signal));
            }
            failure = lost_while_waiting(&mut taken) => Err(failure),
            acquired = backend.acquire(&ask) => acquired,
        };
        let outcome = match acquired {
            Ok(hold) => protect(&ask, hold, guard, job.rules.kill_after).await,
            Err(failure) => Err((failure, None)),
        };
        match outcome {
            Ok(protected) => taken.push((at, protected)),
            Err((failure, hold)) => {
                if let Some(mut hold) = hold {
                    let _ = hold.give_back(clock::now() + RELEASE_WITHIN).await;
                }
                roll_back(taken).await;
                return Err(failure);
            }
        }
    }
    taken.sort_by_key(|(at, _)| *at);
    Ok(Taken::All(taken.into_iter().map(|(_, protected)| protected).collect()))
}

/// A lock that is kept, and what a guardian has to know of it.
struct Protected {
    keeper: Keeper,
    grant: Grant,
    left: (Left, Option<OwnedFd>),
}

/// Before a command may start the guardian knows of the lock, and the server keeps it if the connection breaks.
async fn protect(
    ask: &Ask,
    mut hold: Hold,
    guard: &Guard,
    grace: Duration,
) -> Result<Protected, (Failure, Option<Hold>)> {
    let left = Left { key: ask.key.clone(), space: ask.kind.space(), token: hold.grant().token.clone() };
    let lifeline = hold.lifeline();
    if let Err(why) = guard.lock(left.clone(), lifeline.as_ref()) {
        return Err((Failure::internal("tell the guardian", &why), Some(hold)));
    }
    if let Renewal::Unknown(why) = hold.secure(clock::now() + SECURE_WITHIN).await {
        let failure = Failure::new(Kind::Unreachable, format!("cannot keep {}: {why}", ask.key));
        return Err((failure.hint("the server went away just now: try again"), Some(hold)));
    }
    let grant = hold.grant().clone();
    Ok(Protected { keeper: Keeper::start(hold, grace), grant, left: (left, lifeline) })
}

/// Returns when a lock that was taken is lost before all are.
async fn lost_while_waiting(taken: &mut [(usize, Protected)]) -> Failure {
    let mut keepers: Vec<&mut Keeper> = taken.iter_mut().map(|(_, protected)| &mut protected.keeper).collect();
    loop {
        if let Lease::Lost { why, .. } = next_news(&mut keepers).await {
            let failure =
                Failure::new(Kind::Unreachable, format!("a lock was lost while others were waited for: {why}"));
            return failure.hint("nothing was started: try again");
        }
    }
}

async fn roll_back(taken: Vec<(usize, Protected)>) {
    give_back(taken.into_iter().map(|(_, protected)| protected.keeper).collect(), &|_: &str| ()).await;
}

/// Bounded; a failure is told and changes nothing.
async fn give_back(keepers: Vec<Keeper>, say: Say<'_>) {
    for keeper in keepers {
        if let Err(failure) = keeper.release().await {
            say(&format!("the lock may not have been given back: {}", failure.message));
        }
    }
}

struct Run {
    keepers: Vec<Keeper>,
    guard: Option<Guard>,
    /// What a guardian has to know of the locks.
    left: Vec<(Left, Option<OwnedFd>)>,
    group: Group,
    terminal: Option<Terminal>,
    ear: Option<Ear>,
    script: Script,
    alarm: Alarm,
    due: Moment,
    /// The group is being ended and its end is looked for.
    sweeping: bool,
}

impl Run {
    /// Starts the command if there is still time for it.
    async fn start(job: Job, taken: Vec<Protected>, guard: Guard) -> Result<Run, (Failure, Guard, Vec<Keeper>)> {
        let (mut keepers, mut grants, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for protected in taken {
            keepers.push(protected.keeper);
            grants.push(protected.grant);
            left.push(protected.left);
        }
        if let Some(short) = grants.iter().find(|grant| grant.lease < SHORTEST_LEASE) {
            let message = format!("a lease of {}s leaves no time to stop a command", short.lease.as_secs_f64());
            return Err((Failure::usage(message).hint("-l must be at least 2s"), guard, keepers));
        }
        let (term_at, dead_at) = soonest(&keepers);
        if clock::now() >= term_at {
            return Err((group::too_late(), guard, keepers));
        }
        let terminal = Terminal::find();
        let environment = environment(&job, &grants);
        let announcement = guard.announcement(dead_at, term_at);
        let device = terminal.as_ref().map(Terminal::descriptor);
        let group = match Group::spawn(&job.program, &environment, announcement, device) {
            Ok(group) => group,
            Err(failure) => {
                if let Some(terminal) = &terminal {
                    terminal.take_back();
                }
                return Err((failure, guard, keepers));
            }
        };
        if let Some(terminal) = &terminal {
            terminal.lend(group.leader());
        }
        // Without it only the command hears Ctrl-C, which is what matters most.
        let ear = terminal.as_ref().filter(|_| has_one_thread()).and_then(|_| Ear::put_into(group.leader()).ok());
        let script = Script::new(clock::now(), term_at, dead_at, job.rules);
        let guard = Some(guard);
        Ok(Run {
            keepers,
            guard,
            left,
            group,
            terminal,
            ear,
            script,
            alarm: Alarm::new(),
            // At once: the script says when the first look is due.
            due: clock::now(),
            sweeping: false,
        })
    }

    /// The loop: one event at a time, until the script says how we leave.
    async fn watch(&mut self, signals: &mut Signals, let_go: LetGo<'_>, say: Say<'_>) -> Status {
        let mut events = Vec::new();
        loop {
            // The clock is looked at with every event, and before it: see the script.
            for event in events.drain(..) {
                let (actions, due) = self.script.next(clock::now(), event);
                self.due = due;
                for action in actions {
                    if let Some(status) = self.act(action, say) {
                        return status;
                    }
                }
            }
            let sweep_at = if self.sweeping { clock::now() + SWEEP_EVERY } else { Moment::NEVER };
            let keepers = &mut self.keepers;
            tokio::select! {
                biased;
                () = self.alarm.wait_until(self.due.min(sweep_at)) => events.push(Event::Due),
                _ = signals.child.recv() => {}
                Some(signal) = signals.sent.recv() => events.push(Event::Signal(signal)),
                () = heard(self.ear.as_ref()) => events.push(Event::Interrupt),
                news = next_news(keepers) => events.push(Event::Lease(news)),
            }
            for happened in self.group.reap() {
                match happened {
                    Happened::Ended(ending) => {
                        if let Some(ear) = self.ear.take() {
                            ear.close();
                        }
                        events.push(Event::Ended(ending));
                    }
                    Happened::Stopped if self.terminal.is_some() => events.push(Event::Stopped),
                    Happened::Other(pid) if self.guard.as_ref().is_some_and(|guard| guard.pid == pid) => {
                        self.guard = self.replace_guardian(let_go);
                        if self.guard.is_none() {
                            say("the guardian is gone; if dflock is killed now, the command runs on");
                        }
                    }
                    Happened::Stopped | Happened::Other(_) => {}
                }
            }
            if self.sweeping && self.group.is_gone() {
                events.push(Event::GroupGone);
            }
        }
    }

    /// Another one, that knows all that the first one knew.
    fn replace_guardian(&self, let_go: LetGo<'_>) -> Option<Guard> {
        if !has_one_thread() {
            return None;
        }
        let guard = Guard::start(let_go).ok()?;
        let (_, dead_at) = soonest(&self.keepers);
        tell_guardian(&guard, &self.left).ok()?;
        guard.group(self.group.leader()).ok()?;
        guard.kill_at(dead_at).ok()?;
        Some(guard)
    }

    /// Carries out one action; the last one says how we leave.
    fn act(&mut self, action: Action, say: Say<'_>) -> Option<Status> {
        match action {
            Action::Pass(signal) => self.group.signal(signal),
            Action::Stop => {
                self.group.signal(Signal::SIGTERM);
                self.group.signal(Signal::SIGCONT);
                self.sweeping = true;
            }
            Action::Kill => self.group.signal(Signal::SIGKILL),
            Action::Guard(moment) => {
                if let Some(guard) = &self.guard {
                    // If it is gone, that is noticed when it is reaped.
                    let _ = guard.kill_at(moment);
                }
            }
            Action::Suspend => {
                if let Some(terminal) = &self.terminal {
                    terminal.take_back();
                    terminal.stop_ourselves();
                    let (actions, due) = self.script.next(clock::now(), Event::Continued);
                    self.due = due;
                    return actions.into_iter().find_map(|action| self.act(action, say));
                }
            }
            Action::Resume => {
                if let Some(terminal) = &self.terminal {
                    terminal.lend(self.group.leader());
                }
                self.group.signal(Signal::SIGCONT);
            }
            Action::Say(text) => say(&text),
            // Carried out by the caller, who has the locks.
            Action::Release => {}
            Action::Leave(status) => return Some(status),
        }
        None
    }
}

/// A look-up of a name may be under way on a thread, which a fork would lose halfway.
fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) == 1
}

async fn heard(ear: Option<&Ear>) {
    match ear {
        Some(ear) => ear.hear().await,
        None => std::future::pending().await,
    }
}

fn tell_guardian(guard: &Guard, left: &[(Left, Option<OwnedFd>)]) -> std::io::Result<()> {
    left.iter().try_for_each(|(left, connection)| guard.lock(left.clone(), connection.as_ref()))
}

/// Of several leases the one that ends first counts.
fn soonest<K: Borrow<Keeper>>(keepers: &[K]) -> (Moment, Moment) {
    let (mut term, mut dead) = (Moment::NEVER, Moment::NEVER);
    for keeper in keepers {
        match &*keeper.borrow().news.borrow() {
            News::Held { term_at, dead_at, .. } | News::InDanger { term_at, dead_at, .. } => {
                term = term.min(*term_at);
                dead = dead.min(*dead_at);
            }
            News::Lost { .. } => (term, dead) = (Moment::from_nanos(0), Moment::from_nanos(0)),
        }
    }
    (term, dead)
}

/// Waits until any of the leases has news.
async fn next_news<K: BorrowMut<Keeper>>(keepers: &mut [K]) -> Lease {
    let mut changes: Vec<_> = keepers.iter_mut().map(|keeper| Box::pin(keeper.borrow_mut().news.changed())).collect();
    std::future::poll_fn(|cx| {
        let ready = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(changes);
    let mut lost = None;
    for keeper in keepers.iter() {
        if let News::Lost { proved, why } = &*keeper.borrow().news.borrow()
            && (lost.is_none() || *proved)
        {
            lost = Some(Lease::Lost { proved: *proved, why: why.clone() });
        }
    }
    if let Some(lost) = lost {
        return lost;
    }
    let (term_at, dead_at) = soonest(keepers);
    Lease::Held { term_at, dead_at }
}

/// What the command may know of its lock.
fn environment(job: &Job, grants: &[Grant]) -> Vec<(&'static str, Option<OsString>)> {
    use std::os::unix::ffi::OsStringExt;

    let Some((ask, grant)) = job.asks.first().zip(grants.first()) else { return Vec::new() };
    let text = |text: String| Some(OsString::from(text));
    vec![
        ("DFLOCK_KEY", Some(OsString::from_vec(ask.key.as_bytes().to_vec()))),
        ("DFLOCK_TOKEN", text(grant.token.as_str().to_owned())),
        ("DFLOCK_LEASE", text(grant.lease.as_secs_f64().to_string())),
        ("DFLOCK_SERVER", text(grant.server.clone())),
        // One of an enclosing dflock would be taken for ours.
        ("DFLOCK_FENCE", grant.fence.and_then(|fence| text(fence.to_string()))),
        ("DFLOCK_HELD", Some(job.held.clone())),
    ]
}
