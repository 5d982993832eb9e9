//! A state directory that is removed, moved or rolled back under a server: it gives nothing out that it could forget.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::house::{Client, wait_for};
use crate::kept::{Kept, resumable, token_of};

fn count(kept: &mut Kept, name: &str) -> usize {
    kept.server().events().iter().filter(|event| event["event"] == name).count()
}

/// As an administrator would: with everything that belongs to it.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success());
}

fn is_silent(client: &Client) -> bool {
    client.stream().set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let heard = client.stream().peek(&mut [0]);
    client.stream().set_read_timeout(Some(crate::house::CEILING)).expect("a timeout");
    heard.is_err()
}

/// Asks for a new lock, which the server cannot keep; from then on it gives out none, and its log says what to do.
/// Returns who asked.
fn is_noticed(kept: &mut Kept, advice: &str) -> Client {
    let mut first = resumable(kept);
    first.send(b"l\nnoticed\n0 600\n");
    let failing = kept.server().event("state_failing");
    assert_eq!(failing["what"], "find", "{failing}");
    let error = failing["error"].as_str().expect("a text");
    assert!(error.contains("was removed or replaced: ") && error.contains(advice), "{error}");
    assert!(is_silent(&first), "it was told of a lock that is nowhere on disk");
    let mut other = kept.connect();
    wait_for("no grants", || (other.ask("l", "another", "0") == "error").then_some(()));
    first
}

fn holds_all_after_a_restart(kept: &mut Kept, locks: &[(&str, &str)]) {
    kept.kill();
    let opened = kept.start_again().event("state_opened");
    assert_eq!(opened["held"], locks.len(), "{opened}");
    let mut client = kept.connect();
    for (key, token) in locks {
        assert_eq!(client.ask("n", key, token), "ok 600", "{key}");
    }
}

#[test]
fn one_that_is_removed_stops_grants_until_there_is_one_again() {
    let mut kept = Kept::start(&[]);
    let mut owner = resumable(&kept);
    let before = owner.take("before", "0 600");
    fs::remove_dir_all(kept.dir()).expect("it goes");
    let mut first = is_noticed(&mut kept, "make an empty one");
    assert!(!kept.dir().exists(), "it is not for a server to make it again");
    fs::DirBuilder::new().mode(0o700).create(kept.dir()).expect("an empty one");
    kept.server().event("state_recovered");
    let noticed = token_of(&first.line());
    let third = resumable(&kept).take("third", "0 600");
    holds_all_after_a_restart(&mut kept, &[("before", &before), ("noticed", &noticed), ("third", &third)]);
}

#[test]
fn one_that_is_moved_away_and_back_goes_on() {
    let mut kept = Kept::start(&[]);
    let mut owner = resumable(&kept);
    let before = owner.take("before", "0 600");
    let aside = kept.dir().with_extension("aside");
    fs::rename(kept.dir(), &aside).expect("it is moved");
    let mut first = is_noticed(&mut kept, "put it back");
    fs::rename(&aside, kept.dir()).expect("it is moved back");
    kept.server().event("state_recovered");
    let noticed = token_of(&first.line());
    holds_all_after_a_restart(&mut kept, &[("before", &before), ("noticed", &noticed)]);
}

/// A copy of an earlier day is put in its place: what is in it may be somebody's, so it is left alone.
#[test]
fn one_that_is_replaced_by_an_older_copy_is_left_alone() {
    let mut kept = Kept::start(&[]);
    let mut owner = resumable(&kept);
    let before = owner.take("before", "0 600");
    let (copied, aside) = (kept.dir().with_extension("copy"), kept.dir().with_extension("aside"));
    copy(&kept.dir(), &copied);
    let since = owner.take("since", "0 600");
    fs::rename(kept.dir(), &aside).expect("it is moved");
    copy(&copied, &kept.dir());
    let mut first = is_noticed(&mut kept, "has another journal");
    let journal = |dir: &Path| fs::read(dir.join("journal")).expect("a journal");
    // A window in which nothing may happen: it tries again several times.
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(journal(&kept.dir()), journal(&copied));
    assert_eq!(count(&mut kept, "state_recovered"), 0);
    // Without it there is nothing that could be lost.
    fs::remove_file(kept.journal()).expect("it goes");
    kept.server().event("state_recovered");
    let noticed = token_of(&first.line());
    holds_all_after_a_restart(&mut kept, &[("before", &before), ("noticed", &noticed), ("since", &since)]);
}

/// Its files are overwritten where they are, by what they were before: the server writes down what it has.
#[test]
fn one_that_is_rolled_back_in_place_is_written_anew() {
    for by_rename in [false, true] {
        let mut kept = Kept::start(&[]);
        let mut owner = resumable(&kept);
        let before = owner.take("before", "0 600");
        let old = fs::read(kept.journal()).expect("a journal");
        let since = owner.take("since", "0 600");
        if by_rename {
            fs::write(kept.dir().join("restored"), &old).expect("written");
            fs::rename(kept.dir().join("restored"), kept.journal()).expect("renamed");
        } else {
            fs::write(kept.journal(), &old).expect("written");
        }
        let third = owner.take("third", "0 600");
        kept.server().event("state_recovered");
        assert_eq!((count(&mut kept, "state_failing"), count(&mut kept, "state_recovered")), (1, 1));
        holds_all_after_a_restart(&mut kept, &[("before", &before), ("since", &since), ("third", &third)]);
    }
}

/// By somebody who tidies up locks that look forgotten.
#[test]
fn one_whose_lock_alone_is_removed_is_locked_again() {
    let mut kept = Kept::start(&[]);
    let mut owner = resumable(&kept);
    let before = owner.take("before", "0 600");
    fs::remove_file(kept.dir().join("lock")).expect("it goes");
    let since = owner.take("since", "0 600");
    kept.server().event("state_recovered");
    let said = crate::damage::refused(&kept.dir());
    assert!(said.contains("another server uses it"), "{said}");
    holds_all_after_a_restart(&mut kept, &[("before", &before), ("since", &since)]);
}

/// Whoever makes a directory anew moves into it what was in the old one.
#[test]
fn one_whose_files_are_moved_to_another_goes_on() {
    let mut kept = Kept::start(&[]);
    let mut owner = resumable(&kept);
    let before = owner.take("before", "0 600");
    let anew = kept.dir().with_extension("anew");
    fs::DirBuilder::new().mode(0o700).create(&anew).expect("another one");
    for name in ["journal", "lock"] {
        fs::rename(kept.dir().join(name), anew.join(name)).expect("it is moved");
    }
    fs::remove_dir_all(kept.dir()).expect("it goes");
    fs::rename(&anew, kept.dir()).expect("it takes its place");
    let since = owner.take("since", "0 600");
    let said = crate::damage::refused(&kept.dir());
    assert!(said.contains("another server uses it"), "{said}");
    holds_all_after_a_restart(&mut kept, &[("before", &before), ("since", &since)]);
}

/// Nobody may look, and nobody could be told: it must not stay for that.
#[test]
fn a_server_that_nobody_uses_leaves_without_one() {
    let mut kept = Kept::start(&["--idle-exit", "300ms"]);
    let mut owner = kept.connect();
    let token = owner.take("k", "0 600");
    fs::remove_dir_all(kept.dir()).expect("it goes");
    owner.send(format!("r\nk\n{token}\n").as_bytes());
    kept.server().event("state_failing");
    drop(owner);
    assert_eq!(kept.server().wait().code(), Some(0));
}
