//! Files with a secret in them: nobody but their owner may change them, and only a group of the owner's may read them.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Failure;
use crate::sys;

/// Opens one; `what` says what is in it. Whoever reads it shows its memory to nobody from now on.
pub fn open_private(path: &Path, what: &str) -> Result<File, Failure> {
    let shown = path.display();
    let unreadable = |why| Failure::usage(format!("cannot read the {what} in {shown}: {why}"));
    // Whose it is is looked at before anybody is waited for who would write into it.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    let is_pipe = about.file_type().is_fifo();
    if !is_given(&file, &about).map_err(unreadable)? {
        let me = nix::unistd::geteuid().as_raw();
        if about.uid() != me && about.uid() != 0 {
            return Err(Failure::usage(format!("the {what} file {shown} belongs to another user"))
                .hint("it must belong to you or to root"));
        }
        // Only root makes devices.
        if (about.is_file() || is_pipe) && about.mode() & 0o027 != 0 {
            let mode = about.mode() & 0o777;
            return Err(Failure::usage(format!("others may read or write the {what} file {shown} (mode {mode:03o})"))
                .hint(format!("chmod 600 {shown}")));
        }
        if is_pipe {
            wait_for_writer(&file).map_err(unreadable)?;
        }
    }
    // It is read as if it had been opened plainly.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|why| unreadable(why.into()))?;
    sys::hide_memory();
    Ok(file)
}

/// A pipe without a name, as `<(...)` makes one, or a terminal that we were started at: it comes from our caller, whoever
/// made it. What has a name in some directory is anybody's who may put it there.
fn is_given(file: &File, about: &Metadata) -> io::Result<bool> {
    if about.file_type().is_fifo() {
        return is_nameless(file, about);
    }
    let stdin = io::stdin().as_fd().try_clone_to_owned().and_then(|stdin| File::from(stdin).metadata());
    let is_stdin = stdin.is_ok_and(|stdin| (stdin.dev(), stdin.ino()) == (about.dev(), about.ino()));
    Ok(is_stdin && about.file_type().is_char_device())
}

#[cfg(target_os = "linux")]
fn is_nameless(pipe: &File, _: &Metadata) -> io::Result<bool> {
    use nix::sys::statfs::{FsType, fstatfs};

    const PIPEFS: FsType = FsType(0x5049_5045);
    Ok(fstatfs(pipe)?.filesystem_type() == PIPEFS)
}

#[cfg(not(target_os = "linux"))]
fn is_nameless(_: &File, about: &Metadata) -> io::Result<bool> {
    Ok(about.nlink() == 0)
}

/// As opening it plainly does: without a writer a pipe looks empty.
fn wait_for_writer(pipe: &File) -> io::Result<()> {
    let mut written = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut written, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            polled => return Ok(polled.map(drop)?),
        }
    }
}

/// What is no secret, but says whom to trust, must not be anybody's to change. That it is missing is found out by whoever
/// reads it.
pub fn refuse_anybodys(path: &Path, what: &str) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(about) if about.is_file() && about.mode() & 0o002 != 0 => {
            let (shown, mode) = (path.display(), about.mode() & 0o777);
            Err(Failure::usage(format!("everybody may write to {shown} (mode {mode:03o}), the {what}"))
                .hint(format!("chmod o-w {shown}")))
        }
        _ => Ok(()),
    }
}
