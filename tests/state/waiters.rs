//! Who waits while a server is killed or replaced: nobody notices, and everybody keeps their place.

use std::time::Duration;

use crate::house::clean::{House, Running};
use crate::house::proxy::Proxy;
use crate::house::{Client, now, wait_for};
use crate::kept::{Kept, resumable, token_of};

/// Starts commands that wait for `job` one after the other; each writes its number when it has it.
fn waiting(house: &House, kept: &Kept, count: u64, flags: &[&str]) -> Vec<Running> {
    let start = |number: u64| {
        let job = format!("echo {number} >>order");
        let running = house.start(&[&["exec"], flags, &["job", "-c", &job]].concat());
        wait_for_waiters(kept, number);
        running
    };
    (1..=count).map(start).collect()
}

fn waiters(kept: &Kept) -> u64 {
    waiters_of(kept, "job")
}

fn waiters_of(kept: &Kept, key: &str) -> u64 {
    let stats = kept.connect().stats();
    let locks = stats["locks"].as_array().expect("a list");
    locks.iter().find(|lock| lock["key"] == key).and_then(|lock| lock["waiters"].as_u64()).unwrap_or(0)
}

fn wait_for_waiters(kept: &Kept, count: u64) {
    wait_for(&format!("{count} waiters"), || (waiters(kept) == count).then_some(()));
}

/// Kills the server or tells it to stop, and starts another one in its place.
fn replace(kept: &mut Kept, proxy: &Proxy, how: &str) {
    if how == "KILL" {
        kept.kill()
    } else {
        drop(kept.stop())
    }
    let address = kept.start_again().address.clone();
    proxy.point_to(&address);
}

fn order(house: &House) -> Vec<u64> {
    house.read("order").lines().map(|line| line.parse().expect("a number")).collect()
}

/// Waits until so many clients are connected, besides whoever asks.
fn wait_for_clients(kept: &Kept, count: u64) {
    wait_for("all to be back", || (kept.connect().stats()["connections"].as_u64()? > count).then_some(()));
}

#[test]
fn those_who_wait_outlive_their_server_in_their_order() {
    for how in ["KILL", "TERM"] {
        let mut kept = Kept::start(&[]);
        let proxy = Proxy::to(&kept.server().address);
        let house = House::at(&proxy.address);
        let mut holder = kept.connect();
        let token = holder.take("job", "0 600");
        let all = waiting(&house, &kept, 5, &["-w", "60"]);
        for _ in 0..3 {
            replace(&mut kept, &proxy, how);
            wait_for_clients(&kept, 5);
            assert_eq!(waiters(&kept), 5);
        }
        assert_eq!(kept.connect().ask("r", "job", &token), "ok");
        for running in all {
            running.finish().ok();
        }
        assert_eq!(order(&house), [1, 2, 3, 4, 5], "{how}");
    }
}

#[test]
fn places_that_were_joined_before_outlive_it_too() {
    let mut kept = Kept::start(&[]);
    let proxy = Proxy::to(&kept.server().address);
    let house = House::at(&proxy.address);
    let mut holder = kept.connect();
    let token = holder.take("job", "0 600");
    let free = ["--owner", "none", "--max-hold", "10m", "--json"];
    let holders: Vec<u64> = (1..=3)
        .map(|number| {
            let joined = house.dflock(&[&["enqueue", "job"], &free[..]].concat()).json();
            assert_eq!(joined["state"], "queued", "{joined}");
            wait_for_waiters(&kept, number);
            joined["holder_pid"].as_u64().expect("a pid")
        })
        .collect();
    for how in ["KILL", "TERM"] {
        replace(&mut kept, &proxy, how);
        wait_for_clients(&kept, 3);
    }
    assert_eq!(kept.connect().ask("r", "job", &token), "ok");
    for (at, pid) in holders.iter().enumerate() {
        let state = |pid: u64| {
            let all = house.holders();
            all.iter().find(|holder| holder["pid"] == pid).map(|holder| holder["state"].clone()).unwrap_or_default()
        };
        wait_for("the turn", || (state(*pid) == "held").then_some(()));
        assert!(holders[at + 1..].iter().all(|later| state(*later) == "waiting"));
        crate::house::signal(u32::try_from(*pid).expect("a pid"), "TERM");
    }
}

#[test]
fn a_wire_that_is_cut_costs_no_place() {
    let mut kept = Kept::start(&[]);
    let proxy = Proxy::to(&kept.server().address);
    let (house, direct) = (House::at(&proxy.address), kept.server().address.clone());
    let mut holder = kept.connect();
    let token = holder.take("job", "0 600");
    let first = waiting(&house, &kept, 1, &["-w", "60"]);
    let second = house.start(&["exec", "-w", "60", "-s", &direct, "job", "-c", "echo 2 >>order"]);
    wait_for_waiters(&kept, 2);
    let came_back =
        || proxy.heard().iter().filter(|heard| !heard.from_client && heard.text.contains("queued ")).count();
    for _ in 0..3 {
        let before = came_back();
        proxy.cut();
        wait_for("the place to be back", || (came_back() > before).then_some(()));
    }
    wait_for_clients(&kept, 2);
    assert_eq!(kept.connect().ask("r", "job", &token), "ok");
    for running in first {
        running.finish().ok();
    }
    second.finish().ok();
    assert_eq!(order(&house), [1, 2]);
}

/// The server would keep the place of somebody whose connection is gone for a while.
#[test]
fn whoever_stops_waiting_leaves_at_once() {
    let kept = &mut Kept::start(&[]);
    let house = House::at(&kept.server().address);
    let mut holder = kept.connect();
    holder.take("job", "0 600");
    let ends: [(&str, &[&str], i32); 3] =
        [("TERM", &["-w", "60"], 143), ("INT", &["-w", "60"], 130), ("", &["-w", "1"], 75)];
    for (name, flags, code) in ends {
        let running = house.start(&[&["exec"], flags, &["job", "true"]].concat());
        wait_for_waiters(kept, 1);
        let begin = now();
        if !name.is_empty() {
            running.signal(name);
        }
        running.finish().code(code);
        wait_for_waiters(kept, 0);
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}: {:?}", begin.elapsed());
    }
    // A holder's too, whoever ends it.
    let acquiring = house.start(&["acquire", "-w", "60", "job"]);
    wait_for_waiters(kept, 1);
    acquiring.signal("TERM");
    acquiring.finish().code(143);
    let begin = now();
    wait_for_waiters(kept, 0);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    house.dflock(&["enqueue", "job"]).ok();
    wait_for_waiters(kept, 1);
    house.dflock(&["wait", "job", "-w", "0.1"]).code(75);
    let begin = now();
    wait_for_waiters(kept, 0);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

/// Killed it can say nothing. Its place may be kept for a while, but holds up nobody.
#[test]
fn a_killed_waiter_holds_up_nobody() {
    let mut kept = Kept::start(&[]);
    let house = House::at(&kept.server().address);
    for round in 0..10 {
        // A key of its own: the place of a killed one is counted for a while.
        let key = format!("job-{round}");
        let mut holder = kept.connect();
        let token = holder.take(&key, "0 600");
        let killed = house.start(&["exec", "-w", "60", &key, "sleep", "60"]);
        wait_for("a waiter", || (waiters_of(&kept, &key) == 1).then_some(()));
        let next = house.start(&["exec", "-w", "60", &key, "true"]);
        wait_for("another one", || (waiters_of(&kept, &key) == 2).then_some(()));
        killed.signal("KILL");
        drop(killed);
        let begin = now();
        assert_eq!(kept.connect().ask("r", &key, &token), "ok");
        next.finish().ok();
        assert!(begin.elapsed() < Duration::from_secs(8), "round {round}: {:?}", begin.elapsed());
    }
}

/// Joins the queue for `job`, on a connection whose place outlives it for so many seconds; returns the ticket, too.
fn queued(kept: &Kept, resume_s: u64) -> (Client, String) {
    let mut client = kept.connect();
    client.ask("info", "_", &format!("resume {resume_s}"));
    let answer = client.ask("e", "job", "600");
    assert!(answer.starts_with("queued "), "{answer}");
    (client, token_of(&answer))
}

/// Granted before the server sees that its client is gone, and seen before the client was told: a ticket leads back to
/// the place, but the lock is the next one's.
#[test]
fn a_grant_that_was_never_told_is_the_next_ones() {
    let mut kept = Kept::start(&[]);
    for _ in 0..10 {
        let mut holder = resumable(&kept);
        let token = holder.take("job", "0 600");
        let (mut gone, ticket) = queued(&kept, 60);
        gone.send(b"w\njob\n600\n");
        let mut next = kept.connect();
        next.send(b"l\njob\n600\n");
        wait_for_waiters(&kept, 2);
        kept.server().signal("STOP");
        wait_until_stopped(kept.server().pid());
        holder.send(format!("r\njob\n{token}\n").as_bytes());
        drop(gone);
        kept.server().signal("CONT");
        assert_eq!(holder.line(), "ok");
        let begin = now();
        let token = token_of(&next.line());
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        let mut later = kept.connect();
        later.send(b"l\njob\n600\n");
        wait_for_waiters(&kept, 2);
        let mut back = resumable(&kept);
        assert_eq!(back.ask("resume", "job", &ticket), format!("queued {ticket}"));
        back.send(b"w\njob\n600\n");
        assert_eq!(next.ask("r", "job", &token), "ok");
        let token = token_of(&back.line());
        assert_eq!(back.ask("r", "job", &token), "ok");
        let token = token_of(&later.line());
        assert_eq!(later.ask("r", "job", &token), "ok");
    }
}

/// All its threads: what is sent from now on is found together.
fn wait_until_stopped(pid: u32) {
    let is_stopped = |stat: String| stat.rsplit_once(')').is_some_and(|(_, tail)| tail.trim_start().starts_with('T'));
    wait_for("a server that stands still", || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
        threads.all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped)).then_some(())
    });
}

/// `w` says again what `e` has said already: to be gone then is no reason to take it back.
#[test]
fn a_grant_that_was_told_once_is_kept() {
    let kept = Kept::start(&[]);
    for _ in 0..10 {
        let mut owner = resumable(&kept);
        let said = owner.ask("e", "job", "60");
        let token = said.split(' ').nth(1).expect("a token").to_owned();
        owner.send(b"w\njob\n10\n");
        drop(owner);
        assert_eq!(kept.connect().ask("l", "job", "0"), "timeout");
        let mut back = resumable(&kept);
        assert!(back.ask("resume", "job", &format!("{token} 60")).starts_with("ok"), "it was agreed");
        assert_eq!(back.ask("r", "job", &token), "ok");
    }
}

fn is_silent(client: &Client) -> bool {
    client.stream().set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let heard = client.stream().peek(&mut [0]);
    client.stream().set_read_timeout(Some(crate::house::CEILING)).expect("a timeout");
    heard.is_err()
}

/// After a restart everybody has to come back, and some are quicker.
#[test]
fn whoever_is_not_back_yet_is_not_overtaken() {
    let mut kept = Kept::start(&[]);
    let mut holder = resumable(&kept);
    let token = holder.take("job", "0 600");
    let (_first, first) = queued(&kept, 60);
    let (_second, second) = queued(&kept, 60);
    let (_third, third) = queued(&kept, 2);
    kept.restart();
    let back = |ticket: &str| {
        let mut client = resumable(&kept);
        assert_eq!(client.ask("resume", "job", ticket), format!("queued {ticket}"));
        client.send(b"w\njob\n600\n");
        client
    };
    let mut second = back(&second);
    assert_eq!(kept.connect().ask("r", "job", &token), "ok");
    assert!(is_silent(&second), "the first one is still expected");
    assert_eq!(kept.connect().ask("l", "job", "0"), "timeout");
    let mut last = kept.connect();
    last.send(b"l\njob\n600\n");
    let mut first_again = resumable(&kept);
    let resumed = first_again.ask("resume", "job", &first);
    assert!(resumed.starts_with("acquired "), "{resumed}");
    let (mut first, token) = (first_again, token_of(&resumed));
    assert!(is_silent(&second));
    assert_eq!(first.ask("r", "job", &token), "ok");
    let token = token_of(&second.line());
    assert_eq!(second.ask("r", "job", &token), "ok");
    // The third one stays away: it is waited for as long as was agreed.
    assert!(last.line().starts_with("ok "));
    assert_eq!(last.ask("resume", "job", &third), "error");
}
