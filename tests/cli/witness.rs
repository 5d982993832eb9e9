//! Holders that are killed, stopped or told to end: the owner hears of it, and before anybody else has the lock.

use std::fs;
use std::time::Duration;

use crate::house::clean::{House, Running, TITLE};
use crate::house::original::Original;
use crate::house::{now, signal, wait_for};

/// A script that has a lock; it writes a line each time it is told that it lost that, and ends when `go` is there.
fn owner(house: &House, flags: &str) -> (Running, u32) {
    let script = house.start_script(
        "bash",
        &format!(
            "trap 'echo lost >>lost' USR1
            dflock acquire job --signal-on-lost USR1 {flags} --json >taken || exit
            until [ -e go ]; do sleep 0.02; done"
        ),
    );
    let taken = house.wait_for_file("taken");
    let taken: serde_json::Value = serde_json::from_str(&taken).expect("an answer");
    (script, u32::try_from(taken["holder_pid"].as_u64().expect("a pid")).expect("a pid"))
}

/// The process beside a holder.
fn witness_of(holder: u32) -> Option<u32> {
    witnesses_of(holder).pop()
}

fn witnesses_of(holder: u32) -> Vec<u32> {
    let title = format!("guardian of process {holder}");
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(title.as_bytes())))
        .collect()
}

fn is_told(house: &House) {
    wait_for("the signal", || (house.read("lost") == "lost\n").then_some(()));
}

/// It ends, and is not told again.
fn ends(house: &House, script: Running) {
    fs::write(house.path("go"), "").expect("the sign is given");
    script.finish();
    assert_eq!(house.read("lost"), "lost\n");
}

/// Ours would keep the lock for a while, the original frees it with the connection.
#[test]
fn a_killed_holder_leaves_the_lock_to_nobody_before_its_owner_has_stopped() {
    let original = Original::start(Duration::from_secs(60));
    for house in [House::new(), House::at(&original.address)] {
        let (script, holder) = owner(&house, "-l 600");
        signal(holder, "KILL");
        is_told(&house);
        // A window in which nobody may have it.
        let begin = now();
        while begin.elapsed() < Duration::from_secs(1) {
            house.dflock(&["exec", "-n", "job", "true"]).code(75);
        }
        ends(&house, script);
        is_free_again(&house, holder);
    }
}

fn is_free_again(house: &House, holder: u32) {
    house.dflock(&["exec", "-w", "20", "job", "true"]).code(0);
    wait_for("the end of the witness", || witness_of(holder).is_none().then_some(()));
}

#[test]
fn an_owner_that_ends_of_the_signal_frees_the_lock_with_that() {
    let house = House::new();
    let taken = "dflock acquire job -l 600 --signal-on-lost TERM --json >taken; until [ -e go ]; do sleep 0.02; done";
    let script = house.start_script("bash", taken);
    house.wait_for_file("taken");
    let next = house.start(&["exec", "-w", "60", "job", "echo", "mine"]);
    house.wait_for_waiters("job", 1);
    signal(house.holder_pids()[0], "KILL");
    assert_eq!(next.finish().ok(), "mine");
    script.finish().code(143);
}

#[test]
fn the_owner_of_a_stopped_holder_is_told_when_the_lease_can_be_over() {
    let house = House::new();
    let (script, holder) = owner(&house, "-l 2");
    signal(holder, "STOP");
    is_told(&house);
    // It finds out by itself what the owner knows already.
    signal(holder, "CONT");
    wait_for("the loss", || house.holders().iter().any(|holder| holder["state"] == "lost").then_some(()));
    ends(&house, script);
    house.wait_until_nobody_holds();
}

#[test]
fn a_killed_witness_is_followed_by_another() {
    let house = House::new();
    let (script, holder) = owner(&house, "-l 3");
    let first = wait_for("a witness", || witness_of(holder));
    signal(first, "KILL");
    wait_for("another one", || witness_of(holder).filter(|second| *second != first));
    signal(holder, "KILL");
    is_told(&house);
    ends(&house, script);
}

#[test]
fn a_holder_that_is_told_to_end_says_so() {
    for (flags, name) in [("-l 600", "TERM"), ("-l 600 --max-hold 500ms", "")] {
        let house = House::new();
        let (script, holder) = owner(&house, flags);
        if !name.is_empty() {
            signal(holder, name);
        }
        is_told(&house);
        house.wait_until_free("job");
        ends(&house, script);
    }
}

#[test]
fn whoever_gives_the_lock_back_is_told_nothing_and_leaves_nobody_behind() {
    let house = House::new();
    let (script, holder) = owner(&house, "-l 600");
    wait_for("its witness", || witness_of(holder));
    let taken: serde_json::Value = serde_json::from_str(&house.read("taken")).expect("an answer");
    house.dflock(&["release", "job", taken["token"].as_str().expect("a token")]).ok();
    wait_for("the end of the witness", || witness_of(holder).is_none().then_some(()));
    fs::write(house.path("go"), "").expect("the sign is given");
    script.finish().code(0);
    assert_eq!(house.read("lost"), "");
    // It is needed by those who want to be told.
    let plain = house.dflock(&["acquire", "other", "--json"]).json();
    let plain = u32::try_from(plain["holder_pid"].as_u64().expect("a pid")).expect("a pid");
    assert!(fs::read(format!("/proc/{plain}/cmdline")).is_ok_and(|line| line.starts_with(TITLE.as_bytes())));
    assert!(witness_of(plain).is_none());
}

/// It hears nothing, and nobody asks it to until the next renewal, which is minutes away.
#[test]
fn a_stopped_witness_is_followed_by_another_and_leaves_nobody_behind() {
    let house = House::new();
    let (script, holder) = owner(&house, "-l 600");
    let first = wait_for("a witness", || witness_of(holder));
    signal(first, "STOP");
    let begin = now();
    wait_for("another one", || witnesses_of(holder).into_iter().find(|second| *second != first));
    assert!(begin.elapsed() < Duration::from_secs(6), "it took {:?}", begin.elapsed());
    wait_for("the end of the stopped one", || {
        (!std::path::Path::new(&format!("/proc/{first}")).exists()).then_some(())
    });
    signal(holder, "KILL");
    is_told(&house);
    ends(&house, script);
}

/// It is stopped in the very moment at which it is needed.
#[test]
fn a_holder_that_ends_beside_a_stopped_witness_has_its_owner_told() {
    let house = House::new();
    let (script, holder) = owner(&house, "-l 600");
    signal(wait_for("a witness", || witness_of(holder)), "STOP");
    signal(holder, "TERM");
    is_told(&house);
    house.wait_until_free("job");
    ends(&house, script);
    wait_for("the end of the witness", || witnesses_of(holder).is_empty().then_some(()));
}
