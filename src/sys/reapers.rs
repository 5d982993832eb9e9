//! Two processes of ours above a command, where its orphans could be mistaken for somebody else's: these go to the lower
//! one, and if that is killed, to the upper one. The lower one starts the command, and says how it fares.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{Pid, pipe2};

use super::LeaderNews;
use super::renaming::Renaming;
use super::start::{BORN, Birthplace, FAILED, Start, fork, fork_at, hear, report, wait_for_end_of};
use crate::clock::{self, Moment};

/// How they are called. They do not carry dflock's name, so that not all of us are ended by it at once.
const NAME: &str = "reaper";

/// What the lower one says, with a number.
const IS_THERE: i32 = 0;
const EXITED: i32 = 1;
const KILLED: i32 = 2;
const STOPPED: i32 = 3;
const SENT: i32 = 4;

/// What is said to it: start the command; its end was heard of and may be read; whoever is left is left alone.
const BEGIN: u8 = b'b';
const READ: u8 = b'r';
const LEAVE: u8 = b'l';

/// So many ends are read before anything else is looked at.
const MOST_AT_ONCE: usize = 64;

/// How long it may take to end a command that has not become its program.
const END_WITHIN: Duration = Duration::from_secs(1);

pub struct Reapers {
    /// A child of ours; `None`: its end was read.
    upper: Option<Pid>,
    lower: Pid,
    lower_process: Option<OwnedFd>,
    /// The lower one has the other end alone.
    socket: OwnedFd,
    /// What keeps the command's process from its program.
    outcome: File,
    not_after: Moment,
}

impl Reapers {
    /// Both are there then, and the lower one waits for [`Reapers::begin`].
    pub fn start(start: &Start, birthplace: Birthplace<'_>) -> io::Result<Reapers> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        let (settled, unsettled) = pipe2(OFlag::O_CLOEXEC)?;
        let renaming = Renaming::prepare(NAME, &format!("{NAME} of process {}", std::process::id()));
        // A signal that they get before they are themselves would be taken for one of ours.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let forked = fork();
        if let Ok(None) = forked {
            drop(ours);
            become_upper(&renaming, start, birthplace, [&theirs, &writing, &unsettled]);
            super::leave_fork();
        }
        before.thread_set_mask()?;
        let upper = Pid::from_raw(forked?.unwrap_or_default());
        drop((theirs, writing, unsettled));
        let (lower, not_after) = (Pid::from_raw(0), start.announcement.not_after);
        let outcome = File::from(reading);
        let mut reapers = Reapers { upper: Some(upper), lower, lower_process: None, socket: ours, outcome, not_after };
        reapers.lower = reapers.hear_lower()?;
        // The upper one keeps nothing open: stopped later, it does not hold up those who wait for an end of the command's.
        hear(&File::from(settled), not_after, &mut Pid::from_raw(0))?;
        // It is a child of the other one, which does not read its end before it is told to.
        reapers.lower_process = super::pidfd_open(reapers.lower.as_raw()).ok();
        Ok(reapers)
    }

    fn hear_lower(&self) -> io::Result<Pid> {
        match self.wait_for_word(self.not_after)? {
            Some((IS_THERE, pid)) => Ok(Pid::from_raw(pid)),
            // It may have said why.
            _ => Err(hear(&self.outcome, self.not_after, &mut Pid::from_raw(0)).err().unwrap_or(Errno::ESRCH.into())),
        }
    }

    /// The upper one, and the lower one.
    pub fn pids(&self) -> [Pid; 2] {
        [self.upper.unwrap_or(self.lower), self.lower]
    }

    pub fn is_upper(&self, pid: Pid) -> bool {
        self.upper == Some(pid)
    }

    /// Its end was read.
    pub fn upper_is_gone(&mut self) {
        self.upper = None;
    }

    /// Starts the command. Returns when the program is executed; one that has not got so far by its last moment is ended.
    pub fn begin(&self) -> io::Result<Pid> {
        self.tell(BEGIN)?;
        let mut born = Pid::from_raw(0);
        let heard = hear(&self.outcome, self.not_after, &mut born);
        if heard.is_ok() && born.as_raw() > 0 {
            return Ok(born);
        }
        if born.as_raw() > 0 {
            // Its end is not read before we allow it, so that the number is still its own.
            let _ = kill(born, Signal::SIGKILL);
            let _ = self.wait_for_word(clock::now() + END_WITHIN);
            self.may_read_end();
        }
        Err(heard.err().unwrap_or(Errno::ESRCH.into()))
    }

    /// What is readable when there are news.
    pub fn ears(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// News that are there already; the last ones again and again.
    pub fn next_news(&self) -> Option<LeaderNews> {
        loop {
            let signal = |number| Signal::try_from(number).ok();
            let news = match self.next_word() {
                Ok(Some((EXITED, code))) => Some(LeaderNews::Exited(code as u8)),
                Ok(Some((KILLED, number))) => Some(LeaderNews::Killed(number)),
                Ok(Some((STOPPED, number))) => signal(number).map(LeaderNews::Stopped),
                Ok(Some((SENT, number))) => signal(number).map(LeaderNews::ParentSent),
                Ok(Some(_)) => None,
                Ok(None) => Some(LeaderNews::Gone),
                Err(_) => return None,
            };
            if news.is_some() {
                return news;
            }
        }
    }

    /// Whoever knew the number of the command's process has forgotten it.
    pub fn may_read_end(&self) {
        // If there is nobody to be told, somebody else has read it.
        let _ = self.tell(READ);
    }

    fn kill_lower(&self) {
        if let Some(process) = &self.lower_process {
            // If it is gone already, all the better.
            let _ = super::pidfd_send_signal(process.as_fd(), Signal::SIGKILL as i32);
        }
    }

    fn tell(&self, what: u8) -> io::Result<()> {
        send(self.socket.as_raw_fd(), &[what], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    fn wait_for_word(&self, until: Moment) -> io::Result<Option<(i32, i32)>> {
        loop {
            let left = until.since(clock::now());
            let wait = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(0) if left.is_zero() => return Err(Errno::ETIME.into()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.next_word(),
                Err(why) => return Err(why.into()),
            }
        }
    }

    /// `None`: the lower one is gone.
    fn next_word(&self) -> io::Result<Option<(i32, i32)>> {
        let mut word = [0; 8];
        match recv(self.socket.as_raw_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
            Ok(length) if length == word.len() => {
                let number = |at: usize| i32::from_ne_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]);
                Ok(Some((number(0), number(4))))
            }
            Ok(_) | Err(Errno::ECONNRESET) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }
}

impl Drop for Reapers {
    /// Whom the command has left behind goes to whoever adopts orphans. The lower one leaves first, and then the upper
    /// one, which has read its end.
    fn drop(&mut self) {
        // One that cannot be told is gone, or is ended.
        let _ = self.tell(LEAVE);
        let Some(upper) = self.upper else { return self.kill_lower() };
        wait_for_end_of(upper);
        // As long as its end is not read, the number is its own; after that nobody has it, or it is not ours.
        if nix::sys::wait::waitpid(upper, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD) {
            self.kill_lower();
            let _ = kill(upper, Signal::SIGKILL);
            wait_for_end_of(upper);
        }
    }
}

/// In the forked child, with all signals blocked: the life of the upper one. Ends when the lower one leaves, or when
/// nobody is left. System calls only, as all that follows.
fn become_upper(renaming: &Renaming, start: &Start, birthplace: Birthplace<'_>, ends: [&OwnedFd; 3]) {
    let [socket, writing, unsettled] = ends;
    renaming.carry_out();
    settle();
    let lower = match fork() {
        Ok(Some(lower)) => lower,
        Ok(None) => {
            // SAFETY: a system call; nobody uses this end any more.
            unsafe { libc::close(unsettled.as_raw_fd()) };
            return become_lower(start, birthplace, socket, writing);
        }
        Err(why) => return report(writing, FAILED, why.raw_os_error().unwrap_or(libc::EAGAIN)),
    };
    leave_all_but(None);
    loop {
        let mut status = 0;
        // SAFETY: a system call with memory of this stack.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WUNTRACED) };
        if pid == lower && libc::WIFSTOPPED(status) {
            // SAFETY: a system call; its end was not read yet, so that the number is its own.
            unsafe { libc::kill(lower, libc::SIGCONT) };
        }
        if pid < 0 || pid == lower && libc::WIFEXITED(status) {
            return;
        }
    }
}

/// Orphans from below come to it. It stays in dflock's session, for a group whose parents are all of another one could
/// not be stopped by Ctrl-Z; but what is sent to dflock's group is not meant for it.
fn settle() {
    // SAFETY: system calls.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::setpgid(0, 0);
    }
}

/// Nothing of dflock's is kept open by it, nor the directory that it is in.
fn leave_all_but(socket: Option<RawFd>) {
    // SAFETY: system calls.
    unsafe {
        libc::chdir(c"/".as_ptr());
        if let Some(socket) = socket {
            libc::dup3(socket, 0, libc::O_CLOEXEC);
        }
        super::mark_or_close(libc::c_uint::from(socket.is_some()), libc::c_uint::MAX, false);
    }
}

/// The life of the lower one.
fn become_lower(start: &Start, birthplace: Birthplace<'_>, socket: &OwnedFd, writing: &OwnedFd) {
    settle();
    // SAFETY: a system call that cannot fail.
    let us = unsafe { libc::getpid() };
    say(socket.as_raw_fd(), IS_THERE, us);
    if hear_byte(socket.as_raw_fd(), 0) != Some(BEGIN) {
        return;
    }
    match fork_at(birthplace) {
        Ok(None) => {
            // SAFETY: a system call that cannot fail.
            report(writing, BORN, unsafe { libc::getpid() });
            let why = start.become_it(Some(us));
            report(writing, FAILED, why.raw_os_error().unwrap_or(libc::EINVAL));
        }
        Ok(Some(leader)) => {
            // Its socket is stdin from now on.
            leave_all_but(Some(socket.as_raw_fd()));
            let dies_with_us = start.announcement.dies_with_us;
            Lower { leader, end: End::Ahead, has_dflock: true, dies_with_us }.live();
        }
        Err(why) => report(writing, FAILED, why.raw_os_error().unwrap_or(libc::EAGAIN)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    /// Whoever may know the number was told.
    Told,
    /// It may be read, or was.
    Free,
}

struct Lower {
    leader: i32,
    end: End,
    has_dflock: bool,
    dies_with_us: bool,
}

impl Lower {
    /// Until it is told to leave, or until dflock and everybody below are gone.
    fn live(mut self) {
        // SAFETY: system calls with memory of this stack; all signals are blocked.
        let signals = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::signalfd(-1, &raw const all, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        let mut has_more = true;
        loop {
            let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut watched = [watch(signals), watch(if self.has_dflock { 0 } else { -1 })];
            // SAFETY: a system call with memory of this stack.
            unsafe { libc::poll(watched.as_mut_ptr(), 2, if has_more { 0 } else { -1 }) };
            self.hand_on(signals);
            if watched[1].revents != 0 && self.obey() {
                return;
            }
            match self.reap() {
                Some(more) => has_more = more,
                None if !self.has_dflock => return,
                None => has_more = false,
            }
        }
    }

    /// What was sent to the parent of the command: that may have been meant for dflock.
    fn hand_on(&self, signals: RawFd) {
        // SAFETY: a structure of numbers, and a system call that writes to it.
        let mut told: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        while unsafe { libc::read(signals, (&raw mut told).cast(), size_of_val(&told)) } > 0 {
            let signal = told.ssi_signo.cast_signed();
            // CONT is sent by those above, whenever somebody has stopped us.
            if self.has_dflock && signal != libc::SIGCHLD && signal != libc::SIGCONT {
                say(0, SENT, signal);
            }
        }
    }

    /// Says whether to leave.
    fn obey(&mut self) -> bool {
        match hear_byte(0, libc::MSG_DONTWAIT) {
            Some(READ) => self.end = End::Free,
            Some(LEAVE) => {
                // SAFETY: a system call that reads ends.
                while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
                return true;
            }
            Some(_) => {}
            None => {
                self.has_dflock = false;
                if self.dies_with_us && self.end != End::Free {
                    // SAFETY: a system call; the end was not read, so that the number is its own.
                    unsafe { libc::kill(self.leader, libc::SIGKILL) };
                }
                self.end = End::Free;
            }
        }
        false
    }

    /// Reads ends, but the command's only when nobody relies on its number any more. Says whether there are more to
    /// read; `None`: there is no child.
    fn reap(&mut self) -> Option<bool> {
        for _ in 0..MOST_AT_ONCE {
            // SAFETY: a structure of numbers.
            let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let look = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
            // SAFETY: a system call that writes to `about` alone, and what it has written there.
            let (pid, status) = unsafe {
                if libc::waitid(libc::P_ALL, 0, &raw mut about, look) != 0 {
                    return None;
                }
                (about.si_pid(), about.si_status())
            };
            if pid == 0 {
                return Some(false);
            }
            let is_stopped = about.si_code == libc::CLD_STOPPED;
            if pid == self.leader && self.end != End::Free {
                if !is_stopped {
                    if self.end == End::Ahead {
                        say(0, if about.si_code == libc::CLD_EXITED { EXITED } else { KILLED }, status);
                        self.end = End::Told;
                    }
                    return Some(false);
                }
                say(0, STOPPED, status);
            }
            let what = if is_stopped { libc::WSTOPPED } else { libc::WEXITED };
            // SAFETY: a system call that reads what was seen, and nothing that has come after it.
            unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut about, what | libc::WNOHANG) };
        }
        Some(true)
    }
}

fn say(socket: RawFd, what: i32, number: i32) {
    let word = [what, number];
    // SAFETY: a system call with bytes of this stack.
    unsafe { libc::send(socket, word.as_ptr().cast(), size_of_val(&word), libc::MSG_NOSIGNAL) };
}

/// `None`: dflock is gone.
fn hear_byte(socket: RawFd, flags: libc::c_int) -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: a system call that writes to `byte` alone.
    let length = unsafe { libc::recv(socket, (&raw mut byte).cast(), 1, flags) };
    (length == 1).then_some(byte)
}
