//! The idioms of README.md and of the help that take a lock for a script: where there is no lock, what needs it does not
//! run, and nobody else's lock is given back.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use crate::blocks::{code, of_language, table};
use crate::fleet::Fleet;
use crate::house::clean::Said;
use crate::house::tools;

/// What an example may do before it has the lock.
const BEFORE: [&str; 2] = ["build", "prepare"];

/// Whatever keeps dflock from taking a lock, as lines before the example.
const OBSTACLES: [&str; 9] = [
    "PATH=/usr/bin:/bin",
    "PATH=/nowhere",
    "export DFLOCK_SERVERS=127.0.0.1:1 DFLOCK_CONNECT_RETRY=0",
    "unset DFLOCK_SERVERS; export DFLOCK_AUTOSTART=0 DFLOCK_CONNECT_RETRY=0",
    "unset DFLOCK_SERVERS; export DFLOCK_SERVER=127.0.0.1:1",
    "export DFLOCK_SERVERS=none://here",
    "export DFLOCK_TIMEOUT=soon DFLOCK_SHARD=7",
    "export DFLOCK_RUNTIME_DIR=/dev/null/nowhere",
    "dflock() { command dflock \"$@\" --no-such-flag; }",
];

fn shells() -> Vec<&'static str> {
    ["sh", "bash", "dash", "zsh"].into_iter().filter(|shell| tools::is_there(shell)).collect()
}

/// Every example in which a lock spans several commands.
fn idioms(fleet: &Fleet) -> BTreeSet<String> {
    let mut found: Vec<String> = of_language("sh").into_iter().map(|block| block.text).collect();
    found.extend(table("Moving from flock").iter().filter_map(|row| code(&row[1])).map(str::to_owned));
    for verb in ["acquire", "release", "renew", "enqueue", "wait", "sem"] {
        let paths = if verb == "sem" { vec!["sem", "sem acquire", "sem enqueue"] } else { vec![verb] };
        for path in paths {
            let words: Vec<&str> = path.split(' ').chain(["--help"]).collect();
            let help = fleet.house.dflock(&words).ok().to_owned();
            let examples = help.split_once("Examples:\n").map_or("", |(_, rest)| rest).to_owned();
            found.extend(examples.lines().take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()));
        }
    }
    let takes = |text: &String| ["acquire ", "enqueue "].iter().any(|verb| text.contains(verb)) && text.contains("./");
    let found: BTreeSet<String> = found.into_iter().filter(takes).collect();
    assert!(found.len() > 6, "{found:?}");
    found
}

fn key_of(idiom: &str) -> &str {
    let words: Vec<&str> = idiom.split_whitespace().collect();
    let at =
        words.iter().position(|word| ["acquire", "enqueue"].contains(&word.trim_start_matches("$("))).expect("a verb");
    words[at + 1].trim_end_matches([';', ')'])
}

/// Every job says that it ran; further lines may be put into all.
fn write_jobs(fleet: &Fleet, idioms: &BTreeSet<String>, more: &str) {
    let is_of_name = |letter: &char| letter.is_ascii_lowercase() || matches!(letter, '-' | '.');
    for idiom in idioms {
        for (at, _) in idiom.match_indices("./") {
            let name: String = idiom[at + 2..].chars().take_while(is_of_name).collect();
            let path = fleet.house.path(&name);
            std::fs::write(&path, format!("#!/bin/sh\necho ran {name}\n{more}\n")).expect("the job is written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it can be executed");
        }
    }
}

#[track_caller]
fn assert_nothing_ran(shell: &str, idiom: &str, said: &Said) {
    let ran = said.out.lines().filter_map(|line| line.strip_prefix("ran "));
    let critical: Vec<&str> = ran.filter(|job| !BEFORE.contains(job)).collect();
    assert!(critical.is_empty() && said.code != 0, "{shell} runs {critical:?} without the lock in: {idiom}\n{said:?}");
}

#[test]
fn without_a_lock_nothing_runs() {
    let fleet = Fleet::new();
    let idioms = idioms(&fleet);
    write_jobs(&fleet, &idioms, "");
    for shell in shells() {
        let path = fleet.house.script(shell, &format!("command -v {shell}")).ok().to_owned();
        for idiom in &idioms {
            for obstacle in OBSTACLES {
                assert_nothing_ran(
                    &path,
                    &format!("{obstacle}\n{idiom}"),
                    &fleet.script(shell, &format!("{obstacle}\n{idiom}")),
                );
            }
            // Where nothing is in the way, all of it runs, and the lock is given back.
            let said = fleet.script(shell, idiom);
            let expected = idiom.matches("./").count();
            assert_eq!((said.code, said.out.matches("ran ").count()), (0, expected), "{shell}: {idiom}\n{said:?}");
        }
    }
}

/// Of a busy lock nothing is taken away either: not from the script that calls, nor from what is tied to nobody.
#[test]
fn a_busy_lock_stays_where_it_is() {
    let fleet = Fleet::new();
    let idioms = idioms(&fleet);
    write_jobs(&fleet, &idioms, "");
    for (turn, shell) in shells().into_iter().enumerate() {
        for idiom in &idioms {
            let key = key_of(idiom);
            let (sem, limit) = if idiom.contains("--limit 3") { ("sem ", " --limit 3") } else { ("", "") };
            let more = if sem.is_empty() {
                ""
            } else {
                "dflock sem acquire K --limit 3 --owner none --max-hold 1h >/dev/null\n"
            };
            let more = format!("{more}{more}").replace('K', key);
            let patience = ["-w forever", "-w 10m", "--timeout 5m"];
            let short = patience.iter().fold(idiom.clone(), |text, wait| text.replace(wait, "-w 0.2"));
            let inner = format!("./inner-{turn}");
            std::fs::write(fleet.house.path(&inner), fleet.here(&short)).expect("it is written");
            let run = format!("export DFLOCK_TIMEOUT=0.2; {shell} {inner}");
            let renew = format!("dflock {sem}renew {key}{limit}");
            for take in [
                format!(
                    "dflock {sem}acquire {key}{limit} >/dev/null || exit 9\n{run}; code=$?\n{renew} >/dev/null || exit 0"
                ),
                format!(
                    "t=$(dflock {sem}acquire {key}{limit} --owner none --max-hold 1h) || exit 9\n{run}; code=$?
                    {renew} \"$t\" >/dev/null || exit 0; dflock {sem}release {key}{limit} \"$t\""
                ),
            ] {
                let said = fleet.script(shell, &format!("{more}{take}; exit $code"));
                assert_nothing_ran(shell, idiom, &said);
                fleet.house.end_holder_of(key);
            }
        }
        fleet.house.wait_until_nobody_holds();
    }
}

/// A lock that is lost while a script works: the script does not end as if nothing had been.
#[test]
fn a_lock_that_is_lost_meanwhile_is_a_failure() {
    let fleet = Fleet::new();
    let idioms: BTreeSet<String> = idioms(&fleet).into_iter().filter(|idiom| idiom.contains("--export")).collect();
    assert!(idioms.len() > 1, "{idioms:?}");
    write_jobs(&fleet, &idioms, "DFLOCK_RUNTIME_DIR=./other dflock release \"$DFLOCK_KEY\" 2>/dev/null");
    for shell in shells() {
        for idiom in &idioms {
            let said = fleet.script(shell, idiom);
            assert!(said.code != 0 && !said.out.contains("ran publish"), "{shell}: {idiom}\n{said:?}");
            fleet.house.wait_until_nobody_holds();
        }
    }
}
