//! Whoever the command started is ended with it, though it left the group, the session, or its parents.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::{now, wait_for};

/// Ways out of the process group, each with a process at the end that ignores TERM and writes its number to `pid`.
const WAYS: [(&str, &str); 6] = [
    ("a group of its own", "timeout 600 sh -c \"$RUNAWAY\""),
    ("a session of its own", "setsid sh -c \"$RUNAWAY\" & wait"),
    ("an orphan", "(setsid sh -c \"$RUNAWAY\" &); while :; do sleep 0.01; done"),
    (
        "an orphan with another environment",
        "(setsid env -i \"$DASH\" sh -c \"$RUNAWAY\" &); while :; do sleep 0.01; done",
    ),
    (
        "one that calls itself as a holder does",
        "setsid bash -c 'exec -a \"dflock: holding k on x\" sh -c \"$RUNAWAY\"' & wait",
    ),
    ("a child of an orphan", "(setsid sh -c \"sh -c '$RUNAWAY' & wait\" &); while :; do sleep 0.01; done"),
];

const RUNAWAY: &str = "trap : TERM HUP; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";

/// Starts a job that takes one of the ways; returns it with its runaway.
fn start(house: &House, way: &str, flags: &[&str]) -> (Running, u32) {
    let _ = std::fs::remove_file(house.path("pid"));
    let mut command = house.command("dflock");
    command.env("RUNAWAY", RUNAWAY).env("DASH", "PATH=/usr/bin:/bin");
    command.arg("exec").args(flags).args(["k", "-c", way]);
    let running = Running::start(&mut command);
    let pid = house.wait_for_file("pid").trim().parse().expect("a number");
    (running, as_we_see_it(house, pid))
}

fn assert_free_only_without(house: &House, runaway: u32, way: &str) {
    house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
    assert!(!has_life(runaway), "{way}: the lock is free and it runs");
}

/// What is asked for: by default it is a cgroup where one can be made.
const CONTAINED: [&[&str]; 3] = [&[], &["--contain", "group"], PIDNS];
const PIDNS: &[&str] = &["--contain", "pidns"];

/// Each way with each that can be had here. The ways at once, for most of it is waiting.
fn on_each_way(flags: &[&str], run: impl Fn(&House, Running, u32, &str) + Sync) {
    for contain in contained() {
        std::thread::scope(|scope| {
            for (way, script) in WAYS {
                let run = &run;
                scope.spawn(move || {
                    let house = House::new();
                    let (running, runaway) = start(&house, script, &[flags, contain].concat());
                    run(&house, running, runaway, &format!("{way}, {contain:?}"));
                });
            }
        });
    }
}

/// All that can be had here.
fn contained() -> impl Iterator<Item = &'static [&'static str]> {
    CONTAINED.into_iter().filter(|contain| *contain != PIDNS || can_have_namespaces())
}

pub(crate) fn can_have_namespaces() -> bool {
    let house = House::new();
    let said = house.dflock(&["exec", "--contain", "pidns", "k", "true"]);
    if said.code != 0 {
        crate::house::tools::skipped(&format!("no PID namespace can be had here: {}", said.err));
    }
    said.code == 0
}

/// The number of a process of a house that has told its own, which in a namespace is another one.
pub(crate) fn as_we_see_it(house: &House, pid: u32) -> u32 {
    let home = std::fs::canonicalize(house.home.path()).expect("a home");
    let is_it = |process: &std::path::PathBuf| {
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        numbers.split_whitespace().last() == Some(&pid.to_string())
            && std::fs::read_link(process.join("cwd")).is_ok_and(|place| place == home)
    };
    let all = std::fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
    let found = all.filter(is_it).find_map(|process| process.file_name()?.to_str()?.parse().ok());
    found.expect("it lives in its house")
}

#[test]
fn a_killed_dflock_takes_along_whoever_has_left_the_group() {
    on_each_way(&["-l", "60"], |house, running, runaway, way| {
        // The guardian looks now and then who descends from whom.
        observe(Duration::from_millis(1200), || has_life(runaway), "it runs");
        running.signal("KILL");
        assert_free_only_without(house, runaway, way);
    });
}

#[test]
fn a_frozen_dflock_loses_whoever_has_left_the_group() {
    let _quiet = crate::quiet();
    on_each_way(&["-l", "4"], |house, running, runaway, way| {
        running.signal("STOP");
        assert_free_only_without(house, runaway, way);
        running.signal("CONT");
        running.finish().code(79);
    });
}

#[test]
fn an_end_by_force_reaches_whoever_has_left_the_group() {
    on_each_way(&["--max-runtime", "3", "--kill-after", "0.3"], |_, running, runaway, way| {
        running.finish().code(124);
        assert!(!has_life(runaway), "{way}: dflock has left, and it runs");
    });
}

/// A job may start a daemon, in whatever way.
#[test]
fn whom_a_command_leaves_behind_by_itself_is_left_alone_wherever_it_is() {
    for contain in contained() {
        let house = House::new();
        let script = "setsid sh -c \"$RUNAWAY\" <&- >&- 2>&- & while [ ! -s pid ]; do sleep 0.01; done";
        let (running, daemon) = start(&house, &format!("{script}; while [ ! -e seen ]; do sleep 0.01; done"), contain);
        std::fs::write(house.path("seen"), "").expect("the sign is given");
        running.finish().code(0);
        observe(Duration::from_millis(300), || has_life(daemon), "the daemon lives");
        let groups = std::fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap_or_default();
        assert!(!groups.contains("dflock"), "it is where dflock was: {groups}");
        signal(daemon, Signal::SIGKILL);
    }
}

/// Children that dflock was born with are not the command's: `sh -c 'helper & exec dflock exec ...'`.
#[test]
fn children_that_dflock_had_before_are_not_ended() {
    for contain in contained() {
        let house = House::new();
        let script = format!(
            "sleep 60 <&- >&- 2>&- & echo $! > helper
             exec dflock exec --max-runtime 1 --kill-after 0.2 {} k sleep 60",
            contain.join(" ")
        );
        house.script("sh", &script).code(124);
        let helper = house.wait_for_file("helper").trim().parse().expect("a number");
        assert!(has_life(helper), "{contain:?}");
        signal(helper, Signal::SIGKILL);
    }
}

/// What dflock itself starts for everybody, from inside a job, is not the job's.
#[test]
fn a_holder_that_a_job_started_outlives_its_end_by_force() {
    // From a namespace nobody gets out.
    for contain in contained().filter(|contain| *contain != PIDNS) {
        let house = House::new();
        let job = "dflock acquire other --owner none --max-hold 1h > token; exec sleep 60";
        let running = house.start(&[&["exec", "--max-runtime", "4"], contain, &["k", "-c", job]].concat());
        house.wait_for_file("token");
        running.finish().code(124);
        house.dflock(&["exec", "-n", "other", "true"]).code(75);
        assert_eq!(house.holders().len(), 1, "{contain:?}");
        house.dflock(&["release", "other", house.read("token").trim()]).code(0);
    }
}

/// Both killed, nobody is left to do anything: the first process dies by the system's hand, and that is all.
#[test]
fn with_dflock_and_guardian_killed_the_first_process_dies() {
    let house = House::new();
    let running = house.start(&["exec", "-l", "60", "k", "-c", "echo $$ > pid; exec sleep 60"]);
    let job: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
    let guardian = wait_for("the guardian", || guardian_of(running.pid));
    running.signal("STOP");
    signal(guardian, Signal::SIGKILL);
    running.signal("KILL");
    let begin = now();
    wait_for("the end of the job", || (!has_life(job)).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(10));
}
