//! completions/ and man/ are what the program makes; readers of man pages have no complaint.
//!
//! `DFLOCK_REWRITE=1 cargo test --test generated` rewrites both.

#[path = "house/mod.rs"]
mod house;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use house::running::{Said, finish};
use house::tools;

const SCRIPTS: [(&str, &str); 5] = [
    ("bash", "dflock.bash"),
    ("zsh", "_dflock"),
    ("fish", "dflock.fish"),
    ("elvish", "dflock.elv"),
    ("powershell", "_dflock.ps1"),
];

type Files = BTreeMap<String, String>;

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let read = |path| fs::read_to_string(path).expect("it is text");
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path()))).collect()
}

/// Runs the program away from any setting of this user, which it must not write into its manual.
fn dflock(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
    let said = run(command.args(args).env_clear());
    assert!(said.code == 0 && said.err.is_empty(), "{args:?}: {said:?}");
    said.out
}

/// Runs a program to its end, which must come.
fn run(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().expect("it runs"))
}

fn compare(dir: &str, made: &Files) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    if std::env::var_os("DFLOCK_REWRITE").is_some() {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the directory is made");
        for (name, text) in made {
            fs::write(dir.join(name), text).expect("the file is written");
        }
    }
    let there = files(&dir);
    let stale: Vec<&String> =
        made.keys().chain(there.keys()).filter(|name| made.get(*name) != there.get(*name)).collect();
    assert!(
        stale.is_empty(),
        "stale in {}: {stale:?}\nDFLOCK_REWRITE=1 cargo test --test generated rewrites them",
        dir.display()
    );
}

#[test]
fn completions_are_fresh() {
    let made = SCRIPTS.map(|(shell, name)| (name.to_owned(), dflock(&["completions", shell])));
    compare("completions", &made.into());
}

#[test]
fn the_manual_is_fresh() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("new/man");
    dflock(&["man", dir.to_str().expect("a path that is text")]);
    compare("man", &files(&dir));
    // Where man looks for them.
    let sections = dir.join("man1");
    dflock(&["man", sections.to_str().expect("a path that is text")]);
    assert!(sections.join("dflock.1").exists() && !sections.join("dflock-config.5").exists());
    assert!(dir.join("man5/dflock-config.5").exists());
}

/// Each page through each program that is there; a page with a mistake makes them talk.
#[test]
fn readers_of_man_pages_have_no_complaint() {
    let home = tempfile::tempdir().expect("a directory");
    dflock(&["man", home.path().to_str().expect("a path that is text")]);
    let readers: [&[&str]; 3] = [
        &["mandoc", "-T", "lint", "-W", "warning"],
        &["groff", "-man", "-ww", "-b", "-Tutf8", "-rLL=100n", "-z"],
        &["man", "--warnings=all", "-l", "-Tutf8", "-Z"],
    ];
    for reader in readers {
        if !tools::is_there(reader[0]) {
            continue;
        }
        for name in files(home.path()).keys() {
            let mut command = Command::new(reader[0]);
            command.args(&reader[1..]).arg(home.path().join(name));
            let said = run(command.env("MANPAGER", "cat"));
            let complaints = [said.err.as_str(), if reader[0] == "mandoc" { &said.out } else { "" }].concat();
            assert!(said.code == 0 && complaints.is_empty(), "{reader:?} {name}: {complaints}");
        }
    }
}

/// What a reader looks for first.
#[test]
fn the_exit_codes_stand_in_the_manual() {
    let home = tempfile::tempdir().expect("a directory");
    dflock(&["man", home.path().to_str().expect("a path that is text")]);
    let pages = files(home.path());
    for page in ["dflock.1", "dflock-exec.1"] {
        for code in ["75", "79", "124", "69", "77", "76", "125", "126", "127"] {
            assert!(pages[page].contains(&format!(".TP\n\\fB{code}\\fR\n")), "{page} says nothing of {code}");
        }
    }
    for (verb, _) in dflock(&["--help"]).lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  ")) {
        let is_verb = verb.bytes().all(|letter| letter.is_ascii_lowercase()) && !verb.is_empty();
        assert!(!is_verb || pages.contains_key(&format!("dflock-{verb}.1")), "there is no page for {verb}");
    }
}
