//! Programs of others that some tests need. A test without one is skipped and says so; where `DFLOCK_DEMAND_PEERS`
//! is set, as in `.ci/run`, a missing one is a failure.

use std::io::Write;
use std::process::{Command, Stdio};

/// A user, and a group, that owns nothing.
pub const NOBODY: u32 = 65534;

/// Whether a program can be started; says so if it cannot.
pub fn is_there(program: &str) -> bool {
    let mut search = Command::new("/bin/sh");
    search.args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).stderr(Stdio::null());
    let found = search.status().is_ok_and(|status| status.success());
    if !found {
        missing(program);
    }
    found
}

/// Says that something is skipped, or fails.
pub fn missing(what: &str) {
    assert!(std::env::var_os("DFLOCK_DEMAND_PEERS").is_none(), "{what} is missing, and is demanded here");
    skipped(&format!("{what} is not installed here"));
}

/// Says so, even of a test that passes: what those print is not shown.
pub fn skipped(why: &str) {
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}
