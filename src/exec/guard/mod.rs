//! The guardian: a tiny process that ends the command if dflock itself dies or freezes. This is dflock's end of it.
//!
//! It is forked before anything else and lives in a session of its own. It knows the command, the moment at which
//! that must be dead, and the locks; and it keeps duplicates of their connections open, so that a killed dflock
//! does not free a lock while its command still runs. When our end of the socket closes without a farewell, or the
//! moment passes without being moved, it ends the command. Only when that is gone are the locks let go.
//!
//! A holder has one too, if its owner wants to be told when it is killed: instead of a command there is an owner then.
//!
//! One that is stopped, frozen, or in the hands of a debugger is no guardian. It answers every order, so that this is
//! noticed, and another one takes its place; when there is nothing to order for long, it is asked.
//!
//! `duty` and, for an owner, `vigil` decide, `life` does it, `message` is what goes between us, `hearing` says whether it
//! arrives, and `birth` when to start another one, and how long that may take to answer. A `sentry` is our end of one.

mod birth;
pub mod duty;
pub mod hearing;
mod life;
pub mod message;
mod sentry;
mod vigil;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::kin::Kin;
use crate::backend::Ask;
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lease::keeper::Lifeline;
use crate::lease::timer::BoottimeTimer;
use crate::lock::{Grant, Key, Space, Token};
use crate::procfs::Identity;
use crate::sys::{self, Announcement, Fork};
use birth::{Birth, Births};
use duty::WhyEarly;
use message::Message;
use sentry::{Sentry, is_reaped};

/// How a guardian is called. It does not carry dflock's name: whoever ends all that is called `dflock` must not hit
/// both of us with one command.
pub const TITLE: &str = "guardian";

/// How it is called until it is one.
pub const UNBORN: &CStr = c"guardian-to-be";

/// So many that were killed and do not end are enough: the next one would fare as they do.
const MOST_ENDED: usize = 8;

/// A lock that the guardian may have to let go of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    pub key: Key,
    pub space: Space,
    pub token: Token,
}

impl HeldLock {
    pub(super) fn of(ask: &Ask, grant: &Grant) -> HeldLock {
        HeldLock { key: ask.key.clone(), space: ask.kind.space(), token: grant.token.clone() }
    }
}

/// The connection that a lock is kept with, where it depends on one.
pub type Line = Lifeline;

/// What is done about locks that the guardian has to let go of.
pub type LetGo<'a> = &'a (dyn Fn(Vec<HeldLock>) + Sync);

pub type StartFn = dyn Fn(&OwnedFd) -> io::Result<Pid>;

/// Another guardian, as a program of its own: by the time that one is needed, a fork would miss what other threads
/// are doing.
pub struct Successor {
    /// What it has to know before anything else; it asks for that by [`introduction`].
    pub introduction: Vec<u8>,
    /// Starts it with its end of the socket, and waits for nothing.
    pub start: Box<StartFn>,
}

/// Our end.
pub struct Guard {
    current: Sentry,
    /// It takes the place of the current one as soon as it has answered.
    newborn: Option<Newborn>,
    /// Those that were in that place before, as long as their ends are not read.
    ended: Vec<Pid>,
    /// It has said that it ended the command sooner than it was told.
    has_killed: Option<WhyEarly>,
    successor: Successor,
    births: Births,
    told: Told,
}

/// One that is to answer first: what it is executed from may be slow to come, and nobody waits for that.
struct Newborn {
    sentry: Sentry,
    /// When it has answered so many orders it has heard all that there is to know.
    orders: u64,
    birth: Birth,
}

/// What a guardian was told, and another one would have to be.
struct Told {
    locks: Vec<(HeldLock, Line)>,
    /// By what the command is known, as long as it runs.
    kin: Option<(Kin, Line)>,
    kill_at: Moment,
    held_until: Moment,
    /// How to tell it, and what stands for it.
    owner: Option<(i32, Line)>,
}

impl Told {
    /// In an order of which every beginning does no harm, should we end in the middle: nobody lets go of a lock who does
    /// not know of those who rely on it.
    fn messages(&self) -> Vec<(Message, Line)> {
        let kin = self.kin.clone().map(|(kin, cgroup)| (Message::Kin(kin), cgroup));
        let owner = self.owner.clone().map(|(signal, process)| (Message::Owner(signal), process));
        let times = [Message::HeldUntil(self.held_until.as_nanos()), Message::KillAt(self.kill_at.as_nanos())];
        let times = times.into_iter().map(|time| (time, None));
        let locks = self.locks.iter().map(|(lock, line)| (Message::Lock(lock.clone()), line.clone()));
        kin.into_iter().chain(owner).chain(times).chain(locks).collect()
    }
}

impl Guard {
    /// Forks the guardian, before the first thread. `let_go` runs in it, at the very end, for locks that outlive
    /// their connections.
    pub fn start(let_go: LetGo<'_>, successor: Successor) -> Result<Guard, Failure> {
        let cannot = |why: &dyn std::fmt::Display| Failure::internal("start the guardian", why);
        let (ours, theirs) = message::pair().map_err(|why| cannot(&why))?;
        match sys::fork().map_err(|why| cannot(&why))? {
            Fork::Parent(pid) => {
                let (kill_at, held_until) = (Moment::NEVER, Moment::NEVER);
                let told = Told { locks: Vec::new(), kin: None, kill_at, held_until, owner: None };
                Ok(Guard {
                    current: Sentry::new(ours, Some(pid)),
                    newborn: None,
                    ended: Vec::new(),
                    has_killed: None,
                    successor,
                    births: Births::default(),
                    told,
                })
            }
            Fork::Child => {
                drop(ours);
                live(theirs, let_go);
                sys::leave_fork()
            }
        }
    }

    /// Whether a child of ours is one of these.
    pub(super) fn is_guardian(&self, pid: i32) -> bool {
        let pid = Some(Pid::from_raw(pid));
        let newborn = self.newborn.as_ref().and_then(|newborn| newborn.sentry.pid());
        self.current.pid() == pid || newborn == pid || self.ended.iter().any(|ended| Some(*ended) == pid)
    }

    /// The end of a child was read, which may be one of these; its number may be anybody's from now on.
    pub(super) fn was_reaped(&mut self, pid: Pid) {
        self.ended.retain(|ended| *ended != pid);
        if self.current.pid() == Some(pid) {
            self.current.is_gone();
        }
        if self.newborn.as_ref().is_some_and(|newborn| newborn.sentry.pid() == Some(pid)) {
            self.newborn = None;
        }
    }

    /// A child was seen to be stopped, which may be one of these: who is stopped watches over nobody.
    pub(super) fn was_stopped(&mut self, pid: Pid) {
        if self.current.pid() == Some(pid) {
            self.current.is_stopped();
        }
        if self.newborn.as_ref().is_some_and(|newborn| newborn.sentry.pid() == Some(pid)) {
            self.end_newborn();
        }
    }

    /// For whoever does not read the ends of its children otherwise.
    pub fn look_at_processes(&mut self) {
        let pids = [self.current.pid(), self.newborn.as_ref().and_then(|newborn| newborn.sentry.pid())];
        for pid in pids.into_iter().flatten() {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Stopped(..)) => self.was_stopped(pid),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => self.was_reaped(pid),
                _ => {}
            }
        }
        self.ended.retain(|pid| !is_reaped(*pid));
    }

    /// Hears what it has to say; has another one take its place if it is gone, or does not hear. Waits for nothing.
    pub fn attend(&mut self) -> io::Result<()> {
        self.listen();
        let now = clock::now();
        if self.current.is_well() {
            if self.current.hearing.has_to_be_asked(now) {
                self.order(&Message::Ask);
            }
            return Ok(());
        }
        let Some(newborn) = &mut self.newborn else { return self.begin_birth() };
        if newborn.sentry.seems_well() && !newborn.birth.is_over(now) {
            return Ok(());
        }
        self.end_newborn();
        Err(io::Error::other("another one does not begin"))
    }

    /// Whether there is one that was well when it was last looked at.
    pub(super) fn is_there(&self) -> bool {
        self.current.seems_well()
    }

    /// When to [attend](Guard::attend) to it.
    pub fn attend_at(&self) -> Moment {
        match &self.newborn {
            _ if self.current.seems_well() => self.current.hearing.look_at(),
            Some(newborn) => newborn.birth.look_at(),
            None => self.births.next_at(),
        }
    }

    /// Returns when a guardian has answered all orders: it is there, and knows all. Another one takes its place
    /// meanwhile, if need be.
    pub async fn answered(&mut self, until: Moment) -> io::Result<()> {
        let mut timer = BoottimeTimer::new();
        self.look_at_processes();
        loop {
            let attended = self.attend();
            if self.is_there() && self.current.hearing.has_heard(self.current.hearing.orders()) {
                return Ok(());
            }
            if clock::now() >= until {
                return Err(attended.err().unwrap_or_else(|| io::Error::other("it does not answer")));
            }
            let heard_from = match &self.newborn {
                _ if self.is_there() => Some(&self.current),
                newborn => newborn.as_ref().map(|newborn| &newborn.sentry),
            };
            let socket = heard_from.map(|sentry| sys::watch(sentry.socket().try_clone()?)).transpose()?;
            let readable = async {
                match &socket {
                    Some(socket) => drop(socket.readable().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = readable => {}
                () = timer.wait_until(until.min(self.attend_at())) => {}
            }
        }
    }

    fn listen(&mut self) {
        self.has_killed = self.current.listen().or(self.has_killed);
        self.ended.retain(|pid| !is_reaped(*pid));
        let Some(mut newborn) = self.newborn.take() else { return };
        self.has_killed = newborn.sentry.listen().or(self.has_killed);
        if newborn.sentry.hearing.has_heard(newborn.orders) && newborn.sentry.seems_well() {
            // The old one stays until the new one knows all, so that there is always one who may act; both may.
            let before = std::mem::replace(&mut self.current, newborn.sentry);
            self.ended.extend(before.end());
            self.births.succeeded();
        } else {
            self.newborn = Some(newborn);
        }
    }

    fn begin_birth(&mut self) -> io::Result<()> {
        let now = clock::now();
        // One that cannot live must not keep us busy with starting it.
        if now < self.births.next_at() {
            return Err(io::Error::other("it ended again at once"));
        }
        let birth = self.births.begin(now);
        if self.ended.len() >= MOST_ENDED {
            return Err(io::Error::other("those before it do not end"));
        }
        let (ours, theirs) = message::pair()?;
        message::introduce(&ours, &self.successor.introduction)?;
        let mut sentry = Sentry::new(ours, None);
        for (message, line) in self.told.messages() {
            sentry.say_in_time(message, line);
        }
        // It answers that when it has heard all before.
        sentry.say_in_time(Message::Ask, None);
        sentry.begins_as((self.successor.start)(&theirs)?);
        let orders = sentry.hearing.orders();
        self.newborn = Some(Newborn { sentry, orders, birth });
        Ok(())
    }

    fn end_newborn(&mut self) {
        self.ended.extend(self.newborn.take().and_then(|newborn| newborn.sentry.end()));
    }

    /// What the command's process is to send us by itself, before it becomes the command.
    pub(super) fn announcement(&self, not_after: Moment, dies_with_us: bool) -> Announcement {
        Announcement {
            socket: self.current.socket().as_raw_fd(),
            before_number: message::GROUP_BEFORE,
            after_number: message::GROUP_AFTER,
            not_after,
            dies_with_us,
        }
    }

    /// A command is about to begin, in a cgroup that is given by its directory.
    pub(super) fn kin(&mut self, kin: Kin, cgroup: Option<OwnedFd>) -> io::Result<()> {
        let cgroup = cgroup.map(Arc::new);
        self.told.kin = Some((kin.clone(), cgroup.clone()));
        self.tell(&Message::Kin(kin), &cgroup)
    }

    /// The command has begun.
    pub(super) fn leader(&mut self, leader: Identity) -> io::Result<()> {
        if let Some((kin, _)) = &mut self.told.kin {
            kin.leader = Some(leader);
        }
        self.tell(&Message::Leader(leader), &None)
    }

    /// Waits for nothing, as nothing may stand between a loss and the kill. One that cannot hear it is replaced when it is
    /// [attended](Guard::attend) to.
    pub(super) fn kill_at(&mut self, moment: Moment) {
        self.told.kill_at = moment;
        self.order(&Message::KillAt(moment.as_nanos()));
    }

    /// When somebody else may have a lock: by then the command is gone, however late the guardian wakes, or whoever relies
    /// on the lock has been told. As with [`Guard::kill_at`].
    pub fn held_until(&mut self, moment: Moment) {
        if self.told.held_until != moment {
            self.told.held_until = moment;
            self.order(&Message::HeldUntil(moment.as_nanos()));
        }
    }

    fn order(&mut self, order: &Message) {
        self.listen();
        self.say(order, &None);
    }

    /// One that cannot be told is replaced.
    fn say(&mut self, message: &Message, line: &Line) {
        self.current.say(message, line);
        if let Some(newborn) = &mut self.newborn {
            newborn.sentry.say_in_time(message.clone(), line.clone());
        }
    }

    /// Whoever relies on the locks without a command, and how it is told that they end.
    pub fn owner(&mut self, signal: i32, process: OwnedFd) -> io::Result<()> {
        let process = Some(Arc::new(process));
        self.told.owner = Some((signal, process.clone()));
        self.tell(&Message::Owner(signal), &process)
    }

    pub fn lock(&mut self, lock: HeldLock, line: Line) -> io::Result<()> {
        self.told.locks.push((lock.clone(), line.clone()));
        self.tell(&Message::Lock(lock), &line)
    }

    /// The lock was taken over on another connection, which is kept open instead. As with [`Guard::kill_at`].
    pub fn reconnected(&mut self, token: &Token, line: Line) {
        let known = self.told.locks.iter_mut().find(|(lock, _)| lock.token == *token);
        let Some((lock, before)) = known else { return };
        *before = line.clone();
        let message = Message::Reconnected(lock.clone());
        self.say(&message, &line);
    }

    /// Another process keeps this lock from now on, or is about to: it is not ours to let go of.
    pub(super) fn handed_over(&mut self, lock: HeldLock) -> io::Result<()> {
        self.told.locks.retain(|(known, _)| *known != lock);
        self.must_hear(&Message::HandedOver(lock));
        self.see_to_one()
    }

    /// The command has ended by itself: whom it leaves behind is left alone.
    pub(super) fn command_ended(&mut self) -> io::Result<()> {
        self.told.kin = None;
        self.must_hear(&Message::Ended);
        self.see_to_one()
    }

    /// Whether it has ended the command before the moment that it was told, and why.
    pub(super) fn has_killed(&mut self) -> Option<WhyEarly> {
        self.listen();
        self.has_killed
    }

    /// Sends it away.
    pub fn farewell(mut self) {
        self.say_farewell();
        self.see_off();
    }

    /// Tells it that it is not needed any more.
    pub(super) fn say_farewell(&mut self) {
        self.end_newborn();
        self.current.say_farewell();
    }

    /// Reads its end, and those of the ones before it.
    pub(super) fn see_off(mut self) {
        self.end_newborn();
        self.current.see_off();
        for pid in self.ended {
            // All of them were killed. One that a freezer holds is left to whoever adopts it.
            let _ = is_reaped(pid);
        }
    }

    /// One that is gone or does not hear is no guardian: another one takes its place, and is told this with all else.
    /// `Err`: nobody could be told that.
    fn tell(&mut self, message: &Message, line: &Line) -> io::Result<()> {
        message::in_one(message)?;
        self.listen();
        self.say(message, line);
        // If there cannot be another one now, that is tried again; and no command begins before one has answered.
        let _ = self.see_to_one();
        Ok(())
    }

    /// Whoever cannot be told this would do harm with what was true before.
    fn must_hear(&mut self, message: &Message) {
        self.listen();
        let is_told = self.current.say(message, &None);
        if !is_told && let Some(pid) = self.current.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if let Some(newborn) = &mut self.newborn {
            newborn.sentry.say_in_time(message.clone(), None);
            if !newborn.sentry.knows_all() {
                self.end_newborn();
            }
        }
    }

    /// Whether there is one, or another one is about to be.
    fn see_to_one(&mut self) -> io::Result<()> {
        if self.current.is_well() || self.newborn.is_some() { Ok(()) } else { self.begin_birth() }
    }
}

/// What a successor is to know before anything else.
pub fn introduction(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    message::introduction(socket)
}

/// The life of a guardian, from its first message to its end.
pub fn live(socket: OwnedFd, let_go: LetGo<'_>) {
    let locks = life::watch(&socket);
    if !locks.is_empty() {
        // On a thread of its own: this one may be a fork in the middle of its parent's affairs.
        std::thread::scope(|scope| drop(scope.spawn(|| let_go(locks)).join()));
    }
}

#[cfg(test)]
mod tests;
