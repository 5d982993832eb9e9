//! Lends the terminal to the command's group, and takes it back.
//!
//! Whether it is ours to lend changes with every `fg` and `bg`, and not always are we told: so the terminal
//! itself is asked each time. While it is lent nobody but the command and its children has it.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use crate::sys;

/// A controlling terminal.
pub(super) struct Terminal {
    device: File,
    our_group: Pid,
    is_lent: Cell<bool>,
}

impl Terminal {
    /// `None` where there is none.
    pub(super) fn find() -> Option<Terminal> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Terminal { device, our_group: getpgrp(), is_lent: Cell::new(false) })
    }

    /// For the command's process to take by itself as it begins, if it is ours to lend.
    pub(super) fn to_lend(&self) -> Option<RawFd> {
        self.is_ours().then(|| {
            self.is_lent.set(true);
            self.device.as_raw_fd()
        })
    }

    /// Whether we are in its foreground.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.device) == Ok(self.our_group)
    }

    pub(super) fn is_lent(&self) -> bool {
        self.is_lent.get()
    }

    /// Lends it to the command if it is ours; says whether the command has it now.
    pub(super) fn lend(&self, group: Pid) -> bool {
        if !self.is_lent.get() && self.is_ours() {
            self.give(group);
            self.is_lent.set(true);
        }
        self.is_lent.get()
    }

    pub(super) fn take_back(&self) {
        if self.is_lent.replace(false) {
            self.give(self.our_group);
        }
    }

    /// Stops this process until somebody continues it, and with it its whole group: whoever started us may
    /// wait for a script or a pipeline that we are only a part of. Where nobody could continue it, as in an
    /// orphaned group, it goes on at once.
    pub(super) fn stop_our_group(&self) {
        sys::stop_group(self.our_group);
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
