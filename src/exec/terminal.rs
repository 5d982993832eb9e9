//! Lends the terminal to the command's group, and takes it back.
//!
//! Whether it is ours to lend changes with every `fg` and `bg`, and not always are we told: so the terminal
//! itself is asked each time. While it is lent nobody but the command and its children has it: where others of our
//! group may want it, as the pager in `dflock exec … | less`, it is lent only to a command that asks for it.

use std::cell::Cell;
use std::fs::File;
use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};

use crate::sys;

/// A controlling terminal.
pub(super) struct Terminal {
    device: File,
    our_group: Pid,
    /// We are all that the shell has in the foreground.
    is_ours_alone: bool,
    is_lent: Cell<bool>,
}

impl Terminal {
    /// `None` where there is none.
    pub(super) fn find() -> Option<Terminal> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let our_group = getpgrp();
        // Parts of a pipeline are a group of their own, whose first part leads it.
        let is_part = is_piped();
        Some(Terminal {
            device,
            our_group,
            is_ours_alone: getpid() == our_group && !is_part,
            is_lent: Cell::new(false),
        })
    }

    /// For the command's process to take by itself as it begins, if it is ours to lend.
    pub(super) fn to_lend(&self) -> Option<RawFd> {
        (self.is_ours_alone && self.is_ours()).then(|| {
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

    /// Lends it to the command that goes on, where nobody else may want it; says whether the command has it now.
    pub(super) fn lend_again(&self, group: Pid) -> bool {
        if self.is_ours_alone { self.lend(group) } else { self.is_lent.get() }
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

/// Whether something comes to us, or goes from us, by a pipe.
fn is_piped() -> bool {
    let is_pipe = |descriptor: BorrowedFd| {
        fstat(descriptor).is_ok_and(|about| {
            let kind = SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT;
            kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK
        })
    };
    is_pipe(stdin().as_fd()) || is_pipe(stdout().as_fd()) || is_pipe(stderr().as_fd())
}
