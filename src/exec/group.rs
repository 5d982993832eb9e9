//! Spawns, signals and reaps the child's process group.

use std::ffi::OsString;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::contain::Containment;
use super::kin::Kin;
use super::not_found;
use super::reach::Reach;
use super::status::Ending;
use crate::clock::Moment;
use crate::error::{Failure, Kind};
use crate::procfs::{self, Identity, Process};
use crate::sys::{Announcement, Start};

/// A command that cannot be stopped in time is not started.
pub(super) fn too_late() -> Failure {
    Failure::new(Kind::Unreachable, "the lock came too late: its lease is nearly over")
        .hint("the server, or this machine, is slow; a longer -l helps")
}

/// The same, of a lock that went with its connection.
pub(super) fn gone_before() -> Failure {
    Failure::new(Kind::Unreachable, "the server closed the connection before the command could begin")
        .hint("nothing was started: try again")
}

pub(super) struct Group {
    leader: Pid,
    identity: Identity,
    /// Its end has been read: its number may be anybody's.
    leader_reaped: bool,
    reach: Reach,
}

/// What became of a process that is ours to reap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Ended(Ending),
    Stopped(Signal),
    /// The end of one that is not of the group, as far as known: an orphan, or the guardian.
    Other(Pid),
    /// The same, which was stopped.
    OtherStopped(Pid),
}

/// By what the processes of a command that is about to begin will be known. What they leave behind comes to us, so
/// that it can be found and ended when the lock is lost.
pub(super) fn kin(containment: &Containment, guardian: Option<Pid>) -> Kin {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let us = nix::unistd::getpid().as_raw();
    let dflock = Identity::now(us);
    let process_one = containment.process_one();
    let mut children = procfs::children(us).unwrap_or_default();
    children.retain(|pid| process_one.is_none_or(|one| one.pid != *pid));
    let spared: Vec<Identity> =
        children.iter().filter_map(|pid| Process::of(*pid)).map(|process| process.identity).collect();
    let adopts = spared.iter().all(|child| guardian.is_some_and(|guardian| child.pid == guardian.as_raw()));
    let mark = containment.mark.clone();
    let cgroup = containment.cgroup().map(|cgroup| cgroup.path().to_owned());
    Kin { dflock, mark, spared, adopts, cgroup, process_one, leader: None }
}

impl Group {
    /// Starts the command as the leader of a group of its own.
    pub(super) fn spawn(
        program: &[OsString],
        environment: &[(&str, Option<OsString>)],
        announcement: Announcement,
        terminal: Option<RawFd>,
        containment: &Containment,
        kin: Kin,
    ) -> Result<Group, Failure> {
        let name = program.first().ok_or_else(|| Failure::usage("there is no command to run"))?;
        let start = Start::new(program, environment, announcement, terminal);
        let leader = start.and_then(|start| containment.start(&start)).map_err(|why| match why.raw_os_error() {
            Some(errno) if errno == Errno::ETIME as i32 => too_late(),
            _ => not_found::explain(name, &why),
        })?;
        let mut reach = Reach::new(kin, containment.cgroup());
        // Nobody has read its end yet, so that the number is its own.
        let identity = Identity::now(leader.as_raw());
        reach.set_leader(identity);
        Ok(Group { leader, identity, leader_reaped: false, reach })
    }

    pub(super) fn leader(&self) -> Pid {
        self.leader
    }

    /// The leader, told from a later process with its number.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// To every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        // While anybody is left the number is theirs; when nobody is, this fails, which is as good.
        let _ = killpg(self.leader, signal);
    }

    /// Reads the end of one who ended, or a stop of the leader, if there is any. As process 1 everybody's ends
    /// are ours to read. Whoever knew the number must forget it before anything else is done.
    pub(super) fn reap_one(&mut self) -> Option<Happened> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            let (pid, what) = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Happened::Ended(Ending::Exited(code as u8))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Happened::Ended(Ending::Killed(signal))),
                Ok(WaitStatus::Stopped(pid, signal)) if pid == self.leader => (pid, Happened::Stopped(signal)),
                Ok(WaitStatus::Stopped(pid, _)) => return Some(Happened::OtherStopped(pid)),
                Ok(WaitStatus::StillAlive) => return None,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            if pid != self.leader || self.leader_reaped {
                return Some(Happened::Other(pid));
            }
            self.leader_reaped = !matches!(what, Happened::Stopped(_));
            return Some(what);
        }
    }

    /// A signal to everybody, whether still of the group or not.
    pub(super) fn signal_all(&mut self, signal: Signal) {
        self.reach.signal(signal);
    }

    /// Where orphans may be somebody else's, it is remembered who their parents were. Returns when to do it again; the
    /// guardian does it in any case.
    pub(super) fn remember(&mut self, not_after: Moment) -> Moment {
        if self.reach.has_strangers() { self.reach.remember(not_after, true) } else { Moment::NEVER }
    }

    /// Whether nobody is left whom the command started.
    pub(super) fn is_gone(&mut self) -> bool {
        (self.leader_reaped || is_kept_dead(self.leader)) && !self.reach.is_anyone_left()
    }
}

/// A debugger that holds a process keeps its end from us, for as long as it likes.
fn is_kept_dead(pid: Pid) -> bool {
    let pid = pid.as_raw();
    Process::of(pid).is_some_and(|process| process.is_dead) && procfs::is_traced(pid)
}
