//! Places beyond all limits, for those who hold a lock and come back while a flood has all others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::certificates::{Authority, VERSIONS, shake_hands};
use crate::house::clean::House;
use crate::house::proxy::Proxy;
use crate::house::{Server, observe, wait_for};
use crate::lines::{Lines, tcp, tcp_from};
use crate::start::{private_file, raise_descriptor_limit, with_descriptors};

const TURNED_AWAY: &str = "error_max_connections";

/// A crowd that says nothing is not cut off for it while a test lasts.
const PATIENT: [&str; 2] = ["--read-timeout", "300"];

/// Asks for a lock as somebody new, and goes away again.
fn newcomer(server: &Server) -> Option<String> {
    let mut client = Lines::new(tcp(&server.address));
    client.send_if_it_goes(b"l\nother\n0\n");
    client.try_line()
}

/// Connects again and again, and says nothing, until somebody new is turned away.
fn fill(server: &Server, crowd: &mut Vec<TcpStream>, is_turned_away: impl Fn() -> bool) {
    while !is_turned_away() {
        crowd.extend((0..16).map(|_| tcp(&server.address)));
        assert!(crowd.len() < 10_000, "everybody is let in");
    }
    // On extra places, too.
    crowd.extend((0..100).map(|_| tcp(&server.address)));
}

/// The connection that a lock belongs to; 0 while it is kept for one that broke.
fn owner<S: Read + Write>(look: &mut Lines<S>) -> u64 {
    let answer = look.ask("stats", "_", "_");
    let stats: Value = serde_json::from_str(answer.strip_prefix("ok ").expect("stats")).expect("JSON");
    let locks = stats["locks"].as_array().expect("locks");
    let lock = locks.iter().find(|lock| lock["key"] == "k").expect("nobody has lost it");
    lock["owner_conn_id"].as_u64().expect("a number")
}

/// A command under a lock, whose connection is cut once. A crowd that says nothing takes all places, this one too. `look`
/// is there from the beginning.
fn comes_back<S: Read + Write>(
    server: &Server,
    flags: &[&str],
    look: &mut Lines<S>,
    is_turned_away: impl Fn() -> bool,
) {
    let proxy = Proxy::to(&server.address);
    let house = House::at(&proxy.address);
    look.take("look", "0 600");
    let job = ["k", "-c", "echo > begun; until [ -e end ]; do sleep 0.05; done"];
    let running = house.start(&[&["exec", "-l", "60"], flags, &job].concat());
    house.wait_for_file("begun");
    let mut crowd = Vec::new();
    fill(server, &mut crowd, &is_turned_away);
    proxy.refuse(true);
    proxy.cut();
    wait_for("the server to see it", || (owner(look) == 0).then_some(()));
    fill(server, &mut crowd, &is_turned_away);
    proxy.refuse(false);
    wait_for("the holder to come back", || (owner(look) != 0).then_some(()));
    // Who is back is not pushed out any more.
    let back = owner(look);
    observe(Duration::from_secs(1), || {
        fill(server, &mut crowd, &is_turned_away);
        assert_eq!(owner(look), back);
    });
    std::fs::write(house.path("end"), "").expect("the file can be written");
    running.finish().code(0);
}

#[test]
fn a_holder_comes_back_though_a_crowd_has_all_places() {
    raise_descriptor_limit();
    let [flag, long] = PATIENT;
    let by_number = Server::start(&["--max-connections", "64", "--max-connections-per-ip", "0", flag, long]);
    let by_address = Server::start(&["--max-connections", "200", "--max-connections-per-ip", "100", flag, long]);
    let by_descriptors = with_descriptors(256, &["--max-connections-per-ip", "0", flag, long]);
    let by_memory = Server::start(&["--max-memory", "8M", "--max-connections-per-ip", "0", flag, long]);
    let limits = ["--max-connections", "--max-connections-per-ip", "ulimit -n", "--max-memory"];
    for (mut server, limit) in [by_number, by_address, by_descriptors, by_memory].into_iter().zip(limits) {
        let mut look = Lines::new(tcp(&server.address));
        comes_back(&server, &[], &mut look, || newcomer(&server).as_deref() == Some(TURNED_AWAY));
        let why = &server.event("connections_refused")["why"];
        assert!(why.as_str().is_some_and(|why| why.contains(limit)), "{why} for {limit}");
    }
}

#[test]
fn a_holder_comes_back_with_tls_and_a_secret() {
    raise_descriptor_limit();
    let authority = Authority::new("ours");
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue("localhost").write(home.path(), "server");
    let secret = private_file(home.path(), "secret", "s3cret");
    let ca = authority.write(home.path(), "ca.crt");
    let args = ["--max-connections", "64", "--max-connections-per-ip", "0", "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&[&args[..], &["--auth-token-file", &secret], &PATIENT].concat());
    let trust = authority.client(VERSIONS[1], None);
    let flags = ["--tls", "--tls-ca", &ca, "--tls-name", "localhost", "--auth-token-file", &secret];
    let mut look = shake_hands(&server.address, &trust).expect("a handshake");
    assert_eq!(look.ask("auth", "_", "s3cret"), "ok");
    comes_back(&server, &flags, &mut look, || {
        let Ok(mut client) = shake_hands(&server.address, &trust) else { return true };
        client.send_if_it_goes(b"auth\n_\ns3cret\nl\nother\n0\n");
        // One by one, as clients of other languages hear them.
        match client.try_line().as_deref() {
            Some("ok") => client.try_line().is_none_or(|answer| answer == TURNED_AWAY),
            answer => panic!("the right secret is answered {answer:?}"),
        }
    });
}

/// As fast as it can, from an address of its own.
#[test]
fn a_holder_comes_back_though_others_connect_all_the_time() {
    raise_descriptor_limit();
    if tcp_from([127, 0, 0, 2], &Server::start(&[]).address).is_none() {
        eprintln!("SKIPPED: this machine has no address 127.0.0.2");
        return;
    }
    let server = Server::start(&["--max-connections", "64", "--max-connections-per-ip", "0"]);
    let mut holder = server.connect();
    assert!(holder.ask("info", "_", "resume 60").starts_with("ok "));
    let token = holder.take("job", "0 600");
    drop(holder);
    let mut idle = Vec::new();
    fill(&server, &mut idle, || newcomer(&server).as_deref() == Some(TURNED_AWAY));
    let (is_over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    let one = || tcp_from([127, 0, 0, 2], &server.address).expect("an address");
    let mut crowd: Vec<_> = (0..200).map(|_| one()).collect();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for at in (0..200).cycle().take(200_000) {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                crowd[at] = one();
                came.fetch_add(1, Ordering::SeqCst);
            }
        });
        wait_for("the flood", || (came.load(Ordering::SeqCst) > 200).then_some(()));
        // Piece by piece, as from far away.
        let mut back = tcp(&server.address);
        let request = format!("info\n_\nresume 60\nresume\njob\n{token} 600\n");
        for piece in request.as_bytes().chunks(20) {
            observe(Duration::from_millis(50), || {});
            // One that was pushed out is told by what it hears.
            let _ = back.write_all(piece);
        }
        let mut back = Lines::new(back);
        let heard = [back.try_line(), back.try_line()];
        is_over.store(true, Ordering::SeqCst);
        flood.join().expect("the flood ends");
        assert_eq!(heard[1].as_deref(), Some("ok 600"), "{heard:?}");
        assert_eq!(back.ask("r", "job", &token), "ok");
    });
}

#[test]
fn an_extra_place_is_for_what_is_there_already() {
    let mut server = Server::start(&["--max-connections", "64", "--max-connections-per-ip", "0"]);
    let mut inside: Vec<_> = (0..64).map(|_| server.connect()).collect();
    assert!(inside[0].ask("info", "_", "resume 60").starts_with("ok "));
    let token = inside[0].take("job", "0 600");
    let other = inside[1].take("other", "0 600");
    let new = || Lines::new(tcp(&server.address));
    for request in ["l\nk\n0\n", "e\nk\n\n", "w\nk\n0\n", "sl\nk\n0 2\n", "ping\n_\n_\n", "stats\n_\n_\n"] {
        let mut client = new();
        client.send(request.as_bytes());
        assert_eq!(client.rest(), b"error_max_connections\n", "{request}");
    }
    // What is held may be given back and renewed.
    let mut client = new();
    assert!(client.ask("info", "_", "_").starts_with("ok "));
    assert_eq!(client.ask("n", "job", &format!("{token} 600")), "ok 600");
    assert_eq!(client.ask("r", "other", &other), "ok");
    assert_eq!(client.ask("resume", "other", &other), "error");
    // There are four; who came first gives way first.
    let mut extras: Vec<_> = (0..4).map(|_| new()).collect();
    assert_eq!(client.try_line(), None);
    for extra in &mut extras {
        assert!(extra.ask("info", "_", "_").starts_with("ok "));
    }
    // Who has taken over a lock is one like the others.
    assert_eq!(extras[0].ask("resume", "job", &format!("{token} 600")), "ok 600");
    let crowd: Vec<_> = (0..20).map(|_| new()).collect();
    for mut extra in extras.drain(1..) {
        assert_eq!(extra.try_line(), None);
    }
    let mut back = extras.remove(0);
    assert!(back.ask("l", "k", "0").starts_with("ok "));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs").count();
    assert!(descriptors < 64 + 4 + 32, "{descriptors} descriptors");
    // With room again, there is room for whoever comes.
    drop((inside, crowd));
    wait_for("room", || newcomer(&server).filter(|answer| answer != TURNED_AWAY));
    assert_eq!(server.event("connections_refused")["why"], "--max-connections");
}
