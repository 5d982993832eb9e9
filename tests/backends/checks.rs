//! What every backend must do. Each check uses keys of its own.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::{now, wait_for};

const TAKE: [&str; 4] = ["--owner", "none", "--max-hold", "120s"];

/// `dflock acquire KEY` by nobody in particular; returns the token.
fn acquire(house: &House, key: &str, more: &[&str]) -> String {
    let args = [&["acquire", key], &TAKE[..], more].concat();
    house.dflock(&args).ok().to_owned()
}

pub(crate) fn acquire_and_release(house: &House) {
    let token = acquire(house, "take", &[]);
    assert_eq!(token.len(), 32, "{token}");
    assert!(house.is_held("take"));
    house.dflock(&["release", "take", &token]).ok();
    assert!(!house.is_held("take"));
    let said = house.dflock(&["exec", "take", "--", "sh", "-c", "echo $DFLOCK_KEY $DFLOCK_TOKEN $DFLOCK_FENCE"]);
    let words: Vec<&str> = said.ok().split(' ').collect();
    assert_eq!((words[0], words[1].len()), ("take", 32), "{said:?}");
    words[2].parse::<u64>().expect("a fence");
    assert!(!house.is_held("take"), "released before it ended");
    // The same name is another thing as a semaphore, and keys do not reach into each other.
    acquire(house, "take", &[]);
    for (key, limit) in [("take/deeper", None), ("tak", None), ("take%2Fdeeper", None), ("take", Some("2"))] {
        let mut args = vec!["exec", "-n", key];
        args.extend(limit.map(|limit| ["--limit", limit]).into_iter().flatten());
        args.extend(["--", "true"]);
        house.dflock(&args).ok();
    }
}

pub(crate) fn busy(house: &House) {
    acquire(house, "busy", &[]);
    let said = house.dflock(&["exec", "-n", "busy", "--", "touch", "child"]).code(75);
    assert!(said.err.contains("is held by somebody else"), "{said:?}");
    house.dflock(&["exec", "-w", "0", "-E", "9", "busy", "--", "touch", "child"]).code(9);
    let document = house.dflock(&["acquire", "-n", "busy", "--json"]).code(75).json();
    assert_eq!(document["error"], "busy");
    assert!(!house.path("child").exists());
    assert_eq!(house.waiters("busy"), 0, "whoever goes leaves nothing behind");
}

pub(crate) fn timeout(house: &House) {
    acquire(house, "late", &[]);
    let begin = now();
    house.dflock(&["exec", "-w", "0.4", "late", "--", "true"]).code(75);
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    assert_eq!(house.waiters("late"), 0);
}

pub(crate) fn first_come_first_served(house: &House) {
    const MANY: u64 = 20;
    let token = acquire(house, "line", &[]);
    let waiting: Vec<_> = (0..MANY)
        .map(|number| {
            let running = house.start(&["exec", "-w", "forever", "line", "-c", &format!("echo {number} >> log")]);
            house.wait_for_waiters("line", number + 1);
            running
        })
        .collect();
    house.dflock(&["release", "line", &token]).ok();
    for running in waiting {
        running.finish().ok();
    }
    let expected: Vec<String> = (0..MANY).map(|number| number.to_string()).collect();
    assert_eq!(house.read("log").lines().collect::<Vec<_>>(), expected);
}

pub(crate) fn semaphore(house: &House) {
    let slot =
        |house: &House| house.dflock(&[&["sem", "acquire", "slots", "--limit", "2"], &TAKE[..], &["-n"]].concat());
    let first = slot(house).ok().to_owned();
    slot(house).ok();
    slot(house).code(75);
    for limit in ["3", "1"] {
        for wait in ["0", "5"] {
            let said = house.dflock(&["exec", "--limit", limit, "-w", wait, "slots", "--", "true"]).code(76);
            assert!(said.err.contains("limit"), "{said:?}");
        }
    }
    // Three wait; each goes when a slot is given back, in their order.
    let waiting: Vec<_> = (0..3)
        .map(|number| {
            let script = format!("echo {number} >> slots");
            let running = house.start(&["exec", "-w", "forever", "--limit", "2", "slots", "-c", &script]);
            let waiters = || house.dflock(&["status", "slots", "--json"]).json()["semaphore"]["waiters"].as_u64();
            wait_for("a waiter for a slot", || (waiters() == Some(number + 1)).then_some(()));
            running
        })
        .collect();
    house.dflock(&["sem", "release", "slots", &first, "--limit", "2"]).ok();
    for running in waiting {
        running.finish().ok();
    }
    assert_eq!(house.read("slots"), "0\n1\n2\n");
}

/// Nor may others come beside one who thinks that he is alone.
pub(crate) fn semaphore_of_one(house: &House) {
    let token = house.dflock(&[&["sem", "acquire", "single", "--limit", "1"], &TAKE[..]].concat()).ok().to_owned();
    for wait in ["0", "5"] {
        let said = house.dflock(&["exec", "--limit", "2", "-w", wait, "single", "--", "true"]).code(76);
        assert!(said.err.contains("limit"), "{said:?}");
    }
    let next = house.start(&["exec", "--limit", "1", "-w", "forever", "single", "true"]);
    let waiters = || house.dflock(&["status", "single", "--json"]).json()["semaphore"]["waiters"].as_u64();
    wait_for("a waiter for the slot", || (waiters() == Some(1)).then_some(()));
    house.dflock(&["sem", "release", "single", &token, "--limit", "1"]).ok();
    next.finish().ok();
    // A lock of the same name is another thing.
    house.dflock(&["acquire", "single"]).ok();
    house.dflock(&["exec", "--limit", "2", "single", "true"]).ok();
    house.dflock(&["release", "single"]).ok();
}

pub(crate) fn renew(house: &House) {
    let token = acquire(house, "again", &["-l", "6"]);
    let left: f64 = house.dflock(&["renew", "again", &token]).ok().parse().expect("seconds");
    assert!(left > 3.0 && left <= 6.0, "{left}");
    let left: f64 = house.dflock(&["renew", "again", &token, "--lease", "4"]).ok().parse().expect("seconds");
    assert!(left > 2.0 && left <= 4.0, "{left}");
    // From a house that has no holder of it, with the token alone.
    let other = House::at(&house.servers);
    let left: f64 = other.dflock(&["renew", "again", &token, "--lease", "5"]).ok().parse().expect("seconds");
    assert!(left > 2.0 && left <= 5.0, "{left}");
    house.dflock(&["release", "again", &token]).ok();
    other.dflock(&["renew", "again", &token]).code(79);
}

pub(crate) fn lost_lock(house: &House) {
    let script = "echo $DFLOCK_TOKEN > token; echo $$ > child; exec sleep 100";
    let running = house.start(&["exec", "-l", "3", "lost", "-c", script]);
    house.wait_for_file("child");
    let token = house.read("token");
    House::at(&house.servers).dflock(&["release", "lost", token.trim()]).ok();
    let said = running.finish().code(79);
    assert!(said.err.contains("the lock was lost"), "{said:?}");
    let child = house.read("child");
    assert!(!std::path::Path::new(&format!("/proc/{}", child.trim())).exists(), "the child runs on");
}

pub(crate) fn release_by_token_from_elsewhere(house: &House) {
    let token = acquire(house, "elsewhere", &["-l", "3"]);
    let other = House::at(&house.servers);
    other.dflock(&["release", "elsewhere", &"1".repeat(32)]).code(79);
    assert!(house.is_held("elsewhere"));
    other.dflock(&["release", "elsewhere", &token]).ok();
    assert!(!house.is_held("elsewhere"));
    other.dflock(&["release", "elsewhere", &token]).code(79);
    // Its holder hears of it, and takes nobody else's lock for its own.
    acquire(&other, "elsewhere", &[]);
    let knows = || house.holders().iter().any(|holder| holder["key"] == "elsewhere" && holder["state"] == "lost");
    wait_for("the loss to be known", || knows().then_some(()));
    house.dflock(&["renew", "elsewhere", &token]).code(79);
    assert!(house.is_held("elsewhere"), "it is another's now");
}

pub(crate) fn two_phases(house: &House) {
    let enqueue = |json: &[&str]| house.dflock(&[&["enqueue", "turn"], &TAKE[..], json].concat());
    let said = enqueue(&[]);
    let first = said.ok().strip_prefix("acquired ").expect("the first one has it").to_owned();
    let second = House::at(&house.servers);
    let said = second.dflock(&[&["enqueue", "turn"], &TAKE[..]].concat());
    assert_eq!(said.ok(), "queued");
    let waiting = second.start(&["wait", "turn", "--timeout", "forever"]);
    house.dflock(&["release", "turn", &first]).ok();
    let token = waiting.finish().ok().to_owned();
    assert_ne!(token, first);
    assert!(second.is_held("turn"));
    second.dflock(&["release", "turn", &token]).ok();
    assert!(!house.is_held("turn"));
    // A place that is given up is free for the next one.
    acquire(house, "turn", &[]);
    let said = second.dflock(&[&["enqueue", "turn"], &TAKE[..]].concat());
    assert_eq!(said.ok(), "queued");
    second.dflock(&["wait", "turn", "--timeout", "0.2"]).code(75);
    house.wait_for_waiters("turn", 0);
}

pub(crate) fn fences_grow(house: &House) {
    let mut last = 0;
    for _ in 0..5 {
        let said = house.dflock(&["exec", "fence", "-c", "echo $DFLOCK_FENCE"]);
        let fence: u64 = said.ok().parse().expect("a fence");
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}

pub(crate) fn several_keys_all_or_nothing(house: &House) {
    house.dflock(&["exec", "several-a", "--also", "several-b", "--", "true"]).ok();
    acquire(house, "several-b", &[]);
    house.dflock(&["exec", "-w", "0.2", "several-a", "--also", "several-b", "--", "touch", "child"]).code(75);
    assert!(!house.path("child").exists());
    assert!(!house.is_held("several-a"), "what was taken is given back");
}

pub(crate) fn who_is_interrupted_leaves_the_queue(house: &House) {
    acquire(house, "leave", &["-l", "100"]);
    for signal in ["TERM", "INT", "HUP"] {
        let waiting = house.start(&["exec", "-l", "100", "-w", "forever", "leave", "--", "true"]);
        house.wait_for_waiters("leave", 1);
        waiting.signal(signal);
        let said = waiting.finish();
        assert!(said.code > 128, "{said:?}");
        // Long before its lease would end.
        house.wait_for_waiters("leave", 0);
    }
    // The same of a holder that still waits.
    let waiting = house.start(&["acquire", "-l", "100", "-w", "forever", "leave"]);
    house.wait_for_waiters("leave", 1);
    waiting.signal("TERM");
    waiting.finish();
    house.wait_for_waiters("leave", 0);
}

pub(crate) fn a_lock_outlives_its_command(house: &House) {
    house.dflock(&["exec", "-l", "5", "--min-hold", "1h", "min-hold", "--", "sh", "-c", "exit 3"]).code(3);
    house.dflock(&["exec", "-n", "min-hold", "true"]).code(75);
    let holders = house.holders();
    assert_eq!((holders.len(), holders[0]["state"].as_str()), (1, Some("held")), "{holders:?}");
    let pid = holders[0]["pid"].as_u64().expect("a pid").to_string();
    house.end_holder_of("min-hold");
    house.dflock(&["exec", "-n", "min-hold", "true"]).code(0);
    house.wait_until_nobody_holds();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "it ended");
}

pub(crate) fn guardian(house: &House) {
    let script = "echo $$ > child; trap '' TERM; while :; do sleep 0.1; done";
    let running = house.start(&["exec", "-l", "100", "guarded", "-c", script]);
    let child = house.wait_for_file("child");
    running.signal("KILL");
    // Long before the lease would end.
    let living = format!("grep -q '^State:.[^ZX]' /proc/{}/status && exit 9; exit 0", child.trim());
    house.dflock(&["exec", "-w", "20", "guarded", "-c", &living]).ok();
    drop(running);
}

pub(crate) fn reports(house: &House) {
    let token = acquire(house, "report/a", &["-l", "50"]);
    house.dflock(&[&["sem", "acquire", "report/b", "--limit", "3"], &TAKE[..]].concat()).ok();
    let waiting = house.start(&["exec", "-w", "forever", "report/a", "--", "true"]);
    house.wait_for_waiters("report/a", 1);
    let document = house.dflock(&["stats", "--key-prefix", "report/"]).json();
    let (lock, semaphore) = (&document["locks"][0], &document["semaphores"][0]);
    assert_eq!((lock["key"].as_str(), lock["waiters"].as_u64()), (Some("report/a"), Some(1)), "{document}");
    let left = lock["lease_expires_in_s"].as_f64().expect("a number");
    assert!(left > 20.0 && left <= 50.0, "{left}");
    assert_eq!(semaphore["key"], "report/b");
    assert_eq!((semaphore["limit"].as_u64(), semaphore["holders"].as_u64()), (Some(3), Some(1)));
    let none = house.dflock(&["stats", "--key-prefix", "report/x"]).json();
    assert_eq!((&none["locks"], &none["semaphores"]), (&serde_json::json!([]), &serde_json::json!([])));
    let line = house.dflock(&["status", "report/a"]);
    assert!(line.ok().contains("report/a: held by ") && line.ok().contains("1 waiting"), "{line:?}");
    house.dflock(&["release", "report/a", &token]).ok();
    waiting.finish().ok();
    assert!(house.dflock(&["status", "report/a"]).ok().contains("report/a: free"));
}

pub(crate) fn unsupported_says_so(house: &House) {
    let said = house.dflock(&["exec", "--servers", "gopher://there", "k", "--", "touch", "child"]).code(125);
    assert!(said.err.contains("gopher:// is not supported"), "{said:?}");
    let mixed = format!("{},{}", house.servers, if house.servers.contains("etcd") { "tls://a" } else { "etcd://a" });
    let said = house.dflock(&["exec", "--servers", &mixed, "k", "--", "touch", "child"]).code(125);
    assert!(said.err.contains("of one kind"), "{said:?}");
    assert!(!house.path("child").exists());
}
