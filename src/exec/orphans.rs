//! Where dflock had children before the command (`helper & exec dflock exec ...`), an orphan that came to it could be
//! anybody's. So the command begins below two processes of ours, to whom its orphans go.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use crate::procfs::Identity;
use crate::sys::{self, Birthplace, LeaderNews, Reapers, Start};

pub(super) struct Orphans {
    reapers: Reapers,
    ears: AsyncFd<OwnedFd>,
    is_heard_out: bool,
}

impl Orphans {
    /// All is made ready for a command, which begins later.
    pub(super) fn prepare(start: &Start, birthplace: Birthplace<'_>) -> io::Result<Orphans> {
        let reapers = Reapers::start(start, birthplace)?;
        let ears = sys::watch(reapers.ears()?)?;
        Ok(Orphans { reapers, ears, is_heard_out: false })
    }

    /// Neither has ended yet, so that the numbers are their own.
    pub(super) fn reapers(&self) -> [Identity; 2] {
        self.reapers.pids().map(|pid| Identity::now(pid.as_raw()))
    }

    pub(super) fn begin(&self) -> io::Result<Pid> {
        self.reapers.begin()
    }

    /// Who reads the end of the command.
    pub(super) fn reader(&self) -> Pid {
        let [_, lower] = self.reapers.pids();
        lower
    }

    pub(super) fn is_child(&self, pid: Pid) -> bool {
        self.reapers.is_upper(pid)
    }

    pub(super) fn child_is_gone(&mut self) {
        self.reapers.upper_is_gone();
    }

    pub(super) fn next_news(&mut self) -> Option<LeaderNews> {
        let news = self.reapers.next_news();
        self.is_heard_out |= news == Some(LeaderNews::Gone);
        news
    }

    pub(super) fn may_read_end(&self) {
        self.reapers.may_read_end();
    }

    /// One who is gone has nothing more to say.
    pub(super) async fn has_news(&self) {
        while !self.is_heard_out
            && let Ok(mut ready) = self.ears.readable().await
        {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            if recv(self.ears.as_raw_fd(), &mut [0; 1], flags) != Err(Errno::EAGAIN) {
                return;
            }
            ready.clear_ready();
        }
        std::future::pending().await
    }
}
