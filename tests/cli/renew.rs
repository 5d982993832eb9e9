//! A renewal never shortens what somebody relies on, unless a shorter lease is asked for by name.

use crate::house::clean::{House, Said, finish};
use crate::house::original::Original;
use crate::house::{Server, signal, wait_for};

/// What the original heard of renewals of `job`: the lease of each, or nothing where none was sent.
fn renewals(original: &Original) -> Vec<Option<String>> {
    let heard = original.heard();
    let renewals = heard.iter().filter_map(|line| line.strip_prefix("n job ").or(line.strip_prefix("sn slots ")));
    renewals.map(|rest| rest.split_once(' ').map(|(_, lease)| lease.to_owned())).collect()
}

fn with(house: &House, variables: &[(&str, &str)], args: &[&str]) -> Said {
    let mut command = house.command("dflock");
    finish(command.envs(variables.iter().copied()).args(args).spawn().expect("dflock starts"))
}

#[test]
fn a_renewal_inside_a_job_sends_the_lease_of_the_job() {
    let original = Original::start(std::time::Duration::from_secs(60));
    let own = Server::start(&[]);
    for server in [&original.address, &own.address] {
        let house = House::at(server);
        let said = house.dflock(&["exec", "-l", "120", "job", "-c", "dflock renew job || exit"]);
        assert_eq!(said.ok(), "120", "{said:?}");
        let said = house.dflock(&["exec", "-l", "120", "job", "-c", "dflock renew job \"$DFLOCK_TOKEN\""]);
        assert_eq!(said.ok(), "120", "{said:?}");
        // Rounded up on the wire, as everywhere.
        let renew = "dflock sem renew --limit 2 slots";
        let said = house.dflock(&["exec", "-l", "40.5", "--limit", "2", "slots", "-c", renew]);
        assert_eq!(said.ok(), "41", "{said:?}");
    }
    let sent: Vec<_> = renewals(&original).into_iter().map(|lease| lease.expect("a lease")).collect();
    assert_eq!(sent, ["120", "120", "41"]);
}

/// The script's holder was killed: its lock is renewed by the token, for as long as before.
#[test]
fn a_renewal_after_acquire_sends_the_lease_of_the_lock() {
    let house = House::new();
    let script = "eval \"$(dflock acquire job -l 90 --export)\" || exit\necho >taken\nread line\ndflock renew job";
    let mut running = house.start_script("sh", script);
    house.wait_for_file("taken");
    let holder = house.holder_pids()[0];
    signal(holder, "KILL");
    wait_for("the holder's end", || house.holder_pids().is_empty().then_some(()));
    running.go_on();
    assert_eq!(running.finish().ok(), "90");
}

/// A variable that speaks of another lock says nothing of this one.
#[test]
fn only_the_lease_of_this_very_lock_is_sent() {
    let original = Original::start(std::time::Duration::from_secs(60));
    let (house, there) = (House::at(&original.address), House::at(&original.address));
    let token = house.dflock(&["acquire", "job", "-l", "90"]).ok().to_owned();
    let of_job = [("DFLOCK_KEY", "job"), ("DFLOCK_TOKEN", &*token), ("DFLOCK_LEASE", "90")];
    assert_eq!(with(&there, &of_job, &["renew", "job"]).ok(), "90");
    let of_another = [("DFLOCK_KEY", "other"), ("DFLOCK_TOKEN", &*token), ("DFLOCK_LEASE", "90")];
    with(&there, &of_another, &["renew", "job", &token]).ok();
    let of_nothing = [("DFLOCK_KEY", "job"), ("DFLOCK_TOKEN", "0123"), ("DFLOCK_LEASE", "90")];
    with(&there, &of_nothing, &["renew", "job", &token]).ok();
    assert_eq!(renewals(&original), [Some("90".to_owned()), None, None]);
    // One that cannot be read is no reason to fall back to the server's own, which may be less.
    let unreadable = [("DFLOCK_KEY", "job"), ("DFLOCK_TOKEN", &*token), ("DFLOCK_LEASE", "soon")];
    let said = with(&there, &unreadable, &["renew", "job"]).code(125);
    assert!(said.err.contains("DFLOCK_LEASE"), "{said:?}");
    assert_eq!(renewals(&original).len(), 3);
}

#[test]
fn a_shorter_lease_by_name_is_obeyed_where_nobody_relies_on_the_longer_one() {
    let house = House::new();
    let there = House::at(&house.servers);
    let token = house.dflock(&["acquire", "job", "-l", "90"]).ok().to_owned();
    let of_job = [("DFLOCK_KEY", "job"), ("DFLOCK_TOKEN", &*token), ("DFLOCK_LEASE", "90")];
    assert_eq!(with(&there, &of_job, &["renew", "job", "-l", "40"]).ok(), "40");
    // The holder learns of it, and stays within it.
    assert_eq!(house.dflock(&["renew", "job", "-l", "30"]).ok(), "30");
    assert_eq!(house.holders()[0]["lease_s"], 30.0);
    assert_eq!(house.dflock(&["renew", "job"]).ok(), "30");
}

/// The exec around the command counts on its lease, and would not hear of a shorter one.
#[test]
fn inside_a_job_a_shorter_lease_is_refused() {
    let house = House::new();
    let job = "dflock renew job -l 10; echo $?; dflock renew job -l 200; dflock renew job -l 60";
    let said = house.dflock(&["exec", "-l", "60", "job", "-c", job]);
    assert_eq!(said.ok(), "125\n200\n60", "{said:?}");
    assert!(said.err.contains("relies on its lease of 60s"), "{said:?}");
}
