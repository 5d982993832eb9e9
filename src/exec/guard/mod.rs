//! The guardian: a tiny process that ends the command if dflock itself dies or freezes. This is dflock's end of it.
//!
//! It is forked before anything else and lives in a session of its own. It knows the command, the moment at which
//! that must be dead, and the locks; and it keeps duplicates of their connections open, so that a killed dflock
//! does not free a lock while its command still runs. When our end of the socket closes without a farewell, or the
//! moment passes without being moved, it ends the command. Only when that is gone are the locks let go.
//!
//! A holder has one too, if its owner wants to be told when it is killed: instead of a command there is an owner then.
//!
//! `duty` and, for an owner, `vigil` decide, `life` does it, `message` is what goes between us.

pub mod duty;
mod life;
pub mod message;
mod vigil;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
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
use crate::lock::{Grant, Key, Space, Token};
use crate::sys::{self, Announcement, Fork};
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
pub type Line = Option<Rc<OwnedFd>>;

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
    successor: Successor,
    /// When the last successor was started.
    replaced_at: Option<Moment>,
    has_killed: bool,
    told: Told,
}

/// What a guardian was told, and another one would have to be.
struct Told {
    locks: Vec<(HeldLock, Line)>,
    kin: Option<Kin>,
    group: Option<i32>,
    kill_at: Moment,
    held_until: Moment,
    ended: bool,
    /// How to tell it, and what stands for it.
    owner: Option<(i32, Line)>,
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
                let told =
                    Told { locks: Vec::new(), kin: None, group: None, kill_at, held_until, ended: false, owner: None };
                Ok(Guard { socket: ours, pid, successor, replaced_at: None, has_killed: false, told })
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

    /// Puts another one in the place of one that is gone or does not hear.
    pub(super) fn replace(&mut self) -> io::Result<()> {
        if self.pid != NOBODY {
            // Not reaped by us yet, so that the number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        self.pid = NOBODY;
        let now = clock::now();
        // One that cannot live must not keep us busy with starting it.
        if self.replaced_at.is_some_and(|last| now.since(last) < SUCCESSOR_AFTER) {
            return Err(io::Error::other("it ended again at once"));
        }
        self.replaced_at = Some(now);
        let (ours, theirs) = message::pair()?;
        self.socket = ours;
        message::introduce(&self.socket, &self.successor.introduction)?;
        self.pid = (self.successor.start)(theirs)?;
        let told = self.tell_all();
        if told.is_err() {
            // Who knows half of it watches over nobody.
            let _ = kill(self.pid, Signal::SIGKILL);
            self.pid = NOBODY;
        }
        told
    }

    /// When to try again, if there is none.
    pub(super) fn replace_at(&self) -> Moment {
        match self.replaced_at {
            _ if self.pid != NOBODY => Moment::NEVER,
            Some(last) => last + SUCCESSOR_AFTER,
            None => Moment::from_nanos(0),
        }
    }

    fn tell_all(&self) -> io::Result<()> {
        let Told { locks, kin, group, kill_at, held_until, ended, owner } = &self.told;
        let say = |message| message::send(&self.socket, &message, None);
        for (lock, line) in locks {
            message::send(&self.socket, &Message::Lock(lock.clone()), line.as_deref())?;
        }
        if let Some((signal, process)) = owner {
            message::send(&self.socket, &Message::Owner(*signal), process.as_deref())?;
        }
        if let Some(kin) = kin {
            say(Message::Kin(kin.clone()))?;
        }
        say(Message::HeldUntil(held_until.as_nanos()))?;
        say(Message::KillAt(kill_at.as_nanos()))?;
        if let Some(group) = group.filter(|_| !ended) {
            say(Message::Group(group))?;
        }
        Ok(())
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

    /// A command is about to begin.
    pub(super) fn kin(&mut self, kin: Kin) -> io::Result<()> {
        self.told.kin = Some(kin.clone());
        self.tell(&Message::Kin(kin), None)
    }

    /// The command has begun.
    pub(super) fn group(&mut self, leader: Pid) -> io::Result<()> {
        self.told.group = Some(leader.as_raw());
        self.tell(&Message::Group(leader.as_raw()), None)
    }

    pub(super) fn kill_at(&mut self, moment: Moment) -> io::Result<()> {
        self.told.kill_at = moment;
        self.tell(&Message::KillAt(moment.as_nanos()), None)
    }

    /// When somebody else may have a lock: by then the command is gone, however late the guardian wakes, or whoever relies
    /// on the lock has been told.
    pub fn held_until(&mut self, moment: Moment) -> io::Result<()> {
        if self.told.held_until == moment {
            return Ok(());
        }
        self.told.held_until = moment;
        self.tell(&Message::HeldUntil(moment.as_nanos()), None)
    }

    /// Whoever relies on the locks without a command, and how it is told that they end.
    pub fn owner(&mut self, signal: i32, process: OwnedFd) -> io::Result<()> {
        let process = Some(Rc::new(process));
        self.told.owner = Some((signal, process.clone()));
        self.tell(&Message::Owner(signal), process.as_deref())
    }

    pub fn lock(&mut self, lock: HeldLock, line: Line) -> io::Result<()> {
        self.told.locks.push((lock.clone(), line.clone()));
        self.tell(&Message::Lock(lock), line.as_deref())
    }

    /// Another process keeps this lock from now on, or is about to: it is not ours to let go of.
    pub(super) fn handed_over(&mut self, lock: HeldLock) -> io::Result<()> {
        self.told.locks.retain(|(known, _)| *known != lock);
        self.tell(&Message::HandedOver(lock), None)
    }

    /// The command has ended by itself: whom it leaves behind is left alone.
    pub(super) fn command_ended(&mut self) -> io::Result<()> {
        self.told.ended = true;
        self.tell(&Message::Ended, None)
    }

    /// Whether it has ended the command before the moment that it was told, for want of time.
    pub(super) fn has_killed(&mut self) -> bool {
        self.has_killed |= matches!(message::receive(&self.socket), Ok(Some((Message::Killed, _))));
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

    /// One that is gone, or stopped for so long that it does not hear any more, is no guardian: another takes its
    /// place.
    fn tell(&mut self, message: &Message, line: Option<&OwnedFd>) -> io::Result<()> {
        if self.pid != NOBODY && message::send(&self.socket, message, line).is_ok() {
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
