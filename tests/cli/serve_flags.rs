//! Flags and variables of `dflock serve`: what is refused, what beats what, and what each changes.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use crate::house::clean::House;
use crate::house::{Client, Server, now, wait_for};
use crate::lines::{Lines, tcp, unix};
use crate::start::{private_file, refused, refused_with};

/// A server with nothing but these variables.
fn with_variables(variables: &[(&str, &str)], args: &[&str]) -> Server {
    Server::start_with(args, |command| {
        command.envs(variables.iter().copied());
    })
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (flag, values) in [
        ("--port", &["65536", "-1", "http", ""][..]),
        ("--max-locks", &["0", "-1", "many", "99999999999"]),
        ("--max-connections", &["-1", "1.5"]),
        ("--max-connections-per-ip", &["-1", "all"]),
        ("--max-waiters", &["-1", "none"]),
        ("--read-timeout", &["0", "-1", "soon", "1e3", "9223372037"]),
        ("--write-timeout", &["-1", "soon", ""]),
        ("--shutdown-timeout", &["-1", "never"]),
        ("--gc-max-idle", &["-1", "1 m"]),
        ("--default-lease-ttl", &["0", "1.5", "-3", "9223372037"]),
        ("--max-lease", &["0", "1.5", "-3", "forever"]),
        ("--max-memory", &["-1", "much", "1.5G", "99999999999G"]),
        ("--idle-exit", &["0", "-1", "later"]),
        ("--auto-release-on-disconnect", &["maybe", "2"]),
        ("--log-format", &["xml"]),
    ] {
        for value in values {
            let said = refused(&[&format!("{flag}={value}")]);
            assert!(said.contains(flag), "{flag}={value}: {said}");
        }
    }
    for args in [
        &["extra"][..],
        &["--no-such-flag"],
        &["--port"],
        &["--auto-release-on-disconnect", "false"],
        &["--auth-token", "s3cret"],
    ] {
        assert!(!refused(args).is_empty(), "{args:?} is refused without a word");
    }
}

#[test]
fn variables_work() {
    let server = with_variables(&[("DFLOCKD_DEFAULT_LEASE_TTL_S", "7"), ("DFLOCKD_MAX_LOCKS", "2")], &[]);
    let mut client = server.connect();
    assert!(client.ask("l", "a", "0").ends_with(" 7"));
    client.take("b", "0");
    assert_eq!(client.ask("l", "c", "0"), "error_max_locks");

    let server = with_variables(&[("DFLOCKD_MAX_WAITERS", "1"), ("DFLOCKD_GC_MAX_UNUSED_TIME", "1")], &[]);
    let mut client = server.connect();
    client.take("job", "0");
    assert_eq!(client.ask("e", "job", ""), "queued");
    let mut second = server.connect();
    assert_eq!(second.ask("e", "job", ""), "error_max_waiters");
    assert!(second.ask("sl", "pool", "0 2").starts_with("ok "));
    drop(second);
    wait_for("an unused key to be forgotten", || {
        let stats = client.stats();
        (stats["idle_semaphores"] == serde_json::json!([]) && stats["semaphores"] == serde_json::json!([]))
            .then_some(())
    });

    let server = with_variables(
        &[("DFLOCKD_READ_TIMEOUT_S", "1"), ("DFLOCKD_MAX_CONNECTIONS", "2"), ("DFLOCKD_MAX_MEMORY", "1G")],
        &[],
    );
    let begin = now();
    let mut silent = Lines::new(tcp(&server.address));
    assert_eq!(silent.rest(), b"error\n");
    assert!(begin.elapsed() >= Duration::from_secs(1));

    let server = with_variables(&[("DFLOCKD_MAX_CONNECTIONS_PER_IP", "1"), ("DFLOCKD_HOST", "127.0.0.2")], &[]);
    assert!(server.address.starts_with("127.0.0.2:"));
    let _inside = server.connect();
    assert_eq!(server.connect().line(), "error_max_connections");

    let mut server = with_variables(&[("DFLOCKD_SHUTDOWN_TIMEOUT_S", "1")], &[]);
    let mut holder = server.connect();
    holder.take("job", "0 600");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// A host that crashed under a lease of ten years would block its key for as long.
#[test]
fn a_lease_longer_than_the_longest_is_cut_and_told() {
    let day = 24 * 3600;
    for (args, most) in [(&[][..], day), (&["--max-lease", "2h"], 7200), (&["--max-lease", "20"], 20)] {
        let server = Server::start(args);
        let mut client = server.connect();
        assert!(client.ask("info", "_", "resume 60").starts_with("ok "));
        let says = |answer: &str| answer.ends_with(&format!(" {most}"));
        let answer = client.ask("l", "job", "0 315360000");
        assert!(says(&answer), "{answer}");
        let token = answer.split(' ').nth(1).unwrap().to_owned();
        assert!(says(&client.ask("n", "job", &format!("{token} 315360000"))));
        assert!(says(&client.ask("n", "job", &token)), "its own");
        assert!(says(&client.ask("resume", "job", &format!("{token} 315360000"))));
        assert!(says(&client.ask("e", "two", "315360000")));
        assert!(says(&client.ask("sl", "pool", "0 2 315360000")));
        assert!(says(&client.ask("se", "pool-two", "2 315360000")));
        let left = client.stats()["locks"][0]["lease_expires_in_s"].as_f64().unwrap();
        assert!(left <= f64::from(most), "{left}");
        if most == 20 {
            assert!(says(&client.ask("l", "by-default", "0")), "the default too");
        }
        // What is asked for and is less stays what it is.
        assert!(client.ask("l", "short", "0 5").ends_with(" 5"));
    }
}

/// Each of five who come and go leaves a place, kept for five minutes.
#[test]
fn places_of_nobody_keep_out_nobody_who_is_there() {
    let server = Server::start(&["--max-waiters", "5"]);
    let mut holder = server.connect();
    let token = holder.take("job", "0 600");
    let waiters = |holder: &mut Client| holder.stats()["locks"][0]["waiters"].as_u64().unwrap();
    let ticket = |server: &Server| {
        let mut client = server.connect();
        assert!(client.ask("info", "_", "resume 300").starts_with("ok "));
        let answer = client.ask("e", "job", "");
        let ticket = answer.strip_prefix("queued ").unwrap_or_else(|| panic!("{answer}")).to_owned();
        (client, ticket)
    };
    let mut tickets = Vec::new();
    for _ in 0..8 {
        let (client, proof) = ticket(&server);
        tickets.push(proof);
        drop(client);
        wait_for("its end to be noticed", || (holder.stats()["connections"] == 1).then_some(()));
    }
    assert_eq!(waiters(&mut holder), 5, "so many are kept");
    let mut there: Vec<_> = (0..5).map(|_| ticket(&server)).collect();
    assert_eq!(waiters(&mut holder), 10);
    assert_eq!(server.connect().ask("e", "job", ""), "error_max_waiters");
    // Whoever comes back has the place it had, in front of those who came later.
    let mut back = server.connect();
    assert!(back.ask("resume", "job", &tickets[0]).starts_with("queued "));
    assert_eq!(server.connect().ask("resume", "job", &tickets[7]), "error", "there was no room for it");
    assert_eq!(holder.ask("r", "job", &token), "ok");
    assert!(back.ask("w", "job", "10").starts_with("ok "));
    assert_eq!(there[0].0.ask("w", "job", "0"), "timeout");
}

/// Whoever asks for more goes by what it got.
#[test]
fn a_client_goes_by_the_lease_that_it_got() {
    let server = Server::start(&["--max-lease", "20"]);
    let house = House::at(&server.address);
    let taken = house.dflock(&["acquire", "job", "-l", "3650d", "--json"]).json();
    assert_eq!(taken["lease_s"], 20.0);
    let lease = house.dflock(&["exec", "other", "-l", "3650d", "--", "sh", "-c", "echo $DFLOCK_LEASE"]).out;
    assert_eq!(lease, "20\n");
}

#[test]
fn a_flag_beats_its_variable() {
    let server = with_variables(
        &[("DFLOCKD_DEFAULT_LEASE_TTL_S", "7"), ("DFLOCKD_HOST", "127.0.0.2"), ("DFLOCKD_PORT", "1")],
        &["--default-lease-ttl", "8", "--host", "127.0.0.1"],
    );
    assert!(server.address.starts_with("127.0.0.1:"));
    assert!(server.connect().ask("l", "a", "0").ends_with(" 8"));
    for variable in ["true", "false"] {
        let variables = [("DFLOCKD_AUTO_RELEASE_ON_DISCONNECT", variable)];
        assert_eq!(info(&with_variables(&variables, &[]))["auto_release"], variable == "true");
        let keeps = with_variables(&variables, &["--auto-release-on-disconnect=no"]);
        assert_eq!(info(&keeps)["auto_release"], false);
        let releases = with_variables(&variables, &["--auto-release-on-disconnect"]);
        assert_eq!(info(&releases)["auto_release"], true);
        let keeps = with_variables(&variables, &["--no-auto-release-on-disconnect"]);
        assert_eq!(info(&keeps)["auto_release"], false);
    }
}

fn info(server: &Server) -> serde_json::Value {
    let answer = server.connect().ask("info", "_", "_");
    serde_json::from_str(answer.strip_prefix("ok ").expect("ok")).expect("JSON")
}

#[test]
fn the_port_may_come_from_the_environment_and_bad_values_are_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = refused_with(&[], |command| {
        command.env("DFLOCKD_PORT", &port);
    });
    assert!(said.contains(&port), "{said}");
    for (variable, flag) in
        [("DFLOCKD_PORT", "--port"), ("DFLOCKD_MAX_LOCKS", "--max-locks"), ("DFLOCKD_READ_TIMEOUT_S", "--read-timeout")]
    {
        let said = refused_with(&[], |command| {
            command.env(variable, "nonsense");
        });
        assert!(said.contains(flag) || said.contains(variable), "{variable}: {said}");
    }
}

/// As in the original: `DFLOCKD_HOST= dflock serve` is how a script or a unit file says "nothing special".
#[test]
fn an_empty_variable_is_none() {
    for variable in [
        "DFLOCKD_HOST",
        "DFLOCKD_DEFAULT_LEASE_TTL_S",
        "DFLOCKD_MAX_LOCKS",
        "DFLOCKD_MAX_CONNECTIONS",
        "DFLOCKD_READ_TIMEOUT_S",
        "DFLOCKD_AUTO_RELEASE_ON_DISCONNECT",
        "DFLOCKD_TLS_CERT",
        "DFLOCKD_AUTH_TOKEN",
        "DFLOCKD_AUTH_TOKEN_FILE",
    ] {
        let server = with_variables(&[(variable, "")], &[]);
        server.connect().take("job", "0");
    }
}

#[test]
fn without_auto_release_a_lock_outlives_its_connection_and_a_waiter_does_not() {
    let server = Server::start(&["--auto-release-on-disconnect=false"]);
    let mut holder = server.connect();
    let token = holder.take("job", "0 600");
    drop(holder);
    let mut waiter = server.connect();
    waiter.send(b"l\njob\n600\n");
    let mut look = server.connect();
    wait_for("a waiter", || (look.stats()["locks"][0]["waiters"] == 1).then_some(()));
    drop(waiter);
    wait_for("no waiter", || (look.stats()["locks"][0]["waiters"] == 0).then_some(()));
    assert_eq!(look.ask("n", "job", &format!("{token} 60")), "ok 60");
    assert_eq!(look.ask("l", "job", "0"), "timeout");
    assert_eq!(look.ask("r", "job", &token), "ok");
}

#[test]
fn an_open_door_is_warned_of() {
    let home = tempfile::tempdir().unwrap();
    let secret = private_file(home.path(), "secret", "s3cret");
    let mut server = Server::start(&["--host", "0.0.0.0"]);
    assert_eq!(server.event("open")["level"], "warn");
    for args in [&["--host", "127.0.0.1"][..], &["--host", "0.0.0.0", "--auth-token-file", &secret]] {
        let mut server = Server::start(args);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        crate::start::logged(&server, "drained");
        assert!(server.events().iter().all(|event| event["event"] != "open"), "{args:?}");
    }
}

/// A server whose log goes into a pipe, ended when dropped.
struct Logging(Child);

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nothing that is wrong with the log may become a matter of the locks.
#[test]
fn a_log_that_is_closed_or_not_read_stalls_nobody() {
    for closed in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
        command.arg("serve").arg("--host").arg(format!("unix:{}", path.display()));
        command.env_clear().env("DFLOCKD_AUTH_TOKEN", "s3cret").current_dir(home.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Logging(command.spawn().unwrap());
        wait_for("the server", || UnixStream::connect(&path).ok());
        let log = server.0.stderr.take().expect("a pipe");
        fcntl(&log, FcntlArg::F_SETPIPE_SZ(4096)).expect("a smaller pipe");
        let _unread = (!closed).then_some(log);
        let mut bystander = unix(path.to_str().unwrap());
        assert_eq!(bystander.ask("auth", "_", "s3cret"), "ok");
        // Each of these is a line in the log, and more of them than so small a pipe holds.
        for _ in 0..300 {
            crate::house::signal(server.0.id(), "HUP");
            let token = bystander.take("job", "0");
            assert_eq!(bystander.ask("r", "job", &token), "ok");
        }
        for _ in 0..100 {
            let token = bystander.take("job", "0");
            assert_eq!(bystander.ask("r", "job", &token), "ok");
        }
    }
}

/// Kubernetes sets it in every pod, for a service of that name.
#[test]
fn a_service_of_kubernetes_sets_no_port() {
    let with_port = |port: &'static str| {
        // An address of nobody: the server gets as far as its port.
        refused_with(&["--host", "192.0.2.1"], |command| {
            command.env("DFLOCKD_PORT", port);
        })
    };
    let said = with_port("tcp://10.0.0.1:7000");
    assert!(said.contains("192.0.2.1 port 6388"), "{said}");
    for port in ["10.0.0.1:7000", "http://10.0.0.1:7000", "tcp", "70000"] {
        let said = with_port(port);
        assert!(said.contains(port) && said.contains("--port"), "{said}");
    }
    let said = refused(&["--port", "tcp://10.0.0.1:7000"]);
    assert!(said.contains("a port is a number"), "{said}");
}
