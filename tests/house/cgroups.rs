//! Control groups that a command can have for itself: where this program cannot make one, it is started again where
//! it can.

use std::path::PathBuf;
use std::process::Command;

use super::clean::House;
use super::tools::skipped;

/// Says to this test program, started again, that it is inside.
const INSIDE: &str = "DFLOCK_TEST_HAS_CGROUPS";

/// Runs `body` where a cgroup can be made. `test` is the path of the calling test in its program.
pub fn with_cgroups(test: &str, body: impl FnOnce()) {
    let house = House::new();
    let refused = house.dflock(&["exec", "--contain", "cgroup", "k", "true"]);
    if refused.code == 0 {
        return body();
    }
    if std::env::var_os(INSIDE).is_some() || !nix::unistd::geteuid().is_root() {
        return skipped(&format!("no cgroup can be made here: {}", refused.err));
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut again = Command::new("unshare");
    let mount = "mount -t cgroup2 dflock-test \"$DIRECTORY\" && exec \"$0\" \"$@\"";
    again.args(["-m", "sh", "-c", mount]).arg(program).env("DIRECTORY", house.path("run"));
    again.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = again.output().expect("unshare runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("dflock-test") {
        return skipped(&format!("cgroups cannot be mounted here: {said}"));
    }
    assert!(output.status.success() && said.contains("1 passed"), "where cgroups are mounted: {said}");
    if said.contains("SKIPPED") {
        skipped(&said);
    }
}

/// The cgroup that a command has, as the directory it is.
pub fn cgroup_of(pid: u32) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("one of version 2").to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(point).join(&path)).find(|path| path.exists()).expect("it is mounted")
}
