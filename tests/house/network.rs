//! The one default port: a test that needs it has it for itself, in a network of its own where it may make one.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Where everybody looks who has set nothing.
pub const HERE: &str = "127.0.0.1:6388";

/// Says to this test program, started again, that it is inside.
const INSIDE: &str = "DFLOCK_TEST_HAS_NETWORK";

/// Runs `body` where nobody else uses the default port. `test` is the path of the calling test in its program.
pub fn in_own_network(test: &str, body: impl FnOnce()) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if can_make_one() {
        let program = std::env::current_exe().expect("this program has a path");
        let mut again = Command::new("unshare");
        again.args(["-n", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(program);
        again.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
        let output = again.output().expect("unshare runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("1 passed"), "inside its own network: {said}");
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if TcpListener::bind(HERE).is_err() || TcpStream::connect(HERE).is_ok() {
        return super::tools::skipped(&format!("somebody listens on {HERE} already"));
    }
    body();
}

fn can_make_one() -> bool {
    let tried = Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).output();
    nix::unistd::geteuid().is_root() && tried.is_ok_and(|output| output.status.success())
}
