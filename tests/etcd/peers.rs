//! What `etcdctl lock` gets wrong, each shown right.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::house::clean::{Running, finish};
use crate::house::{now, wait_for};
use crate::{calm, own};

/// etcdctl: the child runs on, somebody else has the lock, and the exit code is 0.
#[test]
fn a_lease_revoked_from_outside_stops_the_command() {
    let Some((etcd, house)) = calm("a_lease_revoked_from_outside_stops_the_command") else { return };
    let running = house.start(&["exec", "-l", "60", "revoked", "-c", "echo $$ > child; exec sleep 100"]);
    let child = house.wait_for_file("child");
    let begin = now();
    assert!(etcd.revoke_holder("revoked"));
    let said = running.finish().code(79);
    println!("from the revocation to dflock's end: {:?}", begin.elapsed());
    // Not at the next renewal, which is 20 s away.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(said.err.contains("the lock was lost"), "{said:?}");
    assert!(!std::path::Path::new(&format!("/proc/{}", child.trim())).exists());
}

/// The same of a key that somebody deletes.
#[test]
fn a_deleted_key_stops_the_command() {
    let Some((etcd, house)) = calm("a_deleted_key_stops_the_command") else { return };
    let running = house.start(&["exec", "-l", "60", "deleted", "-c", "echo $$ > child; exec sleep 100"]);
    house.wait_for_file("child");
    assert_eq!(etcd.ctl(&["del", "--prefix", "dflock/lock/deleted/"]).ok(), "1");
    running.finish().code(79);
}

/// etcdctl: hangs after the child has ended, and ignores TERM.
#[test]
fn when_etcd_is_gone_for_good_dflock_ends_with_its_command() {
    let Some((etcd, house)) = own("when_etcd_is_gone_for_good_dflock_ends_with_its_command", 3) else { return };
    let running = house.start(&["exec", "-l", "100", "gone", "-c", "echo > started; read -r _ < go; exit 7"]);
    let go = house.gate("go");
    house.wait_for_file("started");
    (0..3).for_each(|at| etcd.kill(at));
    go.open();
    let begin = now();
    let said = running.finish().code(7);
    println!("from the command's end to dflock's: {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(said.err.contains("may not have been given back"), "{said:?}");
}

#[test]
fn signals_input_and_codes_pass() {
    let Some((_, house)) = calm("signals_input_and_codes_pass") else { return };
    house.dflock(&["exec", "pass", "--", "sh", "-c", "exit 7"]).code(7);

    let trap = "trap 'exit 9' TERM; echo > ready; while :; do sleep 0.05; done";
    let running = house.start(&["exec", "pass", "-c", trap]);
    house.wait_for_file("ready");
    running.signal("TERM");
    running.finish().code(9);

    let mut command = house.command("dflock");
    command.args(["exec", "pass", "--", "cat"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("dflock starts");
    child.stdin.take().expect("a pipe").write_all(b"through\n").expect("it reads");
    assert_eq!(finish(child).ok(), "through");
}

#[test]
fn a_killed_waiter_leaves_with_its_lease_and_an_interrupted_one_at_once() {
    let Some((etcd, house)) = calm("a_killed_waiter_leaves_with_its_lease_and_an_interrupted_one_at_once") else {
        return;
    };
    house.dflock(&["acquire", "left", "--owner", "none", "--max-hold", "100s"]).ok();
    let waiter =
        |lease| Running::start(house.command("dflock").args(["exec", "-l", lease, "-w", "forever", "left", "true"]));
    let interrupted = waiter("100");
    house.wait_for_waiters("left", 1);
    interrupted.signal("TERM");
    interrupted.finish();
    assert_eq!(etcd.keys("dflock/lock/left/").len(), 1, "it left before it ended");
    let killed = waiter("2");
    house.wait_for_waiters("left", 1);
    killed.signal("KILL");
    killed.finish();
    wait_for("the end of its lease", || (etcd.keys("dflock/lock/left/").len() == 1).then_some(()));
}

/// A lock whose dflock was killed is released by the guardian, after the child, long before the lease ends.
#[test]
fn a_killed_dflock_frees_its_lock_after_its_command_is_gone() {
    let Some((etcd, house)) = calm("a_killed_dflock_frees_its_lock_after_its_command_is_gone") else { return };
    let running =
        house.start(&["exec", "-l", "200", "killed", "-c", "trap '' TERM; echo > up; while :; do sleep 0.05; done"]);
    house.wait_for_file("up");
    let begin = now();
    running.signal("KILL");
    wait_for("the key to go", || etcd.keys("dflock/lock/killed/").is_empty().then_some(()));
    println!("from the kill to the free lock: {:?}", begin.elapsed());
    let said = etcd.ctl(&["lease", "list"]);
    println!("{}", said.out);
}
