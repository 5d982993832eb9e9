//! Reaches whoever the command started: to signal them, and to see whether anybody is left. Dflock and its guardian
//! both do it, each for itself.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::guard;
use super::kin::Kin;
use super::lineage::Lineage;
use crate::cgroup::Cgroup;
use crate::clock::{self, Moment};
use crate::procfs::asking::{self, Question};
use crate::procfs::{self, Identity, Process};

/// The variable that marks the processes of a command: a word for each `dflock exec` around it.
pub(super) const MARK: &str = "DFLOCK_RUN";

/// By what a dflock knows that it is a guardian, or a holder, which ends with its owner, if it has no other argument.
const TITLES: [&[u8]; 2] = [b"guardian of ", b"dflock: holding "];

/// How a server is started, which serves others too.
const SERVER: &[u8] = b"dflock\0serve\0--detach\0";

/// To look at all processes takes its time on a big machine: one part of so many may be spent on it.
const SHARE: u32 = 20;

/// The same time it may take to ask all of them at most; those who do not answer are given up long before.
const ASK_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct Reach {
    pub(super) kin: Kin,
    cgroup: Option<Rc<Cgroup>>,
    pub(super) lineage: Lineage,
    /// What was found last, and when it may be looked again.
    was_anyone_left: bool,
    pub(super) look_at: Moment,
    /// When it is worth the time to look for everybody whom to end, once more.
    pub(super) end_again_at: Moment,
}

impl Reach {
    pub(super) fn new(kin: Kin, cgroup: Option<Rc<Cgroup>>) -> Reach {
        let at_once = Moment::from_nanos(0);
        Reach { kin, cgroup, lineage: Lineage::new(), was_anyone_left: true, look_at: at_once, end_again_at: at_once }
    }

    /// The command's process, once there is one. It may have ended already.
    pub(super) fn set_leader(&mut self, leader: Identity) {
        self.kin.leader = Some(leader);
        (self.look_at, self.end_again_at) = (Moment::from_nanos(0), Moment::from_nanos(0));
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
        let mut reached = HashSet::new();
        // Whoever has to be asked comes last: that may take longer.
        for is_asked in [false, true] {
            for process in if is_asked { self.find(&all).0 } else { self.find_known(&all) } {
                self.lineage.known.insert(process.identity);
                if Some(process.group) != group && reached.insert(process.identity) {
                    signal_one(process.identity, signal);
                }
            }
        }
    }

    /// Returns its number, if it is still its own.
    pub(super) fn signal_group(&self, signal: Signal) -> Option<i32> {
        let group = self.kin.leader.filter(|leader| is_its_group(*leader)).map(|leader| leader.pid)?;
        let _ = killpg(Pid::from_raw(group), signal);
        Some(group)
    }

    /// Ends whoever is in the command's cgroup, as one; or has them known, so that another signal reaches them too.
    pub(super) fn signal_cgroup(&mut self, signal: Signal) {
        let Some(cgroup) = &self.cgroup else { return };
        if signal == Signal::SIGKILL && cgroup.kill().is_ok() {
            return;
        }
        for pid in cgroup.members() {
            // It may be somebody else's number by now.
            if let Some(process) = Process::of(pid).filter(|_| cgroup.has_member(pid)) {
                self.lineage.known.insert(process.identity);
                if signal == Signal::SIGKILL {
                    // As the kernel would: there nobody stands apart.
                    signal_one(process.identity, signal);
                }
            }
        }
    }

    /// With its process 1 the kernel ends everybody.
    pub(super) fn end_namespace(&self) {
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

    /// There is nobody left who could be in it, or below those of ours.
    pub(super) fn clear_away(&self) {
        // They leave by themselves, unless somebody has stopped them.
        for reaper in &self.kin.reapers {
            signal_one(*reaper, Signal::SIGKILL);
        }
        if let Some(cgroup) = &self.cgroup {
            // If it cannot be removed now, a later run does it.
            let _ = cgroup.remove();
        }
    }

    /// Whether anybody lives whom it is about. Somebody who cannot be signalled lives too.
    pub(super) fn is_anyone_left(&mut self) -> bool {
        let begin = clock::now();
        if begin < self.look_at {
            return self.was_anyone_left;
        }
        // One that cannot be asked may have somebody.
        if self.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_populated().unwrap_or(true)) {
            self.was_anyone_left = true;
            return true;
        }
        self.was_anyone_left = match procfs::processes() {
            Ok(all) => {
                let (found, is_cut_short) = self.find(&all);
                self.lineage.known = found.iter().map(|process| process.identity).collect();
                !found.is_empty()
                    || is_cut_short
                    || !self.is_namespace_gone()
                    || self.has_hidden_member()
                    || self.has_adopted()
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

    /// Somebody of the group whom `/proc` does not show to us, because they changed their user. Whoever is dead and not
    /// reaped yet answers for them.
    fn has_hidden_member(&self) -> bool {
        let group = self.kin.leader.filter(|leader| is_its_group(*leader));
        group.is_some_and(|leader| match killpg(Pid::from_raw(leader.pid), None) {
            Ok(()) => procfs::hides_processes(),
            Err(why) => why == Errno::EPERM,
        })
    }

    /// Whom nobody has to be asked for.
    pub(super) fn find_known(&self, all: &[Process]) -> Vec<Process> {
        self.find_with(all, &HashSet::new())
    }

    /// Those, and whoever says by its environment that it belongs to the command; whether there was no time to ask all.
    /// One that does not answer is a stranger.
    pub(super) fn find(&self, all: &[Process]) -> (Vec<Process>, bool) {
        let known = self.find_known(all);
        let mut told: HashSet<Identity> = known.iter().map(|process| process.identity).collect();
        told.extend(self.kin.spared.iter().chain(self.kin.adopters()).chain([&self.kin.dflock]));
        let others = all.iter().filter(|process| !process.is_dead && !told.contains(&process.identity));
        let mark = self.kin.mark.clone().into_bytes();
        let question: Question = Arc::new(move |pid| {
            let words = procfs::variable_as_told(pid, MARK)?;
            words.split(|byte| *byte == b' ').any(|word| word == mark).then(Vec::new)
        });
        let answers = asking::ask(others.map(|process| process.identity), &question, clock::now() + ASK_WITHIN);
        let marked: HashSet<Identity> = answers.said.into_keys().collect();
        let found = if marked.is_empty() { known } else { self.find_with(all, &marked) };
        (found, answers.is_cut_short)
    }

    fn find_with(&self, all: &[Process], marked: &HashSet<Identity>) -> Vec<Process> {
        self.kin.find(all, &self.lineage.known, |identity| marked.contains(&identity), is_apart)
    }

    /// Looks who descends from whom, while dflock and everybody's parents are still there to tell. Returns when to
    /// do it next.
    pub(super) fn remember(&mut self, not_after: Moment, is_awake: bool) -> Moment {
        self.lineage.look(&self.kin, not_after, is_awake)
    }
}

/// As long as anybody of a group lives, its number is nobody else's: so a later process with that number says that the
/// group is gone. Where nothing can be looked up, its number is all there is.
fn is_its_group(leader: Identity) -> bool {
    Process::of(leader.pid).is_none_or(|process| process.identity == leader)
}

/// A guardian, or a service of dflock's own. Anybody may call itself as it likes; what it runs is no matter of its own, and
/// what that does follows from how it was started: none of these starts a command.
pub(super) fn is_apart(identity: Identity) -> bool {
    let is_one = |(name, line): (Vec<u8>, Vec<u8>)| {
        // One that does not run its program yet has the arguments of its dflock.
        let is_unborn = || name == guard::UNBORN.to_bytes() && procfs::is_fork(identity.pid);
        is_line_of_one(&line) || is_unborn()
    };
    runs_dflock(identity.pid) && procfs::names(identity.pid).is_some_and(is_one)
}

/// One that has renamed itself has more than one NUL at its end.
fn is_line_of_one(line: &[u8]) -> bool {
    let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
    let is_all = line[end..].iter().all(|byte| *byte == 0);
    line.starts_with(SERVER) || is_all && TITLES.iter().any(|title| line.starts_with(title))
}

fn is_for_want_of_room(why: &std::io::Error) -> bool {
    matches!(why.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// One that we cannot look at, as it is somebody else's, may be anything.
fn runs_dflock(pid: i32) -> bool {
    static OURS: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let ours = *OURS.get_or_init(|| procfs::program(nix::unistd::getpid().as_raw()));
    ours.is_some() && procfs::program(pid) == ours
}

/// To this process and no later one with its number. Says whether it was sent.
pub(super) fn signal_one(identity: Identity, signal: Signal) -> bool {
    let is_same = || Process::of(identity.pid).is_some_and(|process| process.identity == identity);
    #[cfg(target_os = "linux")]
    if let Ok(process) = crate::sys::pidfd_open(identity.pid) {
        // It may have changed its user, which is seen by whether it lives.
        return is_same() && crate::sys::pidfd_send_signal(std::os::fd::AsFd::as_fd(&process), signal as i32).is_ok();
    }
    is_same() && kill(Pid::from_raw(identity.pid), signal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_tells_who_starts_no_command() {
        for line in ["guardian of process 7\0\0\0", "guardian of process 7\0", "dflock: holding k on x\0"] {
            assert!(is_line_of_one(line.as_bytes()), "{line:?}");
        }
        assert!(is_line_of_one(b"dflock\0serve\0--detach\0--port\x001\0"));
        for line in [
            "",
            "\0",
            "guardian\0",
            "guardian of x\0exec\0k\0job\0",
            "dflock: holding k\0\0exec\0",
            "dflock\0exec\0serve\0--detach\0",
            "dflock: \0",
        ] {
            assert!(!is_line_of_one(line.as_bytes()), "{line:?}");
        }
    }

    /// As they are known elsewhere.
    #[test]
    fn a_guardian_begins_with_its_title() {
        assert!(TITLES[0].starts_with(guard::TITLE.as_bytes()));
    }
}
