//! Members of a cluster: who is asked, who is never asked, and for how long.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::client_fakes::{Fake, Peer, TOKEN, closed_port};
use crate::client_house::Desk;
use crate::house::original::Original;
use crate::house::{CEILING, Server, now, wait_for};

/// A member that leads: grants everything.
fn leader() -> Fake {
    leader_on(TcpListener::bind("127.0.0.1:0").expect("a port"))
}

fn leader_on(listener: TcpListener) -> Fake {
    Fake::on(listener, |mut peer| {
        while let Some([command, ..]) = peer.command() {
            peer.say(answer_to(&command));
        }
    })
}

fn answer_to(command: &str) -> &'static str {
    match command {
        "r" => "ok\n",
        "n" => "ok 33\n",
        _ => "ok 00112233445566778899aabbccddeeff 33\n",
    }
}

/// A member that does not lead, and says who does.
fn follower(of: &str) -> Fake {
    let answer = if of.is_empty() { "error_not_leader\n".to_owned() } else { format!("error_not_leader {of}\n") };
    Fake::start(move |mut peer| {
        while peer.command().is_some() {
            peer.say(&answer);
        }
    })
}

fn cluster(members: &[&str]) -> String {
    format!("dflockd://{}", members.join(","))
}

fn commands(fake: &Fake) -> Vec<String> {
    let is_command = |line: &String| !["auth", "info", "stable-ref"].iter().any(|word| line.starts_with(word));
    fake.heard().into_iter().filter(is_command).collect()
}

#[test]
fn a_leader_that_is_configured_is_gone_to() {
    let leader = leader();
    let first = follower(&leader.address);
    // It stands between the two, and is not asked: the way to the leader was told.
    let between = follower("");
    let desk = Desk::at(&cluster(&[&first.address, &between.address, &leader.address]));
    let taken = desk.json(&["acquire", "k", "--json"]);
    assert_eq!((&taken["token"], &taken["server"]), (&TOKEN.into(), &leader.address.as_str().into()), "{taken}");
    assert_eq!((first.count(), between.count(), leader.count()), (1, 0, 1));
    assert!(commands(&leader)[0].starts_with("l k "), "{:?}", leader.heard());
    desk.ok(&["release", "k"]);
    assert!(commands(&leader).iter().any(|line| line.starts_with("r k ")), "{:?}", leader.heard());
}

#[test]
fn a_leader_that_nobody_configured_is_never_spoken_to() {
    let stranger = Fake::answering("ok 00112233445566778899aabbccddeeff 33\n");
    let liar = follower(&stranger.address);
    let other = follower("evil:1");
    let members = cluster(&[&liar.address, &other.address]);
    let desk = Desk::at(&members);
    desk.fails(&["acquire", "k", "-w", "4"], 69, &["k", "no member of the cluster leads it"]);
    assert!(liar.count() >= 2 && other.count() >= 2, "they are asked again until the time is over");
    // One server that is no cluster is not left either.
    let alone = Desk::at(&liar.address);
    alone.fails(&["acquire", "k", "-w", "1"], 76, &["does not lead", &liar.address]);
    assert_eq!(stranger.count(), 0, "it was led astray: {:?}", stranger.heard());
}

/// Each of them would grant the same lock.
#[test]
fn servers_that_are_no_cluster_are_not_taken_for_one() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    let desk = Desk::at(&cluster(&[&one.address, &two.address]));
    let first = one.address.as_str();
    desk.fails(&["acquire", "k"], 76, &["k", first, "no member of a cluster"]);
    desk.fails(&["status", "k"], 76, &[first, "no member of a cluster"]);
    // Nor one of them, when the other one is away.
    one.signal("STOP");
    let said = desk.run(&["exec", "--connect-timeout", "500ms", "k", "true"]);
    one.signal("CONT");
    desk.expect(said.code == Some(76), || format!("{said:?}"));
    let original = Original::start(CEILING);
    let desk = Desk::at(&cluster(&[&original.address, &two.address]));
    desk.refuses(&["exec", "k", "true"], 76, &["k", &original.address, "no member of a cluster"]);
    // By itself each is a server as any other.
    for alone in [&one.address, &original.address] {
        assert_eq!(Desk::at(&cluster(&[alone])).run(&["exec", "k", "true"]).code, Some(0));
    }
}

#[test]
fn a_leader_that_is_elected_while_we_ask() {
    let leads = Arc::new(AtomicBool::new(false));
    let knows = leads.clone();
    let second = Fake::start(move |mut peer| {
        while peer.command().is_some() {
            let is_leader = knows.load(Ordering::Acquire);
            peer.say(if is_leader { "ok 00112233445566778899aabbccddeeff 33\n" } else { "error_not_leader\n" });
        }
    });
    let first = follower("");
    let desk = Desk::at(&cluster(&[&first.address, &second.address]));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| desk.run(&["acquire", "k", "-w", "20"]));
        // Both were asked, and asked again: then the election is over.
        wait_for("a second round", || (first.count() >= 3 && second.count() >= 3).then_some(()));
        leads.store(true, Ordering::Release);
        let said = asking.join().expect("it ran");
        assert_eq!((said.code, said.out.trim()), (Some(0), TOKEN), "{said:?}");
    });
    assert!(second.count() < 40, "asked {} times: that is no backoff", second.count());
}

#[test]
fn members_that_are_dead_are_passed_over() {
    let leader = leader();
    let gone = Fake::start(|mut peer| drop(peer.command()));
    let members = cluster(&[&closed_port(), "dflock-test.invalid:1", &gone.address, &leader.address]);
    let desk = Desk::at(&members);
    let taken = desk.json(&["acquire", "k", "--json"]);
    assert_eq!(taken["server"], leader.address.as_str(), "{taken}");
    assert_eq!(desk.ok(&["renew", "other", TOKEN]), "33");
    desk.ok(&["release", "k"]);
    // All of them: the failure names one of them, and does not take for ever.
    let (one, two) = (closed_port(), closed_port());
    Desk::at(&cluster(&[&one, &two])).fails(&["acquire", "k"], 69, &["k", "nothing listens there"]);
}

#[test]
fn a_member_that_is_silent_does_not_hide_the_others() {
    let silent = Fake::start(Peer::stay);
    // As far away as another town: an answer at once would come even within no time at all.
    let leader = Fake::start(|mut peer| {
        while let Some([command, ..]) = peer.command() {
            std::thread::park_timeout(Duration::from_millis(30));
            peer.say(answer_to(&command));
        }
    });
    let desk = Desk::at(&cluster(&[&silent.address, &leader.address]));
    let taken = desk.json(&["acquire", "k", "--json", "--connect-timeout", "500ms"]);
    assert_eq!(taken["server"], leader.address.as_str(), "{taken}");
    desk.ok(&["release", "k"]);
    for verb in [&["acquire", "k", "-n"] as &[&str], &["renew", "other", TOKEN], &["release", "other", TOKEN]] {
        let said = desk.run(&[verb, &["--connect-timeout", "500ms"]].concat());
        desk.expect(said.code == Some(0), || format!("{verb:?} never came to the other: {said:?}"));
    }
}

#[test]
fn only_members_of_a_cluster_hear_a_name_and_only_behind_the_secret() {
    let (first, second) = (follower(""), leader());
    let desk = Desk::at(&cluster(&[&first.address, &second.address])).with("DFLOCK_AUTH_TOKEN", "s3cret");
    desk.ok(&["acquire", "k"]);
    let names = |fake: &Fake| {
        let heard = fake.heard();
        let words: Vec<&str> = heard.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words[..4], ["auth", "info", "stable-ref", "l"], "{heard:?}");
        heard[2].split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let name = names(&first);
    assert_eq!(name, names(&second), "one client has one name everywhere");
    assert!((16..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name:?}");
    let alone = leader();
    for servers in [alone.address.clone(), format!("{},{}", alone.address, alone.address)] {
        let desk = Desk::at(&servers).with("DFLOCK_AUTH_TOKEN", "s3cret");
        desk.ok(&["acquire", "k"]);
    }
    assert!(!alone.heard().iter().any(|line| line.starts_with("stable-ref")), "{:?}", alone.heard());
}

#[test]
fn a_server_that_comes_up_while_we_ask() {
    let address = closed_port();
    let desk = Desk::at(&address);
    desk.fails(&["acquire", "k"], 69, &["nothing listens there", &address]);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| desk.run(&["acquire", "k", "-w", "20", "--connect-retry", "20s"]));
        wait_for("the holder that asks", || desk.processes().into_iter().find(|pid| is_holder(*pid)));
        let _server = leader_on(TcpListener::bind(&address).expect("the port is free still"));
        let said = asking.join().expect("it ran");
        assert_eq!((said.code, said.out.trim()), (Some(0), TOKEN), "{said:?}");
        desk.ok(&["release", "k"]);
    });
    // The end of the wait is the end, whatever the retry says; and the other way round.
    let dead = closed_port();
    let desk = Desk::at(&dead);
    for flags in [["-w", "1", "--connect-retry", "60s"], ["-w", "60", "--connect-retry", "1s"]] {
        let said = desk.fails(&[&["acquire", "k"], flags.as_slice()].concat(), 69, &["nothing listens there"]);
        desk.expect(said.took.as_secs() < 20, || format!("{flags:?} took {:?}", said.took));
        desk.expect(said.took.as_millis() >= 400, || format!("{flags:?} gave up after {:?}", said.took));
    }
}

#[test]
fn every_verb_that_has_the_flag_tries_again() {
    for verb in [&["renew", "k", TOKEN] as &[&str], &["release", "k", TOKEN], &["status", "k"]] {
        let address = closed_port();
        let desk = Desk::at(&address);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| desk.run(&[verb, &["--connect-retry", "20s"]].concat()));
            // One that does not try again ends in some milliseconds.
            let begin = now();
            wait_for("a second try", || (asking.is_finished() || begin.elapsed().as_millis() > 300).then_some(()));
            let _server = Fake::on(TcpListener::bind(&address).expect("the port is free still"), |mut peer| {
                while let Some([command, ..]) = peer.command() {
                    peer.say(if command == "stats" { "ok {}\n" } else { "ok 33\n" });
                }
            });
            let said = asking.join().expect("it ran");
            desk.expect(said.code == Some(0), || format!("{verb:?} did not try again: {said:?}"));
        });
    }
}

fn is_holder(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"dflock: holding "))
}

#[test]
fn a_cluster_under_a_secret_that_is_wrong_is_asked_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let strict = Fake::on(listener, move |mut peer| {
        counter.fetch_add(1, Ordering::AcqRel);
        peer.request();
        peer.say("error_auth\n");
    });
    let second = leader();
    let desk = Desk::at(&cluster(&[&strict.address, &second.address])).with("DFLOCK_AUTH_TOKEN", "wrong");
    desk.refuses(&["acquire", "k"], 77, &["the auth token was refused", &strict.address]);
    assert_eq!((asked.load(Ordering::Acquire), second.count()), (1, 0), "a wrong secret is not tried elsewhere");
}
