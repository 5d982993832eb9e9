//! The unsafe, each block with its reason.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

use crate::clock::{self, Moment};

mod allocated;
mod beside;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(not(target_os = "linux"))]
#[path = "sys/no_namespace.rs"]
mod namespace;
#[cfg(target_os = "linux")]
mod reapers;
#[cfg(not(target_os = "linux"))]
#[path = "sys/no_reapers.rs"]
mod reapers;
mod renaming;
pub mod signals;
mod start;

pub use allocated::{CountingAllocator, allocated};
pub use beside::start_beside;
pub use namespace::{ProcessOne, start_process_one};
pub use reapers::Reapers;
pub use renaming::rename_process;
pub use start::{Birthplace, Start, try_birthplace, wait_for_end_of};

/// Lets a task wait for a descriptor to become readable.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it lives, and AsyncFd owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// Lets the system take no further bytes for a peer once so many could not even be sent to it yet: it would take
/// megabytes for each that does not read. Whoever is accepted by a listener inherits it. Where there is no such thing, the
/// system's own bounds remain.
pub fn bound_unsent(socket: BorrowedFd<'_>, bytes: u32) {
    #[cfg(target_os = "linux")]
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option is an int, which is read only.
    unsafe {
        let size = size_of::<u32>() as libc::socklen_t;
        let option = (&raw const bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, option, size);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, bytes);
}

/// A number of the network that we are in, which no other one has or will have during this boot.
#[cfg(target_os = "linux")]
pub fn network_cookie() -> Option<u64> {
    let socket = std::os::unix::net::UnixDatagram::unbound().ok()?;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the call, which writes no more than `size` bytes, to `cookie` alone.
    let told = unsafe {
        let option = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, option, &raw mut size)
    };
    (told == 0).then_some(cookie)
}

#[cfg(not(target_os = "linux"))]
pub fn network_cookie() -> Option<u64> {
    None
}

/// Bytes of memory of this machine.
pub fn memory_size() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        use nix::unistd::{SysconfVar, sysconf};

        let number = |what| sysconf(what).ok().flatten().and_then(|number| u64::try_from(number).ok());
        number(SysconfVar::_PHYS_PAGES)?.checked_mul(number(SysconfVar::PAGE_SIZE)?)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Rows and columns of a terminal.
pub fn terminal_size(terminal: &impl AsRawFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the length of the call, which writes to `size` alone.
    let told = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Has the program started with stdin, stdout and stderr alone. Our own descriptors stay as they are: some may be
/// meant for a command that we start later.
pub fn inherit_only_stdio(command: &mut std::process::Command) -> io::Result<()> {
    use std::os::unix::process::CommandExt;

    // For a kernel that cannot mark them all at once: the list cannot be made in a forked child.
    let open: Vec<RawFd> = std::fs::read_dir("/dev/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    let mark = move || {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: changes flags of descriptors of the forked child only; no memory is touched.
            let done =
                unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
            if done == 0 {
                return Ok(());
            }
        }
        for number in &open {
            // SAFETY: as above; a descriptor that was closed meanwhile gives an error, which is fine.
            unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(mark) };
    Ok(())
}

/// Has the program started as the system would start a service: what somebody has set for themselves (limits,
/// umask, niceness, processors, signals, how soon it is killed when memory runs out) is not meant for it.
/// What we may not set back stays as it is.
pub fn forget_caller(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;

    let set_back = || {
        set_back();
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(set_back) };
}

/// In a forked child, so without allocating.
fn set_back() {
    const LIMITS: [libc::c_int; 6] = [
        libc::RLIMIT_CPU as libc::c_int,
        libc::RLIMIT_FSIZE as libc::c_int,
        libc::RLIMIT_DATA as libc::c_int,
        libc::RLIMIT_AS as libc::c_int,
        libc::RLIMIT_RSS as libc::c_int,
        libc::RLIMIT_NPROC as libc::c_int,
    ];
    const DESCRIPTORS: libc::rlim_t = 524_288;
    const STACK: libc::rlim_t = 8 * 1024 * 1024;
    for limit in LIMITS {
        raise_limit(limit, libc::RLIM_INFINITY);
    }
    raise_limit(libc::RLIMIT_NOFILE as libc::c_int, DESCRIPTORS);
    raise_limit(libc::RLIMIT_STACK as libc::c_int, STACK);
    // SAFETY: system calls on this process, with memory of this stack; each may fail, and changes nothing then.
    unsafe {
        libc::umask(0o077);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: as above.
    unsafe {
        const IOPRIO_WHO_PROCESS: libc::c_int = 1;
        let ordinary: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0);
        // All that the control group has; more than there are does no harm.
        let every = [u64::MAX; 128];
        libc::sched_setaffinity(0, size_of_val(&every), every.as_ptr().cast());
        // The files of one whose memory is hidden are root's, this one among them.
        let is_hidden = is_memory_hidden();
        show_memory();
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if is_hidden {
            hide_memory();
        }
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
    }
}

/// To `wish` where we may, and otherwise as far as we may; never lower than it is.
fn raise_limit(limit: libc::c_int, wish: libc::rlim_t) {
    let mut set = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: system calls that read and write `set` alone; each may fail, and changes nothing then.
    unsafe {
        if libc::getrlimit(limit as _, &raw mut set) != 0 {
            return;
        }
        let most = libc::rlimit { rlim_cur: set.rlim_cur.max(wish), rlim_max: set.rlim_max.max(wish) };
        if libc::setrlimit(limit as _, &raw const most) != 0 {
            let allowed = libc::rlimit { rlim_cur: set.rlim_cur.max(wish).min(set.rlim_max), ..set };
            libc::setrlimit(limit as _, &raw const allowed);
        }
    }
}

/// Closes every descriptor above stderr but one: for a fork that uses nothing else of its parent's.
pub fn close_all_but(kept: &OwnedFd) {
    let kept = kept.as_raw_fd().cast_unsigned();
    if kept > 3 {
        mark_or_close(3, kept - 1, false);
    }
    mark_or_close(kept.max(2) + 1, libc::c_uint::MAX, false);
}

/// Descriptors from one number to another: marked so that a program started from here does not inherit them, or
/// closed. Makes system calls only.
fn mark_or_close(first: libc::c_uint, last: libc::c_uint, mark: bool) {
    #[cfg(target_os = "linux")]
    {
        let flags = if mark { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
        // SAFETY: whoever calls this uses none of these descriptors any more in this process.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
            return;
        }
    }
    // An older kernel: one by one, as many as a process usually has at most.
    for number in first..=last.min(1024) {
        let number = number.cast_signed();
        // SAFETY: as above; one that is not open gives an error, which is fine.
        unsafe { if mark { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } else { libc::close(number) } };
    }
}

/// A descriptor that stands for a process, even when its number is given to another one.
#[cfg(target_os = "linux")]
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = RawFd::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a signal to the process that a pidfd stands for.
#[cfg(target_os = "linux")]
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (descriptor, no_info, flags) = (process.as_raw_fd(), std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: the descriptor is open for the length of the call, and no info is passed.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal, no_info, flags) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of this thread, as `/proc/self/task` has it.
pub fn thread_number() -> i32 {
    #[cfg(target_os = "linux")]
    return nix::unistd::gettid().as_raw();
    #[cfg(not(target_os = "linux"))]
    0
}

/// Device and inode of a file, as far as they are known here: the server of its file system, which may be silent, is not
/// asked.
pub fn known_file_identity(path: &std::ffi::CStr) -> Option<(u64, u64)> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a structure of numbers.
        let mut known: libc::statx = unsafe { std::mem::zeroed() };
        let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
        // SAFETY: the path ends with a NUL, and the call writes to `known` alone.
        let done = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_INO, &raw mut known) };
        let device = (u64::from(known.stx_dev_major) << 32) | u64::from(known.stx_dev_minor);
        (done == 0).then_some((device, known.stx_ino))
    }
    #[cfg(not(target_os = "linux"))]
    {
        use std::os::unix::fs::MetadataExt;

        let file = std::fs::metadata(path.to_str().ok()?).ok()?;
        Some((file.dev(), file.ino()))
    }
}

/// Which side of a fork this is.
pub enum Fork {
    Parent(nix::unistd::Pid),
    Child,
}

/// Splits this process in two. If it may have a second thread, that is missing in the child, together with whatever
/// it was doing: such a child makes system calls only.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: as said above.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends a forked child without running what the parent has set up for its own end.
pub fn leave_fork() -> ! {
    // SAFETY: ends the process; nothing of this program runs after it.
    unsafe { libc::_exit(0) }
}

/// What a command's process says to the guardian before it becomes the command.
pub struct Announcement {
    pub socket: RawFd,
    /// Around the number of the process.
    pub before_number: &'static [u8],
    pub after_number: &'static [u8],
    /// It must not begin after this moment.
    pub not_after: Moment,
    /// It dies with us, where the system can see to that.
    pub dies_with_us: bool,
}

/// What became of a child of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildNews {
    Exited(u8),
    /// By the signal of this number.
    Killed(i32),
    Stopped(i32),
}

/// Reads the end of one child, or its stop, if there is any. Some signals have no name, and are told all the same.
pub fn next_child() -> nix::Result<Option<(nix::unistd::Pid, ChildNews)>> {
    let mut status = 0;
    // SAFETY: a system call that writes to `status` alone.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    let news = match nix::errno::Errno::result(pid)? {
        0 => return Ok(None),
        _ if libc::WIFEXITED(status) => ChildNews::Exited(libc::WEXITSTATUS(status) as u8),
        _ if libc::WIFSIGNALED(status) => ChildNews::Killed(libc::WTERMSIG(status)),
        _ => ChildNews::Stopped(libc::WSTOPSIG(status)),
    };
    Ok(Some((nix::unistd::Pid::from_raw(pid), news)))
}

/// What [`Reapers`] say of a command's first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderNews {
    /// Its end can be read, and its number is its own until then.
    Exited(u8),
    /// By the signal of this number.
    Killed(i32),
    Stopped(nix::sys::signal::Signal),
    /// Somebody has sent a signal to its parent, and may have meant us.
    ParentSent(nix::sys::signal::Signal),
    /// Nobody is left to say anything.
    Gone,
}

/// In a command's process, before it begins: announces it to the guardian (which could not know
/// its number in a namespace), has it die with us where the system can do
/// that, and have the terminal if one is lent. Between our fork and our next step anything may happen to us. Makes
/// system calls only, and allocates nothing.
fn prepare(announcement: &Announcement, terminal: Option<RawFd>, us: Option<i32>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: system calls only, as a forked child may make them.
    unsafe {
        if announcement.dies_with_us {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        // We may have died before that took effect.
        if us.is_some_and(|us| libc::getppid() != us) {
            libc::_exit(libc::SIGKILL + 128);
        }
    }
    if us.is_some() {
        announce(announcement);
    }
    if let Some(terminal) = terminal {
        // SAFETY: system calls only. Giving the terminal away from the background would stop us: so that
        // signal waits meanwhile.
        unsafe {
            let mut quiet: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut quiet);
            libc::sigaddset(&raw mut quiet, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const quiet, &raw mut before);
            libc::tcsetpgrp(terminal, libc::getpid());
            libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        }
    }
    // The last look at the clock: a lease may have ended since the lock was granted.
    if clock::now() >= announcement.not_after {
        return Err(io::Error::from_raw_os_error(libc::ETIME));
    }
    Ok(())
}

/// In a forked child, so without allocating.
fn announce(announcement: &Announcement) {
    let Announcement { socket, before_number, after_number, .. } = announcement;
    let mut message = [0u8; 64];
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        message[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    put(before_number);
    let mut digits = [0u8; 10];
    // SAFETY: a system call that cannot fail.
    let mut number = unsafe { libc::getpid() };
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    put(&digits[at..]);
    put(after_number);
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open in this process, and the bytes live on this stack.
    unsafe { libc::send(*socket, message.as_ptr().cast(), length, flags) };
}

/// Stops our own process group as Ctrl-Z does, this process among it; returns when it was continued, or at
/// once where the system knows that nobody would.
pub fn stop_group(group: nix::unistd::Pid) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};

    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: sets the default action, which runs no code of ours.
    let before = unsafe { sigaction(Signal::SIGTSTP, &default) };
    let _ = killpg(group, Signal::SIGTSTP);
    if let Ok(before) = before {
        // SAFETY: what was set before was as sound then.
        let _ = unsafe { sigaction(Signal::SIGTSTP, &before) };
    }
}

/// Nobody but root looks into our memory from now on, and no core shows it: there is a secret in it.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

#[cfg(target_os = "linux")]
fn is_memory_hidden() -> bool {
    nix::sys::prctl::get_dumpable() == Ok(false)
}

/// For a moment, in which only one whose memory is shown may do what has to be done.
#[cfg(target_os = "linux")]
fn show_memory() {
    let _ = nix::sys::prctl::set_dumpable(true);
}

/// Ends this process as a signal does by default, but that no core is dumped: our memory holds secrets, and the one
/// that is looked for is the command's.
pub fn die_of(signal: nix::sys::signal::Signal) {
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, raise, sigaction};

    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    hide_memory();
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: sets the default action, which runs no code of ours.
    let _ = unsafe { sigaction(signal, &default) };
    let mut unblocked = SigSet::empty();
    unblocked.add(signal);
    let _ = unblocked.thread_unblock();
    let _ = raise(signal);
}

/// Has this process run before others as soon as it wants to, where we may have that: it wants very little.
pub fn come_first() {
    #[cfg(target_os = "linux")]
    // SAFETY: system calls on this process, with memory of this stack; each may fail, and changes nothing then.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_RTTIME, &raw mut limit);
        // With a limit on it, a long look around would be the end.
        if limit.rlim_cur == libc::RLIM_INFINITY {
            // Whoever it starts is as others are.
            let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            // The command may have such a priority, too.
            let first = libc::sched_param { sched_priority: libc::sched_get_priority_max(libc::SCHED_FIFO) };
            if libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const first) == 0 {
                return;
            }
        }
        if libc::setpriority(libc::PRIO_PROCESS, 0, -20) == 0 {
            return;
        }
        // Anybody may have that: to run for a shorter time at once, and sooner for it.
        let size = size_of::<SchedulingWish>() as u32;
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        let wish = SchedulingWish { size, nice, slice: 400_000, ..Default::default() };
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0);
    }
}

/// `struct sched_attr`, as the kernel first had it.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Default)]
struct SchedulingWish {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// In nanoseconds: how long it runs at a time.
    slice: u64,
    deadline: u64,
    period: u64,
}

/// A file that may not grow gives an error then, not a signal that ends this process.
pub fn ignore_file_size_signal() {
    use nix::sys::signal::{SigHandler, Signal, signal};

    // SAFETY: ignoring a signal runs no code of ours.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Takes over a descriptor that the kernel has just given to us in a message.
pub fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: descriptors of SCM_RIGHTS are new, and whoever received them owns them alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
