//! What counts of the time that passed while no server ran.

use std::fs;
use std::process::Command;

use dflock::server::journal::frame::Header;
use serde_json::Value;

use crate::house::tools::skipped;
use crate::house::{Server, observe};
use crate::kept::Kept;

fn down(opened: &Value) -> f64 {
    opened["down_s"].to_string().trim_matches('"').parse().expect("seconds")
}

/// It could not be told from a wall clock that went wrong while the machine was off.
#[test]
fn across_a_reboot_no_time_counts() {
    let mut kept = Kept::start(&[]);
    let mut client = kept.connect();
    client.take("job", "0 60");
    kept.kill();
    let mut journal = fs::read(kept.journal()).expect("a journal");
    let mut header = Header::read(&journal).expect("a header");
    header.boot[3] ^= 1;
    let mut written = Vec::new();
    header.write(&mut written);
    journal[..written.len()].copy_from_slice(&written);
    fs::write(kept.journal(), &journal).expect("written");
    observe(std::time::Duration::from_millis(50), || {});
    let opened = kept.start_again().event("state_opened");
    assert_eq!(down(&opened), 0.0, "{opened}");
    assert_eq!(kept.connect().ask("l", "job", "0"), "timeout");
}

/// The clock of a time namespace is not the one that the journal was written by.
#[test]
fn a_clock_that_is_ahead_ends_no_lease() {
    let mut kept = Kept::start(&[]);
    let mut client = kept.connect();
    client.take("job", "0 60");
    kept.kill();
    let ahead = ["--time", "--monotonic", "100000", "--boottime", "100000", "--fork", "--kill-child"];
    if !Command::new("unshare").args(ahead).arg("true").status().is_ok_and(|status| status.success()) {
        return skipped("no time namespace can be made here");
    }
    let mut command = Command::new("unshare");
    command.args(ahead).arg(env!("CARGO_BIN_EXE_dflock"));
    let dir = kept.dir();
    let mut server = Server::start_by(command, &["--state-dir", dir.to_str().expect("a plain path")], |_| {});
    let opened = server.event("state_opened");
    assert!(down(&opened) < 60.0, "{opened}");
    assert_eq!(server.connect().ask("l", "job", "0"), "timeout");
}
