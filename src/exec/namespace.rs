//! A PID namespace of the command's own: with its process 1 the kernel ends everybody in it, and that one ends with us.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getegid, geteuid};

use crate::procfs::Identity;
use crate::sys::{self, Birthplace, ProcessOne};

/// How long process 1 may take to answer, in milliseconds.
const ANSWER_MS: u16 = 1000;

pub(super) struct Namespace {
    pub(super) process_one: ProcessOne,
}

impl Namespace {
    /// In a user namespace if there is no other way. One whose /proc cannot be mounted is none.
    pub(super) fn make(dies_with_us: bool) -> io::Result<Namespace> {
        let mut process_one = match sys::start_process_one(false, dies_with_us) {
            Err(why) if why.raw_os_error() == Some(libc::EPERM) => {
                let process_one = sys::start_process_one(true, dies_with_us)?;
                map_user(&process_one).inspect_err(|_| process_one.kill())?;
                process_one
            }
            started => started?,
        };
        process_one.hide_memory().inspect_err(|_| process_one.kill())?;
        let namespace = Namespace { process_one };
        sys::try_birthplace(Birthplace::Namespace(&namespace.process_one)).inspect_err(|_| namespace.end())?;
        Ok(namespace)
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::now(self.process_one.pid.as_raw())
    }

    /// Ends everybody in it.
    pub(super) fn end(&self) {
        self.process_one.kill();
    }

    /// Whether process 1 stays for somebody.
    fn has_stayed(&self) -> io::Result<bool> {
        let mut answer = fs::File::from(self.process_one.leave_alone()?.try_clone()?);
        let mut ready = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(ANSWER_MS))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => answer.read(&mut [0]).map(|length| length > 0),
        }
    }
}

impl Drop for Namespace {
    /// Whom a command leaves behind is left alone; whoever was to end has ended.
    fn drop(&mut self) {
        match self.has_stayed() {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => self.end(),
        }
        self.process_one.see_off(ANSWER_MS);
    }
}

/// This user and group are the same ones there; nobody else is anybody.
fn map_user(process_one: &ProcessOne) -> io::Result<()> {
    let write = |file: &str, text: String| fs::write(format!("/proc/{}/{file}", process_one.pid), text);
    // Without this an ordinary user could be rid of groups that keep something from them.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{0} {0} 1", geteuid()))?;
    write("gid_map", format!("{0} {0} 1", getegid()))
}
