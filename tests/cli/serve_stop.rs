//! Stopping: what a signal does to those who wait, those who hold, and the rest.

use std::path::Path;
use std::time::Duration;

use crate::house::{Client, Server, now, wait_for};
use crate::lines::unix;
use crate::start::{logged, private_file, refused};

/// Waits until so many wait for the one lock that is waited for.
pub fn wait_for_waiters(look: &mut Client, key: &str, count: u64) {
    wait_for("waiters", || {
        let stats = look.stats();
        let mut locks = stats["locks"].as_array().into_iter().flatten();
        locks.any(|lock| lock["key"] == key && lock["waiters"] == count).then_some(())
    });
}

#[test]
fn waiters_are_sent_away_and_holders_may_finish() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let mut holder = server.connect();
        let (a, b) = (holder.take("a", "0 600"), holder.take("b", "0 600"));
        let c = holder.ask("e", "c", "600");
        let c = c.strip_prefix("acquired ").unwrap().split(' ').next().unwrap().to_owned();
        let (mut blocked, mut waiting, mut queued) = (server.connect(), server.connect(), server.connect());
        blocked.send(b"l\na\n600\n");
        assert_eq!(waiting.ask("e", "a", "600"), "queued");
        waiting.send(b"w\na\n600\n");
        assert_eq!(queued.ask("e", "a", "600"), "queued");
        wait_for_waiters(&mut holder, "a", 3);

        server.signal(signal);
        assert_eq!(blocked.line(), "error_draining");
        assert_eq!(waiting.line(), "error_draining");
        let draining = server.event("draining");
        assert_eq!(
            (draining["connections"].as_u64(), draining["held"].as_u64(), draining["waiting"].as_u64()),
            (Some(4), Some(3), Some(3)),
        );
        let mut newcomer = server.connect();
        for client in [&mut blocked, &mut holder, &mut newcomer] {
            for (command, argument) in [("l", "0"), ("e", ""), ("sl", "0 2"), ("se", "2")] {
                assert_eq!(client.ask(command, "free", argument), "error_draining");
            }
            assert_eq!(client.ask("l", "a", "600"), "error_draining");
        }
        assert_eq!(queued.ask("w", "a", "600"), "error_draining");
        assert_eq!(holder.ask("n", "a", &format!("{a} 60")), "ok 60");
        assert_eq!(holder.ask("w", "c", "0"), format!("ok {c} 600"));
        assert_eq!(holder.ask("r", "a", &a), "ok");
        assert_eq!(blocked.ask("r", "c", &c), "ok");
        assert!(server.is_running(), "one lock is still held");
        assert_eq!(holder.ask("r", "b", &b), "ok");
        assert_eq!(server.wait().code(), Some(0));
        logged(&server, "drained");
        assert_eq!(holder.rest(), b"");
    }
}

/// Nobody else may be served at its address while its holders are at work: a server that were gone from there
/// would be replaced by one that knows nothing of them.
#[test]
fn while_something_is_held_its_door_stays_open_and_its_port_taken() {
    let mut server = Server::start(&["--shutdown-timeout", "0"]);
    let mut holder = server.connect();
    assert!(holder.ask("info", "_", "resume 60").contains("\"draining\":false"));
    let token = holder.take("job", "0 600");
    server.signal("TERM");
    server.event("draining");
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    assert!(refused(&["--port", &port]).contains("cannot listen"), "another server took its place");

    let mut newcomer = server.connect();
    assert!(newcomer.ask("info", "_", "_").contains("\"draining\":true"));
    assert_eq!(newcomer.ask("ping", "_", "_"), "ok");
    assert_eq!(newcomer.stats()["locks"][0]["key"], "job");
    for (command, key, argument) in
        [("l", "job", "0"), ("l", "job", "600"), ("e", "job", ""), ("w", "job", "0"), ("sl", "free", "0 2")]
    {
        assert_eq!(newcomer.ask(command, key, argument), "error_draining", "{command} {key} {argument}");
    }
    assert_eq!(newcomer.ask("n", "job", &format!("{token} 60")), "ok 60");
    // Whose connection broke comes back to its lock, and the server stays for it.
    drop(holder);
    let mut back = server.connect();
    assert!(back.ask("resume", "job", &token).starts_with("ok "));
    assert!(server.is_running());
    assert_eq!(back.ask("r", "job", &token), "ok");
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!((newcomer.rest(), back.rest()), (vec![], vec![]));
}

#[test]
fn a_newcomer_to_a_server_that_stops_must_know_the_secret() {
    let home = tempfile::tempdir().unwrap();
    let secret = private_file(home.path(), "secret", "s3cret");
    let server =
        Server::start(&["--auth-token-file", &secret, "--max-connections", "2", "--max-connections-per-ip", "0"]);
    let mut holder = server.connect();
    assert_eq!(holder.ask("auth", "_", "s3cret"), "ok");
    holder.take("job", "0 600");
    server.signal("TERM");
    wait_for("the drain", || server.events().iter().any(|event| event["event"] == "draining").then_some(()));
    assert_eq!(server.connect().ask("l", "free", "0"), "error_auth");
    let mut newcomer = wait_for("room", || {
        let mut client = server.connect();
        client.send(b"auth\n_\ns3cret\n");
        (client.line() == "ok").then_some(client)
    });
    assert_eq!(newcomer.ask("l", "free", "0"), "error_draining");
    assert_eq!(server.connect().line(), "error_max_connections");
}

#[test]
fn the_last_release_is_always_answered() {
    for round in 0..30 {
        let mut server = Server::start(&[]);
        let mut holder = server.connect();
        let token = holder.take("job", "0");
        server.signal("TERM");
        server.event("draining");
        // The server ends because of this very request.
        assert_eq!(holder.ask("r", "job", &token), "ok", "round {round}");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_lease_or_a_connection_that_ends_lets_it_stop() {
    for end in ["lease", "connection"] {
        let mut server = Server::start(&["--shutdown-timeout", "0"]);
        let mut holder = server.connect();
        holder.take("job", if end == "lease" { "0 1" } else { "0 600" });
        server.signal("TERM");
        server.event("draining");
        if end == "connection" {
            drop(holder);
        }
        assert_eq!(server.wait().code(), Some(0), "after the end of the {end}");
        logged(&server, "drained");
    }
}

#[test]
fn the_shutdown_timeout_ends_it_in_spite_of_holders() {
    let mut server = Server::start(&["--shutdown-timeout", "1"]);
    let mut holder = server.connect();
    holder.take("job", "0 600");
    let begin = now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_secs(1), "it only waited {:?}", begin.elapsed());
    assert_eq!(logged(&server, "drain_timeout")["held"], 1);
    assert_eq!(holder.rest(), b"");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "TERM"), ("INT", "INT")] {
        // It would wait for ever otherwise.
        let mut server = Server::start(&["--shutdown-timeout", "0"]);
        let mut holder = server.connect();
        holder.take("job", "0 600");
        server.signal(first);
        server.event("draining");
        server.signal(second);
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(logged(&server, "second_signal")["held"], 1);
    }
}

#[test]
fn two_signals_in_one_breath_end_it_too() {
    for _ in 0..10 {
        let mut server = Server::start(&["--shutdown-timeout", "5"]);
        let mut holder = server.connect();
        holder.take("job", "0 600");
        server.signal("TERM");
        server.signal("INT");
        // The same signal twice may be merged into one by the kernel; two different ones cannot.
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(logged(&server, "second_signal")["held"], 1);
    }
}

#[test]
fn with_nobody_there_it_ends_at_once() {
    for connected in [0, 3] {
        let mut server = Server::start(&["--shutdown-timeout", "0"]);
        let mut idle: Vec<_> = (0..connected).map(|_| server.connect()).collect();
        for client in &mut idle {
            let token = client.take("job", "0");
            assert_eq!(client.ask("r", "job", &token), "ok");
        }
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        assert_eq!(logged(&server, "draining")["connections"], connected);
        for client in &mut idle {
            assert_eq!(client.rest(), b"");
        }
    }
}

#[test]
fn a_client_that_does_not_read_cannot_hold_up_the_end() {
    let mut server = Server::start(&["--write-timeout", "0", "--shutdown-timeout", "0"]);
    let mut holder = server.connect();
    // Answers of a megabyte each, unread, with no limit on the time to read them.
    let ask: String = (0..5000).map(|n| format!("l\n{n:0200}\n0\n")).collect();
    holder.send(ask.as_bytes());
    let tokens: Vec<String> = (0..5000).map(|_| holder.line()).collect();
    assert!(tokens.iter().all(|answer| answer.starts_with("ok ")));
    let mut deaf = server.connect();
    deaf.send("stats\n_\n_\n".repeat(100).as_bytes());
    // The end of the connection ends all 5,000 locks.
    server.signal("TERM");
    server.event("draining");
    drop(holder);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_socket_file_is_gone_however_it_stops() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let host = format!("unix:{}", path.display());
    for end in ["TERM", "second signal", "idle-exit"] {
        let idle: &[&str] = if end == "idle-exit" { &["--idle-exit", "1"] } else { &[] };
        let mut server = Server::start(&[&["--host", &host], idle].concat());
        assert_eq!(server.address, host);
        assert!(Path::new(&path).exists());
        if end != "idle-exit" {
            let mut holder = unix(&host);
            let token = holder.take("job", "0 600");
            server.signal("TERM");
            server.event("draining");
            assert_eq!(unix(&host).ask("l", "free", "0"), "error_draining");
            if end == "TERM" {
                assert_eq!(holder.ask("r", "job", &token), "ok");
            } else {
                server.signal("TERM");
            }
        }
        assert_eq!(server.wait().code(), Some(0));
        assert!(!Path::new(&path).exists(), "left behind after {end}");
    }
}
