//! Where nobody but process 1 reaps orphans.

use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::LeaderNews;
use super::start::{Birthplace, Start};

/// They never are.
pub struct Reapers {
    nobody: std::convert::Infallible,
}

impl Reapers {
    pub fn start(_start: &Start, _birthplace: Birthplace<'_>) -> io::Result<Reapers> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn pids(&self) -> [Pid; 2] {
        match self.nobody {}
    }

    pub fn is_upper(&self, _pid: Pid) -> bool {
        match self.nobody {}
    }

    pub fn upper_is_gone(&mut self) {
        match self.nobody {}
    }

    pub fn begin(&self) -> io::Result<Pid> {
        match self.nobody {}
    }

    pub fn ears(&self) -> io::Result<OwnedFd> {
        match self.nobody {}
    }

    pub fn next_news(&self) -> Option<LeaderNews> {
        match self.nobody {}
    }

    pub fn may_read_end(&self) {
        match self.nobody {}
    }
}
