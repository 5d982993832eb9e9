//! `--min-hold`: the lock outlives a short command, so that hosts with skewed clocks do not each run it.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{Server, now, signal, wait_for};

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
    // Nor is it anybody's to give back.
    house.dflock(&["release", "k"]).code(79);
    house.end_holder_of("k");
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
    house.end_holder_of("other");
    house.end_holder_of("slots");
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

/// The holder of the first key cannot reach its server, and says so after a while. The other key, on another server,
/// must be kept meanwhile.
#[test]
fn a_hand_over_that_takes_its_time_holds_up_no_other_lock() {
    let (near, far) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::to(&far.address);
    let house = House::at(&format!("{},{}", proxy.address, near.address));
    let key_of = |shard: u32| {
        let mut names = (0..).map(|number| format!("key-{number}"));
        names.find(|name| crc32fast::hash(name.as_bytes()) % 2 == shard).expect("a key of that shard")
    };
    let (first, other) = (key_of(0), key_of(1));
    let job = "echo > begun; until [ -e go ]; do sleep 0.01; done";
    let flags = ["exec", "--min-hold", "1h", "-l", "3", "--connect-timeout", "8s", "--also", &other, &first, "-c", job];
    let running = house.start(&flags);
    house.wait_for_file("begun");
    proxy.swallow(true);
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let begin = now();
    // Longer than its lease, and shorter than the holder's attempt.
    while begin.elapsed() < Duration::from_secs(6) {
        house.dflock(&["exec", "-n", &other, "true"]).code(75);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    running.signal("KILL");
    running.finish().code(137);
}

/// It is stopped before it can say anything; the lock is kept all the same, by dflock.
#[test]
fn a_holder_that_says_nothing_is_not_waited_for_without_end() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    let job = "echo > begun; until [ -e go ]; do sleep 0.01; done; exit 4";
    let staying = house.start(&["exec", "--min-hold", "1h", "--connect-timeout", "3s", "k", "-c", job]);
    house.wait_for_file("begun");
    proxy.swallow(true);
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let holder = wait_for("a holder", || house.holder_pids().first().copied());
    signal(holder, "STOP");
    proxy.swallow(false);
    house.wait_until_nobody_holds();
    assert!(house.is_held("k"));
    staying.signal("TERM");
    assert_eq!(staying.finish().code, 4);
    house.wait_until_free("k");
}
