//! The guardian itself: stopped, killed, meant by others' signals; and whom it must not end.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::loss::{is_running, job, processes_of, wait_for_line};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::tools::is_there;
use crate::house::{Server, now, wait_for};

/// The guardian beside a dflock, told from its other children by its name.
pub(crate) fn guardian_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let is_guardian =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "guardian");
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    // The end of one that is held by a debugger is kept from everybody else.
    children.filter(is_guardian).find(|pid| has_life(*pid))
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("it is there");
}

/// A window in which something must hold.
pub(crate) fn observe(window: Duration, mut holds: impl FnMut() -> bool, what: &str) {
    let begin = now();
    while begin.elapsed() < window {
        assert!(holds(), "{what} (after {:?})", begin.elapsed());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub(crate) fn start(house: &House, more: &[&str]) -> Running {
    let script = job("first", true);
    let mut arguments = vec!["exec"];
    arguments.extend(more);
    arguments.extend(["k", "-c", script.as_str()]);
    let running = house.start(&arguments);
    wait_for_line(house, "first");
    running
}

/// What `pkill PATTERN` and `pkill -f PATTERN` look at.
fn names_of(pid: u32) -> String {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).expect("it is there");
    String::from_utf8_lossy(&[read("comm"), read("cmdline")].concat()).into_owned()
}

#[test]
fn whoever_ends_all_that_is_called_dflock_does_not_hit_the_guardian() {
    let house = House::new();
    // Neither the name of the program nor the command or its key.
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    let names = names_of(guardian);
    for word in ["dflock", "exec", "first"] {
        assert!(!names.contains(word), "{names:?}");
    }
    assert!(names_of(first.pid).contains("dflock"));
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

#[test]
fn signals_that_are_meant_for_many_do_not_end_it() {
    let house = House::new();
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGALRM] {
        signal(guardian, number);
    }
    observe(Duration::from_millis(200), || guardian_of(first.pid) == Some(guardian), "the guardian is there");
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// Each renewal tells it something. When nothing more can be told, it is replaced; dflock never waits for it.
#[test]
fn a_stopped_guardian_holds_nobody_up_and_is_replaced() {
    let house = House::new();
    let first = start(&house, &["-l", "2"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    signal(guardian, Signal::SIGSTOP);
    wait_for("another guardian", || {
        assert!(is_running("first", &house), "the command is there as long as the lock is");
        guardian_of(first.pid).filter(|other| *other != guardian)
    });
    assert!(house.is_held("k"));
    // The new one knows what the old one knew.
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// The second one before dflock would start another one: it is not forgotten.
#[test]
fn a_guardian_that_is_killed_twice_at_once_is_replaced_all_the_same() {
    let house = House::new();
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    signal(guardian, Signal::SIGKILL);
    let second = wait_for("another guardian", || guardian_of(first.pid).filter(|other| *other != guardian));
    signal(second, Signal::SIGKILL);
    // Long before it has anything to tell it.
    wait_for("a third one", || guardian_of(first.pid).filter(|other| ![guardian, second].contains(other)));
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// They would not fit into what a guardian is told.
#[test]
fn too_many_children_are_told_before_anything_begins() {
    // They stand in everybody's /proc.
    let _loud = crate::loud();
    if !is_there("perl") {
        return;
    }
    let house = House::new();
    let script = "for (1..3000) { fork or do { POSIX::close($_) for 0..2; sleep 20; POSIX::_exit(0) } } \
         exec qw(dflock exec k touch began)";
    let said = Running::start(house.command("perl").args(["-MPOSIX", "-e", script])).finish().code(125);
    assert!(said.err.contains("cannot tell the guardian"), "{said:?}");
    assert!(!house.path("began").exists() && !house.is_held("k"));
}

/// A name is looked up on a thread, which stays for a while.
#[test]
fn a_killed_guardian_is_replaced_where_the_server_has_a_name() {
    let server = Server::start(&[]);
    let port = server.address.rsplit_once(':').expect("a port").1;
    let house = House::at(&format!("localhost:{port}"));
    let first = start(&house, &["-l", "60"]);
    let guardian = wait_for("the guardian", || guardian_of(first.pid));
    signal(guardian, Signal::SIGKILL);
    wait_for("another guardian", || guardian_of(first.pid).filter(|other| *other != guardian));
    let names = wait_for("its name", || guardian_of(first.pid).map(names_of));
    assert!(!names.contains("dflock"), "{names:?}");
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

#[test]
fn a_loss_that_is_only_to_be_told_is_no_affair_of_the_guardian() {
    let _quiet = crate::quiet();
    let house = House::new();
    let first = start(&house, &["-l", "2", "--on-lost", "warn"]);
    // Dflock cannot renew, and so the lock is lost.
    first.signal("STOP");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    observe(Duration::from_secs(1), || is_running("first", &house), "the command runs on");
    // Killed after the loss, dflock leaves the command to itself.
    first.signal("KILL");
    observe(Duration::from_secs(1), || is_running("first", &house), "the command runs on");
    // Some of them last for a moment only.
    for pid in processes_of("first", &house) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}

#[test]
fn a_command_that_only_hears_of_a_loss_goes_with_a_dflock_that_is_killed_before_it() {
    let house = House::new();
    let first = start(&house, &["-l", "60", "--on-lost", "warn"]);
    first.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_running("first", &house));
}

/// A job may start a daemon. Dflock stays for the lock alone, and when it is killed, the daemon is none of its affairs.
#[test]
fn whom_a_command_left_behind_is_not_ended_while_the_lock_is_kept() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    let staying = house.start(&["exec", "--min-hold", "1h", "k", "-c", "sleep 60 <&- >&- 2>&- & echo $! > daemon"]);
    let daemon: u32 = house.wait_for_file("daemon").trim().parse().expect("a number");
    wait_for("the end of the command", || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", staying.pid)).ok()?;
        let alive = children.split_whitespace().map(|pid| pid.parse().expect("a number")).filter(|pid| *pid != daemon);
        (alive.filter(|pid| has_life(*pid)).count() <= 1).then_some(())
    });
    // Ended by itself, the command is done; that is told before anything else happens.
    observe(Duration::from_millis(200), || has_life(daemon), "the daemon lives");
    staying.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    observe(Duration::from_millis(300), || has_life(daemon), "the daemon lives");
    signal(daemon, Signal::SIGKILL);
}

/// Two locks on two servers. The first has its holder already; the second cannot have one yet, as its server is frozen.
#[test]
fn a_dflock_killed_while_it_hands_over_does_not_take_the_lock_with_it() {
    let (near, far) = (Server::start(&[]), Server::start(&[]));
    let house = House::at(&format!("{},{}", near.address, far.address));
    let key_of = |shard: u32| {
        (0..)
            .map(|number| format!("k{number}"))
            .find(|key| crc32fast::hash(key.as_bytes()) % 2 == shard)
            .expect("a key")
    };
    let (first, second) = (key_of(0), key_of(1));
    let script = "echo begun > begun; while [ ! -e go ]; do sleep 0.01; done";
    let running = house.start(&["exec", "-l", "60", "--min-hold", "1h", "--also", &second, &first, "-c", script]);
    house.wait_for_file("begun");
    far.signal("STOP");
    std::fs::write(house.path("go"), "").expect("the sign is given");
    wait_for("a holder that holds", || {
        let mut listed = house.command("dflock");
        let said = Running::start(listed.args(["holders", "--json"])).finish().json();
        let holders = said["holders"].as_array().expect("a list").clone();
        holders.iter().any(|holder| holder["key"] == *first && holder["state"] == "held").then_some(())
    });
    let guardian = guardian_of(running.pid).expect("a guardian");
    running.signal("KILL");
    running.finish();
    far.signal("CONT");
    wait_for("the end of the guardian", || (!has_life(guardian)).then_some(()));
    house.dflock(&["exec", "-n", &first, "true"]).code(75);
}
