//! Processes of which nothing can be read: whoever looks at all processes must not wait for them.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::guardian_of;
use super::trials_fleet::{has_life, send};
use crate::house::clean::{House, Running};
use crate::house::tools::{is_there, skipped};
use crate::house::{now, wait_for};

/// A stranger who holds its own memory, as a mapping of a file on a dead server does. `None` where there can be none. It
/// ends with this.
fn stranger(house: &House) -> Option<Running> {
    if !is_there("python3") || !is_there("unshare") {
        return None;
    }
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        skipped("no file system can be served here");
        return None;
    }
    let mut command = house.command("unshare");
    let running = Running::start(command.args(["-m", "python3", "-c", include_str!("unanswered_fuse.py")]));
    let held = wait_for("a stranger who holds its memory", || {
        (house.path("held").exists() || house.path("refused").exists()).then(|| house.path("held").exists())
    });
    if !held {
        skipped("no file system can be mounted here");
    }
    held.then_some(running)
}

/// It leaves an orphan in a session of its own that obeys nothing but KILL.
const LEAVES_STUBBORN: &str = "(setsid sh -c \"trap '' TERM; echo \\$\\$ > orphan; while :; do sleep 0.05; done\" \
     <&- >&- 2>&- &); until [ -s orphan ]; do sleep 0.01; done; echo $$ > leader; exec sleep 60";

/// What is told to dflock, and whether its guardian has to do it all.
#[test]
fn a_stranger_of_whom_nothing_can_be_read_holds_up_no_end() {
    let _quiet = crate::quiet();
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSTOP] {
        let house = House::new();
        let flags = ["exec", "--contain", "group", "--kill-after", "0.2", "-l", "6"];
        let running = house.start(&[&flags[..], &["k", "-c", LEAVES_STUBBORN]].concat());
        let pids = ["leader", "orphan"].map(|file| house.wait_for_file(file).trim().parse().expect("a number"));
        let Some(stranger) = stranger(&house) else { return };
        let begin = now();
        send(running.pid.cast_signed(), signal);
        for pid in pids {
            wait_for("the end of the command", || (!has_life(pid)).then_some(()));
        }
        assert!(begin.elapsed() < Duration::from_secs(8), "{signal}: it took {:?}", begin.elapsed());
        // Whoever is stuck with the question ends all the same.
        if signal == Signal::SIGSTOP {
            send(running.pid.cast_signed(), Signal::SIGCONT);
        }
        let said = running.finish();
        let code = match signal {
            Signal::SIGTERM => 143,
            Signal::SIGKILL => 137,
            _ => 79,
        };
        assert_eq!(said.code, code, "{said:?}");
        house.wait_until_free("k");
        assert!(begin.elapsed() < Duration::from_secs(15), "{signal}: it took {:?}", begin.elapsed());
        drop(stranger);
    }
}

/// As by `prlimit` from outside, which anybody may do to their own. They may be taken back up to the hard limit.
#[test]
fn a_guardian_without_descriptors_ends_the_command() {
    if !is_there("prlimit") {
        return;
    }
    let house = House::new();
    let running = house.start(&["exec", "--contain", "group", "-l", "20", "k", "-c", LEAVES_STUBBORN]);
    let [leader, orphan]: [u32; 2] =
        ["leader", "orphan"].map(|file| house.wait_for_file(file).trim().parse().expect("a number"));
    let guardian = guardian_of(running.pid).expect("a guardian");
    for pid in [running.pid, guardian] {
        let mut limit = std::process::Command::new("prlimit");
        let done = limit.args(["--nofile=0:1024", "--pid", &pid.to_string()]).status().expect("prlimit runs");
        assert!(done.success());
    }
    running.signal("KILL");
    for pid in [leader, orphan] {
        wait_for("the end of the command", || (!has_life(pid)).then_some(()));
    }
    house.wait_until_free("k");
}
