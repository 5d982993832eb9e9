//! Many who wait for one key: what a hand-off costs does not grow with them.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::calm;
use crate::house::clean::{House, Running, finish};
use crate::house::etcd::Etcd;
use crate::house::{observe, wait_for};

/// Requests of each hand-off among so many who wait, from the first release to the last.
fn requests_each(etcd: &Etcd, house: &House, key: &str, count: usize, limit: Option<&str>) -> f64 {
    let limit: Vec<&str> = limit.map(|limit| ["--limit", limit]).into_iter().flatten().collect();
    let go = house.gate(&format!("{key}.go"));
    // Leases so long that none is kept alive meanwhile.
    let flags = [&["exec", "-l", "2000", "-w", "forever"], limit.as_slice()].concat();
    let script = format!("read -r _ < {key}.go");
    let first = house.start(&[&flags[..], &[key, "-c", &script]].concat());
    let folder = format!("dflock/{}/{key}/", if limit.is_empty() { "lock" } else { "sem" });
    wait_for("the first one", || (etcd.keys(&folder).len() == 1).then_some(()));
    let log = format!("echo >> {key}.log");
    let others: Vec<Running> = (0..count).map(|_| house.start(&[&flags[..], &[key, "-c", &log]].concat())).collect();
    let waiting = || etcd.keys(&folder).len() == count + 1;
    if limit.is_empty() {
        wait_for("all of them in the queue", || waiting().then_some(()));
        // Their looks and watches have begun.
        let mut before = 0;
        wait_for("silence", || {
            let now = etcd.requests();
            let quiet = now == before;
            before = now;
            std::thread::park_timeout(std::time::Duration::from_millis(300));
            quiet.then_some(())
        });
    }
    let before = etcd.requests();
    go.open();
    first.finish().ok();
    for running in others {
        running.finish().ok();
    }
    assert_eq!(house.read(&format!("{key}.log")).lines().count(), count);
    (etcd.requests() - before) as f64 / (count + 1) as f64
}

#[test]
fn requests_of_a_hand_off_stay_the_same() {
    let Some((etcd, house)) = crate::own("requests_of_a_hand_off_stay_the_same", 1) else { return };
    let few = requests_each(&etcd, &house, "few", 10, None);
    let many = requests_each(&etcd, &house, "many", 200, None);
    println!("requests of a hand-off: {few:.1} of 10 who wait, {many:.1} of 200");
    assert!(many < few * 1.3 && many < 10.0, "{few} of 10, {many} of 200");
}

/// Slots go from hand to hand, in turns that nobody misses.
#[test]
fn a_crowd_passes_through_a_semaphore() {
    let Some((etcd, house)) = calm("a_crowd_passes_through_a_semaphore") else { return };
    const MANY: usize = 60;
    let script = "echo in >> crowd; sleep 0.02; echo out >> crowd";
    let all: Vec<Running> =
        (0..MANY).map(|_| house.start(&["exec", "-w", "forever", "--limit", "3", "crowd", "-c", script])).collect();
    for running in all {
        running.finish().ok();
    }
    let (mut inside, mut most) = (0i32, 0);
    for line in house.read("crowd").lines() {
        inside += if line == "in" { 1 } else { -1 };
        most = most.max(inside);
    }
    assert!(inside == 0 && most <= 3, "{most} at once");
    assert!(most >= 2, "slots were not used");
    assert_eq!(etcd.keys("dflock/sem/crowd/"), Vec::<String>::new());
}

/// One who is to leave for its other limit may be the eldest for a moment, and others like it come then.
#[test]
fn nobody_holds_beside_one_with_another_limit() {
    let Some((etcd, house)) = calm("nobody_holds_beside_one_with_another_limit") else { return };
    let key = |number: u32| format!("dflock/sem/mixed/{number:016x}");
    etcd.ctl(&["put", &key(0xa1), r#"{"limit":1}"#]).ok();
    etcd.ctl(&["put", &key(0xa2), r#"{"limit":2}"#]).ok();
    let come = |limit: &str, script: &str, keys: usize| {
        let running = house.start(&["exec", "--limit", limit, "-w", "forever", "mixed", "-c", script]);
        wait_for("a place in the queue", || (etcd.keys("dflock/sem/mixed/").len() == keys).then_some(()));
        running
    };
    let alone = come("1", "echo > alone; until [ -e go ]; do sleep 0.05; done", 3);
    etcd.ctl(&["del", &key(0xa1)]).ok();
    let other = come("2", "echo > other", 3);
    etcd.ctl(&["del", &key(0xa2)]).ok();
    wait_for("the turn of the first", || house.path("alone").exists().then_some(()));
    observe(Duration::from_millis(500), || {
        assert!(!house.path("other").exists(), "one with another limit holds beside it");
    });
    std::fs::write(house.path("go"), "").expect("written");
    alone.finish().ok();
    other.finish().ok();
    assert!(house.path("other").exists());
}

/// More keys than fit on one page.
#[test]
fn reports_are_whole_and_can_be_narrowed() {
    let Some((etcd, house)) = calm("reports_are_whole_and_can_be_narrowed") else { return };
    const MANY: usize = 1234;
    let all: Vec<usize> = (0..MANY).collect();
    for some in all.chunks(100) {
        let puts: String = some.iter().map(|at| format!("put dflock/lock/page%2F{at}/00000000000000ab x\n")).collect();
        let mut child = etcd.ctl_command(&["txn"]).stdin(Stdio::piped()).spawn().expect("etcdctl starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(format!("\n{puts}\n\n").as_bytes()).expect("it reads");
        drop(input);
        finish(child).ok();
    }
    let count = |prefix: &str| {
        let document = house.dflock(&["stats", "--key-prefix", prefix]).json();
        document["locks"].as_array().expect("a list").len()
    };
    assert_eq!(count("page/"), MANY);
    assert_eq!(count("page/12"), 1 + 10 + 34);
    assert_eq!(count("page"), MANY);
    assert_eq!(count("page%2F"), 0, "what is escaped is no other name");
    house.dflock(&["exec", "-n", "page/7", "--", "true"]).code(75);
}

#[test]
fn a_place_in_the_queue_has_a_number() {
    let Some((etcd, house)) = calm("a_place_in_the_queue_has_a_number") else { return };
    let join = |key: &str, limit: &[&str]| {
        let verb: &[&str] = if limit.is_empty() { &["enqueue"] } else { &["sem", "enqueue"] };
        let args = [verb, &[key, "-l", "20", "--owner", "none", "--max-hold", "60s", "--json"], limit].concat();
        house.dflock(&args).json()["position"].as_u64()
    };
    assert_eq!([(); 3].map(|()| join("number", &[])), [None, Some(1), Some(2)]);
    assert_eq!([(); 4].map(|()| join("number", &["--limit", "2"])), [None, None, Some(1), Some(2)]);
    let document = house.dflock(&["status", "number", "--json"]).json();
    let claims = document["semaphore"]["claims"].as_array().expect("all of them").clone();
    let states: Vec<_> = claims.iter().map(|one| (one["state"].as_str(), one["position"].as_u64())).collect();
    let (held, waiting) = (Some("held"), Some("waiting"));
    assert_eq!(states, [(held, Some(0)), (held, Some(0)), (waiting, Some(1)), (waiting, Some(2))]);
    assert!(claims.iter().all(|one| one["lease_left_s"].as_f64().is_some_and(|left| left > 5.0)), "{claims:?}");
    drop(house);
    wait_for("all of them to leave", || {
        (etcd.keys("dflock/lock/number/").is_empty() && etcd.keys("dflock/sem/number/").is_empty()).then_some(())
    });
}
