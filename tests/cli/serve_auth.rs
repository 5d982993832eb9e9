//! The shared secret: where it comes from, who gets in, and what the others cost.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use crate::house::tools::{NOBODY, skipped};
use crate::house::{Client, Server, now, wait_for};
use crate::lines::{Lines, tcp, tcp_from, unix};
use crate::start::{logged, private_file, raise_descriptor_limit, refused, refused_with};

const SECRET: &str = "correct-horse-battery";
const WRONG: &str = "wrong-horse-battery";

/// A server that asks for [`SECRET`], given in a file.
fn serve(more: &[&str]) -> Server {
    let home = tempfile::tempdir().expect("a directory");
    let file = private_file(home.path(), "secret", format!("  {SECRET}\n"));
    Server::start(&[&["--auth-token-file", &file], more].concat())
}

fn enter(server: &Server) -> Client {
    let mut client = server.connect();
    assert_eq!(client.ask("auth", "_", SECRET), "ok");
    client
}

#[test]
fn the_right_secret_opens_the_door() {
    let server = serve(&[]);
    let mut client = enter(&server);
    let token = client.take("job", "0");
    assert_eq!(client.ask("auth", "_", SECRET), "error", "a second time");
    assert_eq!(client.ask("auth", "_", WRONG), "error", "a second time, and wrong");
    assert_eq!(client.ask("r", "job", &token), "ok");
    // In one write with the first request; the key line does not matter, white space around it neither.
    let mut quick = server.connect();
    quick.send(format!("auth\n\n  {SECRET} \r\nl\njob\n0\n").as_bytes());
    assert_eq!(quick.line(), "ok");
    assert!(quick.line().starts_with("ok "));
}

#[test]
fn everything_else_is_answered_once_and_late() {
    let server = serve(&[]);
    let longer = format!("{SECRET}{SECRET}");
    let long = "x".repeat(70_000);
    for (what, request) in [
        ("wrong", format!("auth\n_\n{WRONG}\nl\njob\n0\n")),
        ("the first half", format!("auth\n_\n{}\n", &SECRET[..10])),
        ("twice the secret", format!("auth\n_\n{longer}\n")),
        ("empty", "auth\n_\n\n".to_owned()),
        ("too long", format!("auth\n_\n{long}\n")),
        ("none", "l\njob\n0\n".to_owned()),
        ("stats", "stats\n_\n_\n".to_owned()),
        ("ping", "ping\n_\n_\n".to_owned()),
        ("info", "info\n_\n_\n".to_owned()),
        ("nonsense", "\0\n\n\n".to_owned()),
        ("HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
    ] {
        let mut client = Lines::new(tcp(&server.address));
        let begin = now();
        client.send(request.as_bytes());
        assert_eq!(client.line(), "error_auth", "{what}");
        let answered = begin.elapsed();
        assert_eq!(client.rest(), b"", "{what}");
        if what != "too long" {
            assert!(answered >= Duration::from_millis(90), "{what}: answered after {answered:?}");
        }
    }
    // Nothing was done for any of them.
    let mut inside = enter(&server);
    assert_eq!(inside.stats()["locks"].as_array().unwrap().len(), 0);
}

#[test]
fn silence_ends_at_the_read_timeout() {
    let server = serve(&["--read-timeout", "1"]);
    let mut silent = Lines::new(tcp(&server.address));
    let mut half = Lines::new(tcp(&server.address));
    half.send(format!("auth\n_\n{}", &SECRET[..5]).as_bytes());
    assert_eq!(silent.rest(), b"error_auth\n");
    assert_eq!(half.rest(), b"error_auth\n");
}

#[test]
fn a_secret_of_64_kib_passes() {
    let home = tempfile::tempdir().unwrap();
    let long = "s".repeat(64 * 1024);
    let file = private_file(home.path(), "secret", &long);
    let server = Server::start(&["--auth-token-file", &file]);
    let mut client = server.connect();
    assert_eq!(client.ask("auth", "_", &long), "ok");
    let mut almost = server.connect();
    assert_eq!(almost.ask("auth", "_", &format!("{}t", &long[1..])), "error_auth");
    let said = refused(&["--auth-token-file", &private_file(home.path(), "longer", format!("{long}s"))]);
    assert!(said.contains("longer than"), "{said}");
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let file = private_file(home.path(), "secret", SECRET);
    for mode in [0o644, 0o604, 0o666, 0o602] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let said = refused(&["--auth-token-file", &file]);
        assert!(said.contains(&file) && said.contains(&format!("{mode:o}")), "{said}");
        assert!(said.contains(&format!("chmod 600 {file}")), "the hint: {said}");
        assert!(!said.contains(SECRET), "{said}");
    }
    assert!(refused(&["--auth-token-file", "/nowhere/at.all"]).contains("/nowhere/at.all"));
    for (text, why) in [("", "empty"), (" \n", "empty"), ("three\nlines\nof it\n", "more than two lines")] {
        let file = private_file(home.path(), "odd", text);
        let said = refused(&["--auth-token-file", &file]);
        assert!(said.contains(&file) && said.contains(why), "{said}");
    }
}

#[test]
fn the_environment_may_hold_it_and_the_flag_beats_that() {
    let server = Server::start_with(&[], |command| {
        command.env("DFLOCKD_AUTH_TOKEN", format!(" {SECRET} "));
    });
    enter(&server);
    assert_eq!(server.connect().ask("auth", "_", WRONG), "error_auth");
    let home = tempfile::tempdir().unwrap();
    let file = private_file(home.path(), "secret", SECRET);
    let server = Server::start_with(&[], |command| {
        command.env("DFLOCKD_AUTH_TOKEN_FILE", &file);
    });
    enter(&server);
    let server = Server::start_with(&["--auth-token-file", &file], |command| {
        command.env("DFLOCKD_AUTH_TOKEN", WRONG);
    });
    enter(&server);
    assert_eq!(server.connect().ask("auth", "_", WRONG), "error_auth");
    let said = refused_with(&["--port", "0"], |command| {
        command.env("DFLOCKD_AUTH_TOKEN", "two\nlines");
    });
    assert!(said.contains("DFLOCKD_AUTH_TOKEN") && !said.contains("lines\""), "{said}");
}

/// Clients of one after the other get the new one, while the old one is good.
#[test]
fn two_secrets_are_good_while_one_takes_the_place_of_the_other() {
    let home = tempfile::tempdir().unwrap();
    let file = private_file(home.path(), "secret", "old-token\n");
    let mut server = Server::start(&["--auth-token-file", &file]);
    let asks = |server: &Server, secret: &str| server.connect().ask("auth", "_", secret);
    let mut inside = server.connect();
    assert_eq!(inside.ask("auth", "_", "old-token"), "ok");
    let token = inside.take("job", "0 600");
    let mut reload = |text: &str, event: &str, count: usize| {
        private_file(home.path(), "secret", text);
        server.signal("HUP");
        wait_for(event, || {
            let events = server.events();
            (events.iter().filter(|seen| seen["event"] == event).count() == count).then_some(())
        });
        assert!(server.is_running());
        [asks(&server, "old-token"), asks(&server, "new-token")]
    };
    assert_eq!(reload("  old-token\n\n new-token \r\n", "reloaded", 1), ["ok", "ok"]);
    assert_eq!(reload("new-token\n", "reloaded", 2), ["error_auth", "ok"]);
    // What makes no sense changes nothing.
    assert_eq!(reload("", "reload_failed", 1), ["error_auth", "ok"]);
    assert_eq!(reload("a\nb\nnew-token\n", "reload_failed", 2), ["error_auth", "ok"]);
    let failed = server.event("reload_failed");
    assert!(failed["error"].as_str().unwrap().contains(&file), "{failed}");
    assert!(!server.log_text().contains("-token"), "{}", server.log_text());
    assert_eq!(inside.ask("n", "job", &format!("{token} 600")), "ok 600", "whoever is inside stays");
}

#[test]
fn a_hang_up_ends_no_server() {
    let mut server = Server::start(&[]);
    let mut client = server.connect();
    let token = client.take("job", "0");
    server.signal("HUP");
    server.event("reloaded");
    assert_eq!(client.ask("r", "job", &token), "ok");
}

#[test]
fn the_end_of_its_terminal_is_its_end() {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let keep_to_us = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&pty.master, keep_to_us).expect("nobody else has it");
    let mut server = Server::start_with(&[], |command| {
        let mut session = std::process::Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        session.stdin(pty.slave).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        *command = session;
    });
    server.signal("HUP");
    server.event("reloaded");
    drop(pty.master);
    server.event("drained");
    wait_for("its end", || (!server.is_running()).then_some(()));
}

#[test]
fn without_a_secret_auth_is_an_error_and_nothing_more() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("auth", "_", SECRET), "error");
    client.take("job", "0");
    let server = Server::start_with(&[], |command| {
        command.env("DFLOCKD_AUTH_TOKEN", "");
    });
    server.connect().take("job", "0");
}

#[test]
fn many_wrong_secrets_do_not_slow_a_bystander() {
    raise_descriptor_limit();
    let server = serve(&[]);
    let mut bystander = enter(&server);
    let mut wrong: Vec<_> = (0..200).map(|_| Lines::new(tcp(&server.address))).collect();
    for one in &mut wrong {
        one.send(format!("auth\n_\n{WRONG}\n").as_bytes());
    }
    // Each of them is made to wait; the bystander is not, whatever number they are.
    for _ in 0..200 {
        let token = bystander.take("job", "0");
        assert_eq!(bystander.ask("r", "job", &token), "ok");
    }
    let answers: Vec<Vec<u8>> = wrong.iter_mut().map(Lines::rest).collect();
    assert!(answers.iter().all(|answer| answer == b"error_auth\n" || answer == b"error_max_connections\n"));
    // A line at once, and one when a second is over.
    let told = || -> Vec<u64> {
        let failed = server.events().into_iter().filter(|event| event["event"] == "auth_failed");
        failed.map(|event| event["count"].as_u64().unwrap()).collect()
    };
    let looked_at = answers.iter().filter(|answer| *answer == b"error_auth\n").count() as u64;
    wait_for("the log to count them", || (told().iter().sum::<u64>() == looked_at).then_some(()));
    assert!(told().len() <= 5, "{:?}", told());
}

/// Silence does not say that a guess was wrong, nor do many connections make more of them.
#[test]
fn guessing_is_slow() {
    let server = serve(&[]);
    let begin = now();
    let mut guesses: Vec<_> = (0..40).map(|_| Lines::new(tcp(&server.address))).collect();
    for guess in &mut guesses {
        guess.send(format!("auth\n_\n{WRONG}\n").as_bytes());
    }
    let answers: Vec<Vec<u8>> = guesses.iter_mut().map(Lines::rest).collect();
    let took = begin.elapsed();
    let looked_at = answers.iter().filter(|answer| *answer == b"error_auth\n").count();
    assert!(looked_at >= 10, "a few cost nothing");
    let turns = took.as_secs_f64() / 0.1;
    assert!(looked_at as f64 <= 11.0 + turns, "{looked_at} were looked at in {took:?}");
    assert!(took >= Duration::from_secs(1), "{looked_at} were looked at in {took:?}");
    // The right one takes its turn too: the next one has to wait for it.
    let mut turns: Vec<_> = (0..10).map(|_| Lines::new(tcp(&server.address))).collect();
    let begin = now();
    for one in &mut turns {
        one.send(format!("auth\n_\n{SECRET}\n").as_bytes());
    }
    for one in &mut turns {
        assert_eq!(one.line(), "ok");
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(800), "ten turns in {took:?}");
    // Others are not held up.
    if let Some(mut other) = tcp_from([127, 0, 0, 2], &server.address) {
        let begin = now();
        assert_eq!(other.ask("auth", "_", SECRET), "ok");
        assert!(begin.elapsed() < took);
    }
}

/// Whoever has many addresses slows down those and their networks, and nobody else.
#[test]
fn guesses_from_many_addresses_slow_nobody_else() {
    raise_descriptor_limit();
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let host = format!("unix:{}", socket.display());
    let server = serve(&["--host", &host, "--host", "127.0.0.1"]);
    let log = wait_for("its addresses", || {
        let listening: Vec<_> = server.events().into_iter().filter(|event| event["event"] == "listening").collect();
        (listening.len() == 2).then_some(listening)
    });
    let tcp = log.iter().filter_map(|event| event["address"].as_str()).find(|at| !at.starts_with("unix")).unwrap();
    let guess = |number: u32| {
        let [_, high, middle, low] = (number + 256).to_be_bytes();
        let mut line = tcp_from([127, 100 + high, middle, low], tcp)?;
        line.send(format!("auth\n_\n{WRONG}\n").as_bytes());
        Some(line)
    };
    if guess(1).is_none() {
        return skipped("this machine has no address 127.100.1.1");
    }
    // More than there is room for.
    for piece in 0..26 {
        let mut guesses: Vec<_> = (0..400).filter_map(|at| guess(400 * piece + at)).collect();
        guesses.iter_mut().for_each(|guess| drop(guess.rest()));
    }
    // Many at once, from each place: had they to take turns, most would be sent away.
    let right = format!("auth\n_\n{SECRET}\n");
    let mut strangers: Vec<_> = (0..30).filter_map(|_| tcp_from([127, 0, 0, 9], tcp)).collect();
    strangers.iter_mut().for_each(|one| one.send(right.as_bytes()));
    strangers.iter_mut().for_each(|one| assert_eq!(one.line(), "ok", "who never guessed"));
    let mut local: Vec<_> = (0..30).map(|_| unix(&host)).collect();
    local.iter_mut().for_each(|one| one.send(right.as_bytes()));
    local.iter_mut().for_each(|one| assert_eq!(one.line(), "ok", "on a Unix socket"));
}

#[test]
fn no_secret_reaches_the_log() {
    let mut server = serve(&[]);
    let mut client = enter(&server);
    let token = client.take("job", "0");
    server.connect().ask("auth", "_", WRONG);
    let failed = server.event("auth_failed");
    assert!(failed["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{failed}");
    server.signal("TERM");
    client.ask("r", "job", &token);
    server.wait();
    logged(&server, "drained");
    let log = server.log_text();
    for secret in [SECRET, WRONG, &token] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// A process whose memory is hidden belongs to root there, whoever runs it.
#[test]
fn only_a_server_with_a_secret_hides_its_memory() {
    let as_another = |command: &mut std::process::Command| {
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
    };
    let mut version = std::process::Command::new(env!("CARGO_BIN_EXE_dflock"));
    version.arg("--version").stdout(std::process::Stdio::null());
    as_another(&mut version);
    if !version.status().is_ok_and(|status| status.success()) {
        return skipped("another user may not run what is tested here");
    }
    let owner = |secret: &str| {
        let server = Server::start_with(&[], |command| {
            command.env("DFLOCKD_AUTH_TOKEN", secret);
            as_another(command);
        });
        let memory = std::fs::metadata(format!("/proc/{}/mem", server.pid())).expect("it runs");
        memory.uid()
    };
    assert_eq!(owner(SECRET), 0);
    assert_ne!(owner(""), 0, "without a secret its memory is its user's");
}
