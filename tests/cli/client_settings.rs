//! What is set where, which of it counts, and what is never shown.

use serde_json::Value;

use crate::client_fakes::{Fake, Peer, TOKEN, closed_port};
use crate::client_house::Desk;
use crate::house::Server;

/// The value and the source of a setting, as `dflock config` shows them.
fn shown(desk: &Desk, args: &[&str], name: &str) -> (String, String) {
    let document = desk.json(&[&["config", "--json"], args].concat());
    assert_eq!(document["schema"], 1);
    let rows = document["settings"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {document}"));
    let text = |field: &Value| field.as_str().expect("a text").to_owned();
    let (value, source) = (text(&row["value"]), text(&row["source"]));
    let table = desk.ok(&[&["config"], args].concat());
    let line = table.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
    assert!(line.contains(&value) && line.ends_with(&source), "{name} is {value} from {source}: {table}");
    (value, source)
}

#[test]
fn the_nearest_counts_and_says_where_it_is_from() {
    let with_file = |desk: Desk, text: &str| {
        let path = desk.file("config/dflock/config.toml", text, 0o644);
        (desk, path)
    };
    let (desk, path) = with_file(
        Desk::new().with("DFLOCK_TIMEOUT", "3s"),
        "timeout = \"4s\"\nconnect_timeout = 2.5\nservers = [\"a:1\", \"b:2\"]\ntls = true\n",
    );
    let pair = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(shown(&desk, &[], "timeout"), pair("3s", "environment DFLOCK_TIMEOUT"));
    assert_eq!(shown(&desk, &[], "connect_timeout"), pair("2.5", &path));
    assert_eq!(shown(&desk, &["--connect-timeout", "7s"], "connect_timeout"), pair("7s", "flag"));
    assert_eq!(shown(&desk, &[], "servers"), pair("a:1,b:2", &path));
    assert_eq!(shown(&desk, &["-s", "c:3"], "servers"), pair("c:3", "flag"));
    assert_eq!(shown(&desk, &[], "tls"), pair("true", &path));
    let desk = desk.with("DFLOCK_TIMEOUT", "").with("DFLOCK_SERVERS", "d:4");
    assert_eq!(shown(&desk, &[], "timeout"), pair("4s", &path));
    assert_eq!(shown(&desk, &[], "servers"), pair("d:4", "environment DFLOCK_SERVERS"));
    std::fs::remove_file(&path).expect("the file was there");
    assert_eq!(shown(&desk, &[], "timeout"), pair("10s", "default"));
    // Without XDG_CONFIG_HOME it is where such files are.
    let desk = Desk::new();
    let path = desk.file(".config/dflock/config.toml", "shard = 0\n", 0o600);
    let mut command = desk.command(&["config"]);
    command.env_remove("XDG_CONFIG_HOME");
    let said = crate::client_house::finish(command);
    assert!(said.out.contains(&path), "{said:?}");
}

#[test]
fn files_that_cannot_be_meant() {
    for (text, parts) in [
        ("colour = 1\n", &["\"colour\"", "servers"] as &[&str]),
        ("auth_token = \"s3cret\"\n", &["auth_token_file", "mode 600"]),
        ("nonsense\n", &["TOML"]),
        ("tls = \"perhaps\"\n", &["tls", "true or false"]),
        ("timeout = \"soon\"\n", &["timeout", "soon", "not a duration"]),
        ("servers = [1, 2]\n", &["servers", "list of texts"]),
        ("servers = [\"a b\"]\n", &["servers", "is not an address"]),
        ("shard = 1\n", &["shard", "it must be below 1"]),
        ("tls_cert = \"x\"\n", &["--tls-cert and --tls-key"]),
    ] {
        let desk = Desk::new();
        let path = desk.file("config/dflock/config.toml", text, 0o644);
        // A pair of settings may come from two places.
        let named: &[&str] = if text.starts_with("tls_cert") { &[] } else { &[&path] };
        for verb in [&["config"] as &[&str], &["acquire", "k"], &["status", "k"], &["stats"]] {
            let said = desk.refuses(verb, 125, &[parts, named].concat());
            desk.expect(!said.err.contains("s3cret"), || format!("the secret is shown: {said:?}"));
        }
    }
    let desk = Desk::new();
    let path = desk.file("config/dflock/config.toml", "\u{1}\u{2}", 0o644);
    std::fs::write(&path, b"\xff\xfe").expect("the file can be written");
    desk.refuses(&["config"], 125, &[&path]);
}

#[test]
fn secrets_are_never_shown() {
    let home = tempfile::tempdir().expect("a home");
    let file = crate::start::private_file(home.path(), "token", "s3cret\n");
    let by_variable = Desk::new().with("DFLOCK_AUTH_TOKEN", "s3cret");
    let by_file = Desk::new().with("DFLOCK_AUTH_TOKEN_FILE", &file);
    let by_settings = Desk::new();
    let dead = closed_port();
    by_settings.file("config/dflock/config.toml", &format!("auth_token_file = {file:?}\n"), 0o644);
    for (desk, source) in [(&by_variable, "DFLOCK_AUTH_TOKEN"), (&by_file, &file), (&by_settings, &file)] {
        assert_eq!(shown(desk, &[], "auth_token"), ("(redacted)".to_owned(), source_of(source)));
        let acquire = ["acquire", "k", "-v", "-s", &dead];
        for args in [&["config"] as &[&str], &["config", "--json"], &["config", "-v"], &acquire] {
            let said = desk.run(args);
            assert!(!said.out.contains("s3cret") && !said.err.contains("s3cret"), "{said:?}");
        }
    }
    assert!(!Desk::new().ok(&["config"]).contains("redacted"), "there is none to be hidden");
}

fn source_of(source: &str) -> String {
    if source.starts_with("DFLOCK") { format!("environment {source}") } else { source.to_owned() }
}

/// The last line of the last `l` or `sl`: how long to wait, and the lease.
fn asked(args: &[&str], desk: Desk) -> String {
    let waits = !args.contains(&"-n") && !args.contains(&"0");
    let fake = Fake::start(move |mut peer: Peer| {
        while let Some([command, _, argument]) = peer.command() {
            // It is asked without waiting first.
            let is_first = command == "l" && argument.split(' ').next() == Some("0");
            peer.say(if is_first && waits { "timeout\n" } else { "ok 00112233445566778899aabbccddeeff 33\n" });
        }
    });
    let desk = desk.with("DFLOCK_SERVERS", &fake.address);
    assert_eq!(desk.ok(&[&["acquire", "k"], args].concat()), TOKEN);
    let heard = fake.heard();
    heard.iter().rev().find_map(|line| line.strip_prefix("l k ")).unwrap_or_else(|| panic!("{heard:?}")).to_owned()
}

#[test]
fn durations_reach_the_server_in_whole_seconds() {
    let from = |timeout: &str| Desk::new().with("DFLOCK_TIMEOUT", timeout);
    for (args, desk, wanted) in [
        (&[] as &[&str], Desk::new(), "10"),
        (&["-n"], Desk::new(), "0"),
        (&["-w", "0"], Desk::new(), "0"),
        (&["-w", "1.5"], Desk::new(), "2"),
        (&["-w", "250ms"], Desk::new(), "1"),
        (&["-w", "5m"], Desk::new(), "300"),
        (&[], from("90s"), "90"),
        (&["-w", "1h"], from("90s"), "3600"),
        (&["-n"], from("90s"), "0"),
        (&["-w", "7", "-l", "1.5s"], Desk::new(), "7 2"),
        (&["-w", "7", "-l", "2m"], Desk::new(), "7 120"),
    ] {
        assert_eq!(asked(args, desk), wanted, "{args:?}");
    }
    for (args, desk) in [(&["-w", "forever"] as &[&str], Desk::new()), (&[], from("forever"))] {
        let line = asked(args, desk);
        let seconds: u64 = line.parse().unwrap_or_else(|why| panic!("{line}: {why}"));
        assert!((1_000_000_000..=9_223_372_036).contains(&seconds), "{seconds}");
    }
}

#[test]
fn an_empty_variable_is_none() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let empty = ["DFLOCK_TIMEOUT", "DFLOCK_AUTH_TOKEN", "DFLOCK_TLS", "DFLOCK_SHARD", "DFLOCK_TOKEN", "DFLOCK_KEY"];
    for verb in [["acquire", "k"], ["renew", "k"], ["release", "k"]] {
        let mut command = desk.command(&verb);
        command.envs(empty.map(|name| (name, "")));
        let said = crate::client_house::finish(command);
        assert_eq!(said.code, Some(0), "{verb:?}: {said:?}");
    }
    for (name, value) in [("DFLOCK_TLS", "perhaps"), ("DFLOCK_TIMEOUT", "-1"), ("DFLOCK_CONNECT_TIMEOUT", "0")] {
        let desk = Desk::at(&closed_port()).with(name, value);
        desk.refuses(&["acquire", "k"], 125, &[name]);
    }
}
