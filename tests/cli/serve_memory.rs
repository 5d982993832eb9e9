//! Whoever takes much: the server stays, and those who hold are not disturbed.

use std::io::Write;
use std::net::TcpStream;

use crate::house::Server;
use crate::lines::{Lines, tcp};
use crate::start::raise_descriptor_limit;

/// Memory of the program itself, and what comes and goes.
const BESIDES_KIB: u64 = 40 * 1024;

/// Sends as many requests as it may, a piece at a time; returns the first refusal.
fn flood(server: &Server, mut request: impl FnMut(u32) -> String) -> String {
    let mut client = server.connect();
    let mut number = 0;
    while number < 2_000_000 {
        let piece: String = (0..500).map(|at| request(number + at)).collect();
        number += 500;
        client.send(piece.as_bytes());
        for _ in 0..500 {
            let answer = client.line();
            if answer.starts_with("error") {
                return answer;
            }
        }
    }
    panic!("everything was granted")
}

#[test]
fn those_who_take_much_are_refused_and_those_who_hold_go_on() {
    const MOST_MIB: u64 = 64;
    let mut server = Server::start(&["--max-memory", &format!("{MOST_MIB}M")]);
    let mut holder = server.connect();
    assert!(holder.ask("info", "_", "resume 60").starts_with("ok "));
    let token = holder.take("job", "0 600");
    let mut waiter = server.connect();
    waiter.send(b"l\njob\n600\n");
    let pad = "k".repeat(200);
    // The flood stays connected by what it leaves behind: its locks are kept for it.
    let refusal = flood(&server, |number| {
        let wish = if number == 0 { "info\n_\nresume 300\n" } else { "" };
        if wish.is_empty() { format!("l\n{pad}{number}\n0 600\n") } else { wish.to_owned() }
    });
    assert_eq!(refusal, "error_max_locks");
    server.event("out_of_memory");
    let used = server.memory_kib();
    assert!(used < MOST_MIB * 1024 + BESIDES_KIB, "{used} KiB");
    let mut other = server.connect();
    assert_eq!(other.ask("l", "other", "0"), "error_max_locks");
    assert_eq!(other.ask("e", "job", ""), "error_max_locks");
    // Whoever holds renews, comes back on a new connection, and hands over to whoever waited.
    assert_eq!(holder.ask("n", "job", &format!("{token} 600")), "ok 600");
    drop(holder);
    let mut back = server.connect();
    assert_eq!(back.ask("resume", "job", &format!("{token} 600")), "ok 600");
    assert_eq!(back.ask("r", "job", &token), "ok");
    assert!(waiter.line().starts_with("ok "));
}

/// A crowd of clients, each of which sends this and then nothing.
fn crowd(server: &Server, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let one = || {
        let mut stream = tcp(&server.address);
        stream.set_nonblocking(true).expect("nonblocking");
        // What the server does not read stays where it is.
        let _ = stream.write(bytes);
        stream
    };
    (0..count).map(|_| one()).collect()
}

#[test]
fn half_a_secret_takes_no_memory() {
    raise_descriptor_limit();
    let home = tempfile::tempdir().unwrap();
    let secret = crate::start::private_file(home.path(), "secret", "a-secret-of-usual-length");
    for args in [&["--auth-token-file", secret.as_str()][..], &[]] {
        let server = Server::start(args);
        let before = server.memory_kib();
        let bytes = [b"auth\n_\n".as_slice(), &[b'x'; 60_000]].concat();
        let crowd = crowd(&server, 1000, &bytes);
        let mut last = Lines::new(tcp(&server.address));
        last.send(b"ping\n_\n_\n");
        last.line();
        crate::house::observe(std::time::Duration::from_millis(500), || {
            let grown = server.memory_kib().saturating_sub(before);
            assert!(grown < 36 * 1024, "{grown} KiB for {} halves of a secret", crowd.len());
        });
    }
}

#[test]
fn what_waiters_send_ahead_is_bounded_in_total() {
    raise_descriptor_limit();
    let server = Server::start(&[]);
    let mut holder = server.connect();
    let token = holder.take("job", "0 600");
    let mut polite = server.connect();
    polite.send(b"l\njob\n600\n");
    let ahead = b"ping\n_\n_\n".repeat(1800);
    let before = server.memory_kib();
    let crowd = crowd(&server, 3000, &[b"l\njob\n600\n".as_slice(), &ahead].concat());
    crate::house::wait_for("as many as there is room for", || {
        (holder.stats()["locks"][0]["waiters"].as_u64() > Some(1000)).then_some(())
    });
    crate::house::observe(std::time::Duration::from_millis(500), || {
        let grown = server.memory_kib().saturating_sub(before);
        assert!(grown < 40 * 1024, "{grown} KiB for what {} waiters sent ahead", crowd.len());
    });
    drop(crowd);
    assert_eq!(holder.ask("r", "job", &token), "ok");
    assert!(polite.line().starts_with("ok "), "whoever sends nothing ahead waits on");
}

#[test]
fn one_address_does_not_keep_all_others_out() {
    let mut server = Server::start(&["--max-connections", "100"]);
    let inside: Vec<_> = (0..50).map(|_| server.connect()).collect();
    assert_eq!(Lines::new(tcp(&server.address)).rest(), b"error_max_connections\n");
    assert_eq!(server.event("connections_refused")["why"], "--max-connections-per-ip");
    if let Some(mut other) = crate::lines::tcp_from([127, 0, 0, 2], &server.address) {
        assert_eq!(other.ask("ping", "_", "_"), "ok");
    }
    drop(inside);
}
