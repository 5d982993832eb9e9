//! The dead-man: a tiny process that kills the group if dflock itself dies or freezes.
//!
//! It is forked before anything else and lives in a session of its own. It knows the group, the moment at
//! which the group must be dead, and the locks; and it keeps duplicates of their connections open, so that a
//! killed dflock does not free a lock while its command still runs. When our end of the socket closes without
//! a farewell, or the moment passes without being moved, it kills the group. Only when that is gone are the
//! locks let go.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::group::has_life;
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lock::{Key, Space, Token};
use crate::sys::{self, Announcement, Fork};

/// How often the clock is looked at: a suspended machine may have slept through a timer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long it may take to leave, in milliseconds.
const FAREWELL_MS: u8 = 100;

/// The longest pause between two attempts to end a group.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest message.
const MAX_MESSAGE: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// The group to kill if need be.
    Group(i32),
    /// When it must be dead.
    KillAt(u64),
    /// A lock to let go of after that; its connection comes along.
    Lock { key: Key, space: Space, token: Token },
    /// All is well; the guardian is not needed any more.
    Farewell,
}

/// A lock that the guardian may have to let go of.
#[derive(Clone)]
pub struct Left {
    pub key: Key,
    pub space: Space,
    pub token: Token,
}

/// What is done about locks that the guardian has to let go of.
pub type LetGo<'a> = &'a (dyn Fn(Vec<Left>) + Sync);

/// Our end.
pub struct Guard {
    socket: OwnedFd,
    pub pid: Pid,
}

impl Guard {
    /// Forks the guardian. `let_go` runs in it, at the very end, for locks that outlive their connections.
    pub fn start(let_go: LetGo<'_>) -> Result<Guard, Failure> {
        let cannot = |why: &dyn std::fmt::Display| Failure::internal("start the guardian", why);
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(|why| cannot(&why))?;
        match sys::fork().map_err(|why| cannot(&why))? {
            Fork::Parent(pid) => Ok(Guard { socket: ours, pid }),
            Fork::Child => {
                drop(ours);
                let left = watch(&theirs);
                if left.is_empty() {
                    sys::leave_fork();
                }
                // On a thread of its own: this one may be in the middle of the parent's runtime.
                std::thread::scope(|scope| drop(scope.spawn(|| let_go(left)).join()));
                sys::leave_fork()
            }
        }
    }

    /// What the command's process is to send us by itself, before it becomes the command.
    pub fn announcement(&self, kill_at: Moment, not_after: Moment) -> Announcement {
        Announcement {
            socket: self.socket.as_raw_fd(),
            before_number: b"{\"Group\":",
            after_number: b"}",
            kill_at: serde_json::to_vec(&Message::KillAt(kill_at.as_nanos())).unwrap_or_default(),
            not_after,
        }
    }

    pub fn group(&self, leader: Pid) -> io::Result<()> {
        self.send(&Message::Group(leader.as_raw()), None)
    }

    pub fn kill_at(&self, moment: Moment) -> io::Result<()> {
        self.send(&Message::KillAt(moment.as_nanos()), None)
    }

    pub fn lock(&self, left: Left, connection: Option<&OwnedFd>) -> io::Result<()> {
        let Left { key, space, token } = left;
        self.send(&Message::Lock { key, space, token }, connection)
    }

    /// Sends it away.
    pub fn farewell(self) {
        self.say_farewell();
        self.see_off();
    }

    /// Tells it that it is not needed any more.
    pub fn say_farewell(&self) {
        // If it is gone already, all the better.
        let _ = self.send(&Message::Farewell, None);
    }

    /// Reads its end: where nobody reaps orphans it would stay as a name for ever.
    pub fn see_off(self) {
        let mut gone = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let closed = loop {
            match poll(&mut gone, PollTimeout::from(FAREWELL_MS)) {
                Err(Errno::EINTR) => {}
                polled => break polled == Ok(1),
            }
        };
        // With its end of the socket closed nothing can stop it any more on its way out.
        let _ = waitpid(self.pid, if closed { None } else { Some(WaitPidFlag::WNOHANG) });
    }

    fn send(&self, message: &Message, connection: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let descriptors: Vec<RawFd> = connection.iter().map(|connection| connection.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

/// What a guardian does. Returns when the group is gone, or was never there; with the locks to let go of.
fn watch(socket: &OwnedFd) -> Vec<Left> {
    // A session of its own: no terminal reaches it. Its parent's files are not its own.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    detach_stdio();
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"dflock-guardian");
    let mut group = None;
    let mut kill_at = Moment::NEVER;
    let mut locks = Vec::new();
    let mut connections = Vec::new();
    loop {
        if clock::now() >= kill_at {
            if let Some(group) = group {
                let _ = killpg(group, Signal::SIGKILL);
            }
            // Done once; what dflock does when it wakes, it does itself.
            kill_at = Moment::NEVER;
        }
        match receive(socket, kill_at) {
            Ok(None) => {}
            Ok(Some((Message::Group(leader), _))) => group = Some(Pid::from_raw(leader)),
            Ok(Some((Message::KillAt(nanos), _))) => kill_at = Moment::from_nanos(nanos),
            Ok(Some((Message::Lock { key, space, token }, descriptors))) => {
                locks.push(Left { key, space, token });
                connections.extend(descriptors);
            }
            Ok(Some((Message::Farewell, _))) => return Vec::new(),
            // dflock is gone without a word.
            Err(_) => break,
        }
    }
    if let Some(group) = group {
        end(group);
    }
    locks
}

/// Kills a group and returns when nobody of it is left, and not before: of a process that changed its user (`sudo`,
/// any set-uid program) it is known that it cannot be signalled, not that it is gone. Its lock stays with us.
fn end(group: Pid) {
    let mut pause = Duration::from_millis(1);
    loop {
        // Whether it reached anybody says nothing of the others.
        let _ = killpg(group, Signal::SIGKILL);
        if !has_life(group) {
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn detach_stdio() {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

type Received = Option<(Message, Vec<OwnedFd>)>;

/// The next message; `None` when none came for a while or by `until`.
fn receive(socket: &OwnedFd, until: Moment) -> io::Result<Received> {
    let wait = if until == Moment::NEVER { None } else { Some(until.since(clock::now()).min(LOOK_EVERY)) };
    let wait = match wait {
        None => PollTimeout::NONE,
        // Rounded up: a wait of nothing, again and again, would be a busy one.
        Some(wait) => PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO),
    };
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, wait) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        Ok(_) => {}
        Err(why) => return Err(why.into()),
    }
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let (length, descriptors) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                descriptors.extend(received.into_iter().map(sys::own));
            }
        }
        (message.bytes, descriptors)
    };
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = serde_json::from_slice(&bytes[..length])?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_reads_as_the_messages_it_stands_for() {
        let text = format!("{}4711{}", "{\"Group\":", "}");
        assert!(matches!(serde_json::from_str(&text), Ok(Message::Group(4711))));
        assert_eq!(serde_json::to_string(&Message::Group(4711)).unwrap(), text);
    }
}
