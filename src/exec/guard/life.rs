//! What a guardian does all its life.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use super::duty::{Duty, Step};
use super::message::{Message, receive};
use super::{HeldLock, TITLE};
use crate::cgroup;
use crate::clock::{self, Moment};
use crate::exec::reach::Reach;
use crate::sys;

/// How often the clock is looked at: a suspended machine may have slept through a timer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

struct Life {
    duty: Duty,
    reach: Option<Reach>,
    locks: Vec<HeldLock>,
    /// Never read: as long as they are open, the locks are not free.
    connections: Vec<OwnedFd>,
}

/// Returns when the command is gone, or was never there; with the locks to let go of.
pub(super) fn watch(socket: &OwnedFd) -> Vec<HeldLock> {
    begin(socket);
    let mut life = Life { duty: Duty::new(), reach: None, locks: Vec::new(), connections: Vec::new() };
    loop {
        // First what was said, which may move the deadline: it was true when it was said, however long ago. Then the
        // clock.
        if !life.hear_all(socket) {
            return Vec::new();
        }
        let now = clock::now();
        match life.duty.step(now) {
            Step::Wait(until) => {
                let until = if life.duty.has_command() { until.min(life.remember()) } else { until };
                wait(socket, until, life.duty.is_alone());
            }
            Step::End => {
                let is_anyone_left = life.end_command();
                life.duty.attempted(now, is_anyone_left);
            }
            Step::Release => {
                life.clear_away();
                return life.locks;
            }
            Step::Leave => return Vec::new(),
        }
    }
}

/// No terminal, no group, no job control and no `kill` but that of SIGKILL reaches it; its parent's files are not
/// its own.
fn begin(socket: &OwnedFd) {
    let _ = SigSet::all().thread_block();
    let _ = nix::unistd::setsid();
    // One of a command inside of another is not to end with that, before its own.
    let _ = cgroup::leave_commands();
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    sys::close_all_but(socket);
    sys::rename_process(TITLE, &format!("{TITLE} of process {}", nix::unistd::getppid()));
}

impl Life {
    /// Takes in all that was said; `false` if that was a farewell.
    fn hear_all(&mut self, socket: &OwnedFd) -> bool {
        while !self.duty.is_alone() {
            match receive(socket) {
                Ok(None) => break,
                Ok(Some((Message::Farewell, _))) => return false,
                Ok(Some((message, descriptors))) => self.hear(message, descriptors),
                Err(_) => self.duty.dflock_is_gone(),
            }
        }
        true
    }

    fn hear(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Lock(lock) => {
                self.locks.push(lock);
                self.connections.extend(descriptors);
            }
            Message::HandedOver(lock) => self.locks.retain(|known| *known != lock),
            Message::Kin(kin) => {
                self.reach = Some(Reach::new(kin));
                // From now on there may be somebody, though nobody has told us yet.
                self.duty.command_begins();
            }
            Message::Group(leader) => {
                if let Some(reach) = &mut self.reach {
                    reach.set_leader(Pid::from_raw(leader));
                }
                self.duty.command_begins();
            }
            Message::KillAt(nanos) => self.duty.set_kill_at(Moment::from_nanos(nanos)),
            Message::HeldUntil(nanos) => self.duty.set_held_until(Moment::from_nanos(nanos)),
            Message::Ended => self.duty.command_ended(),
            Message::Farewell => {}
        }
    }

    /// Says whether anybody is left.
    fn end_command(&mut self) -> bool {
        self.reach.as_mut().is_some_and(|reach| {
            // Whether it reached anybody says nothing of the others.
            reach.signal(Signal::SIGKILL);
            reach.is_anyone_left()
        })
    }

    /// Nobody is left; a command that ended by itself has left to others whom it left behind.
    fn clear_away(&self) {
        if let Some(reach) = &self.reach {
            reach.remove_cgroup();
        }
    }

    /// Returns when to do it again.
    fn remember(&mut self) -> Moment {
        self.reach.as_mut().map_or(Moment::NEVER, Reach::remember)
    }
}

/// Until something is said, or a moment has come. A closed socket has nothing more to say, again and again.
fn wait(socket: &OwnedFd, until: Moment, is_closed: bool) {
    let left = until.since(clock::now()).min(LOOK_EVERY);
    let wait = match until {
        Moment::NEVER => PollTimeout::NONE,
        // Rounded up: a wait of nothing, again and again, would be a busy one.
        _ => PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO),
    };
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let watched = if is_closed { &mut [][..] } else { &mut ready[..] };
    match poll(watched, wait) {
        Ok(_) | Err(Errno::EINTR) => {}
        // Without it nothing can be waited for, and nothing is missed by a pause.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}
