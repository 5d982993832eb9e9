//! A client and the secret: who gets in, and where it is never sent.

use std::io::Write;
use std::net::ToSocketAddrs;
use std::process::Stdio;

use crate::client_fakes::Fake;
use crate::client_house::Desk;
use crate::client_tls::denied;
use crate::house::Server;
use crate::house::clean::House;
use crate::house::tools::NOBODY;
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

/// Who writes into a pipe with a name says what is read from it, as who owns a file does.
#[test]
fn a_pipe_of_another_user_is_refused() {
    let home = tempfile::tempdir().expect("a home");
    let server = Server::start(&["--auth-token-file", &private_file(home.path(), "secret", "s3cret\n")]);
    let desk = Desk::at(&server.address);
    let pipe = home.path().join("pipe");
    let path = pipe.to_str().expect("text").to_owned();
    let make = |mode: u32, owner: Option<u32>| {
        let _ = std::fs::remove_file(&pipe);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        std::fs::set_permissions(&pipe, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("a mode");
        if owner.is_some() {
            std::os::unix::fs::chown(&pipe, owner, owner).expect("root may");
        }
    };
    // It does not wait for a reader.
    let write = || {
        let mut writer = std::fs::File::options().read(true).write(true).open(&pipe).expect("a writer");
        writer.write_all(b"s3cret\n").expect("room");
        writer
    };
    let status = ["status", "k", "--auth-token-file", path.as_str()];
    make(0o666, None);
    let writer = write();
    desk.refuses(&status, 125, &["others may read or write the auth token file", &path, "chmod 600"]);
    drop(writer);
    if nix::unistd::geteuid().is_root() {
        make(0o600, Some(NOBODY));
        let theirs = ["the auth token file", &path, "belongs to another user"];
        // Nobody who leaves it without a writer holds us up.
        desk.refuses(&status, 125, &theirs);
        let _writer = write();
        desk.refuses(&status, 125, &theirs);
        // What is typed at a terminal of theirs comes from them, too.
        let terminal = nix::pty::openpty(None, None).expect("a terminal");
        let path = nix::unistd::ttyname(&terminal.slave).expect("a name").display().to_string();
        std::os::unix::fs::chown(&path, Some(NOBODY), None).expect("root may");
        nix::unistd::write(&terminal.master, b"s3cret\n").expect("room");
        desk.refuses(&["status", "k", "--auth-token-file", &path], 125, &[&path, "belongs to another user"]);
    }
}

/// A pipe of our own shell, one that `sudo` hands on, and one with a name of ours, that is written into late.
#[test]
fn a_pipe_of_our_caller_is_read() {
    let home = tempfile::tempdir().expect("a home");
    let server = Server::start(&["--auth-token-file", &private_file(home.path(), "secret", "s3cret\n")]);
    let script = "dflock status k --auth-token-file <(sleep 0.2; echo s3cret) || exit
        { sleep 0.2; echo s3cret; } | dflock status k --auth-token-file /dev/stdin || exit
        mkfifo -m 600 \"$HOME/pipe\"
        { sleep 0.2; exec > \"$HOME/pipe\"; sleep 0.2; echo s3cret; } &
        dflock status k --auth-token-file \"$HOME/pipe\"";
    let said = House::at(&server.address).script("bash", script);
    assert_eq!(said.code, 0, "{said:?}");
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // Made by somebody else, as by the shell that calls `sudo`.
    let made = std::thread::spawn(|| {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(NOBODY));
        std::io::pipe().expect("a pipe")
    });
    let (reading, mut writing) = made.join().expect("a thread");
    writing.write_all(b"s3cret\n").expect("room");
    drop(writing);
    let house = House::at(&server.address);
    let mut command = house.command("dflock");
    command.args(["status", "k", "--auth-token-file", "/dev/stdin"]).stdin(reading);
    let said = command.output().expect("dflock runs");
    assert!(said.status.success(), "{said:?}");
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
