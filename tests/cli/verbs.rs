//! The shell verbs one by one: what they print, how they end, and what they leave behind.

use crate::house::clean::{House, Said};
use crate::house::wait_for;

const NO_TOKEN: &str = "00000000000000000000000000000000";

#[test]
fn a_lock_is_taken_once() {
    let house = House::new();
    let token = house.dflock(&["acquire", "job"]).ok().to_owned();
    assert!(token.len() == 32 && token.bytes().all(|digit| digit.is_ascii_hexdigit()), "{token}");
    let busy = house.dflock(&["acquire", "job", "-n"]).code(75);
    let held = format!("dflock: job is held by somebody else (on {})\n", house.servers);
    let hint = "dflock: -w DUR waits longer, dflock status KEY shows more\n";
    assert_eq!((busy.out.as_str(), busy.err), ("", format!("{held}{hint}")));
    house.dflock(&["acquire", "job", "-w", "0.2"]).code(75);
    house.dflock(&["acquire", "job", "-w", "0"]).code(75);
    let released = house.dflock(&["release", "job"]);
    assert_eq!((released.ok(), released.err.as_str()), ("", ""));
    assert!(house.holder_pids().is_empty() && !house.is_held("job"));
    house.dflock(&["release", "job"]).code(79);
    house.dflock(&["release", "job", &token]).code(79);
}

#[test]
fn quiet_is_silent_of_busy_alone() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    for busy in [&["acquire", "job", "-qn"][..], &["acquire", "job", "-q", "-w", "0.1"]] {
        let said = house.dflock(busy).code(75);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    }
    assert_ne!(house.dflock(&["acquire", "a b", "-q"]).code(125).err, "");
    assert_ne!(house.dflock(&["release", "other", "-q"]).code(79).err, "");
    assert_ne!(house.dflock(&["acquire", "job", "-q", "-s", "127.0.0.1:1"]).code(69).err, "");
}

#[test]
fn verbose_says_whom_the_lock_is_tied_to() {
    let house = House::new();
    let said = house.script("bash", "echo $$; dflock acquire job -v");
    let pid = said.ok().lines().next().unwrap();
    assert_eq!(said.err, format!("dflock: job will be tied to process {pid} (bash)\n"));
}

#[test]
fn wrong_use_is_told_before_anything_is_taken() {
    let house = House::new();
    let wrong = |args: &[&str], word: &str| {
        let said = house.dflock(args).code(125);
        assert!(said.err.contains(word) && said.out.is_empty(), "{args:?}: {said:?}");
    };
    let gone = house.start(&["config"]);
    let pid = gone.pid.to_string();
    gone.finish();
    wrong(&["acquire", "job", "--owner", "none"], "--max-hold");
    wrong(&["acquire", "job", "--owner", &pid], &format!("no process {pid}"));
    wrong(&["acquire", "job", "--owner=-1"], "process number");
    wrong(&["acquire", "job", "--owner", "me"], "process number");
    wrong(&["acquire", "job", "--signal-on-lost", "LOUD"], "signal");
    wrong(&["acquire", ""], "empty");
    wrong(&["acquire", "a b"], "space");
    wrong(&["acquire", &"k".repeat(257)], "256");
    wrong(&["acquire", "job", "-w", "soon"], "soon");
    wrong(&["acquire", "job", "-l", "0"], "0");
    wrong(&["acquire", "job", "-n", "-w", "5"], "--timeout");
    house.dflock(&["acquire", "job", "--json", "--export"]).code(125);
    wrong(&["sem", "acquire", "job"], "--limit");
    wrong(&["sem", "acquire", "job", "--limit", "0"], "0");
    wrong(&["release", "job", "a token"], "oken");
    wrong(&["holders", "-q", "-v"], "--verbose");
    assert!(house.holder_pids().is_empty());
    assert_eq!(house.server().stats()["locks"].as_array().unwrap().len(), 0);
}

#[test]
fn a_token_is_worth_the_same_on_another_machine() {
    let here = House::new();
    let there = House::at(&here.servers);
    let token = here.dflock(&["acquire", "job", "-l", "3"]).ok().to_owned();
    assert_eq!(there.dflock(&["renew", "job", &token, "-l", "4"]).ok(), "4");
    there.dflock(&["renew", "job", NO_TOKEN]).code(79);
    there.dflock(&["release", "job", NO_TOKEN]).code(79);
    there.dflock(&["release", "job"]).code(79);
    assert!(here.is_held("job"));
    there.dflock(&["release", "job", &token]).ok();
    assert!(!here.is_held("job"));
    // The holder that kept it learns of it with its next renewal.
    wait_for("the holder to know", || (here.holders()[0]["state"] == "lost").then_some(()));
    here.dflock(&["renew", "job"]).code(79);
    let released = here.dflock(&["release", "job"]).code(79);
    assert!(released.err.contains("job is not held any more"), "{released:?}");
    assert!(here.holder_pids().is_empty());
}

#[test]
fn a_token_may_come_from_the_environment() {
    let house = House::new();
    let there = House::at(&house.servers);
    let token = house.dflock(&["acquire", "job"]).ok().to_owned();
    let with = |key: &str, token: &str, args: &[&str]| -> Said {
        let mut command = there.command("dflock");
        crate::house::clean::finish(
            command.env("DFLOCK_KEY", key).env("DFLOCK_TOKEN", token).args(args).spawn().unwrap(),
        )
    };
    // A token of another key is none of this one.
    with("other", &token, &["release", "job"]).code(79);
    with("job", "", &["release", "job"]).code(79);
    assert_eq!(with("job", &token, &["renew", "job", "-l", "50"]).ok(), "50");
    with("job", &token, &["release", "job"]).ok();
    assert!(!house.is_held("job"));
}

#[test]
fn a_release_of_a_foreign_token_is_not_held_up_by_who_waits_here() {
    let there = House::new();
    let here = House::at(&there.servers);
    let token = there.dflock(&["acquire", "job"]).ok().to_owned();
    let waits = here.start(&["acquire", "job", "-w", "60"]);
    here.wait_for_waiters("job", 1);
    here.dflock(&["release", "job", &token]).ok();
    assert_eq!(waits.finish().masked(), "TOKEN\n");
}

#[test]
fn those_who_wait_hold_up_nobody_else() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    let waiting: Vec<_> = (0..4).map(|_| house.start(&["acquire", "job", "-w", "100"])).collect();
    house.wait_for_waiters("job", 4);
    let begin = crate::house::now();
    let held = house.holders().into_iter().filter(|holder| holder["state"] == "held").count();
    assert_eq!(held, 1);
    house.dflock(&["release", "job"]).ok();
    eprintln!("holders and release took {:?} beside four that wait", begin.elapsed());
    // A command gives a holder that does not answer five seconds, one after the other.
    assert!(begin.elapsed() < std::time::Duration::from_secs(15), "{:?}", begin.elapsed());
    drop(waiting);
}

#[test]
fn a_renewal_lengthens_the_lease() {
    let house = House::new();
    let token = house.dflock(&["acquire", "job", "-l", "5"]).ok().to_owned();
    let left = || house.server().stats()["locks"][0]["lease_expires_in_s"].as_f64().unwrap();
    assert!(left() <= 5.0);
    assert_eq!(house.dflock(&["renew", "job", "-l", "100"]).ok(), "100");
    assert!(left() > 60.0 && left() <= 100.0, "{}", left());
    assert_eq!(house.holders()[0]["lease_s"], 100.0);
    // Without a lease it is the one before.
    assert_eq!(house.dflock(&["renew", "job", &token]).ok(), "100");
    assert_eq!(house.dflock(&["renew", "job", "--json"]).json()["remaining_s"], 100.0);
    house.dflock(&["renew", "job", NO_TOKEN]).code(79);
    assert_eq!(house.holders()[0]["state"], "held", "another's failure is not ours");
    assert_eq!(house.dflock(&["renew", "job", "-l", "1.5"]).ok(), "1.5");
    house.dflock(&["release", "job"]).ok();
    house.dflock(&["renew", "job"]).code(79);
    house.dflock(&["renew", "job", &token]).code(79);
}

#[test]
fn a_lock_that_cannot_be_told_is_not_kept() {
    let house = House::new();
    // Nobody learns the token, and the command fails: nothing may stay behind that nobody knows of.
    let said = house.script("sh", "dflock acquire job >/dev/full; echo $?; dflock holders --json");
    let (code, holders) = said.ok().split_once('\n').unwrap();
    assert_eq!(code, "125", "{said:?}");
    assert!(holders.contains("\"holders\":[]"), "{said:?}");
}
