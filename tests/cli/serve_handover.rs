//! A server with a state directory is replaced: the next one waits for it, and nobody falls between the two.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::house::{CEILING, Server, now, wait_for};
use crate::lines::{Lines, unix};

type Client = Lines<UnixStream>;

/// Both files of a server that can be replaced at its address.
struct Home {
    _home: tempfile::TempDir,
    host: String,
    state: String,
}

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().expect("a home");
        let host = format!("unix:{}", home.path().join("socket").display());
        let state = home.path().join("state").display().to_string();
        Home { _home: home, host, state }
    }

    fn start(&self) -> Server {
        Server::start(&["--host", &self.host, "--state-dir", &self.state])
    }

    /// One whose locks and places outlive its connection.
    fn client(&self) -> Client {
        let mut client = unix(&self.host);
        assert!(client.ask("info", "_", "resume 60").contains("\"resume_s\":60"));
        client
    }
}

fn second_word(answer: &str) -> String {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer} has one word")).to_owned()
}

/// Joins the queue as our client does, and waits; the answer is still to come.
fn queue_up(home: &Home, key: &str) -> (Client, String) {
    let mut client = home.client();
    let answer = client.ask("e", key, "600");
    assert!(answer.starts_with("queued "), "{answer}");
    client.send(format!("w\n{key}\n600\n").as_bytes());
    (client, second_word(&answer))
}

fn wait_for_waiters(home: &Home, count: u64) {
    wait_for("waiters", || {
        let stats = unix(&home.host).ask("stats", "_", "_");
        stats.contains(&format!("\"waiters\":{count}")).then_some(())
    });
}

#[test]
fn who_waits_with_a_ticket_keeps_its_turn_whatever_ends_the_server() {
    for end in ["TERM", "KILL"] {
        let home = Home::new();
        let mut server = home.start();
        let mut holder = home.client();
        let token = holder.take("job", "0 600");
        let mut waiting: Vec<(Client, String)> = Vec::new();
        for count in 1..=4 {
            waiting.push(queue_up(&home, "job"));
            wait_for_waiters(&home, count);
        }
        // One without a ticket is told the same, and asks again.
        let mut plain = unix(&home.host);
        plain.send(b"l\njob\n600\n");
        wait_for_waiters(&home, 5);
        server.signal(end);
        server.wait();
        let heard = if end == "TERM" { Some("error_draining".to_owned()) } else { None };
        assert_eq!(plain.try_line(), heard, "after {end}");
        for (client, _) in &mut waiting {
            assert_eq!(client.try_line(), heard, "after {end}");
        }

        let mut server = home.start();
        assert_eq!(server.event("state_opened")["queued"], 4);
        // They come back in another order than they stood in, and a newcomer before them.
        let mut newcomer = unix(&home.host);
        newcomer.send(b"l\njob\n600\n");
        for (client, ticket) in waiting.iter_mut().rev() {
            *client = home.client();
            assert_eq!(client.ask("resume", "job", ticket), format!("queued {ticket}"));
            client.send(b"w\njob\n600\n");
        }
        wait_for_waiters(&home, 5);
        assert_eq!(unix(&home.host).ask("r", "job", &token), "ok");
        let mut granted = Vec::new();
        for (client, _) in &mut waiting {
            let token = second_word(&client.line());
            granted.push(token.clone());
            assert_eq!(client.ask("r", "job", &token), "ok");
        }
        assert!(granted.is_sorted(), "{granted:?}");
        assert!(newcomer.line().starts_with("ok "));
    }
}

/// The next server is started first, as a rolling replacement does; then the other one is told to leave.
#[test]
fn the_next_server_waits_for_directory_and_address_and_nobody_is_refused_meanwhile() {
    let home = Home::new();
    let mut old = home.start();
    let mut holder = home.client();
    let token = holder.take("job", "0 600");
    let (mut waiting, ticket) = queue_up(&home, "job");
    wait_for_waiters(&home, 1);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However this ends, the asking does too.
        let end = EndsWhenDropped(&over);
        let asking = scope.spawn(|| ask_all_the_time(&home.host, &over));
        let starting = scope.spawn(|| home.start());
        // Nothing may happen in this window: the old one serves.
        let begin = now();
        while begin.elapsed() < Duration::from_millis(500) {
            assert!(old.is_running() && !starting.is_finished());
            assert!(unix(&home.host).ask("n", "job", &token).starts_with("ok "));
            std::thread::park_timeout(Duration::from_millis(10));
        }
        old.signal("TERM");
        assert_eq!(waiting.line(), "error_draining");
        let mut new = starting.join().expect("the new one starts");
        assert_eq!(old.wait().code(), Some(0));
        new.event("waiting");
        assert_eq!(new.event("state_opened")["held"], 1);
        let mut back = home.client();
        assert_eq!(back.ask("resume", "job", &token), "ok 600");
        let mut waiting = home.client();
        assert_eq!(waiting.ask("resume", "job", &ticket), format!("queued {ticket}"));
        waiting.send(b"w\njob\n600\n");
        assert_eq!(back.ask("r", "job", &token), "ok");
        assert!(waiting.line().starts_with("ok "));
        drop(end);
        let answers = asking.join().expect("the asking ends");
        assert!(answers.iter().all(|answer| answer == "timeout" || answer == "error_draining"), "{answers:?}");
    });
}

struct EndsWhenDropped<'a>(&'a AtomicBool);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for the held lock on one new connection after the other; returns what was answered.
fn ask_all_the_time(host: &str, over: &AtomicBool) -> Vec<String> {
    let path = Path::new(host.strip_prefix("unix:").expect("a socket file"));
    let mut answers = Vec::new();
    while !over.load(Ordering::Relaxed) {
        // Between the two servers nobody listens for a moment.
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
            let mut client = Lines::new(stream);
            client.send_if_it_goes(b"l\njob\n0\n");
            answers.extend(client.try_line());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    answers.dedup();
    answers
}

#[test]
fn a_server_that_does_not_leave_is_not_waited_for_for_ever() {
    let home = Home::new();
    let server = home.start();
    let begin = now();
    let said = crate::start::refused(&["--host", &home.host, "--state-dir", &home.state]);
    assert!(said.contains(&format!("another server uses it (pid {})", server.pid())), "{said}");
    assert!(begin.elapsed() >= Duration::from_secs(4), "it waited only {:?}", begin.elapsed());
    // The address alone is waited for as well.
    let other = home.state.clone() + "-2";
    let said = crate::start::refused(&["--host", &home.host, "--state-dir", &other]);
    assert!(said.contains("cannot listen on unix:"), "{said}");
}
