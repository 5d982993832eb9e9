//! Several holders of one key at once: a command reaches the one it means, and no other.

use crate::house::clean::House;
use crate::house::wait_for;

const NO_TOKEN: &str = "00000000000000000000000000000000";

/// Makes the holder of a token lose its lock: the token is released behind its back.
fn lose(house: &House, release: &[&str]) {
    House::at(&house.servers).dflock(release).ok();
    wait_for("the loss", || house.holders().iter().any(|holder| holder["state"] == "lost").then_some(()));
}

#[test]
fn a_foreign_token_does_not_end_a_place_in_the_queue() {
    let there = House::new();
    let here = House::at(&there.servers);
    let token = there.dflock(&["acquire", "job"]).ok().to_owned();
    assert_eq!(here.dflock(&["enqueue", "job"]).ok(), "queued");
    here.dflock(&["release", "job", NO_TOKEN]).code(79);
    here.dflock(&["renew", "job", NO_TOKEN]).code(79);
    assert_eq!(here.holders()[0]["state"], "waiting");
    here.dflock(&["release", "job", &token]).ok();
    // What was released is the lock with that token, so the turn has come.
    assert_eq!(here.dflock(&["wait", "job", "-w", "20"]).masked(), "TOKEN\n");
    here.dflock(&["release", "job"]).ok();
    assert!(!here.is_held("job"));
}

#[test]
fn a_wait_is_not_answered_by_the_lock_of_another_script() {
    let house = House::new();
    let mut first = house.start_script("sh", "dflock acquire job >/dev/null; echo >ready; read x");
    house.wait_for_file("ready");
    // It never asked for the lock: it must not go on as if it had it.
    house.script("sh", "dflock wait job -n").code(79);
    // As in a loop around `wait`: the first one gives the place up, the second has none.
    let said = house.script("sh", "dflock enqueue job; dflock wait job -qn; echo $?; dflock wait job -n; echo $?");
    assert_eq!(said.ok(), "queued\n75\n79");
    first.go_on();
    first.finish();
}

#[test]
fn a_token_ends_its_own_slot_beside_a_lost_one() {
    let house = House::new();
    let a = house.dflock(&["sem", "acquire", "s", "--limit", "5", "-l", "2"]).ok().to_owned();
    lose(&house, &["sem", "release", "s", &a, "--limit", "5"]);
    let more: Vec<String> =
        (0..3).map(|_| house.dflock(&["sem", "acquire", "s", "--limit", "5"]).ok().to_owned()).collect();
    for token in &more {
        house.dflock(&["sem", "renew", "s", token, "--limit", "5"]).ok();
        house.dflock(&["sem", "release", "s", token, "--limit", "5"]).ok();
    }
    assert!(!house.is_held("s"));
    let holders = house.holders();
    assert_eq!(holders.len(), 1, "the lost one still says so: {holders:?}");
}

#[test]
fn a_lock_that_was_lost_and_taken_again_is_released() {
    let house = House::new();
    let old = house.dflock(&["acquire", "job", "-l", "2"]).ok().to_owned();
    lose(&house, &["release", "job", &old]);
    let new = house.dflock(&["acquire", "job", "-n"]).ok().to_owned();
    // Two holders have the key, but only one has the lock.
    house.dflock(&["renew", "job"]).ok();
    house.dflock(&["renew", "job", &new]).ok();
    house.dflock(&["release", "job"]).ok();
    assert!(!house.is_held("job"));
    house.dflock(&["release", "job"]).code(79);
    house.wait_until_nobody_holds();
}

#[test]
fn of_many_each_token_reaches_its_own() {
    let house = House::new();
    let limit = ["--limit", "20"];
    let tokens: Vec<String> =
        (0..12).map(|_| house.dflock(&[&["sem", "acquire", "s"][..], &limit].concat()).ok().to_owned()).collect();
    for (at, token) in tokens.iter().enumerate().rev() {
        house.dflock(&[&["sem", "release", "s", token][..], &limit].concat()).ok();
        let left = house.server().stats()["semaphores"][0]["holders"].as_u64().unwrap_or(0);
        assert_eq!(left, at as u64);
        assert_eq!(house.holder_pids().len(), at);
    }
}

#[test]
fn a_background_subshell_that_outlives_its_script_is_the_owner_then() {
    let house = House::new();
    // Under an init that adopts orphans below pid 1 (systemd --user, a container's shim), the foster parent
    // must not become the owner: it never ends. Here a shell that may adopt is played by a script of python.
    let text = "import ctypes, os, subprocess\n\
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n\
        subprocess.run(['sh', '-c', '( read x <go; dflock acquire job >token; echo >taken; read x <end ) & exit 0'])\n\
        open('go', 'w').write('\\n')\n\
        os.wait()\n\
        open('reaped', 'w').write('\\n')\n\
        input()\n";
    let (_go, end) = (house.gate("go"), house.gate("end"));
    if house.script("sh", "command -v python3").code != 0 {
        eprintln!("SKIPPED: there is no python3 here");
        return;
    }
    let script = house.start_script("python3", text);
    house.wait_for_file("taken");
    let owner = house.holders()[0]["owner_pid"].as_u64().unwrap();
    end.open();
    house.wait_for_file("reaped");
    assert_ne!(owner, u64::from(script.pid), "the foster parent");
    house.wait_until_nobody_holds();
    assert!(!house.is_held("job"));
    drop(script);
}
