//! `release`, `renew` and `wait` without a token: they mean a lock of the script itself or of those who called it, the
//! nearest one first, and nobody else's.

use crate::house::clean::{House, Running};
use crate::house::{tools, wait_for};

fn shells() -> Vec<&'static str> {
    ["sh", "bash", "dash", "zsh"].into_iter().filter(|shell| tools::is_there(shell)).collect()
}

const TIED_TO_NOBODY: [&str; 5] = ["acquire", "job", "--owner", "none", "--max-hold=1h"];

/// It may be anybody's: only its token says whose.
#[test]
fn a_lock_that_is_tied_to_nobody_needs_its_token() {
    let house = House::new();
    let token = house.dflock(&TIED_TO_NOBODY).ok().to_owned();
    for verb in ["renew", "release"] {
        let said = house.dflock(&[verb, "job"]).code(79);
        let holder = house.holder_pids()[0];
        assert!(said.err.contains("tied to no process") && said.err.contains(&format!("kill {holder}")), "{said:?}");
    }
    assert!(house.is_held("job"));
    house.script("sh", &format!("export DFLOCK_TOKEN={token}; dflock renew job && dflock release job")).ok();
    assert!(!house.is_held("job"));
    // What a command left behind for its time is nobody's either, and must not let the next one in.
    house.dflock(&["exec", "--min-hold", "1h", "job", "true"]).ok();
    house.dflock(&["release", "job"]).code(79);
    house.dflock(&["exec", "-n", "job", "true"]).code(75);
    crate::house::signal(house.holder_pids()[0], "TERM");
    house.wait_until_free("job");
    // A place has no token yet: whoever waits for it learns of one.
    assert!(house.dflock(&["enqueue", "job", "--owner", "none", "--max-hold", "1h"]).ok().starts_with("acquired "));
    house.dflock(&["release", "job"]).code(79);
    let token = house.dflock(&["wait", "job"]).ok().to_owned();
    // But only one may think that it is theirs.
    let said = house.dflock(&["wait", "job"]).code(79);
    assert!(said.err.contains("somebody else's"), "{said:?}");
    house.dflock(&["wait", "job", &token]).ok();
    house.dflock(&["release", "job", &token]).ok();
    let held = house.dflock(&["acquire", "job"]).ok().to_owned();
    house.dflock(&["enqueue", "job", "--owner", "none", "--max-hold", "1h"]).ok();
    let mut both = [(); 2].map(|()| house.start(&["wait", "job"]));
    wait_for("the refusal of one", || both.iter_mut().any(|one| !one.is_running()).then_some(()));
    house.dflock(&["release", "job", &held]).ok();
    let mut said = both.map(Running::finish);
    said.sort_by_key(|said| said.code);
    assert_eq!(said.each_ref().map(|said| said.code), [0, 79], "{said:?}");
    let token = said[0].ok();
    house.dflock(&["release", "job", token]).ok();
}

/// `renew` would say "still ours" of somebody else's, and `release` end it.
#[test]
fn an_exported_token_means_that_lock_and_no_other() {
    let house = House::new();
    for shell in shells() {
        for next in ["--owner none --max-hold 1h", ""] {
            let said = house.script(
                shell,
                &format!(
                    "lock=$(dflock acquire job --export) || exit; eval \"$lock\"
                    dflock release job
                    next=$(dflock acquire job {next}) || exit
                    dflock renew job; echo $?; dflock release job; echo $?
                    dflock renew job \"$next\" >/dev/null && dflock release job \"$next\""
                ),
            );
            assert_eq!(said.ok(), "79\n79", "{shell}: {said:?}");
            assert!(said.err.contains("DFLOCK_TOKEN"), "{said:?}");
        }
    }
    house.wait_until_nobody_holds();
}

/// The variables of whoever called a script say nothing of what the script takes itself.
#[test]
fn a_script_gives_back_its_own_lock_whatever_it_inherited() {
    let house = House::new();
    let inner = "dflock acquire job >/dev/null && { dflock renew job; trap 'dflock release job' EXIT; }\n";
    std::fs::write(house.path("inner"), inner).expect("it is written");
    for shell in shells() {
        let outer = format!(
            "lock=$(dflock acquire job --export) || exit; eval \"$lock\"
            dflock release job; {shell} ./inner && dflock status job"
        );
        let said = house.script(shell, &outer);
        assert!(said.ok().starts_with("33\njob: free"), "{shell}: {said:?}");
        // The lock of the caller is not made up for by the own one of a script, nor the other way round.
        let outer = format!(
            "lock=$(dflock acquire job --export) || exit; eval \"$lock\"
            {shell} -c 'dflock renew job; dflock release job; dflock release job; echo $?'"
        );
        assert_eq!(house.script(shell, &outer).ok(), "33\n79", "{shell}");
    }
    house.wait_until_nobody_holds();
}

/// Scripts that were called by one that has the lock are not let in by its lock: each waits for its own turn.
#[test]
fn a_place_of_the_script_comes_before_the_lock_of_its_caller() {
    let house = House::new();
    std::fs::write(house.path("inner"), "dflock enqueue job && dflock wait job -qw 1; echo $?\n")
        .expect("it is written");
    for shell in shells() {
        for first in ["dflock enqueue job >/dev/null && dflock wait job >/dev/null", "dflock acquire job >/dev/null"] {
            let outer = format!(
                "{first} || exit\n{shell} ./inner & {shell} ./inner & wait\ndflock renew job; dflock release job"
            );
            let said = house.script(shell, &outer);
            let mut lines: Vec<&str> = said.ok().lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["33", "75", "75", "queued", "queued"], "{shell}: {first}: {said:?}");
        }
    }
    house.wait_until_nobody_holds();
}
