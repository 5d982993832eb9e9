//! Keys, tokens and flags that cannot be meant are refused before anybody is asked; every other key is fine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::client_fakes::{Fake, TOKEN};
use crate::client_house::{Desk, finish, holds_nothing};
use crate::house::Server;

#[test]
fn keys_that_are_none_are_refused_before_anybody_is_asked() {
    let fake = Fake::answering("error\n");
    let desk = Desk::at(&fake.address);
    let long = "k".repeat(257);
    let space = "must not contain white space";
    for (key, part) in [
        ("", "must not be empty"),
        ("a b", space),
        ("a\tb", space),
        ("a\nb", space),
        (" a", space),
        ("a\u{a0}b", space),
        (long.as_str(), "at most 256 bytes, this one has 257"),
    ] {
        for verb in [&["acquire", key] as &[&str], &["release", key, TOKEN], &["renew", key, TOKEN], &["status", key]] {
            desk.refuses(verb, 125, &["key", part]);
        }
    }
    let document = desk.json(&["acquire", "a b", "--json"]);
    desk.expect(document["error"] == "usage" && document["exit"] == 125, || format!("{document}"));
    assert_eq!(fake.count(), 0, "a wrong key reached the server: {:?}", fake.heard());
}

#[test]
fn what_the_command_line_cannot_mean_is_said_like_everything_else() {
    let desk = Desk::at("127.0.0.1:1");
    for (args, part) in [
        (&["acquire"] as &[&str], "KEY"),
        (&["acquire", "k", "--no-such-flag"], "--no-such-flag"),
        (&["acquire", "k", "-l", "0"], "at least 1s"),
        (&["acquire", "k", "-n", "-w", "1"], "--timeout"),
        (&["acquire", "k", "-w", "soon"], "--timeout soon: not a duration"),
        (&["acquire", "k", "--owner", "none"], "--max-hold"),
        (&["no-such-verb"], "no-such-verb"),
    ] {
        desk.refuses(args, 125, &[part]);
    }
}

#[test]
fn keys_of_any_bytes_are_fine() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let longest = "k".repeat(256);
    for key in [b"\xff\xfe".as_slice(), b"\x1b[31m", "\u{e9}\u{1f512}".as_bytes(), b"-", longest.as_bytes()] {
        let key = OsStr::from_bytes(key);
        let run = |verb: &str, json: bool| {
            let mut command = desk.command(&[verb]);
            command.arg(key).args(json.then_some("--json"));
            finish(command)
        };
        for (verb, json) in [("acquire", false), ("status", true), ("renew", false), ("release", false)] {
            let said = run(verb, json);
            assert_eq!(said.code, Some(0), "{verb} {key:?}: {said:?}");
            // A server that tells its keys in UTF-8 cannot tell this one, but it must know that it is held.
            let state = said.out.contains("\"state\":\"held\"");
            desk.expect(verb != "status" || state, || format!("{key:?} is held, status says {}", said.out));
        }
    }
    holds_nothing(&server);
    desk.keeps_nothing();
}

#[test]
fn tokens_that_are_none_are_refused_before_anybody_is_asked() {
    let fake = Fake::answering("error\n");
    let desk = Desk::at(&fake.address);
    for verb in ["release", "renew"] {
        for token in ["a\nr", "a b", "\u{e9}", "a\tb"] {
            let said = desk.refuses(&[verb, "k", token], 125, &["token"]);
            desk.expect(!said.err.contains(token), || format!("the token is shown: {}", said.err));
        }
        desk.refuses(&[verb, "k", ""], 125, &["a token must not be empty"]);
        desk.fails(&[verb, "k"], 79, &["no holder of yours has k"]);
    }
    let desk = Desk::at(&fake.address).with("DFLOCK_TOKEN", "two\nlines");
    desk.refuses(&["release", "k"], 125, &["DFLOCK_TOKEN"]);
    assert_eq!(fake.count(), 0, "a wrong token reached the server: {:?}", fake.heard());
}
