//! What ended by force is swept: whom the command leaves behind is gone before anybody else has the lock.

use dflock::procfs::Process;
use nix::sys::signal::Signal;

use super::pty::{begun, code, job, wait_for_listener};
use super::terminal::{CTRL_BACKSLASH, CTRL_C, Terminal};
use super::trials_fleet::send;
use crate::house::clean::{House, Running};
use crate::house::{Server, wait_for};

/// Starts somebody who obeys nothing but KILL and writes `first` again and again, and then does `then`.
fn leaves_behind(then: &str) -> String {
    let stubborn = "trap '' HUP INT QUIT TERM; while [ -e leader ]; do echo first >> log; sleep 0.005; done";
    format!("echo $$ > leader; sh -c \"{stubborn}\" > /dev/null 2>&1 & {then}")
}

/// Waits for the lock, and writes `second` once it has it.
fn second(house: &House) -> Running {
    let waiting = house.start(&["exec", "-w", "forever", "k", "-c", "echo second >> log; exec sleep 0.05"]);
    house.wait_for_waiters("k", 1);
    waiting
}

/// The first one wrote nothing more once the second one had the lock.
#[track_caller]
fn assert_never_two(house: &House) {
    let log = house.read("log");
    let mut seen: Vec<&str> = log.lines().collect();
    seen.dedup();
    assert_eq!(seen, ["first", "second"]);
}

#[test]
fn whoever_a_command_that_ended_by_force_leaves_behind_is_ended_too() {
    let waits = "wait; exit 9";
    for (how, then, signal, code) in [
        ("somebody kills it", waits, None, 137),
        ("it dies of TERM that was handed on", waits, Some("TERM"), 143),
        ("it dies of HUP that was handed on", waits, Some("HUP"), 129),
        ("it obeys TERM in its own way", "trap 'exit 3' TERM; wait; exit 9", Some("TERM"), 3),
        ("it kills itself", "until [ -e go ]; do sleep 0.01; done; kill -ABRT $$", None, 134),
    ] {
        let house = House::new();
        let first = house.start(&["exec", "--kill-after", "0.3", "k", "-c", &leaves_behind(then)]);
        let leader = house.wait_for_file("leader").trim().parse().expect("a number");
        wait_for("a sign of life", || house.read("log").contains("first").then_some(()));
        let second = second(&house);
        match signal {
            Some(signal) => first.signal(signal),
            None if then == waits => send(leader, Signal::SIGKILL),
            None => std::fs::write(house.path("go"), "").expect("the sign is given"),
        }
        let said = first.finish();
        assert_eq!(said.code, code, "{how}: {said:?}");
        second.finish().code(0);
        assert_never_two(&house);
    }
}

/// Whichever of the two a dflock that was busy or frozen sees first: the command may have ended of what it was sent.
#[test]
fn a_signal_that_came_before_the_end_counts_as_handed_on() {
    for signal in ["TERM", "INT"] {
        let house = House::new();
        let leaves = "until [ -e go ]; do sleep 0.01; done; exit 3";
        let first = house.start(&["exec", "--kill-after", "0.3", "k", "-c", &leaves_behind(leaves)]);
        let leader: i32 = house.wait_for_file("leader").trim().parse().expect("a number");
        wait_for("a sign of life", || house.read("log").contains("first").then_some(()));
        let second = second(&house);
        first.signal("STOP");
        first.signal(signal);
        std::fs::write(house.path("go"), "").expect("the sign is given");
        wait_for("the leader's end", || Process::of(leader).is_none_or(|process| process.is_dead).then_some(()));
        first.signal("CONT");
        first.finish().code(3);
        second.finish().code(0);
        assert_never_two(&house);
    }
}

/// They are told first, and have the time that a command has.
#[test]
fn whoever_is_left_behind_may_tidy_up() {
    let house = House::new();
    let tidy = "trap 'sleep 0.2; echo tidied > tidied; exit' TERM; echo ready > ready; while :; do sleep 0.01; done";
    let running =
        house.start(&["exec", "--kill-after", "20", "k", "-c", &format!("sh -c \"{tidy}\" > /dev/null 2>&1 & wait")]);
    house.wait_for_file("ready");
    running.signal("TERM");
    running.finish().code(143);
    assert_eq!(house.read("tidied"), "tidied\n");
    assert!(!house.is_held("k"));
}

/// No signal that means an end was handed on: a daemon that was started on purpose stays.
#[test]
fn whoever_an_ordinary_end_leaves_behind_stays() {
    let house = House::new();
    let daemon = "trap '' USR1; echo ready > ready; until [ -e go ]; do sleep 0.01; done; echo still here > daemon";
    let script = format!(
        "trap 'echo got > got' USR1; sh -c \"{daemon}\" > /dev/null 2>&1 &
        until [ -e got ]; do sleep 0.01; done; exit 3"
    );
    let running = house.start(&["exec", "k", "-c", &script]);
    house.wait_for_file("ready");
    running.signal("USR1");
    running.finish().code(3);
    assert!(!house.is_held("k"));
    std::fs::write(house.path("go"), "").expect("the sign is given");
    assert_eq!(house.wait_for_file("daemon"), "still here\n");
}

#[test]
fn what_is_typed_at_a_terminal_counts_as_handed_on() {
    let server = Server::start(&[]);
    let by_name = server.address.replace("127.0.0.1", "localhost");
    // Whoever looks a name up has a thread for that.
    for (key, name, address) in
        [(CTRL_C, "INT", &server.address), (CTRL_BACKSLASH, "QUIT", &server.address), (CTRL_C, "INT", &by_name)]
    {
        let house = House::at(address);
        let mut terminal = Terminal::shell(&house, "bash");
        let script = leaves_behind(&format!("trap 'exit 4' {name}; echo ready; while :; do wait; done"));
        terminal.enter(&job(&house, "--kill-after 0.3", &script));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        wait_for("a sign of life", || house.read("log").contains("first").then_some(()));
        wait_for_listener(&terminal, dflock, leader);
        let second = second(&house);
        terminal.type_in(key);
        assert_eq!(code(&mut terminal), "4", "{name}");
        second.finish().code(0);
        assert_never_two(&house);
    }
}
