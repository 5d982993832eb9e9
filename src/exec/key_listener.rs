//! Hears Ctrl-C and its like: the terminal sends them to the command's group alone, so a tiny process of ours is
//! in that group.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp, pipe2, read, setpgid, write};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::sys::{self, Fork};

/// What a terminal sends when a key is typed, or when it is gone.
const TYPED: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

/// What a listener answers with the same: it has said then whatever it heard before, since a lower number is
/// heard first. Nobody else sends it.
const LAST_WORD: Signal = Signal::SIGXFSZ;

/// Its answer takes microseconds, unless the machine is at its limit.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct KeyListener {
    pid: Pid,
    heard: AsyncFd<OwnedFd>,
}

impl KeyListener {
    pub(super) fn put_into(group: Pid) -> io::Result<KeyListener> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // What is typed as soon as it is in the group must find it listening.
        let ours = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let forked = sys::fork();
        if !matches!(forked, Ok(Fork::Child)) {
            let _ = ours.thread_set_mask();
        }
        match forked? {
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
            match self.next().await {
                Some(signal) if TYPED.contains(&signal) => return signal,
                Some(_) => {}
                // It is gone, with the group.
                None => return std::future::pending().await,
            }
        }
    }

    async fn next(&self) -> Option<Signal> {
        loop {
            let mut ready = self.heard.readable().await.ok()?;
            let mut byte = [0];
            match read(self.heard.get_ref(), &mut byte) {
                Ok(1) => return Signal::try_from(i32::from(byte[0])).ok(),
                Ok(_) => return None,
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// Returns what was typed before this. The command may have ended of it, and that may have been seen first.
    ///
    /// While a listener is there the group is not empty, so it leaves that before it ends: its end may take a moment.
    pub(super) async fn close(self) -> Vec<Signal> {
        let mut typed = Vec::new();
        let _ = kill(self.pid, LAST_WORD);
        let last_words = async {
            while let Some(signal) = self.next().await
                && signal != LAST_WORD
            {
                typed.push(signal);
            }
        };
        if timeout(LAST_WORD_WITHIN, last_words).await.is_err() {
            // Nobody can say. Somebody who is ended though nothing was typed costs less than one who is not.
            typed.push(Signal::SIGHUP);
        }
        let _ = setpgid(self.pid, getpgrp());
        let _ = kill(self.pid, Signal::SIGKILL);
        // If it has not ended yet, it is read with the others, or by whoever reads ours.
        let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        typed
    }
}

/// The life of a listener: it obeys nothing but KILL and ends with its parent. It makes system calls only.
fn listen(group: Pid, writing: &OwnedFd) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let mut everything = SigSet::all();
    everything.remove(Signal::SIGCHLD);
    let _ = everything.thread_block();
    let _ = setpgid(Pid::from_raw(0), group);
    while let Ok(signal) = everything.wait() {
        // A full pipe has been heard often enough; one that nobody reads any more ends this.
        let is_told = TYPED.contains(&signal) || signal == LAST_WORD;
        if is_told && write(writing, &[signal as u8]) == Err(nix::errno::Errno::EPIPE) {
            return;
        }
    }
}
