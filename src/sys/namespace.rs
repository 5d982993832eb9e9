//! A PID namespace for a command, and its process 1: with that one the kernel ends everybody who is in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// What is said to process 1: whoever is left in the namespace is left alone.
const LEAVE_ALONE: u8 = b'l';

/// What is said to it: its memory can be hidden now.
const HIDE: u8 = b'h';

/// How it is called, and what it says of itself in place of arguments.
const NAME: &str = "dflock-init";
const TITLE: &str = "process 1 of the command of a dflock";

/// How often it looks whether anybody is left, when nobody has to tell it.
const LOOK_EVERY_MS: i32 = 1000;

/// Process 1 of a namespace, a child of ours. It ends with us, unless told otherwise.
pub struct ProcessOne {
    pub pid: Pid,
    process: OwnedFd,
    /// It says by its end that it is gone.
    control: OwnedFd,
    /// The namespace is of another user namespace, too.
    has_user_namespace: bool,
    /// Its memory is a copy of one that is hidden, and shown until it may be hidden, too.
    is_shown: bool,
    /// The namespaces, outermost first, for those who enter once it is hidden.
    namespaces: Vec<(OwnedFd, libc::c_int)>,
}

impl ProcessOne {
    /// Ends it, and whoever is in its namespace.
    pub fn kill(&self) {
        // If it is gone already, all the better.
        let _ = super::pidfd_send_signal(self.process.as_fd(), Signal::SIGKILL as i32);
    }

    /// Reads its end, if that comes within so many milliseconds: it comes after that of everybody in the namespace.
    pub fn see_off(&self, milliseconds: u16) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let mut ended = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        while poll(&mut ended, PollTimeout::from(milliseconds)) == Err(nix::errno::Errno::EINTR) {}
        // Otherwise whoever reads ours does it.
        let _ = nix::sys::wait::waitpid(self.pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    }

    /// Hides its memory, if ours is hidden; until then, its user namespace can be given users. The system takes one whose
    /// memory is hidden for root's, whose users nobody else maps, and whom nobody else follows to where it is.
    pub fn hide_memory(&mut self) -> io::Result<()> {
        if self.is_shown {
            let user = self.has_user_namespace.then_some(("user", libc::CLONE_NEWUSER));
            for (name, kind) in user.into_iter().chain([("pid", libc::CLONE_NEWPID)]) {
                let namespace = std::fs::File::open(format!("/proc/{}/ns/{name}", self.pid))?;
                self.namespaces.push((namespace.into(), kind));
            }
            self.tell(HIDE)?;
            self.is_shown = false;
        }
        Ok(())
    }

    fn tell(&self, what: u8) -> io::Result<()> {
        nix::sys::socket::send(self.control.as_raw_fd(), &[what], nix::sys::socket::MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Has it stay for whoever is left, or leave if nobody is. Returns what its answer will be read from.
    pub fn leave_alone(&self) -> io::Result<&OwnedFd> {
        self.tell(LEAVE_ALONE)?;
        Ok(&self.control)
    }
}

/// Only while this process has one thread.
pub fn start_process_one(has_user_namespace: bool, dies_with_us: bool) -> io::Result<ProcessOne> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let user = if has_user_namespace { libc::CLONE_NEWUSER } else { 0 };
    let is_shown = super::is_memory_hidden();
    if is_shown {
        super::show_memory();
    }
    let cloned = clone(libc::CLONE_NEWPID | user, libc::SIGCHLD);
    if is_shown && !matches!(cloned, Ok(None)) {
        super::hide_memory();
    }
    let Some(pid) = cloned? else {
        drop(ours);
        live(theirs.as_raw_fd(), dies_with_us);
        super::leave_fork();
    };
    let made = super::pidfd_open(pid).map(|process| ProcessOne {
        pid: Pid::from_raw(pid),
        process,
        control: ours,
        has_user_namespace,
        is_shown,
        namespaces: Vec::new(),
    });
    if made.is_err() {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
    }
    made
}

/// A fork. `None` in the new process, which makes system calls only.
fn clone(flags: libc::c_int, exit_signal: libc::c_int) -> io::Result<Option<i32>> {
    // SAFETY: a structure of numbers.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = flags.cast_unsigned().into();
    how.exit_signal = exit_signal.cast_unsigned().into();
    // SAFETY: a fork, with a copy of this stack.
    super::start::forked(unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of_val(&how)) })
}

/// The life of process 1: reaps whoever loses its parent, until it is killed or nobody needs it.
fn live(control: RawFd, dies_with_us: bool) {
    super::rename_process(NAME, TITLE);
    // SAFETY: system calls, with memory of this stack.
    unsafe {
        if dies_with_us {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        // Nothing of ours is kept open by it, stdin, stdout and stderr neither.
        libc::dup3(control, 0, 0);
        super::mark_or_close(1, libc::c_uint::MAX, false);
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        let signals = libc::signalfd(-1, &raw const child, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        // The end of dflock is seen by its end of the socket, too: it may have died before it could be our death.
        let mut is_alone = false;
        loop {
            let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut watched = [watch(signals), watch(if is_alone { -1 } else { 0 })];
            libc::poll(watched.as_mut_ptr(), 2, if is_alone { LOOK_EVERY_MS } else { -1 });
            let mut told = [0u8; 128];
            while libc::read(signals, told.as_mut_ptr().cast(), told.len()) > 0 {}
            while libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) > 0 {}
            if watched[1].revents != 0 {
                let is_told = libc::read(0, told.as_mut_ptr().cast(), 1) == 1;
                if is_told && told[0] == HIDE {
                    super::hide_memory();
                    continue;
                }
                is_alone = true;
                if is_told {
                    libc::prctl(libc::PR_SET_PDEATHSIG, 0);
                    if is_anyone_there() {
                        libc::write(0, told.as_ptr().cast(), 1);
                    }
                }
                libc::close(0);
            }
            if is_alone && !is_anyone_there() {
                return;
            }
        }
    }
}

/// Whether anybody but process 1 is in its namespace; asked by process 1.
fn is_anyone_there() -> bool {
    // SAFETY: a system call that signals nobody.
    unsafe { libc::kill(-1, 0) == 0 || *libc::__errno_location() != libc::ESRCH }
}

/// In a forked child: has a child of our parent's begin in the namespace, and returns in that one. The forked child
/// ends here. System calls only.
pub(super) fn enter(namespace: &ProcessOne, born: impl FnOnce(i32)) -> io::Result<()> {
    let user = if namespace.has_user_namespace { libc::CLONE_NEWUSER } else { 0 };
    let last_error = io::Error::last_os_error;
    let by_process = [(&namespace.process, libc::CLONE_NEWPID | user)];
    let by_process = by_process.into_iter().filter(|_| namespace.namespaces.is_empty());
    for (descriptor, kind) in namespace.namespaces.iter().map(|(file, kind)| (file, *kind)).chain(by_process) {
        // SAFETY: a system call; it changes nothing but where this process and its children are.
        if unsafe { libc::setns(descriptor.as_raw_fd(), kind) } != 0 {
            return Err(last_error());
        }
    }
    // Only a child is in it. It is our parent's, so that dflock waits for it as for every command.
    if let Some(pid) = clone(libc::CLONE_PARENT, 0)? {
        born(pid);
        super::leave_fork();
    }
    const NO_DATA: *const libc::c_void = ptr::null();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: system calls with constant strings. What is mounted elsewhere later is still seen here; what is mounted
    // here is seen nowhere else.
    let is_done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_SLAVE, NO_DATA) == 0
            && libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, NO_DATA) == 0
    };
    if is_done { Ok(()) } else { Err(last_error()) }
}
