//! Hears Ctrl-C and its like: the terminal sends them to the command's group alone, so a tiny process of ours is
//! in that group.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp, pipe2, read, setpgid, write};
use tokio::io::unix::AsyncFd;

use crate::sys::{self, Fork};

/// What a terminal sends when a key is typed, or when it is gone.
const TYPED: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

pub(super) struct KeyListener {
    pid: Pid,
    heard: AsyncFd<OwnedFd>,
}

impl KeyListener {
    /// Only while this process has one thread.
    pub(super) fn put_into(group: Pid) -> io::Result<KeyListener> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match sys::fork()? {
            Fork::Parent(pid) => {
                // Both do it, so that it is done whoever comes first.
                let _ = setpgid(pid, group);
                Ok(KeyListener { pid, heard: sys::watch(reading)? })
            }
            Fork::Child => {
                drop(reading);
                listen(group, &writing);
                sys::leave_fork()
            }
        }
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        self.pid == pid
    }

    /// Returns what was typed.
    pub(super) async fn hear(&self) -> Signal {
        loop {
            let Ok(mut ready) = self.heard.readable().await else { return std::future::pending().await };
            let mut byte = [0];
            match read(self.heard.get_ref(), &mut byte) {
                Ok(1) => {
                    if let Some(signal) = TYPED.into_iter().find(|signal| *signal as i32 == i32::from(byte[0])) {
                        return signal;
                    }
                }
                // It is gone, with the group.
                Ok(_) => return std::future::pending().await,
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// While it is there the group is not empty, so it leaves that before it ends: its end may take a moment.
    pub(super) fn close(self) {
        let _ = setpgid(self.pid, getpgrp());
        let _ = kill(self.pid, Signal::SIGKILL);
        // If it has not ended yet, it is read with the others, or by whoever reads ours.
        let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// The life of a listener: it obeys nothing but KILL and ends with its parent.
fn listen(group: Pid, writing: &OwnedFd) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let mut everything = SigSet::all();
    everything.remove(Signal::SIGCHLD);
    let _ = everything.thread_block();
    let _ = setpgid(Pid::from_raw(0), group);
    while let Ok(signal) = everything.wait() {
        // A full pipe has been heard often enough; one that nobody reads any more ends this.
        let is_typed = TYPED.contains(&signal);
        if is_typed && write(writing, &[signal as u8]) == Err(nix::errno::Errno::EPIPE) {
            return;
        }
    }
}
