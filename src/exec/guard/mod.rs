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
//! `duty` and, for an owner, `vigil` decide, `life` does it, `message` is what goes between us, and `hearing` says whether
//! it arrives.

pub mod duty;
pub mod hearing;
mod life;
pub mod message;
mod vigil;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::kin::Kin;
use crate::backend::Ask;
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lease::keeper::Lifeline;
use crate::lock::{Grant, Key, Space, Token};
use crate::procfs::{self, Identity};
use crate::sys::{self, Announcement, Fork};
use duty::WhyEarly;
use hearing::Hearing;
use message::Message;

/// How a guardian is called. It does not carry dflock's name: whoever ends all that is called `dflock` must not hit
/// both of us with one command.
pub const TITLE: &str = "guardian";

/// A successor that is gone again within this time is followed only when there is something to tell.
const SUCCESSOR_AFTER: Duration = Duration::from_millis(200);

/// How long it may take to leave, in milliseconds.
const FAREWELL_MS: u8 = 100;

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

/// Another guardian, as a program of its own: by the time that one is needed, a fork would miss what other threads
/// are doing.
pub struct Successor {
    /// What it has to know before anything else; it asks for that by [`introduction`].
    pub introduction: Vec<u8>,
    /// Starts it with its end of the socket.
    pub start: Box<dyn Fn(OwnedFd) -> io::Result<Pid>>,
}

/// Our end.
pub struct Guard {
    socket: OwnedFd,
    pid: Pid,
    hearing: Hearing,
    /// It has missed something, or was seen to be stopped.
    is_unfit: bool,
    /// It has said that it ended the command sooner than it was told.
    has_killed: Option<WhyEarly>,
    successor: Successor,
    /// When the last successor was started.
    replaced_at: Option<Moment>,
    told: Told,
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
                let (hearing, is_unfit, has_killed) = (Hearing::default(), false, None);
                Ok(Guard { socket: ours, pid, hearing, is_unfit, has_killed, successor, replaced_at: None, told })
            }
            Fork::Child => {
                drop(ours);
                live(theirs, let_go);
                sys::leave_fork()
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        self.pid == pid
    }

    /// Its end was read: its number may be anybody's.
    pub(super) fn is_gone(&mut self) {
        self.pid = NOBODY;
    }

    /// It was seen to be stopped.
    pub(super) fn is_stopped(&mut self) {
        self.is_unfit = true;
    }

    /// Hears what it has to say; puts another one in its place if it is gone, or does not hear.
    pub fn attend(&mut self) -> io::Result<()> {
        if !self.is_well() {
            return self.replace();
        }
        if self.hearing.has_to_be_asked(clock::now()) {
            self.order(&Message::Ask);
        }
        Ok(())
    }

    fn is_well(&mut self) -> bool {
        self.listen();
        let pid = self.pid;
        self.is_unfit |= self.hearing.is_silent(clock::now(), || procfs::is_busy(pid.as_raw()));
        pid != NOBODY && !self.is_unfit
    }

    fn listen(&mut self) {
        while let Ok(Some((message, _))) = message::receive(&self.socket) {
            match message {
                Message::Killed(why) => self.has_killed = Some(why),
                Message::Heard(orders) => self.hearing.answered(clock::now(), orders),
                _ => {}
            }
        }
    }

    /// The old one stays until the new one knows all, so that there is always one who may act; both may.
    fn replace(&mut self) -> io::Result<()> {
        let now = clock::now();
        // One that cannot live must not keep us busy with starting it.
        if self.replaced_at.is_some_and(|last| now.since(last) < SUCCESSOR_AFTER) {
            return Err(io::Error::other("it ended again at once"));
        }
        self.replaced_at = Some(now);
        let (ours, theirs) = message::pair()?;
        message::introduce(&ours, &self.successor.introduction)?;
        let pid = (self.successor.start)(theirs)?;
        let mut hearing = Hearing::default();
        for (message, line) in self.told.messages() {
            if let Err(why) = message::send(&ours, &message, line.as_deref()) {
                // Who knows half of it watches over nobody. It must not take our end for a death.
                let _ = kill(pid, Signal::SIGKILL);
                return Err(why);
            }
            if message.is_answered() {
                hearing.ordered(now);
            }
        }
        self.dismiss();
        (self.socket, self.pid, self.hearing, self.is_unfit) = (ours, pid, hearing, false);
        Ok(())
    }

    /// One that is stopped may go on at any time: then it is dead, or is told at least that it is not needed any more.
    fn dismiss(&self) {
        let _ = message::send(&self.socket, &Message::Farewell, None);
        if self.pid != NOBODY {
            // Not reaped by us yet, so that the number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// When to [attend](Guard::attend) to it.
    pub(super) fn attend_at(&self) -> Moment {
        match self.replaced_at {
            _ if self.pid != NOBODY && !self.is_unfit => self.hearing.look_at(),
            Some(last) => last + SUCCESSOR_AFTER,
            None => Moment::from_nanos(0),
        }
    }

    /// What the command's process is to send us by itself, before it becomes the command.
    pub(super) fn announcement(&self, not_after: Moment, dies_with_us: bool) -> Announcement {
        Announcement {
            socket: self.socket.as_raw_fd(),
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
        self.tell(&Message::Kin(kin), cgroup.as_deref())
    }

    /// The command has begun.
    pub(super) fn leader(&mut self, leader: Identity) -> io::Result<()> {
        if let Some((kin, _)) = &mut self.told.kin {
            kin.leader = Some(leader);
        }
        self.tell(&Message::Leader(leader), None)
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
        if self.pid != NOBODY && message::send(&self.socket, order, None).is_ok() {
            self.hearing.ordered(clock::now());
        } else {
            self.is_unfit = true;
        }
    }

    /// Whoever relies on the locks without a command, and how it is told that they end.
    pub fn owner(&mut self, signal: i32, process: OwnedFd) -> io::Result<()> {
        let process = Some(Arc::new(process));
        self.told.owner = Some((signal, process.clone()));
        self.tell(&Message::Owner(signal), process.as_deref())
    }

    pub fn lock(&mut self, lock: HeldLock, line: Line) -> io::Result<()> {
        self.told.locks.push((lock.clone(), line.clone()));
        self.tell(&Message::Lock(lock), line.as_deref())
    }

    /// The lock was taken over on another connection, which is kept open instead. As with [`Guard::kill_at`].
    pub fn reconnected(&mut self, token: &Token, line: Line) {
        let known = self.told.locks.iter_mut().find(|(lock, _)| lock.token == *token);
        let Some((lock, before)) = known else { return };
        *before = line;
        let message = Message::Reconnected(lock.clone());
        if self.pid == NOBODY || message::send(&self.socket, &message, before.as_deref()).is_err() {
            self.is_unfit = true;
        }
    }

    /// Another process keeps this lock from now on, or is about to: it is not ours to let go of.
    pub(super) fn handed_over(&mut self, lock: HeldLock) -> io::Result<()> {
        self.told.locks.retain(|(known, _)| *known != lock);
        self.tell(&Message::HandedOver(lock), None)
    }

    /// The command has ended by itself: whom it leaves behind is left alone.
    pub(super) fn command_ended(&mut self) -> io::Result<()> {
        self.told.kin = None;
        self.tell(&Message::Ended, None)
    }

    /// Whether it has ended the command before the moment that it was told, and why.
    pub(super) fn has_killed(&mut self) -> Option<WhyEarly> {
        self.listen();
        self.has_killed
    }

    /// Sends it away.
    pub fn farewell(self) {
        self.say_farewell();
        self.see_off();
    }

    /// Tells it that it is not needed any more.
    pub(super) fn say_farewell(&self) {
        if let Err(why) = message::send(&self.socket, &Message::Farewell, None)
            && why.kind() == io::ErrorKind::WouldBlock
        {
            // It is stopped, and would take our end for a death.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Reads its end: where nobody reaps orphans it would stay as a name for ever.
    pub(super) fn see_off(self) {
        if self.pid == NOBODY {
            return;
        }
        let mut gone = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let closed = loop {
            match poll(&mut gone, PollTimeout::from(FAREWELL_MS)) {
                Err(Errno::EINTR) => {}
                polled => break polled == Ok(1),
            }
        };
        if closed {
            // On its way out nothing but a debugger can stop it any more.
            sys::wait_for_end_of(self.pid);
        } else {
            let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// One that is gone or does not hear is no guardian: another one takes its place, and is told this with all else.
    fn tell(&mut self, message: &Message, line: Option<&OwnedFd>) -> io::Result<()> {
        if self.is_well() && message::send(&self.socket, message, line).is_ok() {
            return Ok(());
        }
        self.replace()
    }
}

/// In place of a process that was reaped.
const NOBODY: Pid = Pid::from_raw(0);

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
mod tests {
    use super::*;

    fn lock(key: &str) -> (HeldLock, Line) {
        let (key, token) = (Key::new(key.as_bytes()).unwrap(), Token::new("0123").unwrap());
        (HeldLock { key, space: Space::Locks, token }, None)
    }

    fn told() -> Told {
        let ours = Identity::now(nix::unistd::getpid().as_raw());
        let kin = Kin {
            dflock: ours,
            mark: "m".to_owned(),
            spared: Vec::new(),
            adopts: false,
            cgroup: None,
            process_one: None,
            leader: Some(Identity { pid: 4711, started: 12 }),
        };
        let (kill_at, held_until) = (Moment::from_nanos(8), Moment::from_nanos(9));
        Told { locks: vec![lock("a"), lock("b")], kin: Some((kin, None)), kill_at, held_until, owner: None }
    }

    /// Dflock may be killed at any step.
    #[test]
    fn a_successor_that_was_told_half_lets_go_of_nothing_that_is_relied_on() {
        let is_lock = |message: &Message| matches!(message, Message::Lock(_));
        let needed_before_a_lock = |told: &Told| -> Vec<Message> {
            told.messages().into_iter().map(|(message, _)| message).take_while(|message| !is_lock(message)).collect()
        };
        let before = needed_before_a_lock(&told());
        let knows = |wanted: fn(&Message) -> bool| before.iter().any(wanted);
        assert!(knows(|message| matches!(message, Message::Kin(kin) if kin.leader.is_some())), "{before:?}");
        assert!(knows(|message| matches!(message, Message::KillAt(8))), "{before:?}");
        assert!(knows(|message| matches!(message, Message::HeldUntil(9))), "{before:?}");
        let before = needed_before_a_lock(&Told { kin: None, owner: Some((15, None)), ..told() });
        assert!(before.iter().any(|message| matches!(message, Message::Owner(15))), "{before:?}");
    }
}
