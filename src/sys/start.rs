//! Starts a command's process: as `std::process::Command` does, but it may be born in a cgroup.
//!
//! To move there once it lives would cost milliseconds: the kernel holds up every fork of the machine meanwhile.

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
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::Announcement;
use crate::clock::{self, Moment};

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// What becomes of a process: all that is needed once it is forked, when nothing may be allocated any more.
pub struct Start {
    arguments: Strings,
    environment: Strings,
    announcement: Announcement,
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
}

/// Strings as `execve` wants them.
struct Strings {
    pointers: Vec<*const c_char>,
    /// What they point to.
    _owned: Vec<CString>,
}

impl Strings {
    fn new(texts: impl Iterator<Item = OsString>) -> io::Result<Strings> {
        let owned = texts.map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Ok(Strings { pointers, _owned: owned })
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
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        let us = nix::unistd::getpid().as_raw();
        let forked = match birthplace {
            Birthplace::Ours => fork(),
            Birthplace::Cgroup(directory) => fork_into(directory),
            Birthplace::CgroupOrOurs(directory) => fork_into(directory).or_else(|_| fork()),
        };
        let Some(pid) = forked? else {
            let why = self.become_it(us);
            report(&writing, why);
            super::leave_fork();
        };
        drop(writing);
        let pid = Pid::from_raw(pid);
        let failed = hear_of_failure(reading, self.announcement.not_after);
        if failed.is_err() {
            // It is not reaped yet, so that the number is still its own; most often it has ended already.
            let _ = kill(pid, Signal::SIGKILL);
            while waitpid(pid, None) == Err(Errno::EINTR) {}
        }
        failed.map(|()| pid)
    }

    /// In the new process. Returns only if it cannot become the program.
    fn become_it(&self, parent: i32) -> io::Error {
        // SAFETY: system calls only, as a forked child may make them, with memory that was made ready before; the
        // environment is set in a process that has nobody else to read it.
        unsafe {
            libc::setpgid(0, 0);
            // As the standard library does: what our own runtime has set is not meant for others.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if let Err(why) = super::prepare(&self.announcement, self.terminal, parent) {
                return why;
            }
            environ = self.environment.pointers.as_ptr();
            libc::execvp(self.arguments.pointers[0], self.arguments.pointers.as_ptr());
        }
        io::Error::last_os_error()
    }
}

/// Whether a process can be born in a cgroup: it may be made and still refuse that.
pub fn try_birthplace(directory: &File) -> io::Result<()> {
    let Some(pid) = fork_into(directory)? else { super::leave_fork() };
    while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
    Ok(())
}

/// `None` in the new process. That one makes system calls only: other threads of ours are missing in it.
fn fork() -> io::Result<Option<i32>> {
    // SAFETY: as said above.
    forked(unsafe { libc::fork() }.into())
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

fn forked(pid: libc::c_long) -> io::Result<Option<i32>> {
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid @ 1..) => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// In the new process.
fn report(writing: &OwnedFd, why: io::Error) {
    let bytes = why.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes();
    // SAFETY: a system call with bytes of this stack.
    unsafe { libc::write(writing.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
}

/// Nothing is heard of one that has become its program: its end of the pipe is closed then.
fn hear_of_failure(reading: OwnedFd, not_after: Moment) -> io::Result<()> {
    loop {
        let left = not_after.since(clock::now());
        let wait = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(reading.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, wait) {
            Err(Errno::EINTR) => {}
            // Somebody has stopped it, and it would begin after its lease.
            Ok(0) if left.is_zero() => return Err(io::Error::from_raw_os_error(libc::ETIME)),
            Ok(0) => {}
            Ok(_) => break,
            Err(why) => return Err(why.into()),
        }
    }
    let mut bytes = Vec::new();
    File::from(reading).take(4).read_to_end(&mut bytes)?;
    match <[u8; 4]>::try_from(bytes) {
        Ok(code) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code))),
        Err(_) => Ok(()),
    }
}
