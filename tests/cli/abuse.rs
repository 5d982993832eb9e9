//! Clients that break the rules, stall or flood: each gets an answer or an end, and nobody else notices.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::house::{Server, now, wait_for};
use crate::lines::{Lines, tcp};

/// Memory that may come and go without meaning anything.
pub const NOISE_KIB: u64 = 8 * 1024;

/// Makes a connection end with a reset instead of in good order.
pub fn reset(stream: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream.as_fd(), sockopt::Linger, &linger).expect("linger");
}

#[test]
fn what_is_no_request_is_answered_as_the_original_does() {
    let server = Server::start(&[]);
    for (what, bytes) in [
        ("a key too long", [b"l\n".as_slice(), &[b'k'; 257], b"\n0\n"].concat()),
        ("a command too long", [&[b'l'; 257], b"\nk\n0\n".as_slice()].concat()),
        ("a line without end", vec![b'x'; 300]),
        ("a mebibyte in one line", [vec![b'x'; 1 << 20], b"\n".to_vec()].concat()),
        ("binary without line ends", vec![0xff; 5000]),
        ("a TLS greeting", vec![0x16, 3, 1, 2, 0, 1, 0]),
    ] {
        let mut client = Lines::new(tcp(&server.address));
        client.send(&bytes);
        assert_eq!(client.rest(), b"error\n", "{what}");
    }
    // These are three lines like any others: the connection stays.
    for request in [
        b"\n\n\n".as_slice(),
        b"\0\xff\n\xfe\n\x80\n",
        b"zz\nk\n0\n",
        b"l\nk\n-1\n",
        b"r\nk\n\xff\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send(request);
        assert_eq!(client.line(), "error", "{:?}", String::from_utf8_lossy(request));
        assert_eq!(client.ask("ping", "_", "_"), "ok");
    }
}

/// A page in a browser may send such a request to any port of its machine.
#[test]
fn what_comes_by_http_takes_no_lock() {
    let server = Server::start(&[]);
    let body = "l\nfrom-a-page\n0 600\n";
    let posts = [
        format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\n\r\n{body}", server.address),
        format!("POST / HTTP/1.0\n\n\n{body}"),
        format!("POST /x\r\nHost: localhost\r\n\r\n{body}"),
        format!("\r\nPOST / HTTP/1.1\r\n\r\n{body}"),
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{body}"),
        // A page chooses the path too.
        format!("POST /{} HTTP/1.1\r\n\r\n{body}", "x".repeat(300)),
    ];
    for post in &posts {
        for piece in [1, 7, post.len()] {
            let mut client = Lines::new(tcp(&server.address));
            for bytes in post.as_bytes().chunks(piece) {
                client.send_if_it_goes(bytes);
            }
            assert_eq!(client.rest(), b"error\n", "{post:?}");
        }
    }
    assert!(server.stats()["locks"].as_array().unwrap().is_empty());
    // Where an HTTP header would be there is a key, and it may be called so.
    let mut client = server.connect();
    client.take("Host:web1", "0");
}

#[test]
fn half_a_request_and_silence_is_cut_even_from_a_holder() {
    let server = Server::start(&["--read-timeout", "2"]);
    let mut holder = server.connect();
    holder.take("job", "0 600");
    let (begin, half) = (now(), ["l", "l\n", "l\njob\n", "l\njob\n10"]);
    let mut stalled: Vec<_> = half
        .iter()
        .map(|bytes| {
            let mut client = Lines::new(tcp(&server.address));
            client.send(bytes.as_bytes());
            client
        })
        .collect();
    for client in &mut stalled {
        assert_eq!(client.rest(), b"error\n");
    }
    assert!(begin.elapsed() >= Duration::from_secs(2));
    // A holder may be silent between requests, not within one.
    assert_eq!(holder.ask("ping", "_", "_"), "ok");
    let mut waiter = server.connect();
    waiter.send(b"l\njob\n600\n");
    holder.send(b"n\njo");
    assert_eq!(holder.rest(), b"error\n");
    assert!(waiter.line().starts_with("ok "), "what it held is free");
}

#[test]
fn endless_bytes_without_a_line_end_are_cut_and_cost_no_memory() {
    let server = Server::start(&[]);
    let mut bystander = server.connect();
    let before = server.memory_kib();
    for start in ["", "l\n", "auth\n_\n"] {
        let mut client = tcp(&server.address);
        client.write_all(start.as_bytes()).unwrap();
        let piece = vec![b'x'; 64 * 1024];
        // What is in flight in the kernel's buffers comes on top of what the server reads.
        let written = (0..4096).take_while(|_| client.write_all(&piece).is_ok()).count();
        assert!(written < 4096, "256 MiB were taken");
        assert_eq!(bystander.ask("ping", "_", "_"), "ok");
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < NOISE_KIB, "{grown} KiB for endless lines");
}

#[test]
fn a_connection_that_is_reset_at_any_moment_leaves_nothing() {
    let server = Server::start(&["--gc-max-idle", "1"]);
    let mut look = server.connect();
    for bytes in ["", "l", "l\njob\n0\n", "e\njob\n\n", "stats\n_\n_\n", "sl\npool\n600 2\n", "l\njob\n600\n"] {
        for _ in 0..20 {
            let mut client = tcp(&server.address);
            client.write_all(bytes.as_bytes()).unwrap();
            reset(&client);
        }
    }
    wait_for("nothing to be left", || {
        let stats = look.stats();
        let none = |group: &str| stats[group].as_array().unwrap().is_empty();
        (stats["connections"] == 1 && none("locks") && none("semaphores") && none("idle_locks")).then_some(())
    });
    look.take("job", "0");
}

#[test]
fn random_bytes_hurt_nobody() {
    let server = Server::start(&["--gc-max-idle", "1"]);
    let words: [&[u8]; 24] = [
        b"l", b"r", b"n", b"e", b"w", b"sl", b"sr", b"sn", b"se", b"sw", b"stats", b"ping", b"info", b"resume",
        b"auth", b"\n", b"\n", b"\n", b" ", b"0", b"1", b"2 1", b"\r", b"\xff\0",
    ];
    let mut bystander = server.connect();
    let mut state = 7_u64;
    let mut random = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    };
    for _ in 0..400 {
        let mut client = tcp(&server.address);
        let bytes: Vec<u8> = (0..random(400)).flat_map(|_| words[random(words.len())].iter().copied()).collect();
        match client.write_all(&bytes) {
            Err(why) if matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            written => written.unwrap(),
        }
        if random(2) == 0 {
            reset(&client);
        }
        let token = bystander.take("bystander", "0");
        assert_eq!(bystander.ask("r", "bystander", &token), "ok");
    }
    wait_for("all of it to be gone", || {
        let stats = bystander.stats();
        let none = |group: &str| stats[group].as_array().unwrap().is_empty();
        (stats["connections"] == 1 && none("locks") && none("semaphores")).then_some(())
    });
    assert!(!server.log_text().contains("panicked"), "{}", server.log_text());
}
