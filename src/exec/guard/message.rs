//! What a guardian is told, and how it gets there.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::HeldLock;
use super::duty::WhyEarly;
use crate::exec::kin::Kin;
use crate::procfs::Identity;
use crate::sys;

/// The longest message: it names the children that dflock had before the command.
const MAX_MESSAGE: usize = 64 * 1024;

/// More than how to reach servers ever takes.
const MAX_INTRODUCTION: usize = 64 * 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// A lock to let go of when the command is gone; its connection comes along.
    Lock(HeldLock),
    /// It was taken over on another connection, which comes along.
    Reconnected(HeldLock),
    /// Another process keeps this one from now on.
    HandedOver(HeldLock),
    /// By what a command's processes are known, before there is one. The directory of its cgroup comes along.
    Kin(Kin),
    /// Its first process, which leads its group, as that says by itself.
    Group(i32),
    /// The same, told from a later process with its number.
    Leader(Identity),
    /// When it must be dead.
    KillAt(u64),
    /// Until when the locks are held for sure.
    HeldUntil(u64),
    /// Instead of a command, somebody who relies on the locks, and by what signal it is told that they end. A
    /// descriptor comes along that stands for this process.
    Owner(i32),
    /// The guardian's own word: it ends the command before it was told to, since it wakes too late.
    Killed(WhyEarly),
    /// Nothing but whether it hears.
    Ask,
    /// The guardian's answer: of `KillAt`, `HeldUntil` and `Ask` it has heard so many.
    Heard(u64),
    /// The command has ended by itself: whom it leaves behind is left alone.
    Ended,
    /// All is well; the guardian is not needed any more.
    Farewell,
}

impl Message {
    /// Nothing else than one of these is one; above all no group that stands for more than itself.
    pub fn read(bytes: &[u8]) -> io::Result<Message> {
        match serde_json::from_slice(bytes)? {
            Message::Group(..=1) | Message::Leader(Identity { pid: ..=1, .. }) => {
                Err(io::ErrorKind::InvalidData.into())
            }
            Message::Kin(kin) if kin.leader.iter().chain(kin.adopters()).any(|process| process.pid <= 1) => {
                Err(io::ErrorKind::InvalidData.into())
            }
            message => Ok(message),
        }
    }

    /// Whether the guardian says that it has heard it.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self, Message::KillAt(_) | Message::HeldUntil(_) | Message::Ask)
    }

    pub fn write(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// How a command's process says its number by itself, before it becomes the command: around the digits.
pub(super) const GROUP_BEFORE: &[u8] = b"{\"Group\":";
pub(super) const GROUP_AFTER: &[u8] = b"}";

/// Both ends. Messages keep their bounds, and the end of one side is seen by the other.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// As it is sent, if it can be: half of it would say something else, or nothing.
pub(super) fn in_one(message: &Message) -> io::Result<Vec<u8>> {
    let bytes = message.write()?;
    if bytes.len() > MAX_MESSAGE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Sends without waiting: a guardian that is stopped must not stop us.
pub(super) fn send(socket: &OwnedFd, message: &Message, connection: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = in_one(message)?;
    let descriptors: Vec<RawFd> = connection.iter().map(|connection| connection.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)?;
    Ok(())
}

/// The next message that is there already; `None` if there is none. An error is the other side's end, but for
/// `InvalidData`, which says nothing of it.
pub(super) fn receive(socket: &OwnedFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    match receive_one(socket) {
        // Said once, and before all else: the other side has closed without having read all. What it has said comes now.
        Err(why) if why.raw_os_error() == Some(libc::ECONNRESET) => receive_one(socket),
        received => received,
    }
}

fn receive_one(socket: &OwnedFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let (length, descriptors) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            message => message?,
        };
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
    let message = Message::read(&bytes[..length]).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
    Ok(Some((message, descriptors)))
}

/// The first thing that is sent to a guardian which is a program of its own.
pub(super) fn introduce(socket: &OwnedFd, text: &[u8]) -> io::Result<()> {
    if text.len() > MAX_INTRODUCTION {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::send(socket.as_raw_fd(), text, flags)?;
    Ok(())
}

/// It was sent before the program began, so that it is there.
pub(super) fn introduction(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut text = vec![0; MAX_INTRODUCTION];
    let length = nix::sys::socket::recv(socket.as_raw_fd(), &mut text, MsgFlags::MSG_DONTWAIT)?;
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that another test starts has our end, too, until its program begins.
    fn wait_for_the_end(theirs: &OwnedFd) {
        while receive(theirs).is_ok_and(|message| message.is_none()) {
            std::thread::yield_now();
        }
        assert!(receive(theirs).is_err());
    }

    #[test]
    fn an_announcement_reads_as_the_message_it_stands_for() {
        let text = [GROUP_BEFORE, b"4711", GROUP_AFTER].concat();
        assert!(matches!(Message::read(&text), Ok(Message::Group(4711))));
        assert_eq!(Message::Group(4711).write().unwrap(), text);
    }

    #[test]
    fn no_group_stands_for_many() {
        for leader in [i32::MIN, -1, 0, 1] {
            assert!(Message::read(&Message::Group(leader).write().unwrap()).is_err(), "{leader}");
            let leader = Message::Leader(Identity { pid: leader, started: 1 });
            assert!(Message::read(&leader.write().unwrap()).is_err(), "{leader:?}");
        }
        assert!(matches!(Message::read(b"{\"Group\":2}"), Ok(Message::Group(2))));
        let kin = |leader, process_one| {
            let dflock = Identity { pid: 10, started: 1 };
            let named = |pid| Some(Identity { pid, started: 1 });
            let (leader, process_one) = (named(leader), named(process_one));
            let (mark, spared) = ("m".to_owned(), Vec::new());
            let kin =
                Kin { dflock, mark, spared, adopts: true, reapers: Vec::new(), cgroup: None, process_one, leader };
            Message::read(&Message::Kin(kin).write().unwrap())
        };
        assert!(kin(20, 30).is_ok() && kin(1, 30).is_err() && kin(20, 1).is_err() && kin(20, -30).is_err());
    }

    #[test]
    fn nobody_waits_for_one_that_does_not_hear() {
        let (ours, theirs) = pair().unwrap();
        let mut sent = 0;
        while send(&ours, &Message::KillAt(sent), None).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "all of it is stored");
        }
        for number in 0..sent {
            let (message, _) = receive(&theirs).unwrap().unwrap();
            assert!(matches!(message, Message::KillAt(at) if at == number));
        }
        assert!(receive(&theirs).unwrap().is_none());
        drop(ours);
        wait_for_the_end(&theirs);
    }

    /// A farewell that comes with the end of whoever did not read an answer would be taken for a death otherwise.
    #[test]
    fn the_last_words_of_one_who_did_not_listen_are_heard() {
        let (ours, theirs) = pair().unwrap();
        send(&theirs, &Message::Heard(1), None).unwrap();
        send(&ours, &Message::Farewell, None).unwrap();
        drop(ours);
        assert!(matches!(receive(&theirs), Ok(Some((Message::Farewell, _)))));
        wait_for_the_end(&theirs);
    }
}
