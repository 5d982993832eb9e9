//! Members that die, freeze, and come back.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::house::clean::Running;
use crate::house::proxy::Proxy;
use crate::house::{now, wait_for};
use crate::own;

const NOBODY: [&str; 4] = ["--owner", "none", "--max-hold", "100s"];

/// While a command runs under its lock, each member in turn is killed and comes back.
#[test]
fn a_lock_outlives_every_member_in_turn() {
    let Some((etcd, house)) = own("a_lock_outlives_every_member_in_turn", 3) else { return };
    let go = house.gate("go");
    let running = house.start(&["exec", "-l", "15", "k", "-c", "echo > up; read -r _ < go; exit 4"]);
    house.wait_for_file("up");
    let begin = now();
    for at in 0..3 {
        etcd.kill(at);
        wait_for("the others to serve", || (etcd.ctl(&["get", "x"]).code == 0).then_some(()));
        house.dflock(&["exec", "-w", "9", "other", "--", "true"]).ok();
        house.dflock(&["exec", "-n", "k", "--", "true"]).code(75);
        etcd.launch(at);
        etcd.wait_until_ready();
    }
    // Longer than its lease.
    wait_for("the lease to have been renewed", || (begin.elapsed() > Duration::from_secs(16)).then_some(()));
    go.open();
    running.finish().code(4);
}

#[test]
fn a_frozen_leader_delays_but_loses_nothing() {
    let Some((etcd, house)) = own("a_frozen_leader_delays_but_loses_nothing", 3) else { return };
    let token = house.dflock(&[&["acquire", "k", "-l", "12"], &NOBODY[..]].concat()).ok().to_owned();
    let waiting = house.start(&["exec", "-l", "12", "-w", "forever", "k", "-c", "echo mine"]);
    house.wait_for_waiters("k", 1);
    let leader = etcd.wait_for_leader();
    etcd.signal(leader, Signal::SIGSTOP);
    let begin = now();
    // Within its 2 s a release may find no leader. Then it says so, and the lease ends by itself.
    let said = house.dflock(&["release", "k", &token]);
    assert!(matches!(said.code, 0 | 69), "{said:?}");
    assert_eq!(waiting.finish().ok(), "mine");
    println!("handed over past a frozen leader in {:?}", begin.elapsed());
    house.dflock(&["exec", "-w", "10", "k", "--", "true"]).ok();
    etcd.signal(leader, Signal::SIGCONT);
    house.dflock(&["exec", "-w", "10", "k", "--", "true"]).ok();
}

#[test]
fn without_a_quorum_nothing_starts_and_nothing_hangs() {
    let Some((etcd, house)) = own("without_a_quorum_nothing_starts_and_nothing_hangs", 3) else { return };
    let token = house.dflock(&[&["acquire", "held", "-l", "60"], &NOBODY[..]].concat()).ok().to_owned();
    // It cannot leave the queue without a quorum: its place ends with its lease.
    let waiting = house.start(&["exec", "-l", "20", "-w", "6", "held", "--", "touch", "child"]);
    let patient = house.start(&["exec", "-w", "50", "held", "-c", "echo mine"]);
    house.wait_for_waiters("held", 2);
    etcd.kill(0);
    etcd.kill(1);
    let begin = now();
    let said = house.dflock(&["exec", "-w", "3", "free", "--", "touch", "child"]).code(69);
    assert!(
        begin.elapsed() > Duration::from_secs(2) && begin.elapsed() < Duration::from_secs(9),
        "{:?}",
        begin.elapsed()
    );
    assert!(said.err.contains("cannot take free"), "{said:?}");
    house.dflock(&["exec", "-n", "free", "--", "touch", "child"]).code(69);
    house.dflock(&["status", "free"]).code(69);
    // Of this one it was known that somebody had it.
    waiting.finish().code(75);
    assert!(!house.path("child").exists());
    etcd.launch(0);
    etcd.launch(1);
    etcd.wait_until_ready();
    house.dflock(&["release", "held", &token]).ok();
    assert_eq!(patient.finish().ok(), "mine");
    house.dflock(&["exec", "-w", "10", "free", "--", "true"]).ok();
}

/// A command must not run on when nobody knows what became of its lock.
#[test]
fn a_lost_quorum_stops_the_command_before_its_lease_ends() {
    let Some((etcd, house)) = own("a_lost_quorum_stops_the_command_before_its_lease_ends", 3) else { return };
    let running = house.start(&["exec", "-l", "5", "k", "-c", "echo > up; exec sleep 100"]);
    house.wait_for_file("up");
    etcd.kill(0);
    etcd.kill(1);
    let begin = now();
    let said = running.finish().code(79);
    assert!(said.err.contains("could not be renewed"), "{said:?}");
    println!("from the loss of the quorum to the end: {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[test]
fn a_compacted_history_disturbs_nobody() {
    let Some((etcd, house)) = own("a_compacted_history_disturbs_nobody", 1) else { return };
    let token = house.dflock(&[&["acquire", "k"], &NOBODY[..]].concat()).ok().to_owned();
    let waiting = house.start(&["exec", "-w", "forever", "k", "-c", "echo mine"]);
    house.wait_for_waiters("k", 1);
    for number in 0..20 {
        etcd.ctl(&["put", "noise", &number.to_string()]).ok();
    }
    let status = etcd.ctl(&["endpoint", "status", "-w", "json"]);
    let document: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
    let revision = document[0]["Status"]["header"]["revision"].as_u64().expect("a revision");
    etcd.ctl(&["compact", &revision.to_string()]).ok();
    // The watches must be begun anew, from revisions that are no more.
    etcd.kill(0);
    etcd.launch(0);
    etcd.wait_until_ready();
    house.dflock(&["release", "k", &token]).ok();
    assert_eq!(waiting.finish().ok(), "mine");
}

/// The first member that is told to release obeys, and its answer comes too late: the next one knows of no lock.
#[test]
fn a_release_whose_answer_is_lost_is_no_loss() {
    let Some((etcd, house)) = own("a_release_whose_answer_is_lost_is_no_loss", 1) else { return };
    let address = etcd.servers().trim_start_matches("etcd://").to_owned();
    let ways: Vec<Proxy> = (0..4).map(|_| Proxy::to(&address)).collect();
    let members: Vec<&str> = ways.iter().map(|way| way.address.as_str()).collect();
    let go = house.gate("go");
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", format!("etcd://{}", members.join(",")));
    let running = Running::start(command.args(["exec", "k", "-c", "echo > up; read -r _ < go; exit 4"]));
    house.wait_for_file("up");
    // Of the two seconds there are each of the four has half a one.
    ways.iter().for_each(|way| way.delay(Duration::from_millis(350)));
    go.open();
    running.finish().code(4);
}
