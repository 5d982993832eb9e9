//! How many connections there may be: by flag, by address, by descriptors, and ten thousand at once.

use std::net::TcpStream;
use std::time::Duration;

use crate::house::{Server, now, wait_for};
use crate::lines::{Lines, tcp, tcp_from, unix};
use crate::start::{raise_descriptor_limit, with_descriptors};

type Tcp = Lines<TcpStream>;

/// Turned away: the one line, then the end.
const TURNED_AWAY: &[u8] = b"error_max_connections\n";

/// Whether a new connection is served; if not, it was turned away with a word or without.
fn is_served(client: &mut Tcp) -> bool {
    // The server may close while this is written; then reading tells.
    let _ = std::io::Write::write_all(client.stream(), b"ping\n_\n_\n");
    match client.try_line().as_deref() {
        Some("ok") => true,
        None | Some("error_max_connections") => false,
        other => panic!("a new connection is answered {other:?}"),
    }
}

#[test]
fn one_too_many_is_told_so_and_the_others_go_on() {
    let home = tempfile::tempdir().unwrap();
    let host = format!("unix:{}", home.path().join("socket").display());
    let mut server = Server::start(&["--max-connections", "3", "--max-connections-per-ip", "0", "--host", "127.0.0.1"]);
    let mut inside: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut inside {
        assert_eq!(client.ask("ping", "_", "_"), "ok");
    }
    for _ in 0..20 {
        assert_eq!(Lines::new(tcp(&server.address)).rest(), TURNED_AWAY);
    }
    let refused = server.event("connections_refused");
    assert_eq!(refused["why"], "--max-connections");
    for client in &mut inside {
        let token = client.take("job", "0");
        assert_eq!(client.ask("r", "job", &token), "ok");
    }
    // A place is free again as soon as the server knows that somebody left.
    drop(inside.pop());
    wait_for("a free place", || is_served(&mut Lines::new(tcp(&server.address))).then_some(()));
    let server = Server::start(&["--max-connections", "1", "--host", &host]);
    let mut inside = unix(&server.address);
    assert_eq!(inside.ask("ping", "_", "_"), "ok");
    assert_eq!(unix(&server.address).rest(), TURNED_AWAY);
    assert_eq!(inside.ask("ping", "_", "_"), "ok");
}

#[test]
fn each_address_has_its_own_share() {
    let mut server = Server::start(&["--max-connections-per-ip", "2"]);
    let mut inside: Vec<_> = (0..2).map(|_| Lines::new(tcp(&server.address))).collect();
    for client in &mut inside {
        assert_eq!(client.ask("ping", "_", "_"), "ok");
    }
    assert_eq!(Lines::new(tcp(&server.address)).rest(), TURNED_AWAY);
    assert_eq!(server.event("connections_refused")["why"], "--max-connections-per-ip");
    let Some(mut neighbour) = tcp_from([127, 0, 0, 2], &server.address) else {
        eprintln!("SKIPPED in part: this machine has no address 127.0.0.2");
        return;
    };
    assert_eq!(neighbour.ask("ping", "_", "_"), "ok");
    let mut second = tcp_from([127, 0, 0, 2], &server.address).unwrap();
    assert_eq!(second.ask("ping", "_", "_"), "ok");
    assert_eq!(tcp_from([127, 0, 0, 2], &server.address).unwrap().rest(), TURNED_AWAY);
    // Who leaves frees a place for his address only.
    drop(inside.pop());
    wait_for("a free place", || is_served(&mut Lines::new(tcp(&server.address))).then_some(()));
    assert_eq!(tcp_from([127, 0, 0, 2], &server.address).unwrap().rest(), TURNED_AWAY);
}

#[test]
fn without_descriptors_it_sheds_load_and_does_not_spin() {
    raise_descriptor_limit();
    // Two listeners, because each keeps a descriptor in reserve.
    let server = with_descriptors(64, &["--host", "127.0.0.1", "--host", "127.0.0.1", "--max-connections-per-ip", "0"]);
    let begin = now();
    let mut inside = Vec::new();
    let mut away = 0;
    for _ in 0..200 {
        let mut client = Lines::new(tcp(&server.address));
        if is_served(&mut client) { inside.push(client) } else { away += 1 }
    }
    assert!(inside.len() >= 40 && away >= 100, "{} served, {away} turned away", inside.len());
    for client in &mut inside {
        let token = client.take("job", "0");
        assert_eq!(client.ask("r", "job", &token), "ok");
    }
    // Many at once, none of them answered one by one, and left hanging while the server is watched.
    let mut crowd: Vec<_> = (0..200).map(|_| Lines::new(tcp(&server.address))).collect();
    assert_eq!(inside[0].ask("ping", "_", "_"), "ok");
    // An observation window, not a wait: how much work is done while nobody asks for any.
    let ticks = server.cpu_ticks();
    let window = now();
    while window.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let spent = server.cpu_ticks() - ticks;
    assert!(spent < 30, "{spent} of about 100 ticks spent while nothing was asked");
    for client in &mut crowd {
        assert_eq!(client.rest(), TURNED_AWAY);
    }
    let warnings = server.events().iter().filter(|event| event["event"] == "connections_refused").count();
    let most = begin.elapsed().as_secs() + 2;
    // Each listener may warn once a second.
    assert!((1..=2 * most).contains(&(warnings as u64)), "{warnings} warnings in {:?}", begin.elapsed());
    let log = server.log_text();
    assert!(log.contains("ulimit -n") && !log.contains("accept_failed"), "{log}");
    drop(inside);
    wait_for("a place for a new client", || is_served(&mut Lines::new(tcp(&server.address))).then_some(()));
    // Whoever is turned away because others are still leaving comes back.
    wait_for("places for all", || {
        let mut again: Vec<Tcp> = (0..30).map(|_| Lines::new(tcp(&server.address))).collect();
        again.iter_mut().all(is_served).then_some(())
    });
}

/// As many as this process can have: a connection is a descriptor here too.
fn crowd_size() -> usize {
    // The other tests of this program run at the same time.
    let left = raise_descriptor_limit().saturating_sub(2000);
    usize::try_from(left).unwrap_or(usize::MAX).min(10_000)
}

#[test]
fn ten_thousand_at_once_are_served() {
    let count = crowd_size();
    if count < 10_000 {
        eprintln!("LESS THAN ASKED: only {count} connections, because of the hard limit on descriptors");
    }
    let server = Server::start(&["--gc-max-idle", "1", "--max-connections-per-ip", "0"]);
    let before = server.memory_kib();
    let mut crowd: Vec<TcpStream> = (0..count).map(|_| tcp(&server.address)).collect();
    let ask = |crowd: &mut Vec<TcpStream>, request: &dyn Fn(usize) -> String| {
        for (n, stream) in crowd.iter_mut().enumerate() {
            std::io::Write::write_all(stream, request(n).as_bytes()).unwrap();
        }
    };
    let hear = |crowd: &[TcpStream], what: &str| {
        for stream in crowd {
            let answer = Lines::new(stream).line();
            assert!(answer.starts_with(what), "{answer}");
        }
    };
    ask(&mut crowd, &|n| format!("l\njob-{n}\n0 600\n"));
    hear(&crowd, "ok ");
    let mut look = server.connect();
    assert_eq!(look.stats()["locks"].as_array().unwrap().len(), count);
    let grown = server.memory_kib().saturating_sub(before);
    println!("{count} connections with a lock each: {grown} KiB");
    assert!(grown < 60 * 1024, "{count} connections take {grown} KiB");
    // All of them in one queue, and then all gone at once.
    let token = look.take("one", "0 600");
    ask(&mut crowd, &|_| "l\none\n600\n".to_owned());
    let waiting = |look: &mut crate::house::Client| {
        let stats = look.stats();
        let one = stats["locks"].as_array().unwrap().iter().find(|lock| lock["key"] == "one").cloned();
        one.map_or(0, |lock| lock["waiters"].as_u64().unwrap())
    };
    wait_for("all to wait", || (waiting(&mut look) == count as u64).then_some(()));
    drop(crowd);
    wait_for("nobody to wait", || (waiting(&mut look) == 0).then_some(()));
    assert_eq!(look.ask("r", "one", &token), "ok");
    wait_for("nothing held", || look.stats()["locks"].as_array().unwrap().is_empty().then_some(()));
}
