//! One guardian's process, and what goes between it and us.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Line;
use super::duty::WhyEarly;
use super::hearing::Hearing;
use super::message::{self, Message};
use crate::clock;
use crate::procfs;
use crate::sys;

/// How long it may take to leave, in milliseconds.
const FAREWELL_MS: u8 = 100;

pub(super) struct Sentry {
    socket: Arc<OwnedFd>,
    /// `None`: its end was read, so that its number may be anybody's.
    pid: Option<Pid>,
    pub(super) hearing: Hearing,
    /// What there was no room for yet, of one that has just been born.
    untold: VecDeque<(Message, Line)>,
    /// It has missed something, or was seen to be stopped.
    is_unfit: bool,
}

impl Sentry {
    pub(super) fn new(socket: OwnedFd, pid: Option<Pid>) -> Sentry {
        let (socket, hearing, untold) = (Arc::new(socket), Hearing::default(), VecDeque::new());
        Sentry { socket, pid, hearing, untold, is_unfit: false }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    pub(super) fn begins_as(&mut self, pid: Pid) {
        self.pid = Some(pid);
    }

    pub(super) fn is_gone(&mut self) {
        self.pid = None;
    }

    pub(super) fn is_stopped(&mut self) {
        self.is_unfit = true;
    }

    /// Waits for nothing. One that could not be told is no guardian any more.
    pub(super) fn say(&mut self, message: &Message, line: &Line) -> bool {
        let is_told = self.pid.is_some() && message::send(&self.socket, message, line.as_deref()).is_ok();
        self.is_unfit |= !is_told;
        if is_told && message.is_answered() {
            self.hearing.ordered(clock::now());
        }
        is_told
    }

    /// The same, but that it is told later if there is no room for it now.
    pub(super) fn say_in_time(&mut self, message: Message, line: Line) {
        if message.is_answered() {
            self.hearing.ordered(clock::now());
        }
        self.untold.push_back((message, line));
        self.tell_the_rest();
    }

    fn tell_the_rest(&mut self) {
        while let Some((message, line)) = self.untold.front() {
            match message::send(&self.socket, message, line.as_deref()) {
                Ok(()) => drop(self.untold.pop_front()),
                Err(why) => {
                    self.is_unfit |= why.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    pub(super) fn knows_all(&self) -> bool {
        self.untold.is_empty()
    }

    /// Hears what it has to say, and returns whether it says that it ended the command sooner than it was told.
    pub(super) fn listen(&mut self) -> Option<WhyEarly> {
        self.tell_the_rest();
        let mut has_killed = None;
        loop {
            match message::receive(&self.socket) {
                Ok(Some((Message::Killed(why), _))) => has_killed = Some(why),
                Ok(Some((Message::Heard(orders), _))) => self.hearing.answered(clock::now(), orders),
                Ok(Some(_)) => {}
                Ok(None) => return has_killed,
                Err(why) => {
                    // Its end, unless it is something that we do not understand.
                    self.is_unfit |= why.kind() != io::ErrorKind::InvalidData;
                    return has_killed;
                }
            }
        }
    }

    pub(super) fn is_well(&mut self) -> bool {
        let Some(pid) = self.pid else { return false };
        self.is_unfit |= self.hearing.is_silent(clock::now(), || procfs::is_busy(pid.as_raw()));
        !self.is_unfit
    }

    /// As far as it is known already.
    pub(super) fn seems_well(&self) -> bool {
        self.pid.is_some() && !self.is_unfit
    }

    /// One that is stopped, frozen or has not even begun may go on at any time: then it is dead. It is killed before
    /// our end of the socket closes, which it would take for our death. Returns its number if its end is still to be
    /// read.
    pub(super) fn end(self) -> Option<Pid> {
        // Not reaped by us yet, so that the number is still its own.
        self.pid.inspect(|pid| {
            let _ = kill(*pid, Signal::SIGKILL);
        })
    }

    /// Tells it that it is not needed any more.
    pub(super) fn say_farewell(&self) {
        if let (Err(why), Some(pid)) = (message::send(&self.socket, &Message::Farewell, None), self.pid)
            && why.kind() == io::ErrorKind::WouldBlock
        {
            // It is stopped, and would take our end for a death.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Reads its end: where nobody reaps orphans it would stay as a name for ever. One that does not leave, as it is
    /// stopped, would stay, too.
    pub(super) fn see_off(self) {
        let Some(pid) = self.pid else { return };
        if !self.has_left() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // On its way out nothing but a debugger or a freezer can stop it any more.
        sys::wait_for_end_of(pid);
    }

    fn has_left(&self) -> bool {
        let mut gone = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut gone, PollTimeout::from(FAREWELL_MS)) {
                Err(Errno::EINTR) => {}
                polled => return polled == Ok(1),
            }
        }
    }
}

/// Whether a child of ours has ended; its end is read then, and its number may be anybody's.
pub(super) fn is_reaped(pid: Pid) -> bool {
    !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
}
