//! `--contain cgroup`: whatever a command's process does, it stays in the command's cgroup, and is ended with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal};
use super::trials_fleet::has_life;
use crate::house::cgroups::{cgroup_of, with_cgroups};
use crate::house::clean::{House, Running};
use crate::house::tools::is_there;
use crate::house::wait_for;

/// Another session, another user, parents that are gone, an environment that tells nothing: and no time passes in
/// which anybody could have looked.
const WITHOUT_A_TRACE: &str = "(setsid env -i setpriv --reuid 65534 --clear-groups \
     sh -c 'trap : TERM HUP; echo $$ >&9; for i in $(seq 6000); do sleep 0.01; done' &) 9>pid; \
     while :; do sleep 0.01; done";

fn start(house: &House, flags: &[&str], script: &str) -> Running {
    house.start(&[&["exec"], flags, &["k", "-c", script]].concat())
}

fn pid_in(house: &House, file: &str) -> u32 {
    house.wait_for_file(file).trim().parse().expect("a number")
}

/// With `setpriv`, which only root may use.
fn can_change_user() -> bool {
    nix::unistd::geteuid().is_root() && is_there("setpriv")
}

#[test]
fn a_killed_dflock_takes_along_whoever_left_no_trace() {
    with_cgroups("contain_cgroup::a_killed_dflock_takes_along_whoever_left_no_trace", || {
        if !can_change_user() {
            return;
        }
        for contain in [&["--contain", "cgroup"][..], &[]] {
            let house = House::new();
            let running = start(&house, &[&["-l", "60"], contain].concat(), WITHOUT_A_TRACE);
            let runaway = pid_in(&house, "pid");
            let cgroup = cgroup_of(runaway);
            running.signal("KILL");
            house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
            assert!(!has_life(runaway), "{contain:?}: the lock is free and it runs");
            wait_for("the end of the cgroup", || (!cgroup.exists()).then_some(()));
        }
    });
}

#[test]
fn an_end_by_force_reaches_whoever_left_no_trace() {
    with_cgroups("contain_cgroup::an_end_by_force_reaches_whoever_left_no_trace", || {
        if !can_change_user() {
            return;
        }
        let house = House::new();
        let flags = ["--contain", "cgroup", "--max-runtime", "1", "--kill-after", "0.3"];
        let running = start(&house, &flags, WITHOUT_A_TRACE);
        let runaway = pid_in(&house, "pid");
        let cgroup = cgroup_of(runaway);
        running.finish().code(124);
        assert!(!has_life(runaway), "dflock has left, and it runs");
        assert!(!cgroup.exists());
    });
}

/// Told to end, they may still put things in order.
#[test]
fn whoever_left_no_trace_is_told_before_it_is_killed() {
    with_cgroups("contain_cgroup::whoever_left_no_trace_is_told_before_it_is_killed", || {
        let house = House::new();
        let script = "(setsid env -i sh -c 'trap \"echo told > told; exit\" TERM; echo $$ > pid; \
             while :; do sleep 0.01; done' &); while :; do sleep 0.01; done";
        let flags = ["--contain", "cgroup", "--max-runtime", "1", "--kill-after", "20"];
        let running = start(&house, &flags, script);
        let runaway = pid_in(&house, "pid");
        running.finish().code(124);
        assert_eq!(house.read("told"), "told\n");
        assert!(!has_life(runaway));
    });
}

/// The inner command ends with the outer one, and each has its own cgroup while it runs.
#[test]
fn one_inside_of_another_ends_with_it_and_alone() {
    with_cgroups("contain_cgroup::one_inside_of_another_ends_with_it_and_alone", || {
        let house = House::new();
        let inner = "dflock exec --contain cgroup --max-runtime 1 --kill-after 0.2 inner -c \
             'setsid env -i sh -c \"echo \\$\\$ > pid; exec sleep 600\" & wait'; echo $? > inner; \
             while [ ! -e go ]; do sleep 0.01; done; exit 3";
        let running = start(&house, &["--contain", "cgroup"], inner);
        assert_eq!(house.wait_for_file("inner"), "124\n");
        assert!(!has_life(pid_in(&house, "pid")));
        std::fs::write(house.path("go"), "").expect("the sign is given");
        running.finish().code(3);

        let inner = "exec dflock exec -l 60 --contain cgroup inner -c 'echo $$ > second; exec sleep 600'";
        let running = start(&house, &["-l", "60", "--contain", "cgroup"], inner);
        let job = pid_in(&house, "second");
        let cgroup = cgroup_of(job);
        running.signal("KILL");
        house.dflock(&["exec", "-w", "20", "--also", "inner", "k", "true"]).code(0);
        assert!(!has_life(job));
        wait_for("the end of both cgroups", || (!outer_of(&cgroup).exists()).then_some(()));
    });
}

fn outer_of(inner: &Path) -> PathBuf {
    let outer = inner.parent().expect("it is inside of another");
    assert!(outer.file_name().expect("a name").to_string_lossy().starts_with("dflock-"), "{outer:?}");
    outer.to_owned()
}

/// A crash leaves an empty one; whoever waits for a lock has an empty one too.
#[test]
fn what_a_crash_leaves_behind_is_removed_by_the_next_and_nothing_else() {
    with_cgroups("contain_cgroup::what_a_crash_leaves_behind_is_removed_by_the_next_and_nothing_else", || {
        let house = House::new();
        let running = start(&house, &["-l", "10"], "echo $$ > pid; exec sleep 600");
        let job = pid_in(&house, "pid");
        let cgroup = cgroup_of(job);
        let waiter = house.start(&["exec", "-w", "60", "k", "true"]);
        house.wait_for_waiters("k", 1);
        let its_own = directories_of(waiter.pid);
        assert!(its_own.iter().any(|path| path.parent() == cgroup.parent()), "it has one: {its_own:?}");
        let guardian = wait_for("the guardian", || guardian_of(running.pid));
        running.signal("STOP");
        signal(guardian, Signal::SIGKILL);
        running.signal("KILL");
        running.finish();
        wait_for("the end of the job", || (!has_life(job)).then_some(()));
        assert!(cgroup.exists(), "nobody was left to remove it");
        house.dflock(&["exec", "other", "true"]).code(0);
        assert!(!cgroup.exists());
        // That of the waiter was left alone: its command finds it.
        waiter.finish().code(0);
    });
}

/// Those that it has open.
fn directories_of(pid: u32) -> Vec<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(|path| path.is_dir()).collect()
}

#[test]
fn a_loss_that_is_only_told_ends_nobody_in_the_cgroup() {
    let _quiet = crate::quiet();
    with_cgroups("contain_cgroup::a_loss_that_is_only_told_ends_nobody_in_the_cgroup", || {
        let house = House::new();
        let flags = ["-l", "2", "--on-lost", "warn", "--contain", "cgroup"];
        let running = start(&house, &flags, "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done");
        let job = pid_in(&house, "pid");
        running.signal("STOP");
        house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
        running.signal("KILL");
        observe(Duration::from_secs(1), || has_life(job), "the command runs on");
        std::fs::write(house.path("go"), "").expect("the sign is given");
        running.finish().code(137);
    });
}

/// Dflock stays with the lock, or a holder does; the daemon is where dflock was, and outlives both.
#[test]
fn a_daemon_is_let_out_before_the_lock_is_kept_for_longer() {
    with_cgroups("contain_cgroup::a_daemon_is_let_out_before_the_lock_is_kept_for_longer", || {
        let house = House::new();
        let script = "setsid sleep 600 <&- >&- 2>&- & echo $! > pid";
        start(&house, &["--contain", "cgroup", "--min-hold", "1h"], script).finish().code(0);
        let daemon = pid_in(&house, "pid");
        assert!(has_life(daemon));
        assert!(!cgroup_of(daemon).to_string_lossy().contains("dflock-"));
        signal(daemon, Signal::SIGKILL);
        house.end_holder_of("k");
    });
}

/// The command takes away the place where its cgroup is mounted, or mounts something over it.
#[test]
fn whoever_left_no_trace_is_ended_though_the_cgroup_is_not_mounted_any_more() {
    with_cgroups("contain_cgroup::whoever_left_no_trace_is_ended_though_the_cgroup_is_not_mounted_any_more", || {
        if !can_change_user() {
            return;
        }
        let places = "$(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts)";
        for hide in ["umount -l $place", "mount -t tmpfs dflock-test $place"] {
            for (number, flags) in [("KILL", ["-l", "60"]), ("TERM", ["--kill-after", "0.2"])] {
                let house = House::new();
                let script = format!("for place in {places}; do {hide} || exit 9; done; {WITHOUT_A_TRACE}");
                let mut command = house.command("unshare");
                command.args(["-m", "dflock", "exec", "--contain", "cgroup"]).args(flags).args(["k", "-c", &script]);
                let running = Running::start(&mut command);
                let runaway = pid_in(&house, "pid");
                running.signal(number);
                house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
                assert!(!has_life(runaway), "{hide}, {number}: the lock is free and it runs");
            }
        }
    });
}

#[test]
fn one_that_cannot_be_made_is_refused_before_the_lock_is_asked_for() {
    let house = House::new();
    let mut command = house.command("unshare");
    let script = "umount -a -t cgroup2 && exec dflock \"$@\"";
    let flags = ["-m", "sh", "-c", script, "sh", "exec", "--contain", "cgroup", "k", "-c", "echo begun > begun"];
    let said = Running::start(command.args(flags)).finish();
    if said.err.contains("unshare") || said.err.contains("umount") {
        return crate::house::tools::skipped(&format!("no cgroup can be hidden here: {}", said.err));
    }
    assert_eq!((said.code, house.read("begun").as_str()), (125, ""), "{said:?}");
    assert!(said.err.contains("--contain cgroup: no cgroup can be made") && said.err.contains("Delegate"), "{said:?}");
    // By default it goes on without a word.
    let mut command = house.command("unshare");
    let said = Running::start(command.args(["-m", "sh", "-c", script, "sh", "exec", "k", "true"])).finish();
    assert_eq!((said.code, said.err.as_str()), (0, ""));
}

/// As a login through PAM does, and with all that dflock has in its environment but the mark.
#[test]
fn who_leaves_the_cgroup_at_once_is_ended_though_dflock_had_children_before() {
    with_cgroups("contain_cgroup::who_leaves_the_cgroup_at_once_is_ended_though_dflock_had_children_before", || {
        let runaway = "echo $$ > \"$OUTSIDE/cgroup.procs\" && exec env -u DFLOCK_RUN setsid sh -c \
             'trap : TERM HUP; echo $$ > pid; for i in $(seq 6000); do sleep 0.01; done'";
        for contain in ["", "--contain cgroup"] {
            for number in ["TERM", "KILL"] {
                let house = House::new();
                let script = format!(
                    "sleep 60 <&- >&- 2>&- &
                     exec dflock exec -l 60 --kill-after 0.2 {contain} k -c '(sh -c \"$RUNAWAY\" <&- >&- 2>&- &); exec sleep 60'"
                );
                let mut command = house.script_command("sh", &script);
                command.env("RUNAWAY", runaway).env("OUTSIDE", cgroup_of(std::process::id()));
                let running = Running::start(&mut command);
                let runaway = pid_in(&house, "pid");
                running.signal(number);
                house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
                assert!(!has_life(runaway), "{contain}, {number}: the lock is free and it runs");
            }
        }
    });
}
