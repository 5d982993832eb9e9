//! TLS: both versions, client certificates, and whoever speaks something else.

use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;

use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::certificates::{Authority, TlsLines, VERSIONS, shake_hands};
use crate::house::{Server, now, wait_for};
use crate::lines::{Lines, tcp};
use crate::start::refused;

/// An hour: what must end at once would otherwise hang until the test's ceiling.
const PATIENT: [&str; 2] = ["--read-timeout", "1h"];

/// A server with a certificate of `authority`, and the directory its files are in.
fn serve(authority: &Authority, more: &[&str]) -> (Server, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a directory");
    let (cert, key) = authority.issue("localhost").write(home.path(), "server");
    let args = [&["--tls-cert", &cert, "--tls-key", &key], more].concat();
    (Server::start(&args), home)
}

fn connect(server: &Server, authority: &Authority, version: &'static SupportedProtocolVersion) -> TlsLines {
    shake_hands(&server.address, &authority.client(version, None)).expect("a handshake")
}

#[test]
fn locks_over_tls_1_2_and_1_3() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &[]);
    for version in VERSIONS {
        let mut client = connect(&server, &authority, version);
        assert_eq!(client.stream().conn.protocol_version(), Some(version.version));
        let token = client.take("job", "0 30");
        assert_eq!(client.ask("n", "job", &format!("{token} 60")), "ok 60");
        assert_eq!(client.ask("r", "job", &token), "ok");
        assert!(client.ask("stats", "_", "_").starts_with("ok {\"connections\":1,"));
    }
}

#[test]
fn a_waiter_over_tls_is_served_when_the_holder_releases_or_is_gone() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &[]);
    for version in VERSIONS {
        for end in ["release", "good-bye", "reset"] {
            let mut holder = connect(&server, &authority, version);
            let mut waiter = connect(&server, &authority, version);
            let token = holder.take("job", "0 600");
            waiter.send(b"l\njob\n600\n");
            let mut look = connect(&server, &authority, version);
            wait_for("a waiter", || look.ask("stats", "_", "_").contains("\"waiters\":1").then_some(()));
            match end {
                "release" => assert_eq!(holder.ask("r", "job", &token), "ok"),
                "good-bye" => {
                    holder.stream().conn.send_close_notify();
                    holder.send(b"");
                }
                // TCP ends in the middle of TLS, as when a client is killed.
                _ => holder.stream().sock.shutdown(Shutdown::Both).unwrap(),
            }
            assert!(waiter.line().starts_with("ok "), "after {end}");
        }
    }
}

#[test]
fn a_waiter_over_tls_that_is_gone_leaves_the_queue() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &[]);
    let mut holder = connect(&server, &authority, &TLS13);
    holder.take("job", "0 600");
    let mut waiter = connect(&server, &authority, &TLS13);
    waiter.send(b"l\njob\n600\n");
    wait_for("a waiter", || holder.ask("stats", "_", "_").contains("\"waiters\":1").then_some(()));
    drop(waiter);
    wait_for("nobody waiting", || holder.ask("stats", "_", "_").contains("\"waiters\":0").then_some(()));
}

#[test]
fn only_clients_with_the_right_certificate_are_let_in() {
    let (authority, others) = (Authority::new("ours"), Authority::new("theirs"));
    let home = tempfile::tempdir().unwrap();
    let ca = authority.write(home.path(), "ca.crt");
    let (mut server, _files) = serve(&authority, &["--tls-client-ca", &ca, PATIENT[0], PATIENT[1]]);
    let (ours, theirs) = (authority.issue("client"), others.issue("client"));
    for version in VERSIONS {
        let mut inside = shake_hands(&server.address, &authority.client(version, Some(&ours))).unwrap();
        let token = inside.take("job", "0 30");
        for stranger in [None, Some(&theirs)] {
            // In TLS 1.3 the client only hears of it behind its own handshake.
            if let Ok(mut outside) = shake_hands(&server.address, &authority.client(version, stranger)) {
                let _ = std::io::Write::write_all(outside.stream(), b"r\njob\n_\n");
                let mut answer = [0; 64];
                let read = std::io::Read::read(outside.stream(), &mut answer);
                assert!(!matches!(read, Ok(1..)), "let in: {:?}", String::from_utf8_lossy(&answer));
            }
        }
        assert_eq!(inside.ask("r", "job", &token), "ok");
    }
    assert_eq!(server.event("tls_failed")["level"], "warn");
}

#[test]
fn old_or_broken_tls_ends_at_once() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &PATIENT);
    // A greeting of TLS 1.1: version 3.2, 32 bytes of randomness, one cipher, no compression.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut handshake = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    handshake.extend(&hello);
    let mut tls_1_1 = vec![0x16, 3, 1, 0, u8::try_from(handshake.len()).unwrap()];
    tls_1_1.extend(&handshake);
    let mut no_record = vec![0x16];
    no_record.extend(b"l\njob\n10\n");
    let huge_record = [0x16, 3, 1, 0xff, 0xff, 1, 2, 3].to_vec();
    let wrong_message = [0x16, 3, 3, 0, 4, 99, 0, 0, 0].to_vec();
    for (what, bytes) in
        [("TLS 1.1", tls_1_1), ("no record", no_record), ("a huge record", huge_record), ("nonsense", wrong_message)]
    {
        let mut client = Lines::new(tcp(&server.address));
        client.send(&bytes);
        let rest = client.rest();
        assert!(rest.first().is_none_or(|first| *first == 0x15), "{what} is answered by an alert, not {rest:?}");
    }
    assert!(connect(&server, &authority, &TLS13).ask("ping", "_", "_") == "ok");
}

#[test]
fn a_plain_client_on_the_tls_port_is_told_at_once() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &PATIENT);
    for greeting in ["ping\n_\n_\n", "l", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\n"] {
        let mut client = Lines::new(tcp(&server.address));
        client.send(greeting.as_bytes());
        assert_eq!(client.rest(), b"error\n", "after {greeting:?}");
    }
}

#[test]
fn a_tls_client_on_a_plain_port_fails_at_once() {
    let server = Server::start(&PATIENT);
    let authority = Authority::new("ours");
    for version in VERSIONS {
        // The answer is no TLS record, so the client knows it too.
        let failed = shake_hands(&server.address, &authority.client(version, None)).err();
        assert!(failed.is_some(), "a handshake with a plain server");
    }
    let mut client = Lines::new(tcp(&server.address));
    client.send(&[0x16, 3, 1]);
    assert_eq!(client.rest(), b"error\n");
}

#[test]
fn silence_on_the_tls_port_is_cut_at_the_read_timeout_and_stalls_nobody() {
    let authority = Authority::new("ours");
    let (server, _files) = serve(&authority, &["--read-timeout", "2"]);
    let begin = now();
    let mut silent: Vec<_> = (0..50).map(|_| Lines::new(tcp(&server.address))).collect();
    for half in silent.iter_mut().skip(25) {
        half.send(&[0x16, 3, 1, 1]);
    }
    let mut client = connect(&server, &authority, &TLS12);
    client.take("job", "0 600");
    let mut quiet = connect(&server, &authority, &TLS12);
    for one in &mut silent {
        assert_eq!(one.rest(), b"");
    }
    assert!(begin.elapsed().as_secs_f64() >= 2.0, "cut before the read timeout: {:?}", begin.elapsed());
    assert_eq!(quiet.rest(), b"error\n", "a client that asks for nothing behind its handshake");
    // The one that holds a lock may be silent for as long as its lease runs.
    assert_eq!(client.ask("ping", "_", "_"), "ok");
}

#[test]
fn a_certificate_and_the_authority_of_clients_are_read_anew() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = old.issue("localhost").write(home.path(), "server");
    let clients = old.write(home.path(), "clients");
    let mut server = Server::start(&["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &clients]);
    let (of_old, of_new) = (old.issue("client"), new.issue("client"));
    let works = |server: &Server, authority: &Authority, identity| {
        let client = shake_hands(&server.address, &authority.client(&TLS13, Some(identity)));
        // In TLS 1.3 the client hears only behind its handshake that it was refused.
        client.is_ok_and(|mut client| {
            client.send_if_it_goes(b"ping\n_\n_\n");
            client.stream().read(&mut [0; 8]).is_ok_and(|read| read > 0)
        })
    };
    assert!(works(&server, &old, &of_old) && !works(&server, &new, &of_new));
    let mut inside = shake_hands(&server.address, &old.client(&TLS13, Some(&of_old))).unwrap();
    let token = inside.take("job", "0 600");
    // Half of a change does not fit together.
    new.issue("localhost").write(home.path(), "next");
    std::fs::copy(home.path().join("next.crt"), &cert).unwrap();
    server.signal("HUP");
    server.event("reload_failed");
    assert!(works(&server, &old, &of_old), "the old one is good");
    std::fs::copy(home.path().join("next.key"), &key).unwrap();
    new.write(home.path(), "clients");
    server.signal("HUP");
    server.event("reloaded");
    assert!(works(&server, &new, &of_new), "{}", server.log_text());
    assert!(!works(&server, &new, &of_old) && !works(&server, &old, &of_old));
    assert_eq!(inside.ask("r", "job", &token), "ok", "whoever is inside stays");
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new("ours").issue("localhost").write(home.path(), "server");
    for mode in [0o644, 0o604, 0o660] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let said = refused(&["--tls-cert", &cert, "--tls-key", &key]);
        assert!(said.contains(&format!("private key file {key} (mode {mode:o})")), "{said}");
        assert!(said.contains(&format!("chmod 600 {key}")), "{said}");
    }
    // A group of the owner's may: daemons share keys like that.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    Server::start(&["--tls-cert", &cert, "--tls-key", &key]);
}

#[test]
fn certificate_and_key_must_be_there_and_fit() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let (cert, key) = authority.issue("localhost").write(home.path(), "one");
    let (_, other_key) = authority.issue("localhost").write(home.path(), "two");
    let garbage = crate::start::private_file(home.path(), "garbage.pem", "-----BEGIN CERTIFICATE-----\n!!!\n");
    let empty = crate::start::private_file(home.path(), "empty.pem", "");
    let binary = crate::start::private_file(home.path(), "binary.pem", [0xff, 0, 0x16, b'\n', 0x80]);
    assert!(refused(&["--tls-cert", &cert]).contains("--tls-key"));
    assert!(refused(&["--tls-key", &key]).contains("--tls-cert"));
    assert!(refused(&["--tls-client-ca", &cert]).contains("--tls-cert"));
    for bad in [garbage.as_str(), &empty, &binary, "/nowhere/at.all", home.path().to_str().unwrap(), &key] {
        let said = refused(&["--tls-cert", bad, "--tls-key", &key]);
        assert!(said.contains(bad), "{bad} as certificate: {said}");
    }
    for bad in [garbage.as_str(), &empty, &binary, "/nowhere/at.all", &cert] {
        let said = refused(&["--tls-cert", &cert, "--tls-key", bad]);
        assert!(said.contains(bad), "{bad} as key: {said}");
    }
    for bad in [garbage.as_str(), &empty, "/nowhere/at.all"] {
        let said = refused(&["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", bad]);
        assert!(said.contains(bad), "{bad} as authority: {said}");
    }
    let said = refused(&["--tls-cert", &cert, "--tls-key", &other_key]);
    assert!(said.contains(&cert) && said.contains(&other_key), "a key of another certificate: {said}");
}
