//! What a guardian does all its life.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use super::duty::{Duty, Step};
use super::message::{Message, receive, send};
use super::vigil::{self, Vigil};
use super::{HeldLock, TITLE};
use crate::cgroup::{self, Cgroup};
use crate::clock::{self, Moment};
use crate::exec::reach::Reach;
use crate::procfs::{self, Identity, Refusals};
use crate::sys;

/// How often the clock is looked at: a suspended machine may have slept through a timer, and how late we wake is worth
/// knowing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// So long nothing else is heard of.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

struct Life {
    duty: Duty,
    reach: Option<Reach>,
    locks: Vec<HeldLock>,
    /// Never read: as long as they are open, the locks are not free.
    connections: Vec<(HeldLock, OwnedFd)>,
    /// Instead of a command.
    owner: Option<Owner>,
    /// How many orders were heard, and how many of them were answered.
    heard: u64,
    answered: u64,
}

/// Somebody who relies on the locks.
struct Owner {
    vigil: Vigil,
    process: OwnedFd,
    signal: i32,
}

/// Returns when the command is gone, or was never there; with the locks to let go of.
pub(super) fn watch(socket: &OwnedFd) -> Vec<HeldLock> {
    begin(socket);
    let mut life = Life::new();
    let refusals = Refusals::ours();
    let mut due = Moment::NEVER;
    loop {
        // First what was said, which may move the deadline: it was true when it was said, however long ago. Then the
        // clock.
        let is_needed = life.hear_all(socket);
        life.answer(socket);
        let now = clock::now();
        if let Some(owner) = &mut life.owner {
            let step = owner.step(now, life.duty.is_alone());
            if step == vigil::Step::Tell {
                owner.tell();
                continue;
            }
            if is_needed {
                match step {
                    vigil::Step::Release => return life.locks,
                    vigil::Step::Wait(until) if life.duty.is_alone() => wait(Some(&owner.process), until),
                    vigil::Step::Wait(until) => wait(Some(socket), until),
                    vigil::Step::Tell => {}
                }
                continue;
            }
        }
        if !is_needed {
            return Vec::new();
        }
        life.duty.woke(now, due, refusals.so_far());
        due = Moment::NEVER;
        match life.duty.step(now) {
            Step::Wait(until) => {
                let has_command = life.duty.has_command();
                if has_command {
                    due = until.min(now + LOOK_EVERY);
                }
                // To look around takes its time, which has to be there.
                let has_time = until > now + LOOK_EVERY;
                let until = if has_command && has_time { until.min(life.remember(until)) } else { until };
                wait((!life.duty.is_alone()).then_some(socket), until);
            }
            Step::End => {
                if let Some(why) = life.duty.why_early(now) {
                    // Whether dflock hears it or not.
                    let _ = send(socket, &Message::Killed(why), None);
                }
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
    sys::come_first();
    procfs::asking::come_first();
    sys::rename_process(TITLE, &format!("{TITLE} of process {}", nix::unistd::getppid()));
}

impl Life {
    fn new() -> Life {
        let (locks, connections) = (Vec::new(), Vec::new());
        Life { duty: Duty::new(), reach: None, locks, connections, owner: None, heard: 0, answered: 0 }
    }

    /// Dflock is to know that it was heard: who is stopped, or in the hands of a debugger, does not answer.
    fn answer(&mut self, socket: &OwnedFd) {
        if self.heard > self.answered {
            self.answered = self.heard;
            // If it cannot be said now, the next answer says it too.
            let _ = send(socket, &Message::Heard(self.heard), None);
        }
    }

    /// Takes in all that was said; `false` if that was a farewell.
    fn hear_all(&mut self, socket: &OwnedFd) -> bool {
        while !self.duty.is_alone() {
            match receive(socket) {
                Ok(None) => break,
                Ok(Some((Message::Farewell, _))) => return false,
                Ok(Some((message, descriptors))) => self.hear(message, descriptors),
                // Whatever that was, it is no death of dflock's, who starts another one of us if we go.
                Err(why) if why.kind() == ErrorKind::InvalidData => return false,
                Err(_) => self.duty.dflock_is_gone(),
            }
        }
        true
    }

    fn hear(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        self.heard += u64::from(message.is_answered());
        match message {
            Message::Lock(lock) => {
                self.connections.extend(descriptors.into_iter().map(|connection| (lock.clone(), connection)));
                self.locks.push(lock);
            }
            Message::Reconnected(lock) => {
                // The old one is broken; as long as it is open it does no harm.
                self.connections.retain(|(known, _)| *known != lock || descriptors.is_empty());
                self.connections.extend(descriptors.into_iter().map(|connection| (lock.clone(), connection)));
            }
            Message::HandedOver(lock) => self.locks.retain(|known| *known != lock),
            Message::Kin(kin) => {
                let directory = descriptors.into_iter().next();
                let cgroup = kin.cgroup.clone().map(|path| Rc::new(Cgroup::new(path, directory)));
                self.reach = Some(Reach::new(kin, cgroup));
                // From now on there may be somebody, though nobody has told us yet.
                self.duty.command_begins();
            }
            Message::Group(leader) => {
                if let Some(reach) = &mut self.reach {
                    reach.set_leader(Identity::now(leader));
                }
                self.duty.command_begins();
            }
            Message::Leader(leader) => {
                if let Some(reach) = &mut self.reach {
                    reach.set_leader(leader);
                }
                self.duty.command_begins();
            }
            Message::KillAt(nanos) => self.duty.set_kill_at(Moment::from_nanos(nanos)),
            Message::HeldUntil(nanos) => {
                self.duty.set_held_until(clock::now(), Moment::from_nanos(nanos));
                if let Some(owner) = &mut self.owner {
                    owner.vigil.set_held_until(Moment::from_nanos(nanos));
                }
            }
            Message::Owner(signal) => {
                let process = descriptors.into_iter().next();
                self.owner = process.map(|process| Owner { vigil: Vigil::new(), process, signal });
            }
            Message::Ended => self.duty.command_ended(),
            Message::Killed(_) | Message::Heard(_) | Message::Ask | Message::Farewell => {}
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
            reach.clear_away();
        }
    }

    /// Looks who descends from whom, before there is something else to do. Returns when to do it again.
    fn remember(&mut self, until: Moment) -> Moment {
        let not_after = until.min(clock::now() + LONGEST_LOOK);
        self.reach.as_mut().map_or(Moment::NEVER, |reach| reach.remember(not_after, self.duty.is_awake()))
    }
}

impl Owner {
    fn step(&self, now: Moment, is_alone: bool) -> vigil::Step {
        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        let is_gone = poll(&mut ended, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        self.vigil.step(now, is_alone, is_gone)
    }

    fn tell(&mut self) {
        #[cfg(target_os = "linux")]
        // It may have ended in this moment, which is as good.
        let _ = sys::pidfd_send_signal(self.process.as_fd(), self.signal);
        self.vigil.told();
    }
}

/// Until somebody has something to say, or a moment has come. A closed socket has nothing more to say, again and again.
fn wait(watched: Option<&OwnedFd>, until: Moment) {
    let left = until.since(clock::now()).min(LOOK_EVERY);
    let wait = match until {
        Moment::NEVER => PollTimeout::NONE,
        // Rounded up: a wait of nothing, again and again, would be a busy one.
        _ => PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO),
    };
    let mut ready: Vec<PollFd<'_>> =
        watched.iter().map(|watched| PollFd::new(watched.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut ready, wait) {
        Ok(_) | Err(Errno::EINTR) => {}
        // Without it nothing can be waited for, and nothing is missed by a pause.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::pair;
    use super::*;
    use crate::exec::kin::Kin;
    use crate::lock::{Key, Space, Token};

    fn lock(key: &str) -> HeldLock {
        HeldLock { key: Key::new(key.as_bytes()).unwrap(), space: Space::Locks, token: Token::new("0123").unwrap() }
    }

    fn line() -> Vec<OwnedFd> {
        vec![std::fs::File::open("/dev/null").unwrap().into()]
    }

    fn kept(life: &Life) -> Vec<&HeldLock> {
        life.connections.iter().map(|(lock, _)| lock).collect()
    }

    #[test]
    fn connections_are_kept_open_until_there_are_others() {
        let mut life = Life::new();
        life.hear(Message::Lock(lock("a")), line());
        life.hear(Message::Lock(lock("b")), line());
        life.hear(Message::Lock(lock("c")), Vec::new());
        assert_eq!(kept(&life), [&lock("a"), &lock("b")]);
        life.hear(Message::Reconnected(lock("a")), Vec::new());
        assert_eq!(kept(&life), [&lock("a"), &lock("b")], "broken, but all there is");
        life.hear(Message::Reconnected(lock("a")), line());
        assert_eq!(kept(&life), [&lock("b"), &lock("a")]);
        life.hear(Message::HandedOver(lock("a")), Vec::new());
        assert_eq!(life.locks, [lock("b"), lock("c")]);
    }

    #[test]
    fn from_the_first_word_of_a_command_on_there_is_one() {
        let us = Identity::now(nix::unistd::getpid().as_raw());
        let (mark, spared) = ("m".to_owned(), Vec::new());
        let kin = Kin {
            dflock: us,
            mark,
            spared,
            adopts: false,
            reapers: Vec::new(),
            cgroup: None,
            process_one: None,
            leader: None,
        };
        let mut life = Life::new();
        life.hear(Message::Kin(kin), Vec::new());
        assert!(life.duty.has_command());
        let leader = |life: &Life| life.reach.as_ref().and_then(|reach| reach.kin.leader);
        life.hear(Message::Group(us.pid), Vec::new());
        assert_eq!(leader(&life), Some(us), "as it says by itself");
        life.hear(Message::KillAt(1), Vec::new());
        life.duty.attempted(clock::now(), false);
        assert_eq!(life.duty.step(clock::now()), Step::Wait(Moment::NEVER), "nobody was found");
        let later = Identity { started: us.started + 1, ..us };
        life.hear(Message::Leader(later), Vec::new());
        assert_eq!((leader(&life), life.duty.step(clock::now())), (Some(later), Step::End));
        life.hear(Message::Ended, Vec::new());
        assert!(!life.duty.has_command());
    }

    #[test]
    fn an_owner_may_rely_on_a_lock_until_the_moment_that_is_told_last() {
        let mut life = Life::new();
        life.hear(Message::Owner(15), line());
        let moment = clock::now() + Duration::from_secs(60);
        life.hear(Message::HeldUntil(moment.as_nanos()), Vec::new());
        let owner = life.owner.as_ref().map(|owner| owner.vigil.step(clock::now(), false, false));
        assert_eq!(owner, Some(vigil::Step::Wait(moment)));
        assert_eq!(life.heard, 1);
    }

    /// What cannot be understood is no death of dflock's, and no reason to end anybody.
    #[test]
    fn who_hears_nonsense_or_a_farewell_leaves_and_who_hears_no_more_is_alone() {
        let says = |text: &[u8]| {
            let (theirs, ours) = pair().unwrap();
            nix::unistd::write(&theirs, text).unwrap();
            let mut life = Life::new();
            (life.hear_all(&ours), life.duty.is_alone())
        };
        assert_eq!(says(b"{}"), (false, false));
        assert_eq!(says(b"\"Farewell\""), (false, false));
        let (theirs, ours) = pair().unwrap();
        drop(theirs);
        let mut life = Life::new();
        // A process that another test starts has the other end, too, until its program begins.
        while !life.duty.is_alone() {
            assert!(life.hear_all(&ours));
        }
    }
}
