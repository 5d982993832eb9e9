//! `etcdctl lock NAME` and dflock with `--etcd-prefix` exclude each other.

use crate::calm;
use crate::house::clean::Running;
use crate::house::wait_for;

const PREFIX: [&str; 2] = ["--etcd-prefix", "shared/"];

#[test]
fn etcdctl_waits_for_dflock() {
    let Some((etcd, house)) = calm("etcdctl_waits_for_dflock") else { return };
    house.dflock(&[&["acquire", "one", "--owner", "none", "--max-hold", "100s"], &PREFIX[..]].concat()).ok();
    let log = house.path("log").display().to_string();
    let mut command = etcd.ctl_command(&["lock", "shared/one", "--", "sh", "-c"]);
    let theirs = Running::start(command.arg(format!("echo etcdctl >> {log}")));
    wait_for("etcdctl to queue", || (etcd.keys("shared/one/").len() == 2).then_some(()));
    // Behind it comes another of ours.
    let ours = house.start(&[&["exec", "-w", "forever"], &PREFIX[..], &["one", "-c", "echo dflock >> log"]].concat());
    wait_for("dflock to queue", || (etcd.keys("shared/one/").len() == 3).then_some(()));
    assert_eq!(house.read("log"), "");
    house.end_holder_of("one");
    theirs.finish().ok();
    ours.finish().ok();
    assert_eq!(house.read("log"), "etcdctl\ndflock\n");
    assert_eq!(etcd.keys("shared/one/"), Vec::<String>::new());
}

#[test]
fn dflock_waits_for_etcdctl() {
    let Some((etcd, house)) = calm("dflock_waits_for_etcdctl") else { return };
    let go = house.gate("go");
    let (home, script) = (house.home.path().to_owned(), "echo > up; read -r _ < go; echo etcdctl >> log");
    let mut command = etcd.ctl_command(&["lock", "shared/two", "--", "sh", "-c", script]);
    let theirs = Running::start(command.current_dir(home));
    house.wait_for_file("up");
    let refused = house.dflock(&[&["exec", "-n"], &PREFIX[..], &["two", "true"]].concat()).code(75);
    assert!(refused.err.contains("held by somebody else"), "{refused:?}");
    let status = house.dflock(&[&["status", "two"], &PREFIX[..]].concat());
    assert!(status.ok().contains("two: held by somebody"), "{status:?}");
    let ours = house.start(&[&["exec", "-w", "forever"], &PREFIX[..], &["two", "-c", "echo dflock >> log"]].concat());
    wait_for("dflock to queue", || (etcd.keys("shared/two/").len() == 2).then_some(()));
    go.open();
    theirs.finish().ok();
    ours.finish().ok();
    assert_eq!(house.read("log"), "etcdctl\ndflock\n");
}

#[test]
fn what_would_reach_into_another_lock_is_refused() {
    let Some((etcd, house)) = calm("what_would_reach_into_another_lock_is_refused") else { return };
    let said = house.dflock(&[&["exec"], &PREFIX[..], &["a/b", "--", "touch", "child"]].concat()).code(125);
    assert!(said.err.contains("would reach into another lock"), "{said:?}");
    assert!(!house.path("child").exists());
    // Semaphores, which etcdctl does not have, are beside its locks.
    house
        .dflock(
            &[&["sem", "acquire", "a/b", "--limit", "2", "--owner", "none", "--max-hold", "9s"], &PREFIX[..]].concat(),
        )
        .ok();
    assert_eq!(etcd.keys("shared/dflock-semaphores/a%2Fb/").len(), 1);
    let document = house.dflock(&[&["stats"], &PREFIX[..]].concat()).json();
    assert_eq!(document["semaphores"][0]["key"], "a/b", "{document}");
}
