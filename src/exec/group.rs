//! Spawns, signals and reaps the child's process group.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::status::Ending;
use crate::error::{Failure, Kind};
use crate::procfs;
use crate::sys::{self, Announcement};

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
    /// Its end has been read: its number may be anybody's.
    leader_reaped: bool,
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

impl Group {
    /// Starts the command as the leader of a group of its own.
    pub(super) fn spawn(
        program: &[OsString],
        environment: &[(&str, Option<OsString>)],
        announcement: Announcement,
        terminal: Option<RawFd>,
    ) -> Result<Group, Failure> {
        // What it leaves behind comes to us, so that it can be found and ended when the lock is lost.
        #[cfg(target_os = "linux")]
        let _ = nix::sys::prctl::set_child_subreaper(true);
        let (name, arguments) = program.split_first().ok_or_else(|| Failure::usage("there is no command to run"))?;
        let mut command = Command::new(name);
        command.args(arguments).process_group(0);
        for (variable, value) in environment {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        sys::prepare_command(&mut command, announcement, terminal);
        let shown = name.to_string_lossy();
        let child = command.spawn().map_err(|why| match why.kind() {
            _ if why.raw_os_error() == Some(Errno::ETIME as i32) => too_late(),
            io::ErrorKind::NotFound => Failure::new(Kind::CommandNotFound, format!("{shown}: command not found"))
                .hint("the lock was given back; is it in PATH?"),
            _ => Failure::new(Kind::CannotExecute, format!("{shown}: cannot be executed: {why}"))
                .hint("the lock was given back"),
        })?;
        let leader = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Ok(Group { leader, leader_reaped: false })
    }

    pub(super) fn leader(&self) -> Pid {
        self.leader
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

    /// Whether nobody is left of the group.
    pub(super) fn is_gone(&self) -> bool {
        self.leader_reaped && !has_life(self.leader)
    }
}

/// Whether a group has a member that is more than a name waiting to be read. That nobody of it can be signalled
/// proves nothing: they may have changed their user.
pub(super) fn has_life(group: Pid) -> bool {
    if killpg(group, None) == Err(Errno::ESRCH) {
        return false;
    }
    let Ok(processes) = procfs::processes() else { return true };
    processes.iter().any(|process| process.group == group.as_raw() && !process.is_dead)
}
