//! A container with a quota of processor time, and far too much to do in it. Whoever may not run cannot end a command
//! in time either, so it has to know that beforehand.
//!
//! Needs root, and the `cpu` controller of control groups.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::house::clean::{House, Running, Said};
use crate::house::tools::{is_there, skipped};
use crate::house::{now, observe, wait_for};

/// A control group that has a twentieth of a processor.
struct Quota {
    group: PathBuf,
    busy: Vec<Child>,
}

impl Quota {
    /// `None` where that cannot be.
    fn new() -> Option<Quota> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let is_v1 = |mount: &&Vec<&str>| mount[2] == "cgroup" && mount[3].split(',').any(|option| option == "cpu");
        let has_cpu = |root: &str| {
            let list = |file: &str| std::fs::read_to_string(Path::new(root).join(file)).unwrap_or_default();
            list("cgroup.controllers").split_whitespace().any(|name| name == "cpu")
                && (list("cgroup.subtree_control").split_whitespace().any(|name| name == "cpu")
                    || std::fs::write(Path::new(root).join("cgroup.subtree_control"), "+cpu").is_ok())
        };
        let name = format!("dflock-test-{}-{:08x}", std::process::id(), getrandom::u32().expect("randomness"));
        let made = |root: &str, file: &str, quota: &str| {
            let group = Path::new(root).join(&name);
            std::fs::create_dir(&group).ok()?;
            let quota_group = Quota { group, busy: Vec::new() };
            std::fs::write(quota_group.group.join(file), quota).ok()?;
            Some(quota_group)
        };
        let v1 = mounts.iter().find(is_v1).and_then(|mount| made(mount[1], "cpu.cfs_quota_us", "5000"));
        let v2 = || {
            let root = mounts.iter().find(|mount| mount[2] == "cgroup2" && has_cpu(mount[1]))?[1];
            made(root, "cpu.max", "5000 100000")
        };
        let quota = v1.or_else(v2);
        if quota.is_none() {
            skipped("no control group with a quota can be made here");
        }
        quota
    }

    fn take_in(&self, pid: u32) {
        std::fs::write(self.group.join("cgroup.procs"), pid.to_string()).expect("it is there");
    }

    /// From now on there is far too much to do.
    fn fill(&mut self) {
        for _ in 0..40 {
            // Whatever happens to this test, it ends.
            let busy = Command::new("/bin/sh").args(["-c", "ulimit -t 5; while :; do :; done"]).spawn();
            let busy = busy.expect("a process");
            self.take_in(busy.id());
            self.busy.push(busy);
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Outside of it they end at once.
        let parent = self.group.parent().expect("it has one").join("cgroup.procs");
        for pid in std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().split_whitespace() {
            let _ = std::fs::write(&parent, pid);
        }
        for busy in &mut self.busy {
            // It may have ended by itself.
            let _ = busy.kill().and_then(|()| busy.wait());
        }
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// Starts a command under the quota; the command itself escapes from it, to show whether it lives. `privileged`: dflock
/// may come before others.
fn start(house: &House, quota: &Quota, lease: &str, privileged: bool) -> Running {
    let mut command = house.command("/bin/sh");
    let group = quota.group.join("cgroup.procs");
    command.args(["-c", &format!("echo $$ > {}; exec \"$@\"", group.display()), "sh"]);
    if !privileged {
        command.args(["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]);
    }
    let out = quota.group.parent().expect("it has one").join("cgroup.procs");
    let script = format!("echo $$ > {}; echo $$ > pid; while :; do sleep 0.1; done", out.display());
    let running = Running::start(command.args(["dflock", "exec", "-l", lease, "k", "-c", &script]));
    house.wait_for_file("pid");
    running
}

/// Ends with 1 if the other command is not dead.
const IS_DEAD: &str =
    r#"read -r line < /proc/$(cat pid)/stat || exit 0; case "$line" in *") Z "*) exit 0;; esac; exit 1"#;

fn next_one(house: &House) -> Said {
    house.dflock(&["exec", "-w", "20", "k", "-c", IS_DEAD])
}

#[test]
fn a_guardian_that_comes_first_ends_the_command_of_a_frozen_dflock_in_time() {
    let _loud = crate::loud();
    let house = House::new();
    let Some(mut quota) = Quota::new() else { return };
    let first = start(&house, &quota, "4", true);
    quota.fill();
    first.signal("STOP");
    let said = next_one(&house);
    drop(quota);
    first.signal("CONT");
    said.code(0);
}

#[test]
fn a_guardian_that_is_refused_the_processor_ends_the_command_of_a_frozen_dflock_in_time() {
    let _loud = crate::loud();
    let house = House::new();
    let Some(mut quota) = Quota::new() else { return };
    if !is_there("setpriv") {
        return;
    }
    let first = start(&house, &quota, "12", false);
    quota.fill();
    observe(Duration::from_secs(2), || ());
    first.signal("STOP");
    let said = next_one(&house);
    drop(quota);
    first.signal("CONT");
    said.code(0);
}

#[test]
fn a_dflock_that_is_refused_the_processor_ends_its_command_in_time() {
    let _loud = crate::loud();
    let house = House::new();
    let Some(mut quota) = Quota::new() else { return };
    if !is_there("setpriv") {
        return;
    }
    let first = start(&house, &quota, "4", false);
    quota.fill();
    // It may keep the lock, if it can.
    let said = next_one(&house);
    assert!(matches!(said.code, 0 | 75), "{said:?}");
    drop(quota);
    first.signal("TERM");
    let begin = now();
    let said = first.finish();
    assert!(said.code == 79 || said.code == 143, "{said:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));
    wait_for("a free lock", || (!house.is_held("k")).then_some(()));
}
