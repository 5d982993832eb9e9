//! The unsafe, each block with its reason.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

use crate::clock::{self, Moment};

/// Lets a task wait for a descriptor to become readable.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it lives, and AsyncFd owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// Rows and columns of a terminal.
pub fn terminal_size(terminal: &impl AsRawFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the length of the call, which writes to `size` alone.
    let told = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Marks every descriptor above stderr so that a program started from here does not inherit it.
pub fn inherit_only_stdio() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: changes flags of descriptors only; none is closed here, no memory is touched.
        let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done == 0 {
            return Ok(());
        }
    }
    // An older kernel: one by one.
    for entry in std::fs::read_dir("/dev/fd")? {
        if let Ok(number) = entry?.file_name().to_string_lossy().parse::<RawFd>()
            && number > 2
        {
            // SAFETY: as above; a descriptor that was closed meanwhile gives an error, which is fine.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
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

/// Which side of a fork this is.
pub enum Fork {
    Parent(nix::unistd::Pid),
    Child,
}

/// Splits this process in two. Only while it has one thread: a second one would be missing in the child,
/// together with whatever it was doing.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: called before any thread is started, so the child has all of the state it was copied with.
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
    /// When it must be dead.
    pub kill_at: Vec<u8>,
    /// It must not begin after this moment.
    pub not_after: Moment,
}

/// Has the command announced to the guardian, die with us where the system can do that, and have the terminal
/// if one is lent. All of it happens in its process, before it begins: between our fork and our next step
/// anything may happen to us.
pub fn prepare_command(command: &mut std::process::Command, announcement: Announcement, terminal: Option<RawFd>) {
    use std::os::unix::process::CommandExt;

    let us = nix::unistd::getpid().as_raw();
    let prepare = move || {
        #[cfg(target_os = "linux")]
        // SAFETY: system calls only, as a forked child may make them.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // We may have died before that took effect.
            if libc::getppid() != us {
                libc::_exit(libc::SIGKILL + 128);
            }
        }
        announce(&announcement);
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
    };
    // SAFETY: the closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// In a forked child, so without allocating.
fn announce(announcement: &Announcement) {
    let Announcement { socket, before_number, after_number, kill_at, .. } = announcement;
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
    for bytes in [&message[..length], kill_at.as_slice()] {
        // SAFETY: the descriptor is open in this process, and the bytes live on this stack or in the parent's copy.
        unsafe { libc::send(*socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    }
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

/// Ends this process as a signal does by default.
pub fn die_of(signal: nix::sys::signal::Signal) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, raise, sigaction};

    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: sets the default action, which runs no code of ours.
    let _ = unsafe { sigaction(signal, &default) };
    let mut unblocked = SigSet::empty();
    unblocked.add(signal);
    let _ = unblocked.thread_unblock();
    let _ = raise(signal);
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
