//! Everything that can go wrong between a client and a server: the code, the words, the time, and nothing left behind.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client_fakes::{Fake, Peer, TOKEN, closed_port};
use crate::client_house::{Desk, Said, holds_nothing};
use crate::house::Server;

/// A busy machine may be this much slower than it should be.
const SLACK: Duration = Duration::from_secs(8);

/// Every way to ask for one key.
const ASKING: [&[&str]; 4] = [&["acquire", "k"], &["release", "k", TOKEN], &["renew", "k", TOKEN], &["status", "k"]];

fn in_time(desk: &Desk, said: &Said, timeout: Duration) {
    desk.expect(said.took < timeout + SLACK, || format!("{:?} is long: {said:?}", said.took));
}

/// Every verb fails in the same way, and nothing is left.
fn all_fail(desk: &Desk, server: &str, code: i32, parts: &[&str]) {
    // Only what does not answer at all takes this long.
    let flags = ["--servers", server, "--connect-timeout", if code == 69 { "400ms" } else { "5s" }];
    for verb in ASKING {
        let args: Vec<&str> = verb.iter().chain(&flags).copied().collect();
        let named = [parts, &[server]].concat();
        in_time(desk, &desk.fails(&args, code, &named), Duration::from_secs(1));
    }
    let args: Vec<&str> = ["stats"].iter().chain(&flags).copied().collect();
    let said = desk.run(&args);
    let row = &desk.json(&args)["servers"][0];
    let message = row["message"].as_str().unwrap_or_default();
    // Of many servers each may fail in its own way.
    desk.expect(said.code == Some(code), || format!("stats: {said:?}"));
    desk.expect(row["ok"] == false && row["server"] == server, || format!("stats: {row}"));
    desk.expect(parts.iter().all(|part| message.contains(part)), || format!("stats does not say {parts:?}: {row}"));
    desk.keeps_nothing();
}

#[test]
fn nobody_answers() {
    let desk = Desk::new();
    all_fail(&desk, &closed_port(), 69, &["nothing listens there"]);
    all_fail(&desk, "dflock-test.invalid:6388", 69, &["\"dflock-test.invalid\" cannot be looked up"]);
    let socket = format!("unix:{}/none.sock", desk.path().display());
    all_fail(&desk, &socket, 69, &["there is no such socket"]);
}

#[test]
fn a_server_that_is_silent() {
    let silent = Fake::start(Peer::stay);
    let desk = Desk::new();
    all_fail(&desk, &silent.address, 69, &["does not answer"]);
    // Its queue of connections is full of nobody: the kernel alone answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    all_fail(&desk, &address, 69, &["does not answer"]);
}

#[test]
fn a_server_that_is_frozen_is_no_busy_lock() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    desk.ok(&["status", "k"]);
    server.signal("STOP");
    // Whoever reads that the lock is held waits longer, instead of looking after the server.
    let said = desk.fails(&["acquire", "k", "-w", "1"], 69, &["cannot take k", "does not answer", &server.address]);
    desk.expect(!said.err.contains("held by somebody else"), || format!("nobody knows that: {said:?}"));
    desk.fails(&["acquire", "k", "-n", "--connect-timeout", "500ms"], 69, &["cannot take k", "does not answer"]);
    // It has their requests, and reads them now: both clients are gone.
    server.signal("CONT");
    holds_nothing(&server);
    desk.keeps_nothing();
    desk.ok(&["acquire", "k", "-n"]);
    desk.ok(&["release", "k"]);
}

#[test]
fn a_server_that_is_silent_once_it_has_greeted() {
    // It lives, so whoever waits for the lock does not get it in time.
    let silent = Fake::start(|mut peer| {
        peer.command();
        peer.stay();
    });
    let desk = Desk::at(&silent.address);
    let said = desk.fails(&["acquire", "k", "-w", "1"], 75, &["k", &silent.address]);
    in_time(&desk, &said, Duration::from_secs(1));
    // Whoever does not want to wait gets an answer at once from a server that works.
    for verb in [&["acquire", "k", "-n"] as &[&str], &["release", "k", TOKEN], &["renew", "k", TOKEN]] {
        let args: Vec<&str> = verb.iter().chain(&["--connect-timeout", "500ms"]).copied().collect();
        let said = desk.fails(&args, 69, &["no answer in time", &silent.address]);
        in_time(&desk, &said, Duration::from_millis(500));
    }
    desk.keeps_nothing();
}

#[test]
fn a_server_that_speaks_something_else() {
    let strange = "does not speak the protocol";
    let says = |text: &'static str| {
        Fake::start(move |mut peer| {
            // Some speak first, others when they have read something.
            let _ = peer.lines.try_line();
            peer.say(text);
        })
    };
    let desk = Desk::new();
    all_fail(&desk, &says("\u{1}\u{2}garbage \u{1b}[31m\n").address, 76, &[strange]);
    all_fail(&desk, &says("HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n").address, 76, &[strange, "HTTP/1.1 400"]);
    all_fail(&desk, &says("220 mail.example ESMTP\r\n").address, 76, &[strange, "ESMTP"]);
    all_fail(&desk, &says("ok half an ans").address, 76, &["half an answer"]);
    all_fail(&desk, &says("").address, 69, &["closed"]);
    // Closed as soon as it is open.
    all_fail(&desk, &Fake::start(drop).address, 69, &["on "]);
}

#[test]
fn a_line_that_does_not_end() {
    const MUCH: usize = 100 * 1024 * 1024;
    let most = Arc::new(AtomicUsize::new(0));
    let written = most.clone();
    let endless = Fake::start(move |mut peer| {
        let chunk = [b'x'; 64 * 1024];
        let mut sent = 0;
        while sent < MUCH && peer.lines.stream().write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        written.fetch_max(sent, Ordering::AcqRel);
    });
    // It speaks first, or at once when it has been spoken to.
    all_fail(&Desk::new(), &endless.address, 76, &["does not speak the protocol"]);
    // What it could not send was never stored: the rest lay in the kernel's buffers.
    let most = most.load(Ordering::Acquire);
    assert!(most < MUCH / 2, "{most} bytes were taken");
}

#[test]
fn answers_that_are_no_grant() {
    let desk = Desk::new();
    for (answer, code, part) in [
        ("ok 00112233445566778899aabbccddeeff soon\n", 76, "does not speak the protocol"),
        ("ok 00112233445566778899aabbccddeeff -5\n", 76, "does not speak the protocol"),
        ("ok\n", 76, "does not speak the protocol"),
        ("ok a\u{7}b 33\n", 76, "token"),
        ("queued\n", 76, "does not speak the protocol"),
        ("\n", 76, "does not speak the protocol"),
        ("error\n", 76, "error"),
        ("error_max_locks\n", 76, "--max-locks"),
        ("error_max_waiters\n", 76, "--max-waiters"),
        ("error_limit_mismatch\n", 76, "another limit"),
        ("error_lease_expired\n", 76, "lease"),
        ("error_draining\n", 69, "stopping"),
        ("error_max_connections\n", 76, "no room for another connection"),
        ("error_not_leader b:1\n", 76, "does not lead"),
        ("error_of_tomorrow\n", 76, "\"error_of_tomorrow\""),
        ("timeout\n", 75, "held by somebody else"),
    ] {
        let fake = Fake::answering(answer);
        let said = desk.fails(&["acquire", "k", "-w", "1", "-s", &fake.address], code, &["k", &fake.address, part]);
        in_time(&desk, &said, Duration::from_secs(1));
        desk.expect(!said.err.contains(TOKEN), || format!("a token is shown: {}", said.err));
        desk.expect(!said.err.contains('\u{7}'), || format!("a control character is shown: {:?}", said.err));
        desk.keeps_nothing();
    }
}

#[test]
fn answers_that_are_none_to_release_and_renew() {
    let desk = Desk::new();
    for verb in ["release", "renew"] {
        for (answer, code, part) in [
            ("error\n", 79, "not held with this token any more"),
            ("error_of_tomorrow\n", 76, "\"error_of_tomorrow\""),
            ("error_draining\n", 69, "stopping"),
            ("timeout\n", 76, "does not speak the protocol"),
            ("hello\n", 76, "does not speak the protocol"),
        ] {
            let fake = Fake::answering(answer);
            let what = format!("cannot {verb} k");
            desk.fails(&[verb, "k", TOKEN, "-s", &fake.address], code, &[&what, &fake.address, part]);
        }
    }
    let fake = Fake::answering("ok soon\n");
    desk.fails(&["renew", "k", TOKEN, "-s", &fake.address], 76, &["does not speak the protocol"]);
    for (answer, part) in [("ok {\"locks\":7}\n", "does not speak"), ("ok nonsense\n", "does not speak")] {
        let fake = Fake::answering(answer);
        desk.fails(&["status", "k", "-s", &fake.address], 76, &[part, &fake.address]);
    }
}

#[test]
fn a_server_that_goes_away_when_it_is_asked() {
    let desk = Desk::new();
    let fake = Fake::start(|mut peer| drop(peer.command()));
    all_fail(&desk, &fake.address, 69, &["the connection broke"]);
    // What an idle server says before it cuts a connection; its answers are then one behind.
    for about in ["error\n", "ok {\"server\":\"dflock\",\"fencing\":true}\n"] {
        let fake = Fake::start(move |mut peer| {
            peer.say("error\n");
            while let Some(request) = peer.request() {
                peer.say(if request[0] == "info" { about } else { "ok 00112233445566778899aabbccddeeff 33\n" });
            }
        });
        desk.fails(&["acquire", "k", "-s", &fake.address], 76, &["k", &fake.address]);
        desk.keeps_nothing();
    }
}

#[test]
fn a_server_that_is_full() {
    let server = Server::start(&["--max-locks", "1", "--max-waiters", "1"]);
    let desk = Desk::at(&server.address);
    desk.ok(&["acquire", "k"]);
    desk.fails(&["acquire", "other"], 76, &["cannot take other", "--max-locks"]);
    let said = desk.fails(&["acquire", "k", "-n"], 75, &["k is held by somebody else", &server.address]);
    in_time(&desk, &said, Duration::ZERO);
    // One waits, and is gone from the queue with its connection.
    let mut waiter = server.connect();
    waiter.send(b"e\nk\n\n");
    assert_eq!(waiter.line(), "queued");
    desk.fails(&["acquire", "k", "-w", "5"], 76, &["cannot take k", "--max-waiters"]);
    drop(waiter);
    let said = desk.fails(&["acquire", "k", "-w", "0.5"], 75, &["k is held by somebody else"]);
    in_time(&desk, &said, Duration::from_millis(500));
    let quiet = desk.run(&["acquire", "k", "-n", "-q"]);
    desk.expect(quiet.code == Some(75) && quiet.err.is_empty(), || format!("-q: {quiet:?}"));
    desk.ok(&["release", "k"]);
    desk.ok(&["sem", "acquire", "s", "--limit", "2"]);
    desk.fails(&["sem", "acquire", "s", "--limit", "3"], 76, &["cannot take s", "another limit"]);
    desk.ok(&["sem", "release", "s", "--limit", "2"]);
    holds_nothing(&server);
    desk.keeps_nothing();
}

#[test]
fn a_server_that_is_stopping() {
    let mut server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    desk.ok(&["acquire", "held"]);
    server.signal("TERM");
    server.event("draining");
    // Whoever holds may finish; nobody else is let in.
    desk.fails(&["acquire", "k", "-n"], 69, &["cannot take k", &server.address]);
    desk.ok(&["renew", "held"]);
    desk.ok(&["release", "held"]);
    server.wait();
    desk.fails(&["acquire", "k"], 69, &["cannot take k", "nothing listens there"]);
    desk.keeps_nothing();
}

#[test]
fn a_server_that_takes_no_more_connections() {
    let server = Server::start(&["--max-connections", "1"]);
    let mut first = server.connect();
    first.send(b"ping\n_\n_\n");
    first.line();
    let desk = Desk::at(&server.address);
    desk.fails(&["acquire", "k"], 76, &["no room for another connection", "cannot take k"]);
    desk.keeps_nothing();
}
