//! The process whose end makes a holder let go.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// A process, told from a later one with the same number by when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: i32,
    /// In clock ticks since boot.
    started: u64,
}

/// Of a process, what `/proc/PID/stat` tells.
struct Stat {
    name: String,
    parent: i32,
    flags: u64,
    started: u64,
}

/// Set for a process that was forked and has not executed a program of its own: a subshell.
const FORKED_WITHOUT_EXEC: u64 = 0x40;

/// Programs that start another one and wait for it: the owner is whoever called them.
const WRAPPERS: [&str; 7] = ["sudo", "doas", "su", "runuser", "timeout", "time", "flock"];

impl Owner {
    pub fn of(pid: i32) -> Result<Owner, Failure> {
        match read_stat(pid) {
            Ok(stat) => Ok(Owner { pid, started: stat.started }),
            Err(why) => Err(Failure::usage(format!("there is no process {pid} to tie the lock to: {why}"))
                .hint("--owner takes the number of a running process, or none together with --max-hold")),
        }
    }

    /// The script that called: the nearest ancestor that was started by executing a program.
    pub fn of_caller() -> Result<Owner, Failure> {
        let mut pid = nix::unistd::getppid().as_raw();
        // No chain of processes is this long; a number that bounds the walk.
        for _ in 0..1000 {
            let Ok(stat) = read_stat(pid) else { break };
            // A subshell whose script has ended belongs to a foster parent, which is another program.
            let is_subshell = stat.flags & FORKED_WITHOUT_EXEC != 0 && is_same_program(pid, stat.parent);
            let is_passage = is_subshell || WRAPPERS.contains(&stat.name.as_str());
            if !is_passage || stat.parent <= 1 {
                return Ok(Owner { pid, started: stat.started });
            }
            pid = stat.parent;
        }
        Owner::of(pid)
    }

    /// The processes that this one was started by, directly or not.
    pub fn ancestors() -> Vec<Owner> {
        let mut ancestors = Vec::new();
        let mut pid = nix::unistd::getppid().as_raw();
        while pid > 0 && ancestors.len() < 1000 {
            let Ok(stat) = read_stat(pid) else { break };
            ancestors.push(Owner { pid, started: stat.started });
            pid = stat.parent;
        }
        ancestors
    }

    /// What the process is called, if it still runs.
    pub fn name(&self) -> Option<String> {
        self.is_alive().then(|| read_stat(self.pid).ok().map(|stat| stat.name)).flatten()
    }

    fn is_alive(&self) -> bool {
        match read_stat(self.pid) {
            Ok(stat) => stat.started == self.started,
            // That we cannot look says nothing of the process.
            Err(why) => !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::Other),
        }
    }
}

/// A hold on an owner that a reused number cannot fool.
pub struct Watch {
    owner: Owner,
    #[cfg(target_os = "linux")]
    process: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Watch {
    /// `None`: it has ended already.
    #[cfg(target_os = "linux")]
    pub fn start(owner: Owner) -> Option<Watch> {
        use crate::sys;

        let process = match sys::pidfd_open(owner.pid) {
            Ok(descriptor) => sys::watch(descriptor).ok(),
            Err(why) if why.raw_os_error() == Some(libc::ESRCH) => return None,
            // An older kernel: looked at now and then.
            Err(_) => None,
        };
        // Only now is it certain whom the descriptor stands for.
        owner.is_alive().then_some(Watch { owner, process })
    }

    #[cfg(not(target_os = "linux"))]
    pub fn start(owner: Owner) -> Option<Watch> {
        owner.is_alive().then_some(Watch { owner })
    }

    /// Returns when the process has ended, however it did.
    pub async fn ended(&self) {
        #[cfg(target_os = "linux")]
        if let Some(process) = &self.process {
            // Without an answer the process is looked at now and then, below.
            if process.readable().await.is_ok() {
                return;
            }
        }
        while self.owner.is_alive() {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }

    /// A descriptor that stands for the process.
    #[cfg(target_os = "linux")]
    pub(super) fn descriptor(&self) -> Option<std::os::fd::OwnedFd> {
        self.process.as_ref().and_then(|process| process.get_ref().try_clone().ok())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn descriptor(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }

    /// Tells the owner that its lock is lost.
    #[cfg(target_os = "linux")]
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        use std::os::fd::AsFd;

        match &self.process {
            Some(process) => crate::sys::pidfd_send_signal(process.get_ref().as_fd(), signal),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn signal(&self, _signal: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn is_same_program(pid: i32, other: i32) -> bool {
    let program = |pid| std::fs::read_link(format!("/proc/{pid}/exe"));
    match (program(pid), program(other)) {
        (Ok(one), Ok(two)) => one == two,
        // Another user's: nothing is known, and a subshell is the likelier.
        _ => true,
    }
}

fn read_stat(pid: i32) -> io::Result<Stat> {
    // A name is cut at so many bytes, in the middle of a letter too.
    let text = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat"))?).into_owned();
    parse_stat(&text).ok_or_else(|| io::Error::other("its state cannot be read"))
}

/// A process that is only waiting to be reaped has ended.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(Stat {
        name,
        parent: fields.get(1)?.parse().ok()?,
        flags: fields.get(6)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_brackets_and_spaces() {
        let text = "42 (a) (b c) S 7 42 42 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent, stat.started), ("a) (b c", 7, 987_654));
        assert_ne!(stat.flags & FORKED_WITHOUT_EXEC, 0);
        assert!(parse_stat("42 (a) Z 7 42 42 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 9 1").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn this_test_has_an_owner() {
        let owner = Owner::of_caller().unwrap();
        assert!(owner.is_alive());
        assert!(!Owner { started: owner.started + 1, ..owner }.is_alive());
    }
}
