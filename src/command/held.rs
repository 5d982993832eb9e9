//! What is held around us already: by the `dflock exec`s that this command runs under, and by holders of the script
//! that calls. To wait for one of these would be to wait for ourselves.
//!
//! A script is a shell that waits for this command. Another program may have several things going on at once, of which
//! one waits for the other with good reason; so may a subshell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::backend::{Ask, Backend};
use crate::error::Failure;
use crate::holder::control::{self, Reply, Request, State, Status};
use crate::holder::owner::Owner;
use crate::holder::registry::Registry;
use crate::lock::{Key, Kind, Space};

/// The keys that enclosing `dflock exec`s hold, separated by spaces.
const HELD: &str = "DFLOCK_HELD";

/// Whether a `dflock exec` around us holds this key.
pub(crate) fn is_held_around_us(key: &Key) -> bool {
    let outer = outer();
    keys_in(&outer).any(|held| held == key.as_bytes())
}

/// What a command that is about to hold these is told is held.
pub(crate) fn with_outer(asks: &[Ask]) -> OsString {
    let outer = outer();
    let all: Vec<&[u8]> = keys_in(&outer).chain(asks.iter().map(|ask| ask.key.as_bytes())).collect();
    OsStr::from_bytes(&all.join(&b' ')).to_owned()
}

/// Who does nothing else while a command runs.
const SHELLS: [&str; 9] = ["ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "sh", "zsh"];

fn outer() -> OsString {
    std::env::var_os(HELD).unwrap_or_default()
}

fn keys_in(held: &OsStr) -> impl Iterator<Item = &[u8]> {
    held.as_bytes().split(|byte| *byte == b' ').filter(|key| !key.is_empty())
}

/// Nobody waits for themselves. Who does not wait is told that it is busy, which is true.
pub(crate) fn refuse_what_is_ours(backend: &Backend, key: &Key, kind: Kind, waits: bool) -> Result<(), Failure> {
    let refusal = if kind != Kind::Lock {
        None
    } else if is_held_around_us(key) {
        let message = format!("{key} is held already by the dflock exec around this one");
        Some(Failure::usage(message).hint("it would wait for itself; use another key, or leave the inner dflock out"))
    } else if waits {
        holder_of_ours(backend, key).map(|status| {
            let (has, to_do) = match status.state {
                State::Waiting => ("waits for", "dflock wait takes what was enqueued, dflock release gives it up"),
                _ => ("has", "do without this dflock, or dflock release it first"),
            };
            let message = format!("a holder of this script, process {}, {has} {key} already", status.pid);
            Failure::usage(message).hint(format!("it would wait for itself: {to_do}"))
        })
    } else {
        None
    };
    refusal.map_or(Ok(()), |mut failure| {
        failure.key = Some(key.to_string());
        Err(failure)
    })
}

/// Where holders cannot be looked for, there are none of this script.
fn holder_of_ours(backend: &Backend, key: &Key) -> Option<Status> {
    let sockets = Registry::open().and_then(|registry| registry.living(Some((key, Space::Locks)))).ok()?;
    if sockets.is_empty() {
        return None;
    }
    let script = Owner::ancestors().first().copied()?;
    let name = script.name()?;
    if !SHELLS.contains(&name.trim_start_matches('-')) {
        return None;
    }
    let server = backend.server_of(key).1;
    let is_ours = |status: &Status| {
        let is_kept = !matches!(status.state, State::Lost { .. });
        is_kept && status.server == server && status.owner == Some(script)
    };
    let find = async {
        for socket in sockets {
            if let Ok(Some(Reply::Status(status))) =
                control::ask(&socket, &Request::Status, Some(control::PROMPT)).await
                && is_ours(&status)
            {
                return Ok(Some(*status));
            }
        }
        Ok(None)
    };
    super::block_on(find).ok().flatten()
}
