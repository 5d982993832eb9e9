//! The unsafe, each block with its reason.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

/// Lets a task wait for a descriptor to become readable.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it lives, and AsyncFd owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
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
