//! Reaches whoever the command started: to signal them, and to see whether anybody is left. Dflock and its guardian
//! both do it, each for itself.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::guard;
use super::kin::Kin;
use super::lineage::{Lineage, adopted};
use crate::cgroup;
use crate::clock::{self, Moment};
use crate::procfs::{self, Identity, Process};

/// The variable that marks the processes of a command: a word for each `dflock exec` around it.
pub(super) const MARK: &str = "DFLOCK_RUN";

/// How dflock's own services are called, which a job may have caused to be started: a holder, which ends with its
/// owner, and a server, which serves others too.
const SERVICES: [&[u8]; 2] = [b"dflock: ", b"dflock\0serve\0--detach\0"];

/// To look at all processes takes its time on a big machine: one part of so many may be spent on it.
const SHARE: u32 = 20;

/// How long it may take until everybody has stopped, and how long is hunted for those whom nobody sees for long.
const STOP_WITHIN: Duration = Duration::from_millis(100);
const HUNT_FOR: Duration = Duration::from_millis(10);
const NOBODY_NEW_FOR: Duration = Duration::from_millis(1);

const STOP_PAUSE: Duration = Duration::from_micros(100);

/// How often those who come and go are looked at until nobody has come or gone.
const LOOKS: usize = 3;

pub(super) struct Reach {
    kin: Kin,
    lineage: Lineage,
    /// What was found last, and when it may be looked again.
    was_anyone_left: bool,
    look_at: Moment,
}

impl Reach {
    pub(super) fn new(kin: Kin) -> Reach {
        let at_once = Moment::from_nanos(0);
        Reach { kin, lineage: Lineage::new(), was_anyone_left: true, look_at: at_once }
    }

    /// The command's process, once there is one. It may have ended already.
    pub(super) fn set_leader(&mut self, leader: Identity) {
        self.kin.leader = Some(leader);
        self.look_at = Moment::from_nanos(0);
    }

    /// A signal to everybody. The group comes first, and all of it in one moment: nobody of it can run away between two
    /// of us, and to look for the others takes a time that may be short just now.
    pub(super) fn signal(&mut self, signal: Signal) {
        if signal == Signal::SIGKILL {
            return self.end();
        }
        let group = self.signal_group(signal);
        self.signal_cgroup(signal);
        self.look_at = Moment::from_nanos(0);
        let Ok(all) = procfs::processes() else { return };
        for process in self.find(&all) {
            self.lineage.known.insert(process.identity);
            if Some(process.group) != group {
                signal_one(process.identity, signal);
            }
        }
    }

    /// Ends everybody. While one after the other is ended, those who are left could start others whom nobody would see
    /// any more: so all of them are stopped first, until nobody new is found, and nothing is in the middle of a fork.
    fn end(&mut self) {
        self.signal_group(Signal::SIGSTOP);
        self.signal_cgroup(Signal::SIGKILL);
        self.end_namespace();
        self.look_at = Moment::from_nanos(0);
        let until = clock::now() + STOP_WITHIN;
        let mut stopped: HashSet<Identity> = HashSet::new();
        while let Ok(all) = procfs::processes() {
            let mut found = self.find(&all);
            found.retain(|process| stopped.insert(process.identity));
            // Of those who cannot be signalled nobody can say when they start somebody.
            found.retain(|process| signal_one(process.identity, Signal::SIGSTOP));
            if found.is_empty() || clock::now() >= until {
                break;
            }
            for process in found {
                wait_until_at_rest(process.identity.pid, until);
            }
        }
        self.signal_group(Signal::SIGKILL);
        for identity in stopped {
            self.lineage.known.insert(identity);
            signal_one(identity, Signal::SIGKILL);
        }
        self.hunt();
    }

    /// Who starts another one and ends, again and again, is hardly ever there when all are looked at. But they are
    /// dflock's children, or theirs, as long as dflock is there.
    fn hunt(&self) {
        let begin = clock::now();
        let mut last = begin;
        let mut met: HashSet<i32> = HashSet::from([self.kin.dflock.pid]);
        let mut next = adopted(&self.kin);
        loop {
            while let Some(pid) = next.pop() {
                if met.insert(pid) {
                    // Before it ends, which makes them dflock's.
                    let below = procfs::children(pid).unwrap_or_default();
                    end_child(pid, &met);
                    next.extend(below);
                    last = clock::now();
                }
            }
            let now = clock::now();
            if now >= begin + HUNT_FOR || now >= last + NOBODY_NEW_FOR || !self.has_adopted() {
                return;
            }
            next = adopted(&self.kin);
        }
    }

    /// Returns its number, if it is still its own.
    fn signal_group(&self, signal: Signal) -> Option<i32> {
        let group = self.kin.leader.filter(|leader| is_its_group(*leader)).map(|leader| leader.pid)?;
        let _ = killpg(Pid::from_raw(group), signal);
        Some(group)
    }

    /// Ends whoever is in the command's cgroup, as one; or has them known, so that another signal reaches them too.
    fn signal_cgroup(&mut self, signal: Signal) {
        let Some(cgroup) = &self.kin.cgroup else { return };
        if signal == Signal::SIGKILL && cgroup::kill(cgroup).is_ok() {
            return;
        }
        for pid in cgroup::members(cgroup) {
            // It may be somebody else's number by now.
            if let Some(process) = Process::of(pid).filter(|_| cgroup::has_member(cgroup, pid)) {
                self.lineage.known.insert(process.identity);
                if signal == Signal::SIGKILL {
                    // As the kernel would: there nobody stands apart.
                    signal_one(process.identity, signal);
                }
            }
        }
    }

    /// With its process 1 the kernel ends everybody.
    fn end_namespace(&self) {
        if let Some(one) = self.kin.process_one {
            signal_one(one, Signal::SIGKILL);
        }
    }

    /// Process 1 is gone after everybody else, so that nobody can be overlooked. Asked when nobody else is seen.
    fn is_namespace_gone(&self) -> bool {
        let is_there = |one: &Identity| Process::of(one.pid).is_some_and(|now| now.identity == *one && !now.is_dead);
        let Some(_) = self.kin.process_one.filter(is_there) else { return true };
        self.end_namespace();
        false
    }

    /// There is nobody left who could be in it.
    pub(super) fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.kin.cgroup {
            // If it cannot be removed now, a later run does it.
            let _ = cgroup::remove(cgroup);
        }
    }

    /// Whether anybody lives whom it is about. Somebody who cannot be signalled lives too.
    pub(super) fn is_anyone_left(&mut self) -> bool {
        let begin = clock::now();
        if begin < self.look_at {
            return self.was_anyone_left;
        }
        if self.kin.cgroup.as_deref().is_some_and(|cgroup| cgroup::is_populated(cgroup).unwrap_or(true)) {
            self.was_anyone_left = true;
            return true;
        }
        self.was_anyone_left = match procfs::processes() {
            Ok(all) => {
                let found = self.find(&all);
                self.lineage.known = found.iter().map(|process| process.identity).collect();
                !found.is_empty() || !self.is_namespace_gone() || self.has_hidden_member() || self.has_adopted()
            }
            // That we cannot look says nothing of anybody.
            Err(why) if is_for_want_of_room(&why) => true,
            // Without /proc only the group can be asked.
            Err(_) => {
                self.kin.leader.is_some_and(|leader| killpg(Pid::from_raw(leader.pid), None) != Err(Errno::ESRCH))
            }
        };
        let now = clock::now();
        self.look_at = now + now.since(begin) * SHARE;
        self.was_anyone_left
    }

    /// Somebody of the group whom `/proc` does not show to us, because they changed their user.
    fn has_hidden_member(&self) -> bool {
        let group = self.kin.leader.filter(|leader| is_its_group(*leader));
        group.is_some_and(|leader| killpg(Pid::from_raw(leader.pid), None) == Err(Errno::EPERM))
    }

    /// Whether dflock has a child that lives and is not its own. Who starts another one and ends, again and again, is
    /// overlooked by whoever looks at one process after the other. But if all children were dead, and nobody has come
    /// or gone since, then nobody is left: a dead one has no children any more.
    fn has_adopted(&self) -> bool {
        let mut before = adopted(&self.kin);
        for _ in 0..LOOKS {
            let is_ours = |process: Process| !process.is_dead && !is_apart(process.identity);
            if before.iter().any(|pid| Process::of(*pid).is_some_and(is_ours)) {
                return true;
            }
            let after = adopted(&self.kin);
            if after == before {
                return false;
            }
            before = after;
        }
        true
    }

    fn find(&self, all: &[Process]) -> Vec<Process> {
        let mark = self.kin.mark.as_bytes();
        let adopted = if self.kin.adopts { Vec::new() } else { adopted(&self.kin) };
        let is_marked = |identity: Identity| {
            if adopted.contains(&identity.pid) {
                return true;
            }
            let words = procfs::variable(identity.pid, MARK);
            words.is_some_and(|words| words.split(|byte| *byte == b' ').any(|word| word == mark))
        };
        self.kin.find(all, &self.lineage.known, is_marked, is_apart)
    }

    /// Looks who descends from whom, while dflock and everybody's parents are still there to tell. Returns when to
    /// do it next.
    pub(super) fn remember(&mut self, not_after: Moment, is_awake: bool) -> Moment {
        self.lineage.look(&self.kin, not_after, is_awake)
    }

    /// Whether orphans can only be told by who was seen to be their parents.
    pub(super) fn has_strangers(&self) -> bool {
        !self.kin.adopts
    }
}

/// As long as anybody of a group lives, its number is nobody else's: so a later process with that number says that the
/// group is gone. Where nothing can be looked up, its number is all there is.
fn is_its_group(leader: Identity) -> bool {
    Process::of(leader.pid).is_none_or(|process| process.identity == leader)
}

/// A guardian, or a service of dflock's own. Anybody may call itself as it likes; what it runs is no matter of its own.
pub(super) fn is_apart(identity: Identity) -> bool {
    let is_called_so = |(name, line): (Vec<u8>, Vec<u8>)| {
        let is_guardian = name == guard::TITLE.as_bytes() && line.starts_with(guard::TITLE.as_bytes());
        is_guardian || SERVICES.iter().any(|service| line.starts_with(service))
    };
    runs_dflock(identity.pid) && procfs::names(identity.pid).is_some_and(is_called_so)
}

fn is_for_want_of_room(why: &std::io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Of somebody else's process it cannot be seen, but that cannot be ended anyway.
fn runs_dflock(pid: i32) -> bool {
    static OURS: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let ours = *OURS.get_or_init(|| procfs::program(nix::unistd::getpid().as_raw()));
    match procfs::program(pid) {
        None => kill(Pid::from_raw(pid), None) == Err(Errno::EPERM),
        program => program == ours,
    }
}

/// Ends one that was seen below one of these.
fn end_child(pid: i32, parents: &HashSet<i32>) {
    let process = Process::of(pid).filter(|process| !process.is_dead && parents.contains(&process.parent));
    if let Some(process) = process.filter(|process| !is_apart(process.identity)) {
        signal_one(process.identity, Signal::SIGKILL);
    }
}

/// It has been told to stop.
fn wait_until_at_rest(pid: i32, until: Moment) {
    while !procfs::is_at_rest(pid) && clock::now() < until {
        std::thread::sleep(STOP_PAUSE);
    }
}

/// To this process and no later one with its number. Says whether it was sent.
fn signal_one(identity: Identity, signal: Signal) -> bool {
    let is_same = || Process::of(identity.pid).is_some_and(|process| process.identity == identity);
    #[cfg(target_os = "linux")]
    if let Ok(process) = crate::sys::pidfd_open(identity.pid) {
        // It may have changed its user, which is seen by whether it lives.
        return is_same() && crate::sys::pidfd_send_signal(std::os::fd::AsFd::as_fd(&process), signal as i32).is_ok();
    }
    is_same() && kill(Pid::from_raw(identity.pid), signal).is_ok()
}
