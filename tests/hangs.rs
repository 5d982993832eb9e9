//! The house's own promises: no test hangs for ever, and nobody whom a test started outlives it.

#[path = "house/mod.rs"]
mod house;

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use house::clean::{House, Running};
use house::home::{dwellers, estate};
use house::wait_for;
use house::watchdog::may_take;

/// Makes one of these tests hang, in a program of its own; where its homes are goes to the file that is named.
const HANGS: &str = "HOUSE_HANGS";

/// A script that has said something, in it a command under a lock, and a holder.
fn furnish(house: &House) -> Running {
    let script = house.start_script("sh", "echo I have begun; exec dflock exec k -- sh -c 'echo up > up; sleep 500'");
    house.wait_for_file("up");
    house.dflock(&["acquire", "held", "--owner", "none", "--max-hold", "500s"]).ok();
    script
}

/// Not a test by itself.
#[test]
fn hangs() {
    let Some(file) = std::env::var_os(HANGS) else { return };
    may_take(Duration::from_secs(5));
    let house = House::new();
    let _script = furnish(&house);
    std::fs::write(file, format!("{}\n", estate().display())).expect("it is told");
    let (_open, never) = mpsc::channel::<()>();
    let _waiting = house::watchdog::waiting_for("what never comes");
    let _ = never.recv();
}

/// The program in which it hangs, and where its homes are.
fn start(house: &House) -> (Running, PathBuf) {
    let exe = std::env::current_exe().expect("this program");
    let mut command = house.command(&exe.display().to_string());
    command.args(["--exact", "hangs", "--nocapture"]).env(HANGS, house.path("told"));
    let program = Running::start(&mut command);
    (program, PathBuf::from(house.wait_for_file("told").trim()))
}

fn wait_until_nobody_is_left(homes: &std::path::Path) {
    wait_for("the end of everybody", || dwellers(homes).is_empty().then_some(()));
    wait_for("the end of the homes", || (!homes.exists()).then_some(()));
}

#[test]
fn a_test_that_hangs_ends_its_program_and_is_named() {
    let house = House::at("");
    let (program, homes) = start(&house);
    assert!(dwellers(&homes).len() >= 5, "a server, a script's dflock, its guardian, its command, a holder");
    let said = program.finish();
    assert_eq!(said.code, 128 + 6, "{said:?}");
    for part in [
        "HANGS: hangs has run for",
        "its ceiling is 5s",
        "waits for what never comes",
        "I have begun",
        r#""event":"listening""#,
        "dflock: holding held",
    ] {
        assert!(said.err.contains(part), "{part:?} is missing: {}", said.err);
    }
    wait_until_nobody_is_left(&homes);
}

#[test]
fn a_program_that_is_killed_leaves_nobody() {
    let house = House::at("");
    let (program, homes) = start(&house);
    program.signal("KILL");
    program.finish().code(128 + 9);
    wait_until_nobody_is_left(&homes);
}

#[test]
fn a_test_that_fails_leaves_nobody() {
    let (tell, told) = mpsc::channel();
    let failing = std::thread::spawn(move || {
        let house = House::new();
        let _script = furnish(&house);
        tell.send(house.home.path().to_owned()).expect("somebody listens");
        panic!("as some test does");
    });
    let home = told.recv_timeout(house::CEILING).expect("it has begun");
    assert!(failing.join().is_err());
    wait_until_nobody_is_left(&home);
}
