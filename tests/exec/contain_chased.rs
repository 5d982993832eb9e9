//! Whoever runs away from those who look for them, without a cgroup: they start others all the time, or shed whatever
//! tells whose they are.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{observe, signal};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::is_there;
use crate::house::wait_for;

/// Each starts the next one in a session of its own and ends; it obeys nothing but KILL, and for so many seconds.
const COMET: &str = "use POSIX; $SIG{TERM} = $SIG{HUP} = 'IGNORE'; $end = time + 12; open(L, '>>', 'log'); \
     while (time < $end) { syswrite(L, \"beat\\n\"); if (fork) { POSIX::_exit(0) } POSIX::setsid() }";

/// A server that starts somebody for each of its visits, who ends soon; but not if there is no server any more.
const SERVER: &str = "use POSIX; $SIG{TERM} = 'IGNORE'; $SIG{CHLD} = 'IGNORE'; POSIX::setsid(); \
     open(L, '>>', 'log'); $us = $$; $end = time + 20; while (time < $end) { if (!fork) { \
     select(undef, undef, undef, 0.02); POSIX::_exit(0) if getppid() == $us; $end = time + 4; \
     while (time < $end) { syswrite(L, \"beat\\n\"); select(undef, undef, undef, 0.02) } POSIX::_exit(0) } \
     syswrite(L, \"visit\\n\"); select(undef, undef, undef, 0.0003) }";

fn start(house: &House, flags: &[&str], script: &str, perl: &str) -> Running {
    let mut command = house.command("dflock");
    command.env("PERL", perl).args(["exec", "--contain", "group"]).args(flags).args(["k", "-c", script]);
    Running::start(&mut command)
}

fn beats(house: &House) -> u64 {
    std::fs::metadata(house.path("log")).map_or(0, |file| file.len())
}

/// An observation: nobody of the command's is left.
#[track_caller]
fn assert_nobody_beats(house: &House, what: &str) {
    let before = beats(house);
    observe(Duration::from_millis(400), || beats(house) == before, what);
}

#[test]
fn dflock_stays_until_the_last_of_those_who_come_and_go_is_gone() {
    // They leave little time to others.
    let _loud = crate::loud();
    if !is_there("perl") {
        return;
    }
    for script in
        ["perl -e \"$PERL\" <&- >&- 2>&- & exec sleep 60", "env -i perl -e \"$PERL\" <&- >&- 2>&- & exec sleep 60"]
    {
        let house = House::new();
        let running = start(&house, &["--kill-after", "0.2", "-l", "60"], script, COMET);
        wait_for("a sign of life", || (beats(&house) > 100).then_some(()));
        running.signal("TERM");
        running.finish().code(143);
        assert_nobody_beats(&house, script);
    }
}

#[test]
fn a_killed_dflock_takes_along_a_server_that_starts_others_all_the_time() {
    // They leave little time to others.
    let _loud = crate::loud();
    if !is_there("perl") {
        return;
    }
    for _ in 0..2 {
        let house = House::new();
        let running = start(&house, &["-l", "60"], "env -i perl -e \"$PERL\" <&- >&- 2>&- & exec sleep 60", SERVER);
        // The guardian looks now and then who descends from whom.
        observe(Duration::from_millis(1200), || true, "it runs");
        assert!(beats(&house) > 0);
        running.signal("KILL");
        house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
        assert_nobody_beats(&house, "killed");
    }
}

/// `sh -c 'helper & exec dflock exec ...'`: an orphan may be the helper's. One whose parents were gone at once, and one
/// that has a part of its environment, but was seen.
#[test]
fn who_shed_all_is_ended_though_dflock_had_children_before() {
    for way in [
        "(setsid env -i sh -c \"$RUNAWAY\" <&- >&- 2>&- &)",
        "(setsid env -u DFLOCK_RUN sh -c \"$RUNAWAY\" <&- >&- 2>&- & sleep 0.6)",
    ] {
        let house = House::new();
        let script = format!(
            "sleep 60 <&- >&- 2>&- & echo $! > helper
             exec dflock exec --contain group --kill-after 0.2 k -c '{way}; exec sleep 60'"
        );
        let mut command = house.script_command("sh", &script);
        let runaway = "trap : TERM HUP; sleep 0.9; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";
        let running = Running::start(command.env("RUNAWAY", runaway));
        let pid: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
        running.signal("TERM");
        running.finish().code(143);
        assert!(!has_life(pid), "{way}: dflock has left, and it runs");
        let helper = house.wait_for_file("helper").trim().parse().expect("a number");
        assert!(has_life(helper), "it is not the command's");
        signal(helper, Signal::SIGKILL);
    }
}

/// With the environment that dflock has, too, and no mark of the command's.
#[test]
fn an_orphan_of_a_child_that_dflock_had_before_is_left_alone() {
    let house = House::new();
    let script = "sh -c 'until [ -e begun ]; do sleep 0.01; done
         (setsid sh -c \"echo \\$\\$ > pid; exec sleep 60\" &) ; exec sleep 60' <&- >&- 2>&- & echo $! > helper
         exec dflock exec --contain group --kill-after 0.2 k -c 'echo > begun; exec sleep 60'";
    let running = house.start_script("sh", script);
    let orphan: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
    running.signal("TERM");
    running.finish().code(143);
    let helper = house.wait_for_file("helper").trim().parse().expect("a number");
    for pid in [orphan, helper] {
        assert!(has_life(pid), "it is not the command's");
        signal(pid, Signal::SIGKILL);
    }
}

/// The last of the ways out: in the first moment, and with all that dflock has in its environment but the mark.
const LEAVES_AT_ONCE: &str = "(env -u DFLOCK_RUN setsid sh -c \"$RUNAWAY\" <&- >&- 2>&- &); exec sleep 60";
const RUNAWAY: &str = "trap : TERM HUP; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";

/// Under a dflock that has a child from before; returns it with its runaway.
fn start_beside_a_helper(house: &House, flags: &str) -> (Running, u32) {
    let script = format!(
        "sleep 60 <&- >&- 2>&- & echo $! > helper
         exec dflock exec --contain group --kill-after 0.2 {flags} k -c \"$WAY\""
    );
    let mut command = house.script_command("sh", &script);
    let running = Running::start(command.env("RUNAWAY", RUNAWAY).env("WAY", LEAVES_AT_ONCE));
    let pid = house.wait_for_file("pid").trim().parse().expect("a number");
    (running, pid)
}

/// Of a lock that is free again.
#[track_caller]
fn assert_gone_without_the_helper(house: &House, runaway: u32, what: &str) {
    house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
    assert!(!has_life(runaway), "{what}: the lock is free and it runs");
    let helper = house.wait_for_file("helper").trim().parse().expect("a number");
    assert!(has_life(helper), "{what}: it is not the command's");
    signal(helper, Signal::SIGKILL);
}

/// Elsewhere they can outrun a guardian; here they have a parent that stays.
#[test]
fn those_who_come_and_go_end_with_a_killed_dflock_that_had_children_before() {
    // They leave little time to others.
    let _quiet = crate::quiet();
    if !is_there("perl") {
        return;
    }
    let house = House::new();
    let script = "sleep 60 <&- >&- 2>&- & exec dflock exec --contain group -l 60 k -c \
         'env -i perl -e \"$PERL\" <&- >&- 2>&- & exec sleep 60'";
    let running = Running::start(house.script_command("sh", script).env("PERL", COMET));
    wait_for("a sign of life", || (beats(&house) > 100).then_some(()));
    running.signal("KILL");
    house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
    assert_nobody_beats(&house, "killed");
}

#[test]
fn who_leaves_at_once_is_ended_though_dflock_had_children_before() {
    let _quiet = crate::quiet();
    for _ in 0..3 {
        let house = House::new();
        let (running, runaway) = start_beside_a_helper(&house, "-l 60");
        running.signal("TERM");
        running.finish().code(143);
        assert_gone_without_the_helper(&house, runaway, "told to end");
        let house = House::new();
        let (running, runaway) = start_beside_a_helper(&house, "-l 60");
        running.signal("KILL");
        assert_gone_without_the_helper(&house, runaway, "killed");
    }
    let house = House::new();
    let (running, runaway) = start_beside_a_helper(&house, "-l 2");
    running.signal("STOP");
    assert_gone_without_the_helper(&house, runaway, "stopped");
    running.signal("CONT");
    running.finish().code(79);
}

/// Guardians and holders serve others, too, and are left alone. What they run is dflock, as this does; but this runs
/// somebody.
#[test]
fn a_dflock_of_the_commands_is_ended_whatever_it_calls_itself() {
    for (file, title) in [
        ("guardian", "guardian"),
        ("guardian-to-be", "dflock"),
        ("dflock", "dflock: holding k on x"),
        ("x", "guardian of x"),
    ] {
        let house = House::new();
        let script = format!(
            "mkdir at; ln -s \"$(command -v dflock)\" at/{file}
             setsid bash -c 'exec -a \"{title}\" at/{file} exec inner env -i sh -c \"$RUNAWAY\"' <&- >&- 2>&- & exec sleep 60"
        );
        let mut command = house.command("dflock");
        command.env("RUNAWAY", RUNAWAY).args(["exec", "--contain", "group", "--kill-after", "0.2", "k", "-c", &script]);
        let running = Running::start(&mut command);
        let runaway: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
        running.signal("TERM");
        running.finish().code(143);
        assert!(!has_life(runaway), "{title} as {file}: dflock has left, and it runs");
        house.dflock(&["exec", "-w", "20", "inner", "true"]).code(0);
    }
}
