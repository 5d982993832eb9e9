//! Starts a program beside us, and waits for nothing: the file that it is executed from may be slow to come.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;

use super::start::{Strings, fork};

/// In a session of its own, with `stdin` and nothing else of ours. Until it has become its program it is called `name`
/// and obeys no signal that can be blocked; whether it ever becomes it is for the caller to find out.
pub fn start_beside(program: &Path, arguments: &[OsString], name: &CStr, stdin: &OwnedFd) -> io::Result<Pid> {
    let program = CString::new(program.as_os_str().as_bytes())?;
    let arguments = Strings::new(arguments.iter().cloned())?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // A signal that it gets before it is itself would be taken for one of ours.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let forked = fork();
    if let Ok(None) = forked {
        // SAFETY: system calls only, as a forked child may make them, with memory that was made ready before.
        unsafe {
            #[cfg(target_os = "linux")]
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
            libc::setsid();
            libc::dup2(stdin.as_raw_fd(), 0);
            libc::dup2(null.as_raw_fd(), 1);
            libc::dup2(null.as_raw_fd(), 2);
            // Closed, not marked: as long as it has our end of a socket, nobody sees that we have died.
            super::mark_or_close(3, libc::c_uint::MAX, false);
            libc::execv(program.as_ptr(), arguments.as_pointers());
        }
        super::leave_fork();
    }
    before.thread_set_mask()?;
    #[cfg(not(target_os = "linux"))]
    let _ = name;
    Ok(Pid::from_raw(forked?.unwrap_or_default()))
}
