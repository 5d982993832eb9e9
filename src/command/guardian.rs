//! What a guardian of `dflock exec` runs that is not a copy of its dflock, and what every guardian does at its end.
//! Nobody types this: see `exec::guard`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::site::backend_of;
use crate::exec::guard::{self, HeldLock, Successor, TITLE, UNBORN};
use crate::holder::Site;
use crate::holder::start::this_program;
use crate::sys;

/// Whether this process was started to be a guardian.
pub fn is_guardian(first_argument: Option<&OsStr>, more_arguments: usize) -> bool {
    let is_title =
        |first: &OsStr| first.as_bytes().strip_prefix(TITLE.as_bytes()).is_some_and(|rest| rest.starts_with(b" of "));
    more_arguments == 0 && first_argument.is_some_and(is_title)
}

/// Lives as a guardian: stdin is its end of the socket.
pub fn run() {
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else { return };
    let text = guard::introduction(&socket).unwrap_or_default();
    let Ok(site) = serde_json::from_slice::<Site>(&text) else { return };
    guard::live(socket, &|locks| let_go(locks, &site));
}

/// A guardian that is a program of its own.
pub(super) fn successor(site: &Site) -> Successor {
    let start = |socket: &OwnedFd| {
        let title = format!("{TITLE} of process {}", std::process::id());
        sys::start_beside(&this_program()?, &[title.into()], UNBORN, socket)
    };
    // If that cannot be written down, a successor ends at once, which is noticed as with every guardian.
    Successor { introduction: serde_json::to_vec(site).unwrap_or_default(), start: Box::new(start) }
}

/// After the command is gone: a server may keep a lock for a dflock that will not come back.
pub(super) fn let_go(locks: Vec<HeldLock>, site: &Site) {
    let _ = super::block_on(async {
        let backend = backend_of(site)?;
        for HeldLock { key, space, token } in locks {
            // If it is gone already, all the better.
            let _ = backend.release(&key, space, &token).await;
        }
        Ok(())
    });
}
