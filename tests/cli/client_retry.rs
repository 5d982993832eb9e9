//! A server that stops, is away, or comes back while somebody wants a lock of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::client_fakes::{Fake, TOKEN, closed_port};
use crate::client_house::Desk;
use crate::house::now;

/// Grants and gives back whatever is asked for.
fn generous_on(listener: TcpListener) -> Fake {
    Fake::on(listener, |mut peer| {
        while let Some([command, ..]) = peer.command() {
            peer.say(if command == "r" { "ok\n" } else { "ok 00112233445566778899aabbccddeeff 33\n" });
        }
    })
}

/// As users have it, who set nothing.
fn desk_at(address: &str) -> Desk {
    Desk::at(address).with("DFLOCK_CONNECT_RETRY", "")
}

fn pause(time: Duration) {
    let begin = now();
    while begin.elapsed() < time {
        // The time itself is what is tested.
        std::thread::park_timeout(time.saturating_sub(begin.elapsed()));
    }
}

#[test]
fn a_server_that_is_stopping_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let stopping = Fake::start(move |mut peer| {
        while let Some([command, ..]) = peer.command() {
            let is_stopping = count.fetch_add(1, Ordering::AcqRel) < 4;
            peer.say(if is_stopping {
                "error_draining\n"
            } else if command == "r" {
                "ok\n"
            } else {
                "ok 00112233445566778899aabbccddeeff 33\n"
            });
        }
    });
    let desk = desk_at(&stopping.address);
    for verb in [&["exec", "-w", "20", "k", "true"] as &[&str], &["acquire", "-w", "20", "k"]] {
        asked.store(0, Ordering::Release);
        let said = desk.run(verb);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(asked.load(Ordering::Acquire) > 4);
    }
    desk.ok(&["release", "k"]);
    // Until the wait is over, whatever the retry is, which is for those that cannot be reached.
    asked.store(0, Ordering::Release);
    let said = desk.run(&["exec", "-w", "20", "--connect-retry", "0", "k", "true"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // Whoever does not wait is told at once.
    asked.store(0, Ordering::Release);
    let said = desk.refuses(&["exec", "-n", "k", "true"], 69, &["it is stopping"]);
    assert_eq!(asked.load(Ordering::Acquire), 1, "{said:?}");
}

#[test]
fn a_server_that_is_away_is_waited_for_without_a_flag() {
    for verb in [&["exec", "k", "true"] as &[&str], &["acquire", "k"]] {
        let address = closed_port();
        let desk = desk_at(&address);
        let said = std::thread::scope(|scope| {
            let asking = scope.spawn(|| desk.run(verb));
            pause(Duration::from_millis(700));
            let _server = generous_on(TcpListener::bind(&address).expect("the port is free still"));
            let said = asking.join().expect("it ran");
            desk.run(&["release", "k"]);
            said
        });
        assert_eq!(said.code, Some(0), "{verb:?}: {said:?}");
    }
}

#[test]
fn how_long_it_is_waited_for() {
    let dead = closed_port();
    let desk = desk_at(&dead);
    let takes = |args: &[&str], least: u64, most: u64| {
        let said = desk.refuses(args, 69, &["nothing listens there"]);
        let millis = u64::try_from(said.took.as_millis()).expect("not that long");
        // A busy machine may be slow, but not quick.
        desk.expect(millis >= least && millis < most + 3000, || format!("{args:?} took {:?}", said.took));
    };
    takes(&["exec", "k", "true"], 3900, 5000);
    takes(&["exec", "-w", "forever", "k", "true"], 3900, 5000);
    takes(&["exec", "-w", "1", "k", "true"], 500, 1000);
    takes(&["exec", "-n", "k", "true"], 0, 0);
    takes(&["exec", "-w", "0", "k", "true"], 0, 0);
    takes(&["exec", "--connect-retry", "1s", "k", "true"], 500, 1000);
    takes(&["exec", "--connect-retry", "0", "k", "true"], 0, 0);
    takes(&["release", "k", TOKEN], 0, 0);
    takes(&["status", "k"], 0, 0);
    let desk = desk.with("DFLOCK_CONNECT_RETRY", "1s");
    desk.refuses(&["exec", "k", "true"], 69, &["nothing listens there"]);
    // Where not waiting is said for this one command, it counts.
    let said = desk.refuses(&["exec", "-n", "k", "true"], 69, &["nothing listens there"]);
    desk.expect(said.took < Duration::from_secs(2), || format!("{:?}", said.took));
}

#[test]
fn it_counts_from_the_failure_and_not_from_the_start_of_the_wait() {
    let address = closed_port();
    let listener = TcpListener::bind(&address).expect("the port is free still");
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = is_over.clone();
    let busy = Fake::on(listener, move |mut peer| {
        while let Some([command, ..]) = peer.command() {
            if command != "l" {
                break;
            }
            // The lock is not free, and then the server goes away.
            peer.say("timeout\n");
            if peer.command().is_some() {
                while !ends.load(Ordering::Acquire) {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                return;
            }
        }
    });
    let desk = desk_at(&address);
    let said = std::thread::scope(|scope| {
        let asking = scope.spawn(|| desk.run(&["exec", "-w", "30", "--connect-retry", "1500ms", "k", "true"]));
        pause(Duration::from_millis(2500));
        is_over.store(true, Ordering::Release);
        drop(busy);
        pause(Duration::from_millis(300));
        let listener = crate::house::wait_for("the port", || TcpListener::bind(&address).ok());
        let _server = generous_on(listener);
        asking.join().expect("it ran")
    });
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn it_is_a_setting() {
    let shown = |desk: &Desk, args: &[&str]| {
        let document = desk.json(&[&["config", "--json"], args].concat());
        let rows = document["settings"].as_array().expect("a list").clone();
        let row = rows.iter().find(|row| row["name"] == "connect_retry").expect("the setting").clone();
        (row["value"].as_str().unwrap_or_default().to_owned(), row["source"].as_str().unwrap_or_default().to_owned())
    };
    let desk = Desk::new().with("DFLOCK_CONNECT_RETRY", "");
    assert_eq!(shown(&desk, &[]), ("5s".to_owned(), "default".to_owned()));
    let path = desk.file("config/dflock/config.toml", "connect_retry = 7.5\n", 0o644);
    assert_eq!(shown(&desk, &[]), ("7.5".to_owned(), path));
    assert_eq!(shown(&desk, &["--connect-retry", "1m"]), ("1m".to_owned(), "flag".to_owned()));
    let desk = desk.with("DFLOCK_CONNECT_RETRY", "9s");
    assert_eq!(shown(&desk, &[]), ("9s".to_owned(), "environment DFLOCK_CONNECT_RETRY".to_owned()));
    desk.refuses(&["config", "--connect-retry", "soon"], 125, &["--connect-retry soon"]);
}

/// It comes so late that it is confirmed.
const LATE: Duration = Duration::from_millis(700);

/// As an original does, whose connections take their locks along.
#[test]
fn a_connection_that_breaks_while_a_late_grant_is_confirmed_is_no_failure() {
    for answer in ["", "error\n"] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let server = Fake::start(move |mut peer| {
            while let Some([command, ..]) = peer.command() {
                match command.as_str() {
                    "l" => {
                        if count.fetch_add(1, Ordering::AcqRel) == 0 {
                            pause(LATE);
                        }
                        peer.say("ok 00112233445566778899aabbccddeeff 33\n");
                    }
                    "n" if answer.is_empty() => return,
                    "n" => peer.say(answer),
                    "r" => peer.say("ok\n"),
                    _ => peer.say("error\n"),
                }
            }
        });
        let desk = desk_at(&server.address);
        let said = desk.run(&["exec", "-w", "20", "k", "true"]);
        assert_eq!(
            (said.code, asked.load(Ordering::Acquire)),
            (Some(0), 2),
            "{answer:?}: {said:?} {:?}",
            server.heard()
        );
        // Where nobody waits, that is all.
        asked.store(0, Ordering::Release);
        let said = desk.run(&["exec", "-n", "k", "true"]);
        assert_eq!((said.code, asked.load(Ordering::Acquire)), (Some(69), 1), "{answer:?}: {said:?}");
    }
}

/// It is asked for by the token, not by a new place in the queue.
#[test]
fn a_lock_that_is_kept_for_its_token_is_taken_over() {
    let server = Fake::start(move |mut peer| {
        while let Some([command, _, argument]) = peer.request() {
            match command.as_str() {
                "info" => peer.say("ok {\"server\":\"dflock\",\"fencing\":true,\"idle_cut_s\":0,\"resume_s\":60}\n"),
                "l" => peer.say("timeout\n"),
                "e" => peer.say("queued 00000000000000aabbccddeeff001122\n"),
                "w" => {
                    pause(LATE);
                    peer.say("ok 00112233445566778899aabbccddeeff 33\n");
                }
                "n" => return,
                "resume" if argument.starts_with(TOKEN) => peer.say("ok 33\n"),
                "r" => peer.say("ok\n"),
                _ => peer.say("error\n"),
            }
        }
    });
    let said = desk_at(&server.address).run(&["exec", "-w", "20", "k", "true"]);
    assert_eq!(said.code, Some(0), "{said:?} {:?}", server.heard());
}
