//! What a newcomer meets first: the first screen, the help of every verb, suggestions, the version.

use crate::client_house::Desk;

/// The verbs, as `dflock --help` lists them.
fn verbs(desk: &Desk) -> Vec<String> {
    let help = desk.ok(&["--help"]);
    let list = help.split_once("Verbs:\n").expect("a list of verbs").1.split("\n\n").next().expect("its end");
    list.lines().map(|line| line.trim().split(' ').next().expect("a word").to_owned()).collect()
}

#[test]
fn dflock_alone_says_what_to_do_first() {
    let desk = Desk::new();
    let said = desk.run(&[]);
    assert_eq!((said.code, said.out.as_str()), (Some(125), ""));
    for part in ["dflock exec demo -- echo", "dflock acquire", "dflock --help", "man dflock"] {
        assert!(said.err.contains(part), "{part:?} is missing: {}", said.err);
    }
    assert!(said.err.lines().count() < 15 && said.err.lines().all(|line| line.len() <= 110), "{}", said.err);
}

#[test]
fn every_verb_shows_two_examples_and_what_a_duration_is() {
    let desk = Desk::new();
    let verbs = verbs(&desk);
    assert!(verbs.len() > 13, "{verbs:?}");
    let of_sem = ["acquire", "release", "renew", "enqueue", "wait"].map(|verb| vec!["sem", verb]);
    let paths = verbs.iter().map(|verb| vec![verb.as_str()]).chain(of_sem);
    for path in paths {
        for flag in ["-h", "--help"] {
            let help = desk.ok(&[&path[..], &[flag]].concat());
            let examples = help.split_once("Examples:\n").map_or("", |(_, rest)| rest);
            let count = examples.lines().take_while(|line| line.starts_with("  ")).count();
            assert!(count >= 2, "{path:?} {flag} has {count} examples");
            assert!(examples.contains(&format!("dflock {}", path[0])), "{path:?}: {examples}");
            assert_eq!(help.contains("<DUR>"), help.contains("Durations: 30 is seconds"), "{path:?}");
            assert!(help.contains("More: man dflock-"), "{path:?}");
        }
    }
}

#[test]
fn typing_mistakes_get_a_suggestion() {
    let desk = Desk::new();
    for (args, suggestion) in [
        (&["exce", "k", "true"] as &[&str], "did you mean exec?"),
        (&["relase", "k"], "did you mean release?"),
        (&["exec", "--no-wiat", "k", "true"], "did you mean --no-wait?"),
        (&["serve", "--prot", "1"], "did you mean --port?"),
        (&["stats", "--format", "tabel"], "did you mean table?"),
        (&["sem", "aquire", "k"], "did you mean acquire?"),
    ] {
        desk.refuses(args, 125, &[suggestion]);
    }
}

#[test]
fn the_version_says_commit_and_tls() {
    let desk = Desk::new();
    let name = format!("dflock {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(desk.ok(&["-V"]), name);
    let long = desk.ok(&["--version"]);
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines[0], name);
    assert!(lines[1].starts_with("commit ") && lines[1].len() > 8, "{long}");
    assert_eq!(lines[2..], ["TLS by rustls with ring"]);
}

/// As where a script adds to what a wrapper gives.
#[test]
fn of_a_flag_given_twice_the_last_one_counts() {
    let desk = Desk::at("127.0.0.1:1");
    desk.refuses(&["sem", "acquire", "k", "--limit", "1", "-w", "soon", "-w", "1s"], 69, &["127.0.0.1:1"]);
}
