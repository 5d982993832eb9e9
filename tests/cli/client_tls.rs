//! A client and TLS: what works, and in which words the rest does not.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, date_time_ymd};

use crate::certificates::Authority;
use crate::client_fakes::{Fake, Peer, TOKEN};
use crate::client_house::{Desk, holds_nothing};
use crate::house::Server;

/// A server behind TLS, and whom to trust for it.
struct Secure {
    server: Server,
    ca: String,
    /// `localhost:PORT`
    address: String,
}

fn secure(authority: &Authority, home: &Path, name: &str, more: &[&str]) -> Secure {
    let (cert, key) = authority.issue(name).write(home, name);
    secure_with(authority, home, &cert, &key, more)
}

fn secure_with(authority: &Authority, home: &Path, cert: &str, key: &str, more: &[&str]) -> Secure {
    let server = Server::start(&[&["--tls-cert", cert, "--tls-key", key], more].concat());
    let port = server.address.rsplit_once(':').expect("a port").1;
    let address = format!("localhost:{port}");
    Secure { ca: authority.write(home, "ca.crt"), server, address }
}

/// Nobody without an answer to this may take a lock.
pub fn denied(desk: &Desk, flags: &[&str], parts: &[&str]) {
    for verb in [&["acquire", "k"] as &[&str], &["release", "k", TOKEN], &["status", "k"]] {
        desk.fails(&[verb, flags].concat(), 77, parts);
    }
    let stats = desk.json(&[&["stats"], flags].concat());
    desk.expect(stats["servers"][0]["error"] == "denied", || format!("stats: {stats}"));
    desk.keeps_nothing();
}

#[test]
fn locks_over_tls() {
    let home = tempfile::tempdir().expect("a home");
    let authority = Authority::new("ours");
    let there = secure(&authority, home.path(), "localhost", &[]);
    let desk = Desk::new();
    for servers in [there.address.clone(), format!("tls://{}", there.address)] {
        let with = |args: &[&str]| {
            let tls: &[&str] = if servers.starts_with("tls") { &[] } else { &["--tls"] };
            desk.ok(&[args, &["-s", &servers, "--tls-ca", &there.ca], tls].concat())
        };
        let token = with(&["acquire", "k"]);
        assert_eq!(token.len(), 32, "{token}");
        assert!(with(&["status", "k"]).contains("held"), "{servers}");
        assert!(with(&["stats"]).contains("\"key\":\"k\""), "{servers}");
        assert_eq!(with(&["renew", "k"]), "33");
        desk.ok(&["release", "k"]);
        assert!(with(&["status", "k"]).contains("free"), "{servers}");
    }
    // Relative to where the command was started: a holder lives in /.
    let desk = Desk::at(&there.address).with("DFLOCK_TLS", "1").with("DFLOCK_TLS_CA", "ca.crt");
    std::fs::copy(&there.ca, desk.path().join("ca.crt")).expect("a copy");
    desk.ok(&["acquire", "k"]);
    desk.ok(&["release", "k"]);
    desk.keeps_nothing();
}

#[test]
fn numbers_and_other_names() {
    let home = tempfile::tempdir().expect("a home");
    let authority = Authority::new("ours");
    let numbered = secure(&authority, home.path(), "127.0.0.1", &[]);
    let desk = Desk::new().with("DFLOCK_TLS", "1").with("DFLOCK_TLS_CA", &numbered.ca);
    desk.ok(&["status", "k", "-s", &numbered.server.address]);
    let named = secure(&authority, home.path(), "locks.example", &[]);
    let flags = ["-s", &named.address, "--tls-ca", &named.ca, "--tls"];
    desk.ok(&[&["status", "k", "--tls-name", "locks.example"], flags.as_slice()].concat());
    denied(&desk, &flags, &[&named.address, "not for \"localhost\"", "--tls-name"]);
    let wrong = [flags.as_slice(), &["--tls-name", "other.example"]].concat();
    denied(&desk, &wrong, &["not for \"other.example\""]);
    let no_name = [flags.as_slice(), &["--tls-name", "a b"]].concat();
    denied(&desk, &no_name, &["\"a b\" cannot be the name in a certificate"]);
}

#[test]
fn client_certificates() {
    let home = tempfile::tempdir().expect("a home");
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let client_ca = authority.write(home.path(), "client-ca.crt");
    let there = secure(&authority, home.path(), "localhost", &["--tls-client-ca", &client_ca]);
    let (cert, key) = authority.issue("worker").write(home.path(), "worker");
    let (other_cert, other_key) = stranger.issue("worker").write(home.path(), "stranger");
    let desk = Desk::at(&there.address).with("DFLOCK_TLS", "1").with("DFLOCK_TLS_CA", &there.ca);
    desk.ok(&["acquire", "k", "--tls-cert", &cert, "--tls-key", &key]);
    desk.ok(&["release", "k"]);
    denied(&desk, &[], &["it wants a client certificate", "--tls-cert"]);
    denied(&desk, &["--tls-cert", &other_cert, "--tls-key", &other_key], &["client certificate"]);
    for (flags, part) in [
        (&["--tls-cert", &cert] as &[&str], "--tls-key"),
        (&["--tls-cert", &cert, "--tls-key", &other_key], "do not fit"),
        (&["--tls-cert", &key, "--tls-key", &key], "holds no certificate"),
        (&["--tls-cert", &cert, "--tls-key", &cert], "holds no private key"),
        (&["--tls-cert", "/nowhere.crt", "--tls-key", &key], "/nowhere.crt"),
        (&["--tls-ca", "/nowhere.crt"], "/nowhere.crt"),
        (&["--tls-ca", &key], "holds no certificate"),
    ] {
        desk.refuses(&[&["acquire", "k"], flags].concat(), 125, &[part]);
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = ["acquire", "k", "--tls-cert", &cert, "--tls-key", &key];
    desk.refuses(&open, 125, &["others may read or write the private key file", &key, "chmod 600"]);
}

#[test]
fn certificates_that_prove_nothing() {
    let home = tempfile::tempdir().expect("a home");
    let authority = Authority::new("ours");
    for (name, from, to, part) in
        [("old", (2001, 1, 1), (2002, 1, 1), "has expired"), ("new", (2200, 1, 1), (2201, 1, 1), "is not valid yet")]
    {
        let mut about = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        about.not_before = date_time_ymd(from.0, from.1, from.2);
        about.not_after = date_time_ymd(to.0, to.1, to.2);
        let (cert, key) = authority.issue_as(&about).write(home.path(), name);
        let there = secure_with(&authority, home.path(), &cert, &key, &[]);
        let flags = ["-s", &there.address, "--tls", "--tls-ca", &there.ca];
        denied(&Desk::new(), &flags, &[&there.address, part]);
    }
    let there = secure(&authority, home.path(), "localhost", &[]);
    let other = Authority::new("theirs").write(home.path(), "other.crt");
    let unknown = ["an authority that is not known here", "--tls-ca", &there.address];
    denied(&Desk::new(), &["-s", &there.address, "--tls", "--tls-ca", &other], &unknown);
    // Whom the system trusts, or nobody if the system has no list at all.
    let desk = Desk::at(&there.address).with("DFLOCK_TLS", "1");
    let said = desk.run(&["acquire", "k"]);
    let is_said = match said.code {
        Some(77) => unknown.iter().all(|part| said.err.contains(part)),
        Some(125) => said.err.contains("--tls-ca"),
        _ => false,
    };
    desk.expect(is_said, || format!("{said:?}"));
    holds_nothing_secure(&there);
}

/// Asked over TLS, as everybody must.
fn holds_nothing_secure(there: &Secure) {
    let desk = Desk::at(&there.address).with("DFLOCK_TLS", "1").with("DFLOCK_TLS_CA", &there.ca);
    let stats = desk.json(&["stats"]);
    assert_eq!(stats["locks"], serde_json::json!([]), "{stats}");
}

#[test]
fn plain_to_tls_and_tls_to_plain() {
    let home = tempfile::tempdir().expect("a home");
    let there = secure(&Authority::new("ours"), home.path(), "localhost", &[]);
    let desk = Desk::new();
    let verbs = [&["acquire", "k"] as &[&str], &["release", "k", TOKEN], &["renew", "k", TOKEN], &["status", "k"]];
    for verb in verbs {
        desk.fails(&[verb, &["-s", &there.address]].concat(), 69, &[&there.address]);
        let said = desk.run(&[verb, &["-s", &there.address]].concat());
        desk.expect(said.err.contains("--tls"), || format!("{verb:?} does not speak of --tls: {said:?}"));
    }
    holds_nothing_secure(&there);
    // Other servers say in the words of TLS what is wrong; the original closes without a word.
    let alert = Fake::start(|mut peer| {
        let _ = peer.lines.try_line();
        peer.say("\u{15}\u{3}\u{1}\0\u{2}\u{2}F");
    });
    let mute = Fake::start(|mut peer| drop(peer.lines.try_line()));
    for (server, code) in [(&alert, 76), (&mute, 69)] {
        let said = desk.refuses(&["acquire", "k", "-s", &server.address], code, &["--tls"]);
        desk.expect(said.err.lines().count() == 2, || format!("no hint: {said:?}"));
    }
    let plain = Server::start(&["--read-timeout", "60"]);
    let talker = Fake::start(|mut peer| {
        let _ = peer.lines.stream().read(&mut [0]);
        peer.say("error\n");
        peer.stay();
    });
    for address in [&plain.address, &talker.address] {
        for verb in verbs {
            let said = desk.run(&[verb, &["-s", address, "--tls", "--tls-ca", &there.ca]].concat());
            desk.expect(matches!(said.code, Some(76 | 77)), || format!("{said:?}"));
            let parts = ["does not speak TLS there", "leave out --tls", address];
            desk.expect(parts.iter().all(|part| said.err.contains(part)), || format!("{said:?}"));
        }
    }
    holds_nothing(&plain);
}

#[test]
fn a_server_that_does_not_shake_hands_is_not_reached() {
    let home = tempfile::tempdir().expect("a home");
    let there = secure(&Authority::new("ours"), home.path(), "localhost", &[]);
    // As the original is for 23 s on its plain port, and every server that is frozen.
    let silent = Fake::start(Peer::stay);
    let desk = Desk::new();
    let flags = ["--tls", "--tls-ca", &there.ca, "--connect-timeout", "1s"];
    for verb in [&["acquire", "k"] as &[&str], &["status", "k"]] {
        let args = [verb, &["-s", &silent.address], &flags].concat();
        let said = desk.fails(&args, 69, &["no TLS handshake came within 1s", &silent.address]);
        desk.expect(said.took.as_secs() < 9, || format!("{:?} is long", said.took));
    }
    // So the next member is asked. Here that is in no cluster, and says so.
    let both = format!("dflockd://{},{}", silent.address.replace("127.0.0.1", "localhost"), there.address);
    let said = desk.run(&[&["acquire", "k", "-s", &both], flags.as_slice()].concat());
    let is_asked = said.code == Some(76) && said.err.contains("no member of a cluster");
    desk.expect(is_asked, || format!("a frozen member hides the others: {said:?}"));
}
