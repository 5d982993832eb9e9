//! Starts a command's process: as `std::process::Command` does, but it may be born in a cgroup or a PID namespace.
//!
//! To move to a cgroup once it lives would cost milliseconds: the kernel holds up every fork of the machine meanwhile.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::Announcement;
use super::namespace::{self, ProcessOne};
use crate::clock::{self, Moment};

/// How long a birthplace may take to show that it is one.
const TRIAL_WITHIN: Duration = Duration::from_secs(5);

/// How long one may take to end that was killed, or has nothing more to do.
const END_WITHIN: Duration = Duration::from_secs(1);

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// What becomes of a process: all that is needed once it is forked, when nothing may be allocated any more.
pub struct Start {
    arguments: Strings,
    environment: Strings,
    pub(super) announcement: Announcement,
    /// Lent to it, if that is ours to lend.
    terminal: Option<RawFd>,
}

/// Where a process begins its life.
#[derive(Clone, Copy)]
pub enum Birthplace<'a> {
    /// The cgroup that we are in.
    Ours,
    /// One that is given by its directory.
    Cgroup(&'a File),
    CgroupOrOurs(&'a File),
    /// A PID namespace, given by its process 1.
    Namespace(&'a ProcessOne),
}

/// Strings as `execve` wants them.
pub(super) struct Strings {
    pointers: Vec<*const c_char>,
    /// What they point to.
    _owned: Vec<CString>,
}

impl Strings {
    pub(super) fn new(texts: impl Iterator<Item = OsString>) -> io::Result<Strings> {
        let owned = texts.map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(Strings { pointers, _owned: owned })
    }

    pub(super) fn as_pointers(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl Start {
    /// A program and its arguments, and what its environment has besides ours, or has not.
    pub fn new(
        program: &[OsString],
        changes: &[(&str, Option<OsString>)],
        announcement: Announcement,
        terminal: Option<RawFd>,
    ) -> io::Result<Start> {
        let is_changed = |name: &OsStr| changes.iter().any(|(changed, _)| name == *changed);
        let ours = std::env::vars_os().filter(|(name, _)| !is_changed(name));
        let theirs = changes.iter().filter_map(|(name, value)| Some((OsString::from(name), value.clone()?)));
        let line = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            name
        };
        let environment = Strings::new(ours.chain(theirs).map(line))?;
        let arguments = Strings::new(program.iter().cloned())?;
        Ok(Start { arguments, environment, announcement, terminal })
    }

    /// Starts it as the leader of a group of its own. Returns when the program is executed; one that has not got so
    /// far by its last moment is ended.
    pub fn run(&self, birthplace: Birthplace<'_>) -> io::Result<Pid> {
        let us = nix::unistd::getpid().as_raw();
        // Process 1 of a namespace ends all of it, if we die; and nobody there can see us.
        let parent = (!matches!(birthplace, Birthplace::Namespace(_))).then_some(us);
        start_in(birthplace, self.announcement.not_after, || self.become_it(parent))
    }

    /// In the new process. Returns only if it cannot become the program.
    pub(super) fn become_it(&self, parent: Option<i32>) -> io::Error {
        // SAFETY: system calls only, as a forked child may make them, with memory that was made ready before; the
        // environment is set in a process that has nobody else to read it.
        unsafe {
            libc::setpgid(0, 0);
            // As the standard library does: what our own runtime has set is not meant for others.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if let Err(why) = super::prepare(&self.announcement, self.terminal, parent) {
                return why;
            }
            super::signals::give_back();
            environ = self.environment.as_pointers();
            libc::execvp(self.arguments.pointers[0], self.arguments.as_pointers());
        }
        io::Error::last_os_error()
    }
}

/// Whether a process can be born there: it may be made and still refuse that.
pub fn try_birthplace(birthplace: Birthplace<'_>) -> io::Result<()> {
    let pid = start_in(birthplace, clock::now() + TRIAL_WITHIN, || super::leave_fork())?;
    wait_for_end_of(pid);
    Ok(())
}

/// Forks; returns when the new process has become something else, or has failed.
fn start_in(birthplace: Birthplace<'_>, not_after: Moment, become_it: impl FnOnce() -> io::Error) -> io::Result<Pid> {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
    let Some(pid) = fork_at(birthplace)? else {
        let entered = match birthplace {
            Birthplace::Namespace(namespace) => namespace::enter(namespace, |pid| report(&writing, BORN, pid)),
            _ => Ok(()),
        };
        let why = entered.err().unwrap_or_else(become_it);
        report(&writing, FAILED, why.raw_os_error().unwrap_or(libc::EINVAL));
        super::leave_fork();
    };
    drop(writing);
    let forked = Pid::from_raw(pid);
    let mut born = forked;
    let heard = hear(&File::from(reading), not_after, &mut born);
    if heard.is_err() {
        // It is not reaped yet, so that the number is still its own; most often it has ended already.
        let _ = kill(born, Signal::SIGKILL);
    }
    if born != forked || matches!(birthplace, Birthplace::Namespace(_)) {
        // It has only led the way.
        let _ = kill(forked, Signal::SIGKILL);
        wait_for_end_of(forked);
    }
    match heard {
        Ok(()) if born == forked && matches!(birthplace, Birthplace::Namespace(_)) => Err(Errno::ESRCH.into()),
        Ok(()) => Ok(born),
        Err(why) => {
            wait_for_end_of(born);
            Err(why)
        }
    }
}

/// One that a debugger holds does not end for us until that lets go: nobody waits for it.
pub fn wait_for_end_of(pid: Pid) {
    let until = clock::now() + END_WITHIN;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::StillAlive) if clock::now() < until => std::thread::sleep(Duration::from_micros(100)),
            _ => return,
        }
    }
}

/// `None` in the new process. That one makes system calls only: other threads of ours are missing in it.
pub(super) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: as said above.
    forked(unsafe { libc::fork() }.into())
}

/// The same, but that the new process may be in another cgroup.
pub(super) fn fork_at(birthplace: Birthplace<'_>) -> io::Result<Option<i32>> {
    match birthplace {
        Birthplace::Ours | Birthplace::Namespace(_) => fork(),
        Birthplace::Cgroup(directory) => fork_into(directory),
        Birthplace::CgroupOrOurs(directory) => fork_into(directory).or_else(|_| fork()),
    }
}

#[cfg(target_os = "linux")]
fn fork_into(directory: &File) -> io::Result<Option<i32>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: a structure of numbers.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = CLONE_INTO_CGROUP;
    how.exit_signal = libc::SIGCHLD as u64;
    how.cgroup = directory.as_raw_fd().cast_unsigned().into();
    // SAFETY: a fork, with a copy of this stack; the new process makes system calls only.
    forked(unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of_val(&how)) })
}

#[cfg(not(target_os = "linux"))]
fn fork_into(_directory: &File) -> io::Result<Option<i32>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn forked(pid: libc::c_long) -> io::Result<Option<i32>> {
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid @ 1..) => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is reported of a new process: that, and a number.
pub(super) const FAILED: i32 = 0;
pub(super) const BORN: i32 = 1;

/// In the new process.
pub(super) fn report(writing: &OwnedFd, what: i32, number: i32) {
    let words = [what, number];
    // SAFETY: a system call with bytes of this stack.
    unsafe { libc::write(writing.as_raw_fd(), words.as_ptr().cast(), size_of_val(&words)) };
}

/// Until its end of the pipe is closed, which is so when it has become its program.
pub(super) fn hear(mut reading: &File, not_after: Moment, born: &mut Pid) -> io::Result<()> {
    let mut failed = None;
    loop {
        let left = not_after.since(clock::now());
        let wait = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(reading.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, wait) {
            Err(Errno::EINTR) => continue,
            // Somebody has stopped it, and it would begin after its lease.
            Ok(0) if left.is_zero() => return Err(Errno::ETIME.into()),
            Ok(0) => continue,
            Ok(_) => {}
            Err(why) => return Err(why.into()),
        }
        let mut words = [0; 8];
        if reading.read(&mut words)? < words.len() {
            return failed.map_or(Ok(()), Err);
        }
        let [what, number] =
            [0, 4].map(|at| i32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]));
        match what {
            BORN => *born = Pid::from_raw(number),
            // Who leads the way may tell of it later than it fails.
            _ => failed = Some(io::Error::from_raw_os_error(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a debugger, or whoever sends STOP in this moment, may have it.
    #[test]
    fn one_that_is_stopped_on_its_way_is_ended_in_time() {
        let stop = || {
            let _ = kill(nix::unistd::getpid(), Signal::SIGSTOP);
            io::Error::from_raw_os_error(libc::EINTR)
        };
        let begin = clock::now();
        let started = start_in(Birthplace::Ours, begin + Duration::from_millis(200), stop);
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::ETIME));
        assert!(clock::now().since(begin) < Duration::from_secs(20));
    }

    #[test]
    fn what_keeps_it_from_its_program_is_told() {
        let fail = || io::Error::from_raw_os_error(libc::ENOEXEC);
        let started = start_in(Birthplace::Ours, clock::now() + Duration::from_secs(20), fail);
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::ENOEXEC));
    }
}
