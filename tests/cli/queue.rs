//! Waiting: in two phases, and leaving the queue by a signal, a limit or an owner's end.

use std::fs;
use std::time::Duration;

use crate::house::clean::{House, Running};
use crate::house::{now, wait_for};

/// Waits until a `dflock wait` has asked its holder and sleeps until the answer comes.
fn wait_until_it_waits(running: &Running) {
    let sleeps = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.pid)).unwrap_or_default();
        let has_socket = fs::read_dir(format!("/proc/{}/fd", running.pid)).is_ok_and(|files| {
            files.flatten().any(|file| {
                let number: u32 = file.file_name().to_string_lossy().parse().unwrap_or(0);
                number > 2 && fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
            })
        });
        has_socket && stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    let mut times = 0;
    wait_for("it to wait", || {
        times = if sleeps() { times + 1 } else { 0 };
        (times > 20).then_some(())
    });
}

#[test]
fn a_free_lock_is_acquired_by_enqueueing() {
    let house = House::new();
    let said =
        house.script("sh", "dflock enqueue job; echo work; dflock wait job; dflock holders --json; dflock release job");
    let lines: Vec<String> = said.masked().lines().map(str::to_owned).collect();
    assert_eq!(lines[..3], ["acquired TOKEN", "work", "TOKEN"], "{said:?}");
    let first = said.out.lines().next().unwrap().strip_prefix("acquired ").unwrap();
    assert_eq!(said.out.lines().nth(2).unwrap(), first, "the same token");
    house.wait_until_nobody_holds();
    assert!(!house.is_held("job"));
}

#[test]
fn a_busy_lock_is_waited_for_after_other_work() {
    for (sem, verbs) in [(false, &[][..]), (true, &["sem"][..])] {
        let house = House::new();
        let limit: &[&str] = if sem { &["--limit", "1"] } else { &[] };
        let run = |args: &[&str]| house.dflock(&[verbs, args, limit].concat());
        let token = run(&["acquire", "job"]).ok().to_owned();
        let prefix = if sem { "sem" } else { "" };
        let suffix = limit.join(" ");
        let mut script = house.start_script(
            "bash",
            &format!(
                "dflock {prefix} enqueue job {suffix} >queued
                read line
                dflock {prefix} wait job {suffix} -w 60 >granted || exit
                dflock {prefix} release job {suffix}; echo $? >released"
            ),
        );
        assert_eq!(house.wait_for_file("queued"), "queued\n");
        let holders = house.holders();
        assert_eq!(holders.iter().filter(|holder| holder["state"] == "waiting").count(), 1, "{holders:?}");
        run(&["release", "job", &token]).ok();
        // The turn comes while the script works.
        wait_for("the turn", || (house.holders()[0]["state"] == "held").then_some(()));
        script.go_on();
        let granted = house.wait_for_file("granted");
        assert!(granted.len() == 33 && granted.trim() != token, "{granted:?}");
        assert_eq!(house.wait_for_file("released"), "0\n");
        script.finish().code(0);
        assert!(house.holder_pids().is_empty() && !house.is_held("job"));
    }
}

#[test]
fn a_wait_prints_the_token_when_the_lock_is_released() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    assert_eq!(house.dflock(&["enqueue", "job"]).ok(), "queued");
    let waits = house.start(&["wait", "job", "-w", "60"]);
    wait_until_it_waits(&waits);
    house.dflock(&["release", "job"]).ok();
    assert_eq!(waits.finish().masked(), "TOKEN\n");
    assert_eq!(house.dflock(&["wait", "job"]).masked(), "TOKEN\n", "asked again it says it again");
    house.dflock(&["release", "job"]).ok();
    assert!(!house.is_held("job"));
}

#[test]
fn a_wait_that_is_over_gives_the_place_up() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    for limit in [&["-w", "0.2"][..], &["-n"], &["-w", "0"]] {
        assert_eq!(house.dflock(&["enqueue", "job"]).ok(), "queued");
        let said = house.dflock(&[&["wait", "job"], limit].concat()).code(75);
        assert!(said.err.contains("place in its queue is given up"), "{said:?}");
        house.wait_for_waiters("job", 0);
        wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
    }
    house.dflock(&["release", "job"]).ok();
    house.dflock(&["wait", "job"]).code(79);
}

#[test]
fn a_wait_without_an_enqueue_is_not_held() {
    let house = House::new();
    let said = house.dflock(&["wait", "job"]).code(79);
    assert!(said.err.starts_with("dflock: no holder of yours has job\n"), "{said:?}");
    house.dflock(&["sem", "wait", "job", "--limit", "2"]).code(79);
    // A lock is no slot.
    house.dflock(&["enqueue", "job"]).ok();
    house.dflock(&["sem", "wait", "job", "--limit", "2"]).code(79);
}

#[test]
fn a_killed_wait_leaves_the_queue() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("KILL", 137)] {
        assert_eq!(house.dflock(&["enqueue", "job"]).ok(), "queued");
        let waits = house.start(&["wait", "job", "-w", "forever"]);
        wait_until_it_waits(&waits);
        waits.signal(name);
        waits.finish().code(code);
        house.wait_for_waiters("job", 0);
        wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
    }
}

#[test]
fn an_interrupted_acquire_leaves_the_queue() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("KILL", 137)] {
        let waits = house.start(&["acquire", "job", "-w", "forever"]);
        house.wait_for_waiters("job", 1);
        waits.signal(name);
        assert_eq!(waits.finish().code(code).out, "");
        house.wait_for_waiters("job", 0);
        wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
    }
}

#[test]
fn an_acquire_killed_in_the_moment_of_its_grant_leaves_nothing_untold() {
    let house = House::new();
    let (mut told, mut untold) = (0, 0);
    for round in 0..60 {
        let mut other = house.server().connect();
        let token = other.take("job", "10 30");
        let waits = house.start(&["acquire", "job", "-w", "forever"]);
        house.wait_for_waiters("job", 1);
        other.ask("r", "job", &token);
        // A little later each time: somewhere in these steps it is granted, told and printed.
        let begin = now();
        while begin.elapsed() < Duration::from_micros(round * 10) {
            std::hint::spin_loop();
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(waits.pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        if waits.finish().out.is_empty() {
            // Nobody knows the token: the lock must not stay with a shell that lives on.
            untold += 1;
            house.wait_until_nobody_holds();
            // A connection that closes is noticed a moment later.
            house.wait_until_free("job");
        } else {
            told += 1;
            // Killed between printing and thanking, it has left nothing either: the token is of no use then.
            let said = house.dflock(&["release", "job"]);
            assert!(matches!(said.code, 0 | 79), "{said:?}");
            house.wait_until_free("job");
        }
    }
    eprintln!("{told} had printed their token before they were killed, {untold} had not");
}

#[test]
fn an_owner_that_ends_leaves_the_queue() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    let said = house.script("sh", "dflock enqueue job");
    assert_eq!(said.ok(), "queued");
    house.wait_for_waiters("job", 0);
    wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
}
