//! A script that asks for a lock with --export never goes on without it: whatever the shell, whatever goes wrong.

use crate::house::clean::{House, Said};
use crate::house::tools;
use crate::house::typist::Typist;

/// What stands everywhere. It also holds when dflock is not found, or dies before its first step.
const SHOWN: &str = "lock=$(@) || exit; eval \"$lock\"";

/// What people write. Only a dflock that never began can make these go on.
const WRITTEN: [&str; 6] = [
    "eval \"$(@)\" || exit",
    "eval $(@) || exit",
    "if ! eval \"$(@)\"; then exit 1; fi",
    "take() { eval \"$(@)\"; }; take || exit",
    "( eval \"$(@)\" ) || exit",
    "lock=$(@); eval \"$lock\" || exit",
];

/// With `set -e` that is enough.
const WITH_ERREXIT: &str = "set -e; eval \"$(@)\"";

/// Commands that must not get a lock: of the parser, of the settings, of the server, of the system.
const REFUSED: [&str; 21] = [
    "dflock acquire k --export --bogus",
    "dflock acquire k --exprot",
    "dflock acquire k --export=yes",
    "dflock acquire k --export -l 0",
    "dflock acquire k --export -w soon",
    "dflock acquire k --export --limit 3",
    "dflock acquire k --export --json",
    "dflock acquire k --export --help",
    "dflock acquire k j l --export",
    "dflock acquire --export",
    "dflock acquire '' --export",
    "dflock acquire 'a b' --export",
    "dflock aquire k --export",
    "dflock --json acquire k --export",
    "dflock --version acquire k --export",
    "dflock sem acquire k --export",
    "dflock enqueue k --export",
    "dflock acquire busy --export -n",
    "dflock acquire busy --export -qn",
    "dflock sem acquire full --limit 1 --export -n",
    "dflock acquire k --export -s 127.0.0.1:1 --connect-retry 0",
];

/// Commands that end before they have answered.
const ENDED: [&str; 3] = ["sh ./ended KILL", "sh ./ended TERM", "sh -c 'ulimit -n 5; exec dflock acquire k --export'"];

/// Sends a signal to a dflock that waits for the lock.
const ENDED_SCRIPT: &str = "there() { ls \"$DFLOCK_RUNTIME_DIR\"/*.sock >/dev/null 2>&1; }
while there; do sleep 0.01; done
dflock acquire busy --export -w forever & pid=$!
until there; do sleep 0.01; done
kill -s $1 $pid
wait $pid";

/// Commands that nobody hears: they never begin, or have nowhere to answer.
const UNHEARD: [&str; 6] = [
    "dflock acquire k --export >&-",
    "dflock acquire k --export >/dev/full",
    "dflock-is-not-here acquire k --export",
    "PATH=/nowhere dflock acquire k --export",
    "sh -c 'ulimit -v 1000; exec dflock acquire k --export'",
    "sh -c 'ulimit -n 3; exec dflock acquire k --export'",
];

fn shells() -> Vec<&'static str> {
    ["sh", "bash", "dash", "zsh"].into_iter().filter(|shell| tools::is_there(shell)).collect()
}

/// A house in which `busy` and the only slot of `full` are somebody else's.
fn house() -> House {
    let house = House::new();
    let mut other = house.server().connect();
    other.take("busy", "3600 3600");
    assert!(other.ask("sl", "full", "3600 1 3600").starts_with("ok "));
    std::fs::write(house.path("ended"), ENDED_SCRIPT).expect("the script is written");
    // It lives as long as this test program.
    std::mem::forget(other);
    house
}

fn stops(house: &House, shell: &str, script: &str) -> Said {
    let said = house.script(shell, &format!("{script}\necho CRITICAL >&2"));
    assert!(said.code != 0 && !said.err.contains("CRITICAL"), "{shell} goes on after: {script}\n{said:?}");
    said
}

#[test]
fn the_idiom_that_is_shown_holds_whatever_goes_wrong() {
    let house = house();
    for shell in shells() {
        for command in REFUSED.iter().chain(&ENDED).chain(&UNHEARD) {
            for before in ["", "set -e\n"] {
                stops(&house, shell, &format!("{before}{}", SHOWN.replace('@', command)));
            }
        }
    }
    house.wait_until_nobody_holds();
}

#[test]
fn other_idioms_hold_once_dflock_has_begun() {
    let house = house();
    for (turn, shell) in shells().into_iter().enumerate() {
        for (at, command) in REFUSED.iter().chain(&ENDED).enumerate() {
            // In turn, so that every command meets every idiom in some shell.
            for idiom in [WRITTEN[(at + turn) % WRITTEN.len()], WRITTEN[(at + turn + 3) % WRITTEN.len()], WITH_ERREXIT]
            {
                stops(&house, shell, &idiom.replace('@', command));
            }
        }
    }
    house.wait_until_nobody_holds();
}

/// No variable of an earlier lock is left, and the code is the one of the failure.
#[test]
fn what_is_evaluated_unsets_and_fails_with_the_code() {
    let house = house();
    for shell in shells() {
        for (command, code) in [
            ("dflock acquire k --export --bogus", 125),
            ("dflock acquire k --export --help", 125),
            ("dflock acquire busy --export -qn", 75),
            ("dflock acquire k --export -s 127.0.0.1:1 --connect-retry 0", 69),
        ] {
            let old = "export DFLOCK_KEY=o DFLOCK_TOKEN=o DFLOCK_LEASE=o DFLOCK_FENCE=o DFLOCK_SERVER=o";
            let text = format!(
                "{old}\neval \"$({command} 2>/dev/null)\"\necho $? ${{DFLOCK_KEY-no}} ${{DFLOCK_TOKEN-no}} \
                                ${{DFLOCK_LEASE-no}} ${{DFLOCK_FENCE-no}} ${{DFLOCK_SERVER-no}}"
            );
            assert_eq!(house.script(shell, &text).ok(), format!("{code} no no no no no"), "{shell}: {command}");
        }
    }
}

/// The same idioms take the lock where it is free.
#[test]
fn every_idiom_takes_a_free_lock() {
    let house = house();
    for shell in shells() {
        for idiom in WRITTEN.iter().chain([&SHOWN, &WITH_ERREXIT]) {
            // In a subshell the variables end with it.
            let seen = if idiom.starts_with('(') { "" } else { "[ \"$DFLOCK_KEY\" = k ] || exit 9\n" };
            let command = "dflock acquire k --export";
            let text = format!("{}\n{seen}dflock status k --json\ndflock release k", idiom.replace('@', command));
            let said = house.script(shell, &text);
            assert!(said.ok().contains("\"state\":\"held\"") && said.err.is_empty(), "{shell}: {text}\n{said:?}");
        }
    }
    house.wait_until_nobody_holds();
}

/// They start dflock and end, and the lock that is tied to them ends with them.
const IN_BETWEEN: [&str; 4] = [
    "sh -c 'dflock acquire k --export; exit $?'",
    "bash -c 'cd /; dflock acquire k --export; true'",
    "perl -e 'system \"dflock acquire k --export\"'",
    "timeout 60 sh -c 'dflock acquire k --export; true'",
];

/// They start dflock, too, and the lock is that of the script that calls them.
const PASSED_OVER: [&str; 5] = [
    "timeout 60 dflock acquire k --export",
    "flock ./file dflock acquire k --export",
    "flock ./file -c 'exec dflock acquire k --export'",
    "runuser -u root -- dflock acquire k --export",
    "su root -s /bin/sh -c 'exec \"$DFLOCK\" acquire k --export'",
];

fn can_run(house: &House, command: &str) -> bool {
    let program = command.split(' ').next().expect("a word");
    let needs_root = matches!(program, "su" | "runuser");
    tools::is_there(program) && (!needs_root || house.script("sh", &format!("{program} root -c true")).code == 0)
}

#[test]
fn a_lock_whose_owner_has_ended_is_none() {
    let house = house();
    for shell in shells() {
        for command in IN_BETWEEN.iter().filter(|command| can_run(&house, command)) {
            for idiom in WRITTEN.iter().chain([&SHOWN, &WITH_ERREXIT]) {
                let said = stops(&house, shell, &idiom.replace('@', command));
                assert!(said.err.contains("it was tied to process"), "{said:?}");
            }
        }
        let program = env!("CARGO_BIN_EXE_dflock");
        for command in PASSED_OVER.iter().filter(|command| can_run(&house, command)) {
            let text =
                format!("export DFLOCK={program}\n{}\ndflock renew k && dflock release k", SHOWN.replace('@', command));
            assert_eq!(house.script(shell, &text).ok(), "33", "{shell}: {command}");
        }
        // A holder that was killed meanwhile is missed, too; a lock that is tied to nobody may be anywhere.
        let text = "lock=$(dflock acquire k --export -l 1) || exit
            kill -9 $(dflock holders --json | tr ',' '\\n' | sed -n 's/.*\"pid\"://p'); until dflock holders --json | grep -q '\\[\\]'; do :; done
            eval \"$lock\"";
        stops(&house, shell, text);
        let text = "lock=$(dflock acquire k --export --owner none --max-hold 1h) || exit; eval \"$lock\" || exit; dflock release k";
        house.wait_until_free("k");
        house.script(shell, text).ok();
    }
    house.wait_until_nobody_holds();
}

/// At a prompt it fails, and leaves the shell to its user.
#[test]
fn a_shell_at_a_prompt_is_not_ended() {
    let house = house();
    for shell in shells() {
        let mut command = house.command(shell);
        let flags: &[&str] = if shell == "bash" { &["--norc", "-i"] } else { &["-i"] };
        let mut typist = Typist::start(command.args(flags).env("PS1", "> ").env("TERM", "dumb"));
        typist.press("lock=$(sh -c 'dflock acquire k --export; exit'); eval \"$lock\"\r");
        typist.wait_for("was tied to process");
        typist.press("echo $((40 + $?)) st''ill here\r");
        typist.wait_for("still here");
        typist.press("exit\r");
        typist.finish();
    }
}

/// Words that only look like the flag: of a command that is run, of a key.
#[test]
fn other_exports_are_left_alone() {
    let house = house();
    let said = house.dflock(&["exec", "k", "--", "sh", "-c", "exit 3", "--export"]).code(3);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    let said = house.dflock(&["exec", "busy", "-n", "--", "true", "--export"]).code(75);
    assert_eq!(said.out, "");
    assert_eq!(house.dflock(&["acquire", "--", "--export"]).masked(), "TOKEN\n");
    assert_eq!(house.dflock(&["acquire", "-n", "--", "--export"]).code(75).out, "");
    house.dflock(&["release", "--", "--export"]).ok();
}
