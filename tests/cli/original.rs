//! Against a server with the manners of the original: no `info`, an idle cut, locks lost with their connection.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{Client, now, wait_for};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_verbs_work_there_too() {
    let original = Original::start(LONG);
    let house = House::at(&original.address);
    let token = house.dflock(&["acquire", "job", "-l", "40"]).ok().to_owned();
    assert_eq!(house.holders()[0]["fence"], serde_json::Value::Null, "its tokens are random");
    house.dflock(&["acquire", "job", "-n"]).code(75);
    house.dflock(&["acquire", "job", "-w", "0.3"]).code(75);
    assert_eq!(house.dflock(&["renew", "job", "-l", "50"]).ok(), "50");
    assert_eq!(house.dflock(&["status", "job", "--json"]).json()["state"], "held");
    assert_eq!(house.dflock(&["enqueue", "job"]).ok(), "queued");
    house.dflock(&["release", "job", &token]).ok();
    assert_eq!(house.dflock(&["wait", "job"]).masked(), "TOKEN\n");
    house.dflock(&["release", "job"]).ok();
    house.dflock(&["sem", "acquire", "s", "--limit", "2"]).ok();
    house.dflock(&["sem", "acquire", "s", "--limit", "3", "-n"]).code(76);
    house.dflock(&["sem", "release", "s", "--limit", "2"]).ok();
    let exported = house.script("sh", "eval \"$(dflock acquire x --export)\"; echo ${DFLOCK_FENCE-no} $DFLOCK_LEASE");
    assert_eq!(exported.ok(), "no 33");
    house.wait_until_nobody_holds();
    let stats = house.dflock(&["stats"]);
    assert_eq!(stats.json()["locks"].as_array().unwrap().len(), 0, "{stats:?}");
    // A renewal without a lease would set it to the default.
    let bare = original.heard().into_iter().find(|line| line.starts_with("n ") && line.split(' ').count() < 4);
    assert_eq!(bare, None);
}

#[test]
fn a_long_lease_is_kept_beyond_the_idle_cut() {
    let original = Original::start(Duration::from_secs(9));
    let house = House::at(&original.address);
    let token = house.dflock(&["acquire", "job", "-l", "120"]).ok().to_owned();
    let begin = now();
    let renewal = format!("n job {token} 120");
    let renewals = || original.heard().iter().filter(|line| **line == renewal).count();
    // Each comes after seven seconds at most: with the third, two cuts would have come.
    wait_for("three renewals", || (renewals() >= 3).then_some(()));
    eprintln!("three renewals in {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(15));
    assert_eq!(house.holders()[0]["state"], "held");
    assert_eq!(Client::connect(&original.address).ask("n", "job", &format!("{token} 120")), "ok 120");
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn a_wait_there_may_be_longer_than_the_idle_cut() {
    let original = Original::start(Duration::from_secs(2));
    let house = House::at(&original.address);
    let mut other = Client::connect(&original.address);
    let token = other.take("job", "10 60");
    let waits = house.start(&["acquire", "job", "-w", "60"]);
    let begin = now();
    // Kept alive by asking; the one that waits is not cut while it waits.
    wait_for("twice the cut", || {
        other.ask("n", "job", &format!("{token} 60"));
        (begin.elapsed() > Duration::from_secs(4)).then_some(())
    });
    other.ask("r", "job", &token);
    assert_eq!(waits.finish().masked(), "TOKEN\n");
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn a_broken_connection_is_a_lost_lock_there() {
    let original = Original::start(LONG);
    let proxy = Proxy::to(&original.address);
    let house = House::at(&proxy.address);
    house.dflock(&["acquire", "job", "-l", "120"]).ok();
    let mut next = Client::connect(&original.address);
    next.send(b"l\njob\n60 60\n");
    house.wait_for_waiters("job", 1);
    proxy.cut();
    assert!(next.line().starts_with("ok "), "it is the next one's");
    let lost = wait_for("the loss", || Some(house.holders().remove(0)).filter(|holder| holder["state"] == "lost"));
    assert_eq!(lost["key"], "job");
    house.dflock(&["renew", "job"]).code(79);
    house.dflock(&["release", "job"]).code(79);
    assert!(house.is_held("job"), "the next one's is left alone");
    let resumes = original.heard().into_iter().any(|line| line.starts_with("resume"));
    assert!(!resumes, "it never said that it can");
}

#[test]
fn an_idle_cut_that_comes_too_soon_is_a_lost_lock() {
    let original = Original::start(Duration::from_secs(1));
    let house = House::at(&original.address);
    let script = house.start_script(
        "bash",
        "trap 'echo lost >lost; kill $!' USR1
        dflock acquire job -l 60 --signal-on-lost USR1 >/dev/null
        sleep 60 & wait $!; dflock holders --json >holders; dflock release job; echo $? >code; read line",
    );
    assert_eq!(house.wait_for_file("code"), "79\n");
    let holders = house.read("holders");
    assert!(holders.contains("\"state\":\"lost\"") && holders.contains("cut it"), "{holders}");
    drop(script);
}

#[test]
fn a_killed_holder_frees_its_lock_at_once_there() {
    let original = Original::start(LONG);
    let house = House::at(&original.address);
    let taken = house.dflock(&["acquire", "job", "-l", "600", "--json"]).json();
    crate::house::signal(u32::try_from(taken["holder_pid"].as_u64().unwrap()).unwrap(), "KILL");
    house.wait_until_free("job");
    assert_eq!(house.holders().len(), 0);
}
