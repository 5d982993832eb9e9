//! Lends the terminal to the command's group, and takes it back.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// A controlling terminal whose foreground we are.
pub(super) struct Terminal {
    device: File,
    our_group: Pid,
}

impl Terminal {
    /// `None` where there is no terminal, or others are in its foreground.
    pub(super) fn find() -> Option<Terminal> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let our_group = getpgrp();
        (tcgetpgrp(&device).ok()? == our_group).then_some(Terminal { device, our_group })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.device.as_raw_fd()
    }

    pub(super) fn lend(&self, group: Pid) {
        self.give(group);
    }

    pub(super) fn take_back(&self) {
        self.give(self.our_group);
    }

    /// Stops this process until somebody continues it.
    pub(super) fn stop_ourselves(&self) {
        let _ = raise(Signal::SIGSTOP);
    }

    fn give(&self, group: Pid) {
        // From the background this would stop us: so that signal waits meanwhile.
        let mut quiet = SigSet::empty();
        quiet.add(Signal::SIGTTOU);
        let _ = quiet.thread_block();
        let _ = tcsetpgrp(&self.device, group);
        let _ = quiet.thread_unblock();
    }
}
