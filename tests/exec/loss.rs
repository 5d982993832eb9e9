//! Never two at once: dflock killed or frozen, the server frozen or killed, the connection broken.
//!
//! Each job writes a line with its name every few milliseconds while it runs. A later job must begin only when
//! the earlier one is gone, which the order of the lines shows.

use std::time::Duration;

use super::guardian::guardian_of;
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::{Server, lasting_port, now, wait_for};

/// Writes its name again and again; ignores TERM if told to.
pub(crate) fn job(name: &str, stubborn: bool) -> String {
    let trap = if stubborn { "trap '' TERM; " } else { "" };
    format!("{trap}while :; do echo {name} >> log; sleep 0.005; done")
}

pub(crate) fn wait_for_line(house: &House, name: &str) {
    wait_for(&format!("a line of {name}"), || house.read("log").lines().any(|line| line == name).then_some(()));
}

/// All lines of a name stand together, and in the order of `names`.
fn assert_never_two(house: &House, names: &[&str]) {
    let log = house.read("log");
    let mut seen: Vec<&str> = log.lines().collect();
    seen.dedup();
    assert_eq!(seen, names, "two ran at once: {log}");
}

/// Whether a process of the job is left.
pub(crate) fn is_running(name: &str, house: &House) -> bool {
    !processes_of(name, house).is_empty()
}

/// The processes of a job that write.
pub(crate) fn processes_of(name: &str, house: &House) -> Vec<u32> {
    let marker = format!("echo {name} >> log");
    let home = house.home.path().display().to_string();
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let found = all.filter(|process| {
        let read = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
        line.starts_with("/bin/sh")
            && line.contains(&marker)
            && String::from_utf8_lossy(&read("environ")).contains(&home)
    });
    found.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

fn start(house: &House, name: &str, stubborn: bool, more: &[&str]) -> Running {
    let script = job(name, stubborn);
    let mut arguments = vec!["exec", "-w", "forever"];
    arguments.extend(more);
    arguments.extend(["k", "-c", script.as_str()]);
    let running = house.start(&arguments);
    wait_for_line(house, name);
    running
}

#[test]
fn a_killed_dflock_takes_its_command_along_before_the_lock_is_free() {
    for stubborn in [false, true] {
        let house = House::new();
        let first = start(&house, "first", stubborn, &["-l", "60"]);
        let begin = now();
        first.signal("KILL");
        // Long before the lease would end: the guardian gave the lock back.
        let second = start(&house, "second", false, &[]);
        println!("from the kill to the next command: {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(20), "the guardian did not give the lock back");
        assert!(!is_running("first", &house));
        second.signal("TERM");
        second.finish();
        assert_never_two(&house, &["first", "second"]);
    }
}

#[test]
fn a_frozen_dflock_loses_its_command_before_its_lease_ends() {
    let house = House::new();
    let first = start(&house, "first", true, &["-l", "10"]);
    first.signal("STOP");
    let second = start(&house, "second", false, &[]);
    assert!(!is_running("first", &house));
    first.signal("CONT");
    let said = first.finish();
    assert_eq!(said.code, 79, "{said:?}");
    assert!(said.err.contains("the lock was lost"), "{said:?}");
    second.signal("TERM");
    second.finish();
    assert_never_two(&house, &["first", "second"]);
}

#[test]
fn a_frozen_server_ends_the_command_in_time() {
    for stubborn in [false, true] {
        let house = House::new();
        let first = start(&house, "first", stubborn, &["-l", "3"]);
        house.server().signal("STOP");
        let said = first.finish();
        assert_eq!(said.code, 79, "{said:?}");
        assert!(said.err.contains("the lock was lost"), "{said:?}");
        assert!(!is_running("first", &house));
        house.server().signal("CONT");
    }
}

/// Nobody noticed before it was to be given back.
#[test]
fn a_lock_that_was_gone_when_the_command_ended_was_lost() {
    let house = House::new();
    let script = "echo $DFLOCK_TOKEN > token; read -r _ < go; exit 4";
    let go = house.gate("go");
    let run = |more: &[&str], code| {
        let _ = std::fs::remove_file(house.path("token"));
        let arguments = [&["exec", "-l", "600"], more, &["k", "-c", script]].concat();
        let running = house.start(&arguments);
        let token = house.wait_for_file("token");
        assert_eq!(house.server().connect().ask("r", "k", token.trim()), "ok");
        let mut other = house.server().connect();
        other.take("k", "0 60");
        go.open();
        let said = running.finish().code(code);
        assert!(said.err.contains("the lock was lost while the command ran"), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    };
    run(&[], 79);
    run(&["--on-lost", "warn"], 4);
}

#[test]
fn a_command_that_ends_while_the_server_is_frozen_has_done_its_job() {
    let house = House::new();
    let first = house.start(&[
        "exec",
        "-l",
        "10",
        "k",
        "-c",
        "echo ready > ready; while [ ! -e go ]; do sleep 0.01; done; exit 4",
    ]);
    house.wait_for_file("ready");
    house.server().signal("STOP");
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let begin = now();
    let said = first.finish();
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("may not have been given back"), "{said:?}");
    // Two seconds are for the server; the rest is for a busy machine.
    assert!(begin.elapsed() < Duration::from_secs(6), "it took {:?}", begin.elapsed());
    house.server().signal("CONT");
}

#[test]
fn a_server_that_comes_back_empty_is_a_lost_lock() {
    let mut house = House::serving(&["--port", &lasting_port()]);
    let first = start(&house, "first", false, &["-l", "10"]);
    let port = house.server().address.rsplit_once(':').expect("a port").1.to_owned();
    house.server().signal("KILL");
    house.server_mut().wait();
    let again = Server::start(&["--port", &port]);
    let said = first.finish();
    assert_eq!(said.code, 79, "{said:?}");
    assert!(!is_running("first", &house));
    drop(again);
}

#[test]
fn a_loss_that_is_only_to_be_told_lets_the_command_run_on() {
    let mut house = House::new();
    let script = "echo ready > ready; while [ ! -e go ]; do sleep 0.01; done; exit 4";
    let first = house.start(&["exec", "-l", "2", "--on-lost", "warn", "k", "-c", script]);
    house.wait_for_file("ready");
    house.server().signal("KILL");
    house.server_mut().wait();
    // Until well past the lease: an observation window, in which nothing must happen to the command.
    let begin = now();
    while begin.elapsed() < Duration::from_secs(3) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let said = first.finish();
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("runs on"), "{said:?}");
}

#[test]
fn whom_the_command_started_is_ended_with_it() {
    let house = House::new();
    // Three deep, each ignoring TERM.
    let deep = "trap '' TERM; sh -c 'trap \"\" TERM; sh -c \"trap : TERM; while :; do echo deep >> log; sleep 0.01; done\" & wait' & wait";
    let first = house.start(&["exec", "-l", "2", "k", "-c", deep]);
    wait_for_line(&house, "deep");
    first.signal("KILL");
    let second = start(&house, "second", false, &[]);
    second.signal("TERM");
    second.finish();
    assert_never_two(&house, &["deep", "second"]);
}

#[test]
fn a_killed_guardian_is_replaced_by_one_that_does_its_duty() {
    let house = House::new();
    let first = start(&house, "first", true, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    crate::house::signal(guardian, "KILL");
    wait_for("another guardian", || guardian_of(first.pid).filter(|other| *other != guardian));
    first.signal("KILL");
    let second = start(&house, "second", false, &[]);
    assert!(!is_running("first", &house));
    second.signal("TERM");
    second.finish();
    assert_never_two(&house, &["first", "second"]);
}

/// The original cuts a connection that is silent for a while, and then its locks are anybody's, whatever their lease.
#[test]
fn a_frozen_dflock_loses_its_command_before_the_original_cuts_its_connection() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    let first = start(&house, "first", true, &["-l", "120"]);
    first.signal("STOP");
    let second = start(&house, "second", false, &[]);
    assert!(!is_running("first", &house), "both run");
    first.signal("CONT");
    let said = first.finish();
    assert_eq!(said.code, 79, "{said:?}");
    second.signal("TERM");
    second.finish();
    assert_never_two(&house, &["first", "second"]);
}
