//! `--idle-exit`: a server that nobody uses leaves, and only such a one.

use std::time::{Duration, Instant};

use crate::house::{Server, now};
use crate::lines::Lines;
use crate::start::logged;

const IDLE: Duration = Duration::from_secs(2);

fn serve(more: &[&str]) -> Server {
    Server::start(&[&["--idle-exit", "2"], more].concat())
}

/// Watches for so long that it does not end. This is an observation window, not a wait.
fn stays(server: &mut Server, window: Duration, why: &str) {
    let begin = now();
    while begin.elapsed() < window {
        assert!(server.is_running(), "it left although {why}: {}", server.log_text());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits for its end, which may not come before it was unused for [`IDLE`] since `last_used`.
fn leaves(server: &mut Server, last_used: Instant) {
    assert_eq!(server.wait().code(), Some(0));
    let unused = last_used.elapsed();
    assert!(unused >= IDLE, "it left after being unused for only {unused:?}");
    assert_eq!(logged(server, "idle_exit")["after_s"], 2);
}

#[test]
fn it_leaves_when_nobody_ever_comes() {
    let begin = now();
    let mut server = serve(&[]);
    leaves(&mut server, begin);
}

#[test]
fn it_stays_while_somebody_is_connected() {
    let mut server = serve(&[]);
    let mut client = server.connect();
    stays(&mut server, 2 * IDLE, "a client is connected");
    assert_eq!(client.ask("ping", "_", "_"), "ok");
    let gone = now();
    drop(client);
    leaves(&mut server, gone);
}

#[test]
fn a_short_visit_counts_too() {
    let mut server = serve(&[]);
    let mut last = now();
    for _ in 0..4 {
        stays(&mut server, IDLE * 4 / 10, "it was used a moment ago");
        server.connect().ask("ping", "_", "_");
        last = now();
    }
    leaves(&mut server, last);
}

#[test]
fn it_stays_while_a_lock_without_a_connection_runs() {
    let mut server = serve(&["--auto-release-on-disconnect=false"]);
    let mut holder = server.connect();
    let token = holder.take("job", "0 600");
    drop(holder);
    stays(&mut server, 2 * IDLE, "a lock is held");
    let mut other = server.connect();
    assert_eq!(other.ask("r", "job", &token), "ok");
    let gone = now();
    drop(other);
    leaves(&mut server, gone);
}

#[test]
fn it_stays_while_a_broken_connection_may_be_resumed() {
    let mut server = serve(&[]);
    let mut holder = server.connect();
    assert!(holder.ask("info", "_", "resume 60").starts_with("ok {"));
    let token = holder.take("job", "0 600");
    let mut queued = server.connect();
    assert!(queued.ask("info", "_", "resume 60").starts_with("ok {"));
    let ticket = queued.ask("e", "job", "600").strip_prefix("queued ").unwrap().to_owned();
    drop(holder);
    drop(queued);
    stays(&mut server, 2 * IDLE, "a lock and a place may be resumed");
    let mut back = server.connect();
    assert!(back.ask("resume", "job", &token).starts_with("ok "));
    assert_eq!(back.ask("r", "job", &token), "ok");
    // Nothing is held now; the place alone is left behind.
    drop(back);
    stays(&mut server, 2 * IDLE, "a place may be resumed");
    let mut back = server.connect();
    let acquired = back.ask("resume", "job", &ticket);
    let token = acquired.strip_prefix("acquired ").and_then(|rest| rest.split(' ').next()).expect("a token");
    assert_eq!(back.ask("r", "job", token), "ok");
    let gone = now();
    drop(back);
    leaves(&mut server, gone);
}

#[test]
fn the_time_counts_from_the_end_of_the_last_lock() {
    let mut server = serve(&["--auto-release-on-disconnect=false"]);
    let mut holder = server.connect();
    let token = holder.take("job", "0 600");
    // Long enough that the server waits for this connection to close, and for nothing else.
    stays(&mut server, IDLE * 3 / 2, "a client is connected");
    let renewed = now();
    // Unused from the end of this lease on, which is after the connection closes.
    assert_eq!(holder.ask("n", "job", &format!("{token} 4")), "ok 4");
    drop(holder);
    leaves(&mut server, renewed + 2 * IDLE);
}

/// Whoever comes in the very moment in which it leaves is told to ask again, or finds nobody; a lock that is
/// given out is kept.
#[test]
fn nobody_is_given_a_lock_by_a_server_that_leaves() {
    let mut random =
        std::iter::successors(Some(12_345_u64), |last| Some(last.wrapping_mul(6_364_136_223_846_793_005) + 1));
    let mut last_words = [0; 3];
    for round in 0..60 {
        let mut server = Server::start(&["--idle-exit", "0.1"]);
        let begin = now();
        let moment = Duration::from_micros(95_000 + random.next().unwrap_or(0) / 7 % 10_000);
        while begin.elapsed() < moment {
            std::thread::yield_now();
        }
        let Ok(stream) = std::net::TcpStream::connect(&server.address) else {
            last_words[0] += 1;
            continue;
        };
        let mut client = Lines::new(stream);
        client.send_if_it_goes(b"l\njob\n0\n");
        match client.try_line().as_deref() {
            None => last_words[1] += 1,
            Some("error_draining") => last_words[2] += 1,
            Some(granted) => {
                let token = granted.strip_prefix("ok ").and_then(|rest| rest.split(' ').next()).expect(granted);
                stays(&mut server, Duration::from_millis(150), "a lock is held");
                assert_eq!(client.ask("n", "job", &format!("{token} 60")), "ok 60", "round {round}");
            }
        }
    }
    println!("found nobody {}, heard nothing {}, told to ask again {}", last_words[0], last_words[1], last_words[2]);
}
