//! The birth of a guardian: what it is executed from may be slow to come, and then nothing waits for it.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal, start};
use super::guardian_deaf::is_traced;
use super::loss::is_running;
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::{is_there, skipped};
use crate::house::{now, wait_for};

/// Whoever this process forks from now on comes to its program only after a minute. `None` where that cannot be.
fn delay_programs_of(house: &House, pid: u32) -> Option<Running> {
    delay(house, pid, "enter")
}

/// The same, or has come to it, and begins only then (`exit`).
fn delay(house: &House, pid: u32, when: &str) -> Option<Running> {
    if !is_there("strace") {
        skipped("strace is not there");
        return None;
    }
    let mut command = house.command("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=execve", "-e", &format!("inject=execve:delay_{when}=60s")]);
    let strace = Running::start(command.args(["-p", &pid.to_string()]));
    wait_for("strace", || is_traced(pid).then_some(()));
    Some(strace)
}

#[test]
fn a_successor_that_is_slow_to_begin_holds_nobody_up() {
    let _quiet = crate::quiet();
    let house = House::new();
    let first = start(&house, &["-l", "4"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let Some(strace) = delay_programs_of(&house, first.pid) else { return };
    signal(guardian, Signal::SIGKILL);
    let is_kept = || is_running("first", &house) && house.is_held("k");
    observe(Duration::from_secs(9), is_kept, "the lock is renewed under the command");
    assert_eq!(guardian_of(first.pid), None);
    drop(strace);
    wait_for("another guardian", || guardian_of(first.pid));
    // Those that did not come in time are gone.
    let is_late = |pid: &u32| has_life(*pid) && is_called(*pid, "guardian-to-be");
    wait_for("the end of the others", || (!children_of(first.pid).iter().any(is_late)).then_some(()));
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The server is gone, too: what no guardian does at the deadline, dflock does.
#[test]
fn without_a_guardian_that_begins_dflock_ends_the_command_in_time() {
    let _quiet = crate::quiet();
    let house = House::new();
    let first = start(&house, &["-l", "4"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let Some(_strace) = delay_programs_of(&house, first.pid) else { return };
    let begin = now();
    house.server().signal("STOP");
    signal(guardian, Signal::SIGKILL);
    wait_for("the end of the command", || (!is_running("first", &house)).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(4), "it took {:?}", begin.elapsed());
    house.server().signal("CONT");
    first.finish().code(79);
}

/// Killed while another one is on its way, dflock leaves the command to that.
#[test]
fn one_that_begins_after_the_end_of_dflock_ends_the_command() {
    let house = House::new();
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let Some(strace) = delay_programs_of(&house, first.pid) else { return };
    signal(guardian, Signal::SIGKILL);
    wait_for("one on its way", || children_of(first.pid).into_iter().find(|pid| is_called(*pid, "guardian-to-be")));
    first.signal("KILL");
    drop(strace);
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// Until it has given itself a name it has that of the link by which its program was found.
#[test]
fn one_that_has_just_come_to_its_program_is_not_taken_for_the_commands() {
    let _quiet = crate::quiet();
    let house = House::new();
    let script = "echo $$ > pid; exec sleep 60";
    let first = house.start(&["exec", "--contain", "group", "-l", "60", "--kill-after", "60", "k", "-c", script]);
    house.wait_for_file("pid");
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let Some(_strace) = delay(&house, first.pid, "exit") else { return };
    signal(guardian, Signal::SIGKILL);
    // Each has more time than the one before; the third one has eight seconds.
    let mut before = vec![guardian];
    for _ in 0..3 {
        let is_it = |pid: &u32| !before.contains(pid) && has_life(*pid) && is_called(*pid, "exe");
        before.push(wait_for("one that has begun", || children_of(first.pid).into_iter().find(is_it)));
    }
    let begin = now();
    first.signal("TERM");
    first.finish().code(143);
    assert!(begin.elapsed() < Duration::from_secs(4), "it took {:?}", begin.elapsed());
}

fn is_called(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

/// Its guardian is stopped while it waits for the lock.
#[test]
fn no_command_begins_without_a_guardian_that_answers() {
    let _quiet = crate::quiet();
    let house = House::new();
    let other = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let waiting = house.start(&["exec", "-l", "4", "k", "-c", "echo begun > begun; sleep 60"]);
    house.wait_for_waiters("k", 1);
    let guardian = wait_for("the guardian", || guardian_of(waiting.pid));
    let Some(_strace) = delay_programs_of(&house, waiting.pid) else { return };
    signal(guardian, Signal::SIGSTOP);
    other.signal("TERM");
    other.finish();
    let said = waiting.finish().code(125);
    assert!(said.err.contains("cannot start the guardian"), "{said:?}");
    assert!(!house.path("begun").exists() && !house.is_held("k"));
    wait_for("the end of the stopped guardian", || (!has_life(guardian)).then_some(()));
}

/// The same, where another one can begin.
#[test]
fn a_guardian_that_was_stopped_before_the_command_is_replaced_before_it() {
    let house = House::new();
    let other = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let waiting = house.start(&["exec", "-l", "60", "k", "-c", "echo begun > begun; sleep 60"]);
    house.wait_for_waiters("k", 1);
    let guardian = wait_for("the guardian", || guardian_of(waiting.pid));
    signal(guardian, Signal::SIGSTOP);
    other.signal("TERM");
    house.wait_for_file("begun");
    assert!(guardian_of(waiting.pid).is_some_and(|second| second != guardian));
    wait_for("the end of the stopped guardian", || (!has_life(guardian)).then_some(()));
    waiting.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
}

/// Its command has ended, and nothing more is needed of it.
#[test]
fn a_stopped_guardian_is_not_left_behind() {
    let house = House::new();
    let first =
        house.start(&["exec", "-l", "60", "k", "-c", "echo begun > begun; until [ -e go ]; do sleep 0.01; done"]);
    house.wait_for_file("begun");
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    signal(guardian, Signal::SIGSTOP);
    std::fs::write(house.path("go"), "").expect("the sign is given");
    first.finish().code(0);
    wait_for("the end of the stopped guardian", || (!has_life(guardian)).then_some(()));
}

/// In a freezer it looks as if it waited for a disk.
#[test]
fn a_frozen_guardian_is_replaced_in_three_seconds() {
    let _quiet = crate::quiet();
    let freezer = std::path::PathBuf::from(format!("/sys/fs/cgroup/freezer/dflock-test-{}", std::process::id()));
    if std::fs::create_dir(&freezer).is_err() || !freezer.join("freezer.state").exists() {
        let _ = std::fs::remove_dir(&freezer);
        return skipped("there is no freezer of cgroup v1 for us");
    }
    let house = House::new();
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let thaw = Thaw(freezer);
    let write = |file: &str, text: &str| std::fs::write(thaw.0.join(file), text).expect("it can be written");
    write("cgroup.procs", &guardian.to_string());
    write("freezer.state", "FROZEN");
    let begin = now();
    // The old one was killed, and dies when it may.
    let is_other = |pid: &u32| *pid != guardian && is_called(*pid, "guardian");
    let second = wait_for("another guardian", || children_of(first.pid).into_iter().find(is_other));
    assert!(begin.elapsed() < Duration::from_secs(6), "it took {:?}", begin.elapsed());
    // Thawed, the old one does nothing more.
    drop(thaw);
    wait_for("the end of the old guardian", || (!has_life(guardian)).then_some(()));
    let is_well = || is_running("first", &house) && house.is_held("k") && guardian_of(first.pid) == Some(second);
    observe(Duration::from_millis(500), is_well, "the command and its guardian are there");
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
}

/// Nobody stays frozen, however the test ends.
struct Thaw(std::path::PathBuf);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        let begin = now();
        while std::fs::remove_dir(&self.0).is_err() && begin.elapsed() < Duration::from_secs(2) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}
