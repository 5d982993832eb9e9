//! The way to the server breaks under a holder: cut, refused, silent, frozen, restarted, gone.

use std::time::Duration;

use serde_json::Value;

use crate::house::clean::House;
use crate::house::proxy::Proxy;
use crate::house::{CEILING, Server, now, wait_for};

fn holder(house: &House) -> Value {
    let mut holders = house.holders();
    assert_eq!(holders.len(), 1, "{holders:?}");
    holders.remove(0)
}

fn wait_for_state(house: &House, state: &str) -> Value {
    wait_for(&format!("a holder that is {state}"), || Some(holder(house)).filter(|holder| holder["state"] == state))
}

#[track_caller]
fn assert_lost(house: &House, why: &str) {
    let lost = wait_for_state(house, "lost");
    assert!(lost["why"].as_str().expect("a reason").contains(why), "{lost}");
    assert!(lost["lease_left_s"].is_null() && lost["fence"].is_null(), "{lost}");
    let renewed = house.dflock(&["renew", "job"]).code(79);
    assert!(renewed.err.contains(why), "{renewed:?}");
    let released = house.dflock(&["release", "job"]).code(79);
    assert!(released.err.starts_with("dflock: job is not held any more: ") && released.err.contains(why));
    assert!(house.holder_pids().is_empty());
    house.dflock(&["release", "job"]).code(79);
}

#[test]
fn a_cut_connection_is_come_back_to() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    let token = house.dflock(&["acquire", "job"]).ok().to_owned();
    let fence = holder(&house)["fence"].clone();
    // Whoever waits is served in any moment in which it is free.
    let mut next = server.connect();
    next.send(b"l\njob\n60\n");
    let waits = |count: u64| server.stats()["locks"][0]["waiters"] == count;
    wait_for("the next to wait", || waits(1).then_some(()));
    for round in 0..5 {
        let before = proxy.passed();
        proxy.cut();
        wait_for("a new connection", || (proxy.passed() > before).then_some(()));
        let again = wait_for_state(&house, "held");
        assert_eq!(again["fence"], fence, "round {round}");
    }
    assert!(waits(1), "it was never free");
    assert_eq!(server.connect().ask("n", "job", &format!("{token} 33")), "ok 33");
    house.dflock(&["release", "job"]).ok();
    assert!(next.line().starts_with("ok "));
}

#[test]
fn a_server_that_cannot_be_reached_for_a_while_is_come_back_to() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    let token = house.dflock(&["acquire", "job"]).ok().to_owned();
    proxy.refuse(true);
    proxy.cut();
    let danger = wait_for_state(&house, "in_danger");
    assert_ne!(danger["why"], Value::Null);
    proxy.refuse(false);
    wait_for_state(&house, "held");
    assert_eq!(server.connect().ask("n", "job", &format!("{token} 33")), "ok 33");
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn a_silent_wire_loses_the_lock_in_time() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    let begin = now();
    house.dflock(&["acquire", "job", "-l", "3"]).ok();
    proxy.swallow(true);
    wait_for_state(&house, "lost");
    eprintln!("a lease of 3 s over a silent wire: lost after {:?}", begin.elapsed());
    assert_lost(&house, "it could not be renewed in time");
}

#[test]
fn a_release_over_a_silent_wire_ends() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    house.dflock(&["acquire", "job", "-l", "60"]).ok();
    proxy.swallow(true);
    let begin = now();
    let said = house.dflock(&["release", "job"]);
    eprintln!("release over a silent wire: {} after {:?}: {}", said.code, begin.elapsed(), said.err);
    assert_ne!(said.code, 0, "nobody knows whether it was released");
    assert!(
        !said.err.contains("does not answer") || said.err.contains("server"),
        "the holder is not to blame: {said:?}"
    );
    house.wait_until_nobody_holds();
    assert!(begin.elapsed() < CEILING, "long before its lease");
}

#[test]
fn a_release_while_the_server_is_away_ends() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    house.dflock(&["acquire", "job", "-l", "60"]).ok();
    proxy.refuse(true);
    proxy.cut();
    wait_for_state(&house, "in_danger");
    let begin = now();
    let said = house.dflock(&["release", "job"]);
    eprintln!("release from a server that is away: {} after {:?}: {}", said.code, begin.elapsed(), said.err);
    assert_ne!(said.code, 0, "nobody knows whether it was released");
    assert!(!said.err.contains("does not answer"), "the holder is not to blame: {said:?}");
    house.wait_until_nobody_holds();
}

#[test]
fn a_holder_whose_renewal_hangs_still_answers() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    house.dflock(&["acquire", "job", "-l", "60"]).ok();
    proxy.swallow(true);
    let said = house.dflock(&["renew", "job"]);
    assert_ne!(said.code, 0);
    assert_eq!(house.holders().len(), 1, "it is still there, and says so");
    proxy.swallow(false);
    wait_for_state(&house, "held");
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn an_owner_that_ends_while_the_wire_is_silent_takes_its_holder_along() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    let mut script =
        house.start_script("sh", "dflock acquire job -l 100 >/dev/null; echo >ready; read x; dflock renew job");
    house.wait_for_file("ready");
    proxy.swallow(true);
    script.go_on();
    assert_ne!(script.finish().code, 0);
    house.wait_until_nobody_holds();
    // The server keeps it for coming back; only the lease ends that, or the wire when it speaks again.
    proxy.swallow(false);
}

#[test]
fn a_frozen_server_loses_the_lock_in_time() {
    let house = House::new();
    let begin = now();
    house.dflock(&["acquire", "job", "-l", "3"]).ok();
    house.server().signal("STOP");
    wait_for_state(&house, "lost");
    eprintln!("a lease of 3 s on a frozen server: lost after {:?}", begin.elapsed());
    house.server().signal("CONT");
    assert_lost(&house, "it could not be renewed in time");
    house.wait_until_free("job");
}

#[test]
fn a_server_frozen_for_less_than_the_lease_is_waited_for() {
    let house = House::new();
    let token = house.dflock(&["acquire", "job", "-l", "20"]).ok().to_owned();
    house.server().signal("STOP");
    // The first renewal comes after a third of the lease, and gets no answer for two seconds.
    let danger = wait_for_state(&house, "in_danger");
    assert!(danger["lease_left_s"].as_f64().unwrap() > 0.0, "{danger}");
    house.server().signal("CONT");
    wait_for_state(&house, "held");
    assert_eq!(house.dflock(&["renew", "job", &token]).ok(), "20");
}

#[test]
fn a_killed_server_loses_the_lock() {
    let mut house = House::new();
    house.dflock(&["acquire", "job", "-l", "2"]).ok();
    house.server().signal("KILL");
    house.server_mut().wait();
    assert_lost(&house, "it could not be renewed in time");
}

#[test]
fn a_server_that_forgot_everything_loses_the_lock_at_once() {
    let (old, new) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::to(&old.address);
    let house = House::at(&proxy.address);
    house.dflock(&["acquire", "job", "-l", "60"]).ok();
    proxy.point_to(&new.address);
    let begin = now();
    drop(old);
    proxy.cut();
    wait_for_state(&house, "lost");
    // Far from the end of its lease.
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_lost(&house, "the server says that its lease has ended");
    house.dflock(&["acquire", "job", "-n"]).ok();
}

#[test]
fn a_holder_that_slept_past_its_lease_knows_it_when_it_wakes() {
    let house = House::new();
    let taken = house.dflock(&["acquire", "job", "-l", "1", "--json"]).json();
    let pid = u32::try_from(taken["holder_pid"].as_u64().unwrap()).unwrap();
    crate::house::signal(pid, "STOP");
    let mut next = house.server().connect();
    next.take("job", "20 60");
    crate::house::signal(pid, "CONT");
    assert_lost(&house, "");
    assert!(house.is_held("job"), "the next one's is left alone");
}
