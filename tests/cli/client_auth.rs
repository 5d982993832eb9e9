//! A client and the secret: who gets in, and where it is never sent.

use std::io::Write;
use std::net::ToSocketAddrs;
use std::process::Stdio;

use crate::client_fakes::Fake;
use crate::client_house::Desk;
use crate::client_tls::denied;
use crate::house::Server;
use crate::start::private_file;

#[test]
fn the_secret() {
    let home = tempfile::tempdir().expect("a home");
    let file = private_file(home.path(), "secret", "s3cret\n");
    let wrong = private_file(home.path(), "wrong", "another");
    let server = Server::start(&["--auth-token-file", &file]);
    let desk = Desk::at(&server.address);
    desk.ok(&["acquire", "k", "--auth-token-file", &file]);
    assert!(desk.ok(&["stats", "--auth-token-file", &file]).contains("\"key\":\"k\""));
    desk.ok(&["release", "k"]);
    denied(&desk, &["--auth-token-file", &wrong], &["the auth token was refused", &server.address]);
    denied(&desk, &[], &["it asks for an auth token", &server.address]);
    let desk = Desk::at(&server.address).with("DFLOCK_AUTH_TOKEN", "s3cret");
    desk.ok(&["acquire", "k"]);
    desk.ok(&["release", "k"]);
    let desk = Desk::at(&server.address).with("DFLOCK_AUTH_TOKEN_FILE", &file).with("DFLOCK_AUTH_TOKEN", "wrong");
    desk.ok(&["status", "k"]);
    // A server without a secret does not mind one.
    let open = Server::start(&[]);
    desk.ok(&["acquire", "k", "-s", &open.address]);
    desk.ok(&["release", "k"]);
    let shared = desk.file("shared", "s3cret", 0o644);
    for (flag, part) in [(shared.as_str(), "chmod 600"), ("/nowhere", "/nowhere"), ("/dev/null", "is empty")] {
        let said = desk.refuses(&["acquire", "k", "--auth-token-file", flag], 125, &["auth token", part]);
        desk.expect(!said.err.contains("s3cret"), || format!("the secret is shown: {said:?}"));
    }
}

#[test]
fn a_command_does_not_inherit_the_secret() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address)
        .with("DFLOCK_AUTH_TOKEN", "s3cret")
        .with("DFLOCKD_AUTH_TOKEN", "s3cret")
        .with("DFLOCK_ETCD_PASSWORD", "s3cret")
        .with("DFLOCK_ETCD_USER", "somebody")
        .with("MINE", "s3cret");
    assert_eq!(desk.ok(&["exec", "k", "sh", "-c", "env | grep s3cret"]), "MINE=s3cret");
    // What is done about that is said where it is missed.
    let home = tempfile::tempdir().expect("a home");
    let file = private_file(home.path(), "secret", "s3cret\n");
    let server = Server::start(&["--auth-token-file", &file]);
    let desk =
        Desk::at(&server.address).with("DFLOCK_AUTH_TOKEN", "s3cret").with("DFLOCK", env!("CARGO_BIN_EXE_dflock"));
    let said = desk.run(&["exec", "k", "sh", "-c", "$DFLOCK renew k"]);
    assert_eq!(said.code, Some(77), "{said:?}");
    assert!(said.err.contains("DFLOCK_AUTH_TOKEN_FILE") && said.err.contains("inherits no"), "{said:?}");
    let desk = desk.with("DFLOCK_AUTH_TOKEN", "").with("DFLOCK_AUTH_TOKEN_FILE", &file);
    desk.ok(&["exec", "k", "sh", "-c", "$DFLOCK renew k"]);
}

/// An argument can be read by every user of the machine.
#[test]
fn a_token_need_not_be_an_argument() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    for verb in ["renew", "release"] {
        let token = desk.ok(&["acquire", "k"]);
        let file = desk.file("token", &format!("{token}\n"), 0o600);
        desk.ok(&[verb, "k", "--token-file", &file]);
        if verb == "release" {
            desk.ok(&["acquire", "k"]);
            desk.fails(&[verb, "k", "--token-file", &file], 79, &["k"]);
            desk.fails(&[verb, "k", "--token-file", "/nowhere"], 125, &["cannot read the token", "/nowhere"]);
            desk.refuses(&[verb, "k", &token, "--token-file", &file], 125, &["--token-file", "exclude"]);
            desk.ok(&["release", "k"]);
            continue;
        }
        let mut command = desk.command(&["release", "k", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "{token}").expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success());
        desk.refuses(&["release", "k", "-"], 125, &["token"]);
    }
}

#[test]
fn a_wrong_secret_to_a_server_alone_is_no_unreachable_server() {
    let home = tempfile::tempdir().expect("a home");
    let file = private_file(home.path(), "secret", "s3cret\n");
    let server = Server::start(&["--auth-token-file", &file]);
    let said = Desk::at(&server.address).run(&["stats"]);
    assert_eq!(said.code, Some(77), "the one server that was asked refused the secret: {said:?}");
}

#[test]
fn no_secret_in_clear_text() {
    // Behind this name is loopback, but a client that reads only the name cannot know.
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = hosts.lines().filter(|line| line.starts_with("127.")).flat_map(|line| line.split_whitespace().skip(1));
    let is_loopback = |name: &str| {
        let found = (name, 1).to_socket_addrs();
        found.is_ok_and(|mut found| found.all(|address| address.ip().is_loopback()))
    };
    let other = |name: &&str| *name != "localhost" && !name.starts_with("localhost.") && is_loopback(name);
    let Some(name) = names.into_iter().find(other) else {
        eprintln!("SKIPPED: /etc/hosts has no other name for this machine");
        return;
    };
    let fake = Fake::answering("ok\n");
    let port = fake.address.rsplit_once(':').expect("a port").1;
    let desk = Desk::at(&format!("{name}:{port}")).with("DFLOCK_AUTH_TOKEN", "s3cret");
    denied(&desk, &[], &["clear text", name]);
    assert_eq!(fake.count(), 0, "a connection was made: {:?}", fake.heard());
    let server = Server::start(&["--host", "127.0.0.1"]);
    let port = server.address.rsplit_once(':').expect("a port").1;
    let address = format!("{name}:{port}");
    desk.ok(&["acquire", "k", "-s", &address, "--allow-plaintext-token"]);
    desk.ok(&["release", "k"]);
    let desk = Desk::at(&address).with("DFLOCK_AUTH_TOKEN", "s3cret").with("DFLOCK_ALLOW_PLAINTEXT_TOKEN", "yes");
    desk.ok(&["status", "k"]);
    let local = format!("localhost:{port}");
    Desk::at(&local).with("DFLOCK_AUTH_TOKEN", "s3cret").ok(&["status", "k"]);
}
