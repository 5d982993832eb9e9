//! A command line that cannot be understood: said in a sentence, with what to do, as text and as JSON.

use crate::client_house::{Desk, finish};
use crate::house::clean::House;

/// Both lines, for a person and in the document.
#[track_caller]
fn says(args: &[&str], message: &str, hint: &str) {
    let desk = Desk::at("127.0.0.1:1");
    let said = desk.run(args);
    assert_eq!((said.code, said.out.as_str()), (Some(125), ""), "{args:?}: {said:?}");
    assert_eq!(said.err, format!("dflock: {message}\ndflock: {hint}\n"), "{args:?}");
    let mut with_json = args.to_vec();
    with_json.insert(1.min(args.len()), "--json");
    if args.first().is_some_and(|verb| *verb == "sem") {
        with_json.swap(1, 2);
    }
    let document = desk.json(&with_json);
    // The usage shows what was given already.
    let fields = |name: &str| document[name].as_str().unwrap_or_default().replace(" --json", "");
    assert_eq!((fields("error").as_str(), &document["exit"]), ("usage", &125.into()), "{args:?}: {document}");
    assert_eq!((fields("message").as_str(), fields("hint").as_str()), (message, hint), "{args:?}");
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let list = |verb: &str| format!("dflock {verb} --help lists its options");
    for (args, message, hint) in [
        (&["acquire", "k", "--bogus"] as &[&str], "there is no option --bogus", list("acquire").as_str()),
        (&["acquire", "k", "--no-wiat"], "there is no option --no-wiat", "did you mean --no-wait?"),
        (&["acquire", "k", "-z"], "there is no option -z", &list("acquire")),
        (&["acquire", "k", "j"], "unexpected argument \"j\"", "usage: dflock acquire [OPTIONS] <KEY>"),
        (&["acquire"], "KEY is missing", "usage: dflock acquire <KEY>"),
        (&["exec"], "KEY and CMD are missing", "usage: dflock exec <KEY> <CMD>..."),
        (&["exec", "k"], "CMD is missing", "usage: dflock exec <KEY> <CMD>..."),
        (&["sem", "acquire", "k"], "--limit is missing", "usage: dflock sem acquire --limit <N> <KEY>"),
        (&["acquire", "k", "-w"], "--timeout needs a value", &list("acquire")),
        (&["acquire", "k", "-n", "-w", "1"], "--no-wait and --timeout exclude each other", &list("acquire")),
        (&["renew", "k", "-l", "0"], "--lease 0: a lease must be at least 1s", &list("renew")),
        (&["exec", "k", "--limit", "0", "true"], "--limit 0: must be at least 1", &list("exec")),
        (&["exec", "k", "--limit", "x", "true"], "--limit x: not a whole number", &list("exec")),
        (&["exec", "k", "-E", "256", "true"], "--busy-code 256: must be between 0 and 255", &list("exec")),
        (&["status", "k", "--shard", "-1"], "--shard -1: not a whole number", &list("status")),
        (
            &["stats", "--format", "tabel"],
            "--format tabel: must be one of json, table, prometheus",
            "did you mean table?",
        ),
        (&["stats", "--format", "x y"], "--format \"x y\": must be one of json, table, prometheus", &list("stats")),
    ] {
        says(args, message, hint);
    }
}

#[test]
fn a_verb_that_does_not_exist_leads_to_the_right_one() {
    let exec = "dflock exec KEY -- CMD runs a command under a lock";
    for (verb, hint) in [
        ("help", "dflock --help lists the verbs; man dflock is the manual"),
        ("version", "dflock --version"),
        ("run", exec),
        ("lock", "dflock exec KEY -- CMD runs a command under a lock; dflock acquire KEY takes one for a script"),
        ("unlock", "dflock release KEY gives a lock back"),
        ("exce", "did you mean exec?"),
        ("relase", "did you mean release?"),
        ("nightly", "dflock exec KEY -- CMD runs a command under a lock; dflock --help lists the verbs"),
    ] {
        let desk = Desk::at("127.0.0.1:1");
        let said = desk.run(&[verb, "k"]);
        assert_eq!((said.code, said.out.as_str()), (Some(125), ""), "{said:?}");
        assert_eq!(said.err, format!("dflock: there is no verb {verb}\ndflock: {hint}\n"));
    }
    says(&["sem", "aquire", "k"], "there is no verb aquire", "did you mean acquire?");
}

/// `--json` is ours before the command begins, and the command's from there on.
#[test]
fn json_of_the_command_is_not_ours() {
    let desk = Desk::at("127.0.0.1:1");
    for args in [
        &["exec", "--bogus", "k", "--", "true", "--json"] as &[&str],
        &["exec", "-w", "soon", "k", "true", "--json"],
        &["exec", "-E", "x", "k", "--no-json", "true", "--json"],
        &["acquire", "--bogus", "--", "--json"],
    ] {
        let said = desk.run(args);
        assert_eq!((said.code, said.out.as_str()), (Some(125), ""), "{args:?}: {said:?}");
        assert!(said.err.starts_with("dflock: "), "{args:?}: {said:?}");
    }
    for args in [
        &["exec", "k", "-w", "soon", "--json", "true"] as &[&str],
        &["exec", "--json", "--bogus", "k", "--", "true"],
        &["exec", "-nE", "5", "k", "-w5", "--limit=x", "--json", "true"],
        &["exec", "-c", "true", "--bogus", "k", "--json"],
        &["acquire", "--bogus", "--json"],
    ] {
        let said = desk.run(args);
        assert_eq!((said.code, said.err.as_str()), (Some(125), ""), "{args:?}: {said:?}");
        assert!(said.out.starts_with("{\"schema\":1,\"error\":\"usage\""), "{args:?}: {said:?}");
    }
}

/// An option of ours that is mistyped must not become a command.
#[test]
fn a_word_with_a_dash_is_no_command() {
    for (args, message, hint) in [
        (&["exec", "k", "--nowait", "true"] as &[&str], "there is no option --nowait", "did you mean --no-wait?"),
        (&["exec", "k", "-n", "--bogus", "true"], "there is no option --bogus", "dflock exec --help lists its options"),
        (&["exec", "k", "-z", "true"], "there is no option -z", "dflock exec --help lists its options"),
        (&["exec", "k", "-nz5", "true"], "there is no option -z", "dflock exec --help lists its options"),
    ] {
        says(args, message, hint);
    }
}

/// The command begins with the first word that is no option, and everything behind it is the command's.
#[test]
fn options_end_where_the_command_begins() {
    let house = House::new();
    let print = ["printf", "<%s>"];
    for (before, behind) in [
        (&["k"] as &[&str], &["-n", "--", "-E0", "--json"] as &[&str]),
        (&["k", "--"], &["-n", "--", "-E0", "--json"]),
        (&["-qE0", "k", "-w5", "-l=60", "--on-lost=stop"], &["-w", "1"]),
        (&["-w", "5", "k", "-E", "0", "--limit", "3", "-q"], &["--limit=1"]),
        (&["--also", "j", "-w5s", "k", "--timeout=1m", "--"], &["--"]),
        (&["--", "k"], &["--", "x"]),
    ] {
        let said = house.dflock(&[&["exec"], before, &print, behind].concat());
        let expected: String = behind.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!((said.ok(), said.err.as_str()), (expected.as_str(), ""), "{before:?} {behind:?}");
    }
    assert_eq!(house.dflock(&["exec", "k", "-c", "echo $0", "-n"]).ok(), "/bin/sh");
    assert_eq!(house.dflock(&["exec", "-c", "echo a", "k", "-w5"]).ok(), "a");
    house.dflock(&["exec", "k", "--", "-z"]).code(127);
}

#[test]
fn what_cannot_be_shown_is_a_failure() {
    let desk = Desk::new();
    for args in [&["--help"] as &[&str], &["exec", "--help"], &["-V"], &["completions", "bash"]] {
        let mut command = desk.command(args);
        command.stdout(std::fs::File::options().write(true).open("/dev/full").expect("/dev/full"));
        command.stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("dflock starts");
        let said = child.wait_with_output().expect("it ends");
        assert_eq!(said.status.code(), Some(125), "{args:?}: {said:?}");
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(err.contains("cannot write the answer to stdout: No space left"), "{args:?}: {err}");
    }
    assert_eq!(finish(desk.command(&["--help"])).code, Some(0));
}
