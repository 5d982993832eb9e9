//! Whoever takes much: the server stays, and those who hold are not disturbed.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::certificates::{Authority, VERSIONS, shake_hands};
use crate::house::{Server, wait_for};
use crate::lines::{Lines, tcp, unix};
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

/// Has everybody send this again and again for a while, as far as the server takes it, while somebody who holds a lock
/// works with it.
fn press(server: &Server, crowd: &mut [impl Write], bytes: &[u8], most_kib: u64, mut holder: impl FnMut()) {
    let mut sent = vec![0; crowd.len()];
    crate::house::observe(Duration::from_secs(4), || {
        for (stream, sent) in crowd.iter_mut().zip(&mut sent) {
            // What does not go is sent another time; whoever was cut off is gone.
            *sent = (*sent + stream.write(&bytes[*sent..]).unwrap_or(0)) % bytes.len();
        }
        holder();
        let used = server.memory_kib();
        assert!(used < most_kib, "{used} KiB");
    });
}

const SMALL_MIB: u64 = 24;

#[test]
fn answers_that_nobody_reads_take_no_more_memory_than_there_is() {
    raise_descriptor_limit();
    let home = tempfile::tempdir().unwrap();
    // The system keeps little for a socket file, so the server has to.
    let host = format!("unix:{}", home.path().join("socket").display());
    let server = Server::start(&["--max-memory", &format!("{SMALL_MIB}M"), "--host", &host]);
    let mut holder = unix(&server.address);
    let token = holder.take("job", "0 600");
    let one = || {
        let stream = UnixStream::connect(host.trim_start_matches("unix:")).expect("the server accepts");
        stream.set_nonblocking(true).expect("nonblocking");
        stream
    };
    let mut crowd: Vec<_> = (0..1500).map(|_| one()).collect();
    press(&server, &mut crowd, &b"info\n_\n_\n".repeat(2000), SMALL_MIB * 1024 + BESIDES_KIB, || {
        assert_eq!(holder.ask("n", "job", &format!("{token} 600")), "ok 600");
    });
    // Nobody had to be refused a lock for it.
    assert!(unix(&server.address).ask("l", "other", "0").starts_with("ok "));
    drop(crowd);
    assert_eq!(holder.ask("r", "job", &token), "ok");
}

/// From somebody who has neither a certificate nor the auth token.
#[test]
fn half_a_tls_handshake_takes_no_more_memory_than_there_is() {
    raise_descriptor_limit();
    let authority = Authority::new("ours");
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue("localhost").write(home.path(), "server");
    let most = format!("{SMALL_MIB}M");
    let args = ["--max-memory", &most, "--max-connections-per-ip", "0", "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&args);
    let client = authority.client(VERSIONS[0], None);
    let mut holder = shake_hands(&server.address, &client).expect("a handshake");
    let token = holder.take("job", "0 600");
    // A ClientHello that says it is as long as may be, in records of 16000 bytes, without its end.
    let hello = [&[1, 0, 0xff, 0xf0][..], &[b'A'; 64_000]].concat();
    let records: Vec<u8> = hello
        .chunks(16_000)
        .flat_map(|part| {
            let [high, low] = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[0x16, 3, 1, high, low][..], part].concat()
        })
        .collect();
    let mut crowd = crowd(&server, 1800, b"");
    press(&server, &mut crowd, &records, SMALL_MIB * 1024 + BESIDES_KIB, || {
        assert_eq!(holder.ask("n", "job", &format!("{token} 600")), "ok 600");
    });
    // Nobody has to wait until they have gone.
    wait_for("somebody new", || shake_hands(&server.address, &client).ok());
    assert_eq!(holder.ask("r", "job", &token), "ok");
}
