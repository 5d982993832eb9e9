//! Files with a secret in them: nobody but their owner may change them, and only a group of the owner's may read them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::Failure;
use crate::sys;

/// Opens one; `what` says what is in it. Whoever reads it shows its memory to nobody from now on.
pub fn open_private(path: &Path, what: &str) -> Result<File, Failure> {
    let shown = path.display();
    let unreadable = |why| Failure::usage(format!("cannot read the {what} in {shown}: {why}"));
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    // A pipe is what its writer makes of it.
    if about.is_file() {
        let me = nix::unistd::geteuid().as_raw();
        if about.uid() != me && about.uid() != 0 {
            return Err(Failure::usage(format!("the {what} file {shown} belongs to another user"))
                .hint("it must belong to you or to root"));
        }
        if about.mode() & 0o027 != 0 {
            let mode = about.mode() & 0o777;
            return Err(Failure::usage(format!("others may read or write the {what} file {shown} (mode {mode:03o})"))
                .hint(format!("chmod 600 {shown}")));
        }
    }
    sys::hide_memory();
    Ok(file)
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
