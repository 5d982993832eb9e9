//! `--min-hold`: the lock outlives a short command, so that hosts with skewed clocks do not each run it.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::now;
use crate::house::original::Original;

#[test]
fn a_holder_keeps_the_lock_when_dflock_has_left() {
    let house = House::new();
    let said = house.dflock(&["exec", "--min-hold", "1h", "-v", "k", "-c", "echo ran; exit 3"]).code(3);
    assert_eq!(said.out, "ran\n");
    assert!(said.err.contains("k is kept for 3"), "{said:?}");
    // Nobody else gets it, and the command above did not wait for the hour.
    house.dflock(&["exec", "-n", "k", "true"]).code(75);
    let holders = house.holders();
    assert_eq!((holders.len(), holders[0]["key"].as_str(), holders[0]["state"].as_str()), (1, Some("k"), Some("held")));
    assert!(holders[0]["owner_pid"].is_null());
    // It is a holder as any other.
    house.dflock(&["release", "k"]).code(0);
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
    house.wait_until_nobody_holds();
}

#[test]
fn it_is_over_when_its_time_is() {
    let house = House::new();
    let begin = now();
    house.dflock(&["exec", "--min-hold", "1.5s", "-l", "20", "k", "true"]).code(0);
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    house.wait_until_nobody_holds();
}

#[test]
fn a_command_that_ran_longer_leaves_nothing_behind() {
    let house = House::new();
    house.dflock(&["exec", "--min-hold", "0.1s", "k", "sleep", "0.3"]).code(0);
    assert!(house.holder_pids().is_empty());
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
}

#[test]
fn a_command_that_never_began_holds_nothing() {
    let house = House::new();
    house.dflock(&["exec", "--min-hold", "1h", "k", "/no/such/command"]).code(127);
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
}

#[test]
fn several_keys_and_slots_are_kept_each_by_its_holder() {
    let house = House::new();
    house.dflock(&["exec", "--min-hold", "1h", "--limit", "2", "--also", "other", "slots", "true"]).code(0);
    let mut keys: Vec<String> =
        house.holders().iter().map(|holder| holder["key"].as_str().unwrap_or_default().to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["other", "slots"]);
    house.dflock(&["exec", "-n", "other", "true"]).code(75);
    house.dflock(&["exec", "-n", "--limit", "2", "slots", "true"]).code(0);
    house.dflock(&["release", "other"]).code(0);
    house.dflock(&["sem", "release", "--limit", "2", "slots"]).code(0);
    house.wait_until_nobody_holds();
}

#[test]
fn a_server_that_ties_locks_to_connections_has_dflock_stay() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    let begin = now();
    let said = house.dflock(&["exec", "--min-hold", "1.5s", "k", "-c", "exit 4"]).code(4);
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{said:?}");
    assert!(house.holder_pids().is_empty());
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
}

#[test]
fn a_signal_ends_the_staying_and_keeps_the_code() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    let staying = house.start(&["exec", "--min-hold", "1h", "k", "-c", "echo done > done; exit 4"]);
    house.wait_for_file("done");
    // The command may still be ending; its code is what counts in any case.
    crate::house::wait_for("the end of the command", || {
        let alive = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", staying.pid)).unwrap_or_default();
        (alive.split_whitespace().count() <= 1).then_some(())
    });
    staying.signal("TERM");
    assert_eq!(staying.finish().code, 4);
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
}
