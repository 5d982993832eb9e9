//! Where a command runs that shows little, or something else: a `/proc` that hides the processes of others, or is of
//! another namespace, and limits that leave no room. The command is never left alone there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal};
use super::suid::furnish_for_nobody;
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::{NOBODY, is_there, skipped};
use crate::house::wait_for;

/// Whether root can have namespaces here, and do this in them.
fn can(how: &str) -> bool {
    let said = Command::new("unshare").args(["-mpf", "sh", "-c", how]).output().expect("unshare runs");
    if !said.status.success() {
        skipped(&format!("this cannot be done here: {how}: {}", String::from_utf8_lossy(&said.stderr)));
    }
    said.status.success()
}

/// The dflock that a program has started, at whatever depth.
fn dflock_below(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let child = child.parse().ok()?;
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let is_dflock = Path::new(&String::from_utf8_lossy(program).into_owned()).ends_with("dflock");
        if is_dflock { Some(child) } else { dflock_below(child) }
    })
}

/// A job of root's cannot be ended by nobody, nor be seen there; but as one of the group it answers.
#[test]
fn who_is_hidden_by_proc_is_not_taken_for_gone() {
    let hide = "mount -t proc -o hidepid=2 proc /proc";
    if !is_there("setpriv") || !can(hide) {
        return;
    }
    for number in [Signal::SIGKILL, Signal::SIGTERM] {
        let house = House::new();
        if !furnish_for_nobody(&house) {
            return;
        }
        let job = "trap : TERM; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";
        let nobody = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
        let flags = "exec -l 60 --contain group --kill-after 0.2 k -c \"$COMMAND\"";
        let mut command = house.command("unshare");
        command.env("COMMAND", format!("./become-root --reuid=0 sh -c '{job}' <&- >&- 2>&- & wait"));
        command.args(["-m", "sh", "-c", &format!("{hide} && exec {nobody} dflock {flags}")]);
        let running = Running::start(&mut command);
        let job: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
        signal(running.pid, number);
        let what = format!("after {number} the job is there, and the lock its own");
        observe(Duration::from_millis(700), || house.is_held("k") && has_life(job), &what);
        std::fs::write(house.path("go"), "").expect("the sign is given");
        house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
        assert!(!has_life(job));
    }
}

/// The numbers there are those of others: the group is asked itself. While it runs, another process gets the number there
/// that the command has here.
#[test]
fn a_proc_of_another_namespace_hides_nobody_and_harms_nobody() {
    if !nix::unistd::geteuid().is_root() || !can("mount -t proc proc /proc && echo 50 > /proc/sys/kernel/ns_last_pid") {
        return skipped("only root can have a /proc of another namespace");
    }
    for (number, flags) in [(Signal::SIGTERM, "--kill-after 0.3"), (Signal::SIGKILL, "-l 60")] {
        let house = House::new();
        let job = "trap : TERM; echo $$ > pid; while [ ! -e go ]; do echo beat >> log; sleep 0.01; done";
        std::fs::write(house.path("job"), job).expect("the job is written");
        // Sleepers stand where the numbers of the inner namespace point to in this one.
        let outer = format!(
            "for i in $(seq 20); do sleep 60 & done
             unshare -pf sh -c 'dflock exec --contain group {flags} k -c \"sh ./job <&- >&- 2>&- & echo \\$\\$ > leader; exec sleep 60\"; sleep 60' &
             while [ ! -s leader ]; do sleep 0.01; done
             leader=$(cat leader); kill $leader; wait $leader
             while [ ! -e /proc/$leader ]; do echo $((leader - 1)) > /proc/sys/kernel/ns_last_pid; sleep 61 & done
             echo $! > stranger; wait"
        );
        let mut command = house.command("unshare");
        command.args(["-mpf", "--kill-child", "--mount-proc", "bash", "-c", &outer]);
        let running = Running::start(command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()));
        house.wait_for_file("stranger");
        house.wait_for_file("pid");
        signal(wait_for("dflock", || dflock_below(running.pid)), number);
        house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
        let before = house.read("log").len();
        observe(Duration::from_millis(300), || house.read("log").len() == before, "the job is gone with the lock");
    }
}

/// Whoever has no room for what is to be done may end, but not alone: there are two of them.
#[test]
fn limits_that_come_while_a_command_runs_leave_nobody_behind() {
    if !is_there("prlimit") {
        return;
    }
    for limit in ["--as=1:1", "--fsize=0:0", "--nproc=0:0", "--data=1:1"] {
        for number in ["TERM", "KILL"] {
            let house = House::new();
            let job = "trap : TERM; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";
            let script = format!("setsid sh -c '{job}' <&- >&- 2>&- & exec sleep 60");
            let mut command = house.command("dflock");
            command.args(["exec", "-l", "6", "--contain", "group", "--kill-after", "0.2", "k", "-c", &script]);
            let running = Running::start(&mut command);
            let job: u32 = house.wait_for_file("pid").trim().parse().expect("a number");
            let guardian = wait_for("the guardian", || guardian_of(running.pid));
            for pid in [running.pid, guardian] {
                let set = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status().expect("it runs");
                assert!(set.success());
            }
            running.signal(number);
            house.dflock(&["exec", "-w", "25", "k", "true"]).code(0);
            assert!(!has_life(job), "{limit}, {number}: the lock is free and it runs");
            let said = running.finish();
            assert!(said.code != 101 && !said.err.contains("panicked"), "{limit}, {number}: {said:?}");
        }
    }
}

/// What is missing is told, or nothing can be told any more; but nothing is begun by halves.
#[test]
fn limits_that_leave_no_room_for_a_start_leave_the_lock_free() {
    let house = House::new();
    let mut limits: Vec<String> = (0..14).map(|step| format!("-v {}", 15_000 + step * 1_000)).collect();
    limits.extend(["-f 0", "-f 1"].map(str::to_owned));
    for limit in limits {
        let script = format!("ulimit {limit}; exec dflock exec k sh -c 'echo ran'");
        let said = house.script("bash", &script);
        // From the loader to the stack, which may not grow.
        assert!([0, 69, 125, 126, 127, 134, 137, 139].contains(&said.code), "{limit}: {said:?}");
        assert!(!said.err.contains("panicked") && (said.code == 0) == (said.out == "ran\n"), "{limit}: {said:?}");
        house.dflock(&["exec", "-w", "10", "k", "true"]).code(0);
    }
    if !is_there("setpriv") || !furnish_for_nobody(&house) {
        return;
    }
    for limit in 0..6 {
        let nobody = format!("exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
        let said = house.script("bash", &format!("{nobody} bash -c 'ulimit -u {limit}; exec dflock exec k true'"));
        assert!([0, 69, 125, 126].contains(&said.code), "{limit} processes: {said:?}");
        assert!(said.code == 0 || said.err.starts_with("dflock: "), "{limit} processes: {said:?}");
        house.dflock(&["exec", "-w", "10", "k", "true"]).code(0);
    }
}
