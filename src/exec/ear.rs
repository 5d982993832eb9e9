//! Hears Ctrl-C: the terminal sends it to the command's group alone, so a tiny process of ours is in that group.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, pipe2, read, setpgid, write};
use tokio::io::unix::AsyncFd;

use crate::sys::{self, Fork};

pub(super) struct Ear {
    pub(super) pid: Pid,
    heard: AsyncFd<OwnedFd>,
}

impl Ear {
    /// Only while this process has one thread.
    pub(super) fn put_into(group: Pid) -> io::Result<Ear> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match sys::fork()? {
            Fork::Parent(pid) => {
                // Both do it, so that it is done whoever comes first.
                let _ = setpgid(pid, group);
                Ok(Ear { pid, heard: sys::watch(reading)? })
            }
            Fork::Child => {
                drop(reading);
                listen(group, &writing);
                sys::leave_fork()
            }
        }
    }

    /// Returns when Ctrl-C was typed.
    pub(super) async fn hear(&self) {
        loop {
            let Ok(mut ready) = self.heard.readable().await else { return std::future::pending().await };
            match read(self.heard.get_ref(), &mut [0]) {
                Ok(1) => return,
                // It is gone, with the group.
                Ok(_) => return std::future::pending().await,
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// While it is there the group is not empty.
    pub(super) fn close(self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

/// The life of an ear: it obeys nothing but KILL and ends with its parent.
fn listen(group: Pid, writing: &OwnedFd) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let mut everything = SigSet::all();
    everything.remove(Signal::SIGCHLD);
    let _ = everything.thread_block();
    let _ = setpgid(Pid::from_raw(0), group);
    while let Ok(signal) = everything.wait() {
        // A full pipe has been heard often enough; one that nobody reads any more ends this.
        if signal == Signal::SIGINT && write(writing, b"c") == Err(nix::errno::Errno::EPIPE) {
            return;
        }
    }
}
