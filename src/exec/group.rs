//! Spawns, signals and reaps the child's process group.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::contain::Containment;
use super::kin::Kin;
use super::not_found;
use super::orphans::Orphans;
use super::reach::{Reach, is_apart, signal_one};
use super::status::Ending;
use crate::clock::Moment;
use crate::error::{Failure, Kind};
use crate::procfs::{self, Identity, Process};
use crate::sys::{self, Announcement, ChildNews, LeaderNews, Start};

const END_PAUSE: Duration = Duration::from_millis(10);

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
    /// Where it is no child of ours.
    orphans: Option<Orphans>,
    /// Somebody has killed one of those between us.
    has_lost_reaper: bool,
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
    /// Somebody has sent a signal to the parent of the leader.
    ParentSent(Signal),
    /// Somebody has killed that parent, or its own.
    ReaperLost,
}

/// By what the processes of a command that is about to begin will be known. What they leave behind comes to us, so
/// that it can be found and ended when the lock is lost; but not where children that we had before may leave us orphans,
/// too.
pub(super) fn kin(containment: &Containment, is_guardian: impl Fn(i32) -> bool) -> Kin {
    let us = nix::unistd::getpid().as_raw();
    let dflock = Identity::now(us);
    let process_one = containment.process_one();
    let mut children = procfs::children(us).unwrap_or_default();
    children.retain(|pid| process_one.is_none_or(|one| one.pid != *pid));
    let before: Vec<Process> = children.iter().filter_map(|pid| Process::of(*pid)).collect();
    let leaves_nobody = |child: &Process| child.is_dead || is_guardian(child.identity.pid) || is_apart(child.identity);
    let adopts = before.iter().all(leaves_nobody);
    #[cfg(target_os = "linux")]
    if adopts {
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
    let spared = before.iter().map(|process| process.identity).collect();
    let mark = containment.mark.clone();
    let cgroup = containment.cgroup().map(|cgroup| cgroup.path().to_owned());
    Kin { dflock, mark, spared, adopts, reapers: Vec::new(), cgroup, process_one, leader: None }
}

/// A command, and all that it takes to start it.
pub(super) struct Command<'a> {
    pub(super) program: &'a [OsString],
    pub(super) environment: &'a [(&'a str, Option<OsString>)],
    /// The terminal that it takes.
    pub(super) terminal: Option<RawFd>,
    pub(super) containment: &'a Containment,
}

impl Command<'_> {
    /// Where orphans that come to us may be somebody else's, the command is to begin below others of ours.
    pub(super) fn find_place(&self, kin: &mut Kin, announcement: Announcement) -> Result<Option<Orphans>, Failure> {
        if kin.adopts || kin.process_one.is_some() {
            return Ok(None);
        }
        let orphans =
            self.start(announcement).and_then(|start| Orphans::prepare(&start, self.containment.birthplace()));
        let orphans = orphans.map_err(|why| self.explain(&why))?;
        kin.reapers = orphans.reapers().to_vec();
        Ok(Some(orphans))
    }

    fn start(&self, announcement: Announcement) -> std::io::Result<Start> {
        Start::new(self.program, self.environment, announcement, self.terminal)
    }

    fn explain(&self, why: &std::io::Error) -> Failure {
        match why.raw_os_error() {
            Some(errno) if errno == Errno::ETIME as i32 => too_late(),
            _ => not_found::explain(self.program.first().map_or("".as_ref(), OsString::as_os_str), why),
        }
    }
}

impl Group {
    /// Starts the command as the leader of a group of its own.
    pub(super) fn spawn(
        command: &Command<'_>,
        announcement: Announcement,
        kin: Kin,
        orphans: Option<Orphans>,
    ) -> Result<Group, Failure> {
        if command.program.is_empty() {
            return Err(Failure::usage("there is no command to run"));
        }
        let leader = match &orphans {
            Some(orphans) => orphans.begin(),
            None => command.start(announcement).and_then(|start| command.containment.start(&start)),
        };
        let mut reach = Reach::new(kin, command.containment.cgroup());
        let leader = leader.map_err(|why| {
            if orphans.is_some() {
                end_all(&mut reach);
            }
            command.explain(&why)
        })?;
        // Nobody has read its end yet, so that the number is its own.
        let identity = Identity::now(leader.as_raw());
        reach.set_leader(identity);
        Ok(Group { leader, identity, leader_reaped: false, reach, orphans, has_lost_reaper: false })
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
        if let Some(happened) = self.hear_of_leader() {
            return Some(happened);
        }
        loop {
            let (pid, what) = match sys::next_child() {
                Ok(Some((pid, ChildNews::Exited(code)))) => (pid, Happened::Ended(Ending::Exited(code))),
                Ok(Some((pid, ChildNews::Killed(number)))) => (pid, Happened::Ended(Ending::Killed(by(number)))),
                Ok(Some((pid, ChildNews::Stopped(number)))) if pid == self.leader => {
                    (pid, Happened::Stopped(by(number)))
                }
                Ok(Some((pid, ChildNews::Stopped(_)))) if self.is_reaper(pid) => {
                    let _ = kill(pid, Signal::SIGCONT);
                    continue;
                }
                Ok(Some((pid, ChildNews::Stopped(_)))) => return Some(Happened::OtherStopped(pid)),
                Ok(None) => return None,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            if self.is_reaper(pid) {
                if self.has_lost_child() {
                    return Some(Happened::ReaperLost);
                }
                continue;
            }
            if pid != self.leader || self.leader_reaped || self.orphans.is_some() {
                return Some(Happened::Other(pid));
            }
            self.leader_reaped = !matches!(what, Happened::Stopped(_));
            return Some(what);
        }
    }

    /// Of one that is no child of ours.
    fn hear_of_leader(&mut self) -> Option<Happened> {
        let orphans = self.orphans.as_mut()?;
        let ending = match orphans.next_news()? {
            LeaderNews::Exited(code) => Ending::Exited(code),
            LeaderNews::Killed(number) => Ending::Killed(by(number)),
            LeaderNews::Gone if self.leader_reaped => return None,
            LeaderNews::Gone if !std::mem::replace(&mut self.has_lost_reaper, true) => {
                return Some(Happened::ReaperLost);
            }
            // Nobody will say how it has ended; whoever dies with its parent has, and others are ended now.
            LeaderNews::Gone => Ending::Killed(Signal::SIGKILL),
            LeaderNews::Stopped(signal) => return Some(Happened::Stopped(signal)),
            LeaderNews::ParentSent(signal) => return Some(Happened::ParentSent(signal)),
        };
        if std::mem::replace(&mut self.leader_reaped, true) {
            return None;
        }
        orphans.may_read_end();
        Some(Happened::Ended(ending))
    }

    fn is_reaper(&self, pid: Pid) -> bool {
        self.orphans.as_ref().is_some_and(|orphans| orphans.is_child(pid))
    }

    /// The end of the upper one was read. Should the lower one follow, orphans would be anybody's: so the command ends
    /// now. Says whether that is news.
    fn has_lost_child(&mut self) -> bool {
        if let Some(orphans) = &mut self.orphans {
            orphans.child_is_gone();
        }
        if self.leader_reaped {
            return false;
        }
        signal_one(self.identity, Signal::SIGKILL);
        !std::mem::replace(&mut self.has_lost_reaper, true)
    }

    /// Returns when there is something to [read](Group::reap_one) of a leader that is no child of ours.
    pub(super) async fn has_news(&self) {
        match &self.orphans {
            Some(orphans) => orphans.has_news().await,
            None => std::future::pending().await,
        }
    }

    /// A signal to everybody, whether still of the group or not.
    pub(super) fn signal_all(&mut self, signal: Signal) {
        self.reach.signal(signal);
    }

    /// Both of those to whom orphans go may be killed in one moment: so it is remembered who their parents were. Returns
    /// when to do it again; the guardian does it in any case.
    pub(super) fn remember(&mut self, not_after: Moment) -> Moment {
        if self.orphans.is_some() { self.reach.remember(not_after, true) } else { Moment::NEVER }
    }

    /// Whether nobody is left whom the command started.
    pub(super) fn is_gone(&mut self) -> bool {
        (self.leader_reaped || self.is_kept_dead()) && !self.reach.is_anyone_left()
    }

    /// A debugger that holds a process, or whoever is to read its end, keeps that from us for as long as it likes.
    fn is_kept_dead(&self) -> bool {
        let is_traced = |pid: Pid| procfs::is_traced(pid.as_raw());
        let is_reader_traced = || self.orphans.as_ref().is_some_and(|orphans| is_traced(orphans.reader()));
        Process::of(self.leader.as_raw()).is_some_and(|process| process.is_dead)
            && (is_traced(self.leader) || is_reader_traced())
    }
}

/// Below others of ours it may have begun, and have started somebody, before we knew of it. Whoever takes the lock next must
/// not find them: they are ended, however long that takes.
fn end_all(reach: &mut Reach) {
    while reach.is_anyone_left() {
        reach.end();
        std::thread::sleep(END_PAUSE);
    }
}

/// A real-time signal has no name, and ends a process as surely as that which cannot be caught.
fn by(number: i32) -> Signal {
    Signal::try_from(number).unwrap_or(Signal::SIGKILL)
}
