//! Overlap trials with a figure to each: how long after what, and never before.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::trials_checker::{check, spread};
use super::trials_fleet::{
    MANNERS, Manners, Process, Role, Stay, Tail, furnish, group_lives, has_life, processes, send, start,
};
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{CEILING, Client, Server, now, wait_for};

/// A busy machine is given this much more than the figure that is asked for.
const BUSY: Duration = Duration::from_secs(2);

const TIMES: u64 = 5;

/// Starts a run whose child stays; returns with its leader when the child writes.
fn start_and_wait(house: &House, server: &str, name: &str, manners: Manners, flags: &[&str]) -> (Running, Process) {
    let mut tail = Tail::of(house);
    let begin = now();
    loop {
        let running = start(house, server, name, 0, manners, flags);
        let leader = wait_for(&format!("the child of {name}"), || {
            tail.read();
            let mut jobs = processes(house, Some(name)).into_iter().filter(|one| one.role == Role::Job);
            let leader = jobs.find(|one| one.pid == one.group && tail.lines.iter().any(|line| line.name == name));
            (leader.is_some() || !has_life(running.pid)).then_some(leader)
        });
        if let Some(leader) = leader {
            return (running, leader);
        }
        // Where processor time is short, a short lease may be over before its child could begin.
        let said = running.finish();
        assert!([69, 79].contains(&said.code) && begin.elapsed() < CEILING, "{said:?}");
    }
}

/// When the last of a group was seen to be gone.
fn gone(group: i32) -> Instant {
    let begin = now();
    while group_lives(group) {
        assert!(begin.elapsed() < CEILING, "group {group} lives on");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    now()
}

#[expect(clippy::print_stdout, reason = "the figures")]
fn say(what: &str, times: &[Duration]) -> Duration {
    let (median, longest) = spread(times).expect("something was measured");
    println!("{what}: median {median:?}, max {longest:?} of {}", times.len());
    longest
}

/// Kills dflock again and again while a raw client waits for its lock.
fn kill_and_wait(house: &House, server: &str, what: &str) {
    let mut after = Vec::new();
    for time in 0..TIMES {
        for manners in MANNERS {
            let stay = Stay::in_house(house);
            let (running, leader) =
                start_and_wait(house, server, &format!("{manners:?}{time}"), manners, &["-l", "60"]);
            let mut client = Client::connect(server);
            client.send(b"l\nk\n30\n");
            let watch = std::thread::spawn(move || gone(leader.group));
            running.signal("KILL");
            let answer = client.line();
            let (granted, alive) = (now(), group_lives(leader.group));
            assert!(answer.starts_with("ok "), "{answer}");
            assert!(!alive, "the lock was free before its child was dead ({manners:?})");
            after.push(granted.saturating_duration_since(watch.join().expect("a watch")));
            assert_eq!(running.finish().code, 128 + 9);
            drop(stay);
            client.ask("r", "k", answer.split(' ').nth(1).expect("a token"));
        }
    }
    let longest = say(&format!("{what}: from the end of a killed dflock's child to the next grant"), &after);
    assert!(longest < BUSY, "the lock came free late");
}

#[test]
fn a_killed_dflock_frees_its_lock_after_its_child_is_dead_and_soon() {
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    furnish(&house);
    kill_and_wait(&house, &server.address, "our server");
}

#[test]
fn with_the_originals_manners_too() {
    let original = Original::start(Duration::from_secs(10));
    let house = House::at(&original.address);
    furnish(&house);
    kill_and_wait(&house, &original.address, "the original");
}

#[test]
fn a_proved_loss_ends_the_child_at_once_or_within_its_grace() {
    let original = Original::start(Duration::from_secs(10));
    let house = House::at(&original.address);
    furnish(&house);
    let proxy = Proxy::to(&original.address);
    for (manners, flags, grace) in [
        (Manners::Obeys, &["-l", "60"][..], Duration::from_millis(50)),
        (Manners::Deep, &["-l", "60"], Duration::from_millis(50)),
        (Manners::Stubborn, &["-l", "60"], Duration::from_secs(1)),
        (Manners::DeepStubborn, &["-l", "60", "--kill-after", "0.3"], Duration::from_millis(300)),
    ] {
        let mut times = Vec::new();
        for time in 0..TIMES {
            let stay = Stay::in_house(&house);
            let name = format!("{manners:?}{time}");
            let (running, leader) = start_and_wait(&house, &proxy.address, &name, manners, flags);
            let begin = now();
            proxy.cut();
            times.push(gone(leader.group) - begin);
            let said = running.finish();
            assert_eq!(said.code, 79, "{said:?}");
            drop(stay);
            wait_for("nobody to be left", || processes(&house, Some(&name)).is_empty().then_some(()));
        }
        let longest = say(&format!("{manners:?}: from a cut connection to the child's end (asked: {grace:?})"), &times);
        assert!(longest < grace + BUSY, "{manners:?} ran on");
    }
}

#[test]
fn a_cut_connection_to_our_server_is_resumed_and_the_child_never_knows() {
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    let proxy = Proxy::to(&server.address);
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", &proxy.address);
    command.args(["exec", "-l", "30", "k", "-c", "echo ready > ready; while [ ! -e go ]; do sleep 0.01; done; exit 7"]);
    let running = Running::start(&mut command);
    house.wait_for_file("ready");
    let mut waiting = server.connect();
    waiting.send(b"l\nk\n30\n");
    let mut times = Vec::new();
    for _ in 0..5 {
        // Resuming is agreed on as soon as the lock is there, and again after every cut.
        wait_for("a settled connection", || (server.stats()["connections"].as_u64() == Some(3)).then_some(()));
        let (passed, begin) = (proxy.passed(), now());
        proxy.cut();
        wait_for("another connection", || (proxy.passed() > passed).then_some(()));
        times.push(begin.elapsed());
        assert!(house.is_held("k"));
    }
    say("from a cut to the next connection", &times);
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let said = running.finish();
    assert_eq!((said.code, said.err.as_str()), (7, ""), "{said:?}");
    assert!(waiting.line().starts_with("ok "), "the next one has it now");
}

#[test]
fn a_black_hole_longer_than_the_lease_ends_the_child_before_the_lease_ends() {
    let _quiet = crate::quiet();
    let server = Server::start(&[]);
    let original = Original::start(Duration::from_secs(10));
    for address in [&server.address, &original.address] {
        let house = House::at(address);
        furnish(&house);
        let proxy = Proxy::to(address);
        let mut early = Vec::new();
        for manners in MANNERS {
            let stay = Stay::in_house(&house);
            let name = format!("{manners:?}");
            let (running, leader) = start_and_wait(&house, &proxy.address, &name, manners, &["-l", "2"]);
            let mut client = Client::connect(address);
            client.send(b"l\nk\n30\n");
            proxy.swallow(true);
            let watch = std::thread::spawn(move || gone(leader.group));
            let answer = client.line();
            let (granted, alive) = (now(), group_lives(leader.group));
            assert!(answer.starts_with("ok ") && !alive, "{answer} while the child lived ({manners:?})");
            early.push(granted.saturating_duration_since(watch.join().expect("a watch")));
            let said = running.finish();
            assert_eq!(said.code, 79, "{said:?}");
            proxy.swallow(false);
            drop(stay);
            client.ask("r", "k", answer.split(' ').nth(1).expect("a token"));
        }
        say("black hole: from the child's end to the next grant", &early);
    }
}

/// A connection may break at any moment, also before anything was agreed on with the server.
#[test]
fn a_connection_that_breaks_just_after_the_grant_lets_nobody_else_in() {
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    furnish(&house);
    let proxy = Proxy::to(&server.address);
    let stay = Stay::in_house(&house);
    proxy.delay(Duration::from_millis(50));
    let first = start_and_wait(&house, &proxy.address, "first", Manners::Stubborn, &["-l", "20"]).0;
    let second = start(&house, &server.address, "second", 20, Manners::Obeys, &["-l", "20"]);
    wait_for("a second one in the queue", || (server.stats()["locks"][0]["waiters"].as_u64() == Some(1)).then_some(()));
    proxy.cut();
    proxy.delay(Duration::ZERO);
    watch_for(Duration::from_millis(1500));
    drop(stay);
    finish_in_order(&house, first, second);
}

/// Long enough for a job to be stopped, if it is: an observation, in which nothing must happen.
fn watch_for(time: Duration) {
    let begin = now();
    while begin.elapsed() < time {
        std::thread::park_timeout(time);
    }
}

/// The same for the connection on which the lock was taken over: its answer may be lost.
#[test]
fn a_connection_that_breaks_while_it_is_resumed_lets_nobody_else_in() {
    for at in [20, 60, 100, 140, 180, 220, 260] {
        let server = Server::start(&[]);
        let house = House::at(&server.address);
        furnish(&house);
        let proxy = Proxy::to(&server.address);
        let stay = Stay::in_house(&house);
        let first = start_and_wait(&house, &proxy.address, "first", Manners::Stubborn, &["-l", "20"]).0;
        let second = start(&house, &server.address, "second", 20, Manners::Obeys, &["-l", "20"]);
        wait_for("a second one in the queue", || {
            (server.stats()["locks"][0]["waiters"].as_u64() == Some(1)).then_some(())
        });
        proxy.delay(Duration::from_millis(60));
        let passed = proxy.passed();
        proxy.cut();
        wait_for("another connection", || (proxy.passed() > passed).then_some(()));
        watch_for(Duration::from_millis(at));
        proxy.cut();
        proxy.delay(Duration::ZERO);
        watch_for(Duration::from_millis(1500));
        drop(stay);
        println!("cut {at} ms after it was made");
        finish_in_order(&house, first, second);
    }
}

fn finish_in_order(house: &House, first: Running, second: Running) {
    let (first, second) = (first.finish(), second.finish());
    let mut tail = Tail::of(house);
    tail.read();
    let verdict = check(&tail.lines, true, &[]);
    let (count, some) = (verdict.violations.len(), verdict.violations.first());
    assert_eq!(count, 0, "{some:?}; {first:?} {second:?}");
    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
}

/// A third of the lease after the grant a renewal is under way; its answer never comes.
#[test]
fn a_child_that_ends_during_a_renewal_without_an_answer_ends_dflock_too() {
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    furnish(&house);
    let stay = Stay::in_house(&house);
    let (running, leader) = start_and_wait(&house, &server.address, "first", Manners::Obeys, &["-l", "20"]);
    server.signal("STOP");
    watch_for(Duration::from_millis(7500));
    drop(stay);
    let end = gone(leader.group);
    let said = running.finish();
    let took = end.elapsed();
    server.signal("CONT");
    say("frozen server: from the child's end to dflock's", &[took]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(took < Duration::from_secs(2) + BUSY, "it took {took:?} to end: {said:?}");
}

/// So many at once that some are overtaken by their child.
const CROWD: usize = 60;

/// The guardian must know the child from its first moment on.
fn die_as_the_child_begins(script: &str, code: i32) {
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    let crowd: Vec<(String, Running)> = (0..CROWD)
        .map(|at| {
            let key = format!("key{at}");
            let mut command = house.command("dflock");
            command.env("TRIAL", &key).args(["exec", "-l", "2", &key, "-c", script]);
            (key, Running::start(&mut command))
        })
        .collect();
    let mut orphans = Vec::new();
    for (key, running) in &crowd {
        wait_for(&format!("{key} to begin"), || {
            // A killed one may take its child along before that can say so.
            (house.path(&format!("begun-{key}")).exists() || !has_life(running.pid)).then_some(())
        });
        let mut client = server.connect();
        client.take(key, "30");
        orphans.extend(processes(&house, Some(key)).into_iter().filter(|one| one.role == Role::Job));
    }
    for one in &orphans {
        send(one.pid, Signal::SIGKILL);
    }
    let mut begun = 0;
    for (_, running) in crowd {
        send(running.pid.cast_signed(), Signal::SIGCONT);
        let said = running.finish();
        // On a busy machine the lease of some is over, or nearly so, before their child could begin or do anything.
        let came_too_late = said.code == 69 && said.err.contains("came too late");
        let was_lost = said.code == 79;
        assert!(said.code == code || came_too_late || was_lost, "{said:?}");
        begun += usize::from(said.code == code);
    }
    assert!(begun > 0, "no child could begin");
    assert_eq!(orphans.len(), 0, "the lock is free and these live: {orphans:?}");
}

#[test]
fn a_dflock_that_is_killed_as_its_child_begins_leaves_no_orphan() {
    die_as_the_child_begins("(: > begun-$DFLOCK_KEY; exec sleep 60) & kill -KILL $PPID; wait", 128 + 9);
}

#[test]
fn a_dflock_that_is_frozen_as_its_child_begins_does_not_lose_sight_of_it() {
    die_as_the_child_begins("kill -STOP $PPID; : > begun-$DFLOCK_KEY; exec sleep 60", 79);
}
