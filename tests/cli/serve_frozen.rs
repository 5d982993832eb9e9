//! A server that stands still for a while, by a shell, a debugger or `docker pause`, and then goes on.

use std::time::Duration;

use crate::house::{Client, Server, now, wait_for};
use crate::serve_stop::wait_for_waiters;

/// A signal to stop reaches the threads of a process one by one.
fn is_frozen(pid: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
    threads.all(|thread| {
        let stat = std::fs::read_to_string(thread.expect("a thread").path().join("stat")).expect("its state");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// Stopped and continued by a shell or a debugger: what ran out meanwhile is over, and over for one only.
#[test]
fn a_frozen_server_wakes_up_to_what_ran_out() {
    let server = Server::start(&["--read-timeout", "1"]);
    let mut lasting = server.connect();
    let other = lasting.take("other", "0 600");
    let mut holder = server.connect();
    let token = holder.take("job", "0 2");
    let mut waiter = server.connect();
    waiter.send(b"l\njob\n600\n");
    wait_for_waiters(&mut lasting, "job", 1);
    server.signal("STOP");
    wait_for("every thread to stand still", || is_frozen(server.pid()).then_some(()));
    let frozen = now();
    holder.send(format!("n\njob\n{token} 600\n").as_bytes());
    lasting.send(format!("n\nother\n{other} 600\n").as_bytes());
    while frozen.elapsed() < Duration::from_millis(2500) {
        // The time that is lost is the test, nothing is waited for.
        std::thread::park_timeout(Duration::from_millis(100));
    }
    server.signal("CONT");
    assert_eq!(holder.line(), "error");
    assert!(waiter.line().starts_with("ok "));
    assert_eq!(lasting.line(), "ok 600");
}

const RESUME: &[u8] = b"info\n_\nresume 1\n";

/// What a client does that finds its server frozen: it gives up one connection after the other, and comes back on
/// the last. The server finds them all at once, in any order, and what was given up last of all.
#[test]
fn attempts_that_were_given_up_meanwhile_end_no_lock() {
    let server = Server::start(&[]);
    let mut look = server.connect();
    let mut owner = server.connect();
    owner.send(RESUME);
    assert!(owner.line().contains("\"resume_s\":1"));
    let token = owner.take("job", "0 600");
    let mut waiter = server.connect();
    waiter.send(b"l\njob\n600\n");
    wait_for_waiters(&mut look, "job", 1);
    server.signal("STOP");
    wait_for("every thread to stand still", || is_frozen(server.pid()).then_some(()));
    owner.send(format!("n\njob\n{token} 600\n").as_bytes());
    drop(owner);
    let attempt = || {
        let mut client = server.connect();
        client.send(RESUME);
        client.send(format!("resume\njob\n{token} 600\n").as_bytes());
        client
    };
    let mut live = attempt();
    let mut given_up: Vec<Client> = (0..6).map(|_| attempt()).collect();
    given_up.truncate(3);
    server.signal("CONT");
    assert!(live.line().contains("\"resume_s\":1"));
    assert_eq!(live.line(), "ok 600");
    for client in &mut given_up {
        assert!(client.line().contains("\"resume_s\":1"));
        assert_eq!(client.line(), "ok 600");
    }
    drop(given_up);
    // The agreed absence is over several times in this window, and nobody else may be served.
    let begin = now();
    waiter.stream().set_nonblocking(true).expect("it can be looked at");
    while begin.elapsed() < Duration::from_millis(2500) {
        assert_eq!(live.ask("n", "job", &format!("{token} 600")), "ok 600");
        let heard = waiter.stream().peek(&mut [0]).expect_err("the lock of a live client was given away");
        assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    waiter.stream().set_nonblocking(false).expect("it can be read");
    assert_eq!(live.ask("r", "job", &token), "ok");
    assert!(waiter.line().starts_with("ok "));
}
