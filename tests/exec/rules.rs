//! Rules of safety that other tests would not miss if they were broken.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::trials_fleet::{Manners, Role, Stay, Tail, furnish, group_lives, has_life, processes, send, start};
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{Server, now, wait_for};

/// A child of `name` that writes: its leader, which is its group.
fn wait_for_child(house: &House, name: &str) -> i32 {
    let mut tail = Tail::of(house);
    wait_for(&format!("a line of {name}"), || {
        tail.read();
        tail.lines.iter().any(|line| line.name == name).then_some(())
    });
    let jobs = || processes(house, Some(name)).into_iter().filter(|one| one.role == Role::Job);
    wait_for("its leader", || jobs().find(|one| one.pid == one.group).map(|one| one.pid))
}

/// Granted, but so slowly that most of the lease is over before the command can begin.
#[test]
fn a_lock_that_comes_too_late_starts_nothing() {
    let house = House::new();
    let proxy = Proxy::to(&house.server().address);
    // Asking, confirming and agreeing on the rest take a second or more each.
    proxy.delay(Duration::from_millis(550));
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", &proxy.address).args(["exec", "-l", "2", "k", "-c", "echo > ran"]);
    let said = Running::start(&mut command).finish();
    assert_eq!(said.code, 69, "{said:?}");
    assert!(!house.path("ran").exists(), "{said:?}");
    house.wait_until_free("k");
}

/// A stopped process hears of TERM when it goes on.
#[test]
fn a_stopped_command_is_woken_to_be_told() {
    let house = House::new();
    let job = "trap 'echo told > told; exit 3' TERM; echo begun > begun; kill -STOP $$; while :; do sleep 0.01; done";
    let running = house.start(&["exec", "--max-runtime", "0.5", "--kill-after", "20", "k", "-c", job]);
    house.wait_for_file("begun");
    let begin = now();
    running.finish().code(124);
    assert!(begin.elapsed() < Duration::from_secs(15), "it was killed, not told");
    assert_eq!(house.read("told"), "told\n");
}

/// A frozen guardian ends nobody. The command itself is ended by the kernel; whom it started lives on, under a lock
/// that is still held, because the guardian has the connection too.
#[test]
fn a_killed_dflock_whose_guardian_is_frozen_frees_nothing() {
    let original = Original::start(Duration::from_secs(23));
    let own = Server::start(&[]);
    for server in [&original.address, &own.address] {
        let house = House::at(server);
        furnish(&house);
        let stay = Stay::in_house(&house);
        let running = start(&house, server, "first", 1, Manners::DeepStubborn, &["-l", "60"]);
        let leader = wait_for_child(&house, "first");
        let guardians = processes(&house, Some("first")).into_iter().filter(|one| one.role == Role::Guardian);
        let guardian = guardians.map(|one| one.pid).next().expect("a guardian");
        // A dflock that is not stopped would replace it.
        running.signal("STOP");
        send(guardian, Signal::SIGSTOP);
        running.signal("KILL");
        wait_for("the end of the command", || (!has_life(leader.cast_unsigned())).then_some(()));
        assert!(group_lives(leader), "whom it started lives on");
        house.dflock(&["exec", "-n", "k", "true"]).code(75);
        send(guardian, Signal::SIGCONT);
        house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
        assert!(!group_lives(leader), "the lock is free and they live");
        running.finish().code(137);
        drop(stay);
    }
}

/// The lease counts from when it was asked for: one that is over by the time of the grant is taken anew first.
#[test]
fn a_lock_waited_for_longer_than_its_lease_is_held_in_full() {
    let house = House::new();
    let mut client = house.server().connect();
    let token = client.take("k", "1 60");
    let waiting = house.start(&["exec", "-l", "2", "-w", "forever", "k", "sleep", "2.5"]);
    house.wait_for_waiters("k", 1);
    let begin = now();
    while begin.elapsed() < Duration::from_millis(2500) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    client.ask("r", "k", &token);
    waiting.finish().code(0);
}

/// The server says that it is somebody else's: that is known at the next renewal, long before the lease ends.
#[test]
fn a_lock_that_was_given_away_is_lost_at_once() {
    let house = House::new();
    let running = house.start(&["exec", "-l", "6", "k", "-c", "echo $DFLOCK_TOKEN > token; exec sleep 60"]);
    let token = house.wait_for_file("token");
    assert_eq!(house.server().connect().ask("r", "k", token.trim()), "ok");
    let said = running.finish().code(79);
    assert!(said.err.contains("the server says that its lease has ended"), "{said:?}");
}

/// Whether a question without an answer led to something, nobody knows: it is not put again. A place that is known
/// of is come back to; without that there is nothing.
#[test]
fn a_question_without_an_answer_is_not_put_again() {
    for (flags, code) in [(&["--connect-retry", "0"][..], 69), (&[], 0)] {
        let house = House::new();
        let proxy = Proxy::to(&house.server().address);
        let mut client = house.server().connect();
        let token = client.take("k", "1 60");
        let mut command = house.command("dflock");
        command.env("DFLOCK_SERVERS", &proxy.address).args(["exec", "-w", "20"]).args(flags);
        let waiting = Running::start(command.args(["k", "true"]));
        house.wait_for_waiters("k", 1);
        proxy.cut();
        if code == 0 {
            assert_eq!(client.ask("r", "k", &token), "ok");
        }
        waiting.finish().code(code);
        house.wait_for_waiters("k", 0);
        let asked =
            |what: &str| proxy.heard().iter().filter(|heard| heard.from_client && heard.text.contains(what)).count();
        assert_eq!((asked("\ne\nk\n"), asked("resume\nk\n")), if code == 0 { (1, 1) } else { (0, 0) });
        assert!(asked("l\nk\n") <= 2, "once without waiting, and once to wait");
    }
}

/// A server that frees what a broken connection held has done so, whether it can be asked or not.
#[test]
fn a_lost_connection_to_the_original_is_a_lost_lock_though_nobody_answers() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    furnish(&house);
    let proxy = Proxy::to(&original.address);
    let stay = Stay::in_house(&house);
    let running = start(&house, &proxy.address, "first", 1, Manners::Obeys, &["-l", "60"]);
    let leader = wait_for_child(&house, "first");
    proxy.refuse(true);
    let begin = now();
    proxy.cut();
    wait_for("the end of the command", || (!group_lives(leader)).then_some(()));
    // At once; trying to come back would take until the lease is nearly over.
    assert!(begin.elapsed() < Duration::from_secs(6), "it took {:?}", begin.elapsed());
    running.finish().code(79);
    drop(stay);
}

/// In a namespace whose clock of the time since the start is far ahead of the one that stands still in suspend.
#[test]
fn a_lease_is_counted_on_the_clock_that_runs_through_suspend() {
    let house = House::new();
    let mut command = house.command("unshare");
    command.args(["--time", "--boottime", "100000", "--fork", "dflock", "exec", "-l", "60", "k", "-c"]);
    let running = Running::start(command.arg("echo $PPID > begun; until [ -e go ]; do sleep 0.01; done"));
    let begun = wait_for("a command, or a refusal", || {
        let text = house.read("begun");
        if text.ends_with('\n') { Some(text) } else { (!has_life(running.pid)).then(String::new) }
    });
    if begun.is_empty() {
        let said = running.finish();
        assert!(std::env::var_os("DFLOCK_DEMAND_PEERS").is_none(), "no time namespace here: {said:?}");
        eprintln!("SKIPPED: no time namespace can be made here: {said:?}");
        return;
    }
    // The timer of what is next: on that clock, and not in its past, where every other clock is.
    let folder = format!("/proc/{}/fdinfo", begun.trim());
    let timers = || -> Vec<String> {
        let files = std::fs::read_dir(&folder).expect("its descriptors").flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.filter(|text| text.contains("clockid: 7")).collect()
    };
    let is_ahead = |text: &String| {
        let value = text.lines().find_map(|line| line.strip_prefix("it_value: ("));
        value.and_then(|value| value.split(',').next()?.parse::<u64>().ok()).is_some_and(|left| (1..60).contains(&left))
    };
    wait_for("a timer that is ahead", || timers().iter().any(is_ahead).then_some(()));
    std::fs::write(house.path("go"), "").expect("the sign is given");
    running.finish().code(0);
}

/// A server keeps the lock of a broken connection for as long as was agreed, and not until the lease ends.
#[test]
fn a_lock_that_cannot_be_resumed_is_lost_when_the_server_forgets_it() {
    let house = House::new();
    furnish(&house);
    let proxy = Proxy::to(&house.server().address);
    let stay = Stay::in_house(&house);
    let first = start(&house, &proxy.address, "first", 1, Manners::Stubborn, &["-l", "3.9"]);
    let leader = wait_for_child(&house, "first");
    wait_for("the agreement", || proxy.heard().iter().any(|heard| heard.text.contains("\nresume ")).then_some(()));
    let mut client = house.server().connect();
    client.send(b"l\nk\n30\n");
    proxy.refuse(true);
    proxy.cut();
    let answer = client.line();
    let alive = group_lives(leader);
    assert!(answer.starts_with("ok ") && !alive, "{answer} while the child lived");
    assert_eq!(first.finish().code, 79);
    drop(stay);
}

/// Grants one lock for a minute, keeps it for ten seconds without a connection, and is gone.
fn grant_and_go(listener: TcpListener, stay_until: impl Fn() -> i32) -> i32 {
    let (stream, _) = listener.accept().expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("another handle"));
    let mut writer: &TcpStream = &stream;
    let about = r#"{"server":"dflock","version":"1","fencing":true,"auto_release":true,"idle_cut_s":0,"resume_s":10}"#;
    // The greeting, the lock, the agreement.
    for answer in [format!("ok {about}"), format!("ok {:032x} 60", 1), format!("ok {about}")] {
        for _ in 0..3 {
            reader.read_line(&mut String::new()).expect("a line");
        }
        writer.write_all(format!("{answer}\n").as_bytes()).expect("it is heard");
    }
    stay_until()
}

#[test]
fn a_short_agreement_bounds_a_long_lease() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let house = House::at(&listener.local_addr().expect("an address").to_string());
    furnish(&house);
    let stay = Stay::in_house(&house);
    let first = start(&house, &house.servers, "first", 1, Manners::Obeys, &["-l", "60"]);
    let leader = grant_and_go(listener, || wait_for_child(&house, "first"));
    let gone_by = now() + Duration::from_secs(10);
    while group_lives(leader) {
        assert!(now() < gone_by, "it lives, and its lock may be another's");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(first.finish().code, 79);
    drop(stay);
}

/// Nobody can tell that it is stopped, so its turn is its for a lease. By then it is the next one's, and it asks again.
#[test]
fn who_is_stopped_while_it_waits_starts_nothing_late() {
    let house = House::new();
    house.dflock(&["acquire", "k", "--owner", "none", "--max-hold", "120s"]).ok();
    let wait = ["exec", "-w", "forever", "-l"];
    let stopped = house.start(&[&wait[..], &["4", "k", "-c", "echo stopped >> log"]].concat());
    house.wait_for_waiters("k", 1);
    let go = house.gate("go");
    let next = house.start(&[&wait[..], &["60", "k", "-c", "echo > next; read -r _ < go; echo next >> log"]].concat());
    house.wait_for_waiters("k", 2);
    stopped.signal("STOP");
    house.end_holder_of("k");
    house.wait_for_file("next");
    stopped.signal("CONT");
    house.wait_for_waiters("k", 1);
    assert_eq!(house.read("log"), "", "two at once");
    go.open();
    next.finish().ok();
    stopped.finish().ok();
    assert_eq!(house.read("log"), "next\nstopped\n");
}
