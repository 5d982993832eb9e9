//! A guardian that is there and does not hear: in the hands of a debugger, frozen, stopped at the wrong moment; and one
//! that takes the place of another.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal, start};
use super::loss::{is_running, processes_of};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::{is_there, skipped};
use crate::house::wait_for;

/// Holds a process as a debugger does: nobody is told that it does not run. `None` where that cannot be.
pub(crate) fn hold(house: &House, pid: u32) -> Option<Running> {
    if !is_there("python3") {
        return None;
    }
    // PTRACE_ATTACH, and nothing after it.
    let script = "import ctypes, os, sys, time\n\
                  held = ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), 0, 0)\n\
                  if held == 0: os.waitpid(int(sys.argv[1]), 0x40000000)\n\
                  open('held', 'w').write(f'{held}\\n')\n\
                  time.sleep(60)";
    let debugger = Running::start(house.command("python3").args(["-c", script, &pid.to_string()]));
    if house.wait_for_file("held").trim() != "0" {
        skipped("nobody can be traced here");
        return None;
    }
    Some(debugger)
}

/// The one fault, and then the other: in between dflock has had the time to notice the first.
#[test]
fn a_guardian_in_the_hands_of_a_debugger_is_replaced() {
    let _quiet = crate::quiet();
    let house = House::new();
    let first = start(&house, &["-l", "4"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let Some(debugger) = hold(&house, guardian) else { return };
    let other = wait_for("another guardian", || {
        assert!(is_running("first", &house), "the command is there as long as the lock is");
        guardian_of(first.pid).filter(|other| *other != guardian)
    });
    // Let go, the old one does nothing more.
    drop(debugger);
    wait_for("the end of the old guardian", || (!has_life(guardian)).then_some(()));
    let is_well = || is_running("first", &house) && house.is_held("k") && guardian_of(first.pid) == Some(other);
    observe(Duration::from_millis(500), is_well, "the command and its guardian are there");
    first.signal("STOP");
    house.dflock(&["exec", "-w", "30", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// A script, as root in a PID namespace of its own, where numbers can be given anew at will.
fn in_namespace(house: &House, script: &str) -> Option<crate::house::clean::Said> {
    if !nix::unistd::geteuid().is_root() || !is_there("unshare") {
        skipped("a PID namespace with a /proc of its own takes root");
        return None;
    }
    let mut command = house.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]);
    let said = Running::start(&mut command).finish();
    if said.err.contains("unshare:") {
        skipped(&said.err);
        return None;
    }
    Some(said)
}

/// The command's first process is dead, and its number is somebody else's, when another guardian begins.
#[test]
fn a_successor_does_not_take_a_stranger_for_the_command() {
    let house = House::new();
    // Whom the first process leaves behind in another group obeys no TERM, so that dflock is still at it.
    let script = r#"
        rest='trap "" TERM; echo $$ > rest; while :; do sleep 0.05; done'
        dflock exec --contain group --kill-after 1h k -c "setsid sh -c '$rest' & until [ -s rest ]; do sleep 0.01; done; echo \$\$ > leader; kill -9 \$\$" &
        dflock=$!
        until [ -s leader ] && ! [ -e /proc/$(cat leader) ]; do sleep 0.01; done
        leader=$(cat leader)
        until [ "$stranger" = "$leader" ]; do
            echo $((leader - 1)) > /proc/sys/kernel/ns_last_pid || exit 9
            setsid sleep 60 &
            stranger=$!
            [ "$stranger" = "$leader" ] || kill -9 $stranger
        done
        guardian() {
            for child in $(cat /proc/$dflock/task/$dflock/children); do
                [ "$(cat /proc/$child/comm 2>&1)" = guardian ] && echo $child
            done
        }
        old=$(guardian)
        kill -9 $old
        until [ -n "$(guardian)" ] && [ "$(guardian)" != "$old" ]; do sleep 0.01; done
        kill -9 $dflock
        while [ -e /proc/$(cat rest) ]; do sleep 0.01; done
        dflock exec -w 20 k true || exit 8
        read -r line < /proc/$stranger/stat || exit 7
        case "$line" in *") Z "*) exit 7;; esac
    "#;
    let Some(said) = in_namespace(&house, script) else { return };
    said.code(0);
}

/// Killed in the middle of telling it: before the second thing, the third, and so on.
#[test]
fn a_successor_that_was_told_half_frees_no_lock_under_a_command() {
    if !is_there("strace") {
        return;
    }
    for told in 2..=5 {
        let house = House::new();
        let script = "trap '' TERM; echo $$ > first; sh -c 'while :; do echo first >> log; sleep 0.005; done'";
        let first = house.start(&["exec", "-l", "60", "--contain", "group", "k", "-c", script]);
        house.wait_for_file("first");
        house.wait_for_file("log");
        let guardian = wait_for("the guardian", || guardian_of(first.pid));
        let mut command = house.command("strace");
        let inject = format!("inject=sendmsg:signal=KILL:when={told}");
        command.args(["-o", "/dev/null", "-e", "trace=sendmsg", "-e", &inject, "-p", &first.pid.to_string()]);
        let strace = Running::start(&mut command);
        wait_for("strace", || is_traced(first.pid).then_some(()));
        signal(guardian, Signal::SIGKILL);
        wait_for("the end of dflock", || (!has_life(first.pid)).then_some(()));
        drop(strace);
        // As long as the command runs, the lock is not free.
        let left = || std::fs::read_to_string(house.path("log")).expect("it is there").len();
        let is_free = house.dflock(&["exec", "-w", "1", "k", "true"]).code == 0;
        let before = left();
        if is_free {
            let what = format!("two at once, when dflock was killed before thing {told}");
            observe(Duration::from_millis(200), || left() == before, &what);
        }
        for pid in processes_of("first", &house) {
            signal(pid, Signal::SIGKILL);
        }
    }
}

pub(crate) fn is_traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// Each is shorter than what the lease leaves, and nobody was refused a processor.
#[test]
fn two_stops_of_dflock_within_a_lease_end_no_command() {
    let _quiet = crate::quiet();
    let house = House::new();
    let first = start(&house, &["-l", "10"]);
    for _ in 0..2 {
        first.signal("STOP");
        observe(Duration::from_millis(2300), || is_running("first", &house), "the command runs");
        first.signal("CONT");
        observe(Duration::from_millis(500), || is_running("first", &house), "the command runs");
    }
    observe(Duration::from_secs(2), || is_running("first", &house) && house.is_held("k"), "the command runs");
    first.signal("TERM");
    // It ignores TERM, and is killed with all others after the grace.
    processes_of("first", &house).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    let said = first.finish();
    assert!(!said.err.contains("lost"), "{said:?}");
}
