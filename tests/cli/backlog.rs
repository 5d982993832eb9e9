//! Clients that send ahead what cannot be answered yet, or do not read what is: bounded, noticed, and alone with it.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::abuse::{NOISE_KIB, reset};
use crate::house::{Client, Server, now, wait_for};
use crate::lines::{Lines, tcp};

/// Takes so many locks with keys of 200 bytes.
fn hold(holder: &mut Client, keys: usize) {
    for batch in 0..keys / 100 {
        let ask: String = (0..100).map(|n| format!("l\n{:0200}\n0 600\n", batch * 100 + n)).collect();
        holder.send(ask.as_bytes());
        assert!((0..100).all(|_| holder.line().starts_with("ok ")));
    }
}

fn waiters(look: &mut Client) -> u64 {
    look.stats()["locks"][0]["waiters"].as_u64().unwrap_or(0)
}

/// Sends requests behind a blocked one, from a thread, because nobody may read them for long.
fn pipeline(stream: &TcpStream, pings: usize) -> std::thread::JoinHandle<()> {
    let mut stream = stream.try_clone().expect("a second handle");
    std::thread::spawn(move || {
        // It fails when the connection ends first; whoever asked looks at the answers.
        let _ = stream.write_all(b"ping\n_\n_\n".repeat(pings).as_slice());
    })
}

#[test]
fn a_mebibyte_behind_a_blocked_request_is_bounded_and_its_end_is_noticed() {
    const PINGS: usize = (1 << 20) / 9;
    // An end is told behind all that was sent, so this is more than the server reads ahead, and so little that its
    // kernel still has room: without a window, not even an end comes through.
    const UNREAD_PINGS: usize = (20 << 10) / 9;
    let server = Server::start(&["--read-timeout", "2"]);
    let mut holder = server.connect();
    let mut token = holder.take("job", "0 600");
    let before = server.memory_kib();
    for end in ["granted", "closed", "half-closed", "reset"] {
        let mut waiter = Lines::new(tcp(&server.address));
        waiter.send(b"l\njob\n600\n");
        wait_for("a waiter", || (waiters(&mut holder) == 1).then_some(()));
        let is_told_behind = matches!(end, "closed" | "half-closed");
        let writer = pipeline(waiter.stream(), if is_told_behind { UNREAD_PINGS } else { PINGS });
        let grown = server.memory_kib().saturating_sub(before);
        assert!(grown < NOISE_KIB, "{grown} KiB for what is sent ahead");
        if is_told_behind {
            wait_for("all of it to be sent", || writer.is_finished().then_some(()));
        }
        match end {
            "granted" => {
                assert_eq!(holder.ask("r", "job", &token), "ok");
                assert!(waiter.line().starts_with("ok "));
                for number in 0..PINGS {
                    assert_eq!(waiter.line(), "ok", "ping {number}");
                }
                drop(waiter);
                token = holder.take("job", "600 600");
            }
            "reset" => {
                reset(waiter.stream());
                drop(waiter);
            }
            "half-closed" => waiter.stream().shutdown(Shutdown::Write).unwrap(),
            _ => waiter.stream().shutdown(Shutdown::Both).unwrap(),
        }
        wait_for(&format!("the queue to be empty ({end})"), || (waiters(&mut holder) == 0).then_some(()));
        writer.join().unwrap();
    }
}

#[test]
fn a_client_that_never_reads_is_cut_and_costs_bounded_memory() {
    let server = Server::start(&["--write-timeout", "1"]);
    let mut holder = server.connect();
    hold(&mut holder, 20_000);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let (inside, before) = (descriptors(), server.memory_kib());
    let mut deaf = Lines::new(tcp(&server.address));
    let begin = now();
    // Some five megabytes each time.
    deaf.send("stats\n_\n_\n".repeat(500).as_bytes());
    assert_eq!(holder.ask("ping", "_", "_"), "ok");
    let mut longest = Duration::ZERO;
    let mut most = 0;
    wait_for("the deaf client to be cut", || {
        let asked = now();
        let token = holder.take("bystander", "0");
        assert_eq!(holder.ask("r", "bystander", &token), "ok");
        longest = longest.max(asked.elapsed());
        most = most.max(server.memory_kib().saturating_sub(before));
        (begin.elapsed() >= Duration::from_secs(1) && descriptors() <= inside).then_some(())
    });
    assert!(most < NOISE_KIB, "{most} KiB for a client that does not read");
    assert!(longest < Duration::from_secs(10), "a bystander was held up for {longest:?}");
    // What it got is cut off in the middle, or ends with a whole answer.
    assert!(deaf.rest().starts_with(b"ok {"));
}

/// Lets time pass.
fn pass(time: Duration) {
    let begin = now();
    while begin.elapsed() < time {
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The time it takes to read an answer is the write timeout's matter; the read timeout begins behind it.
#[test]
fn a_slow_reader_is_not_blamed_for_its_next_request() {
    let server = Server::start(&["--read-timeout", "6", "--write-timeout", "60"]);
    let mut holder = server.connect();
    hold(&mut holder, 5_000);
    let mut slow = Lines::new(tcp(&server.address));
    // More than a megabyte each, together more than the kernel keeps for a connection.
    slow.send("stats\n_\n_\n".repeat(40).as_bytes());
    // The slowness is the test, nothing is waited for; likewise the moment's thought before the next request.
    pass(Duration::from_secs(7));
    for number in 0..40 {
        assert!(slow.line().starts_with("ok {"), "answer {number}");
    }
    pass(Duration::from_millis(200));
    assert_eq!(slow.ask("ping", "_", "_"), "ok");
}

/// A client that asks ahead for what takes the server long is not silent meanwhile.
#[test]
fn a_slow_answer_is_not_blamed_on_who_waits_for_it() {
    let server = Server::start(&["--read-timeout", "1"]);
    let mut holder = server.connect();
    hold(&mut holder, 3_000);
    let mut eager = Lines::new(tcp(&server.address));
    let begin = now();
    assert!(eager.ask("stats", "_", "_").starts_with("ok {"));
    // All of it is read by the server at once, and takes it longer than its patience.
    let count = (4_000_000 / begin.elapsed().as_micros().max(1)).clamp(2, 1000);
    let begin = now();
    eager.send("stats\n_\n_\n".repeat(count as usize).as_bytes());
    for number in 0..count {
        assert!(eager.line().starts_with("ok {"), "answer {number} of {count}");
    }
    println!("{count} answers in {:?}", begin.elapsed());
    assert_eq!(eager.ask("ping", "_", "_"), "ok");
}
