//! Answers that nobody asked for, and answers that are too long.

use std::io::Write;
use std::time::Duration;

use crate::client_fakes::{Fake, TOKEN};
use crate::client_house::{Desk, finish};

/// What was said before it was asked for answers nothing: a renewal that is believed for it may be of a lock that
/// was given away since.
#[test]
fn a_renewal_is_not_taken_from_what_was_said_ahead() {
    for about in ["error\n", "ok {\"server\":\"dflock\",\"fencing\":true,\"resume_s\":300}\n"] {
        let ahead = Fake::start(move |mut peer| {
            while let Some([command, ..]) = peer.request() {
                match command.as_str() {
                    "info" => peer.say(about),
                    "l" => {
                        let grant = format!("ok {TOKEN} 3\n{}", "ok 3\n".repeat(500));
                        peer.say(&grant);
                        return peer.stay();
                    }
                    _ => peer.say("error\n"),
                }
            }
        });
        let desk = Desk::at(&ahead.address);
        let said = desk.run(&["exec", "-l", "3", "k", "sleep", "10"]);
        assert!(matches!(said.code, Some(79 | 69)), "{said:?}");
        assert!(said.took < Duration::from_secs(8), "{said:?}");
    }
}

/// Only stats may be long, and of those only what is asked for is kept.
#[test]
fn a_server_that_says_too_much_takes_no_memory() {
    const PIECE: usize = 1024 * 1024;
    let flood = |begin: &'static str, row: &'static str| {
        Fake::start(move |mut peer| {
            while let Some([command, ..]) = peer.request() {
                let is_flooded = if begin.contains("locks") { command == "stats" } else { command == "info" };
                if !is_flooded {
                    peer.say("error\n");
                    continue;
                }
                peer.say(begin);
                let rows = row.repeat(PIECE / row.len());
                while peer.lines.stream().write_all(rows.as_bytes()).is_ok() {}
                return;
            }
        })
    };
    let in_little_memory = |desk: &Desk, args: &[&str]| {
        let inner = desk.command(args);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -v 1000000; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().current_dir(desk.path());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        finish(command)
    };
    let long = flood("ok {\"server\":\"", "xxxxxxxxxxxxxxxx");
    let said = in_little_memory(&Desk::at(&long.address), &["exec", "k", "true"]);
    assert!(said.code == Some(76) && said.err.contains("more than 4096 bytes"), "{said:?}");
    // A key without an end, a list in a row that is many times as large when it is read, and rows without an end.
    let key = flood("ok {\"locks\":[{\"key\":\"", "xxxxxxxxxxxxxxxx");
    let list = flood("ok {\"locks\":[{\"key\":\"k\",\"claims\":[", "{},");
    let rows =
        flood("ok {\"locks\":[", "{\"key\":\"k\",\"owner_conn_id\":1,\"lease_expires_in_s\":5.5,\"waiters\":0},");
    for (fake, what) in [(&key, "a row of more than 16 KiB"), (&list, "a row of more"), (&rows, "MiB of rows")] {
        let said = in_little_memory(&Desk::at(&fake.address), &["status", "k"]);
        assert!(said.code == Some(76) && said.err.contains(what), "{said:?}");
    }
}
