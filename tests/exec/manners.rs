//! Being a good parent: input, output, descriptors, environment, signals.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::house::clean::{House, Running, finish};
use crate::house::wait_for;

#[test]
fn stdin_stdout_and_descriptors_are_the_commands() {
    let house = House::new();
    let script = "echo hello | dflock exec k cat; dflock exec k -c 'echo nine >&9' 9>&1; \
                  dflock exec k ls /proc/self/fd | tr '\\n' ' '; echo; ls /proc/self/fd | tr '\\n' ' '";
    let said = house.script("sh", script);
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines[..2], ["hello", "nine"]);
    // Those of the script and no others: no socket of ours is there.
    assert_eq!(lines[2], lines[3], "{said:?}");
}

#[test]
fn closed_descriptors_never_stop_the_job() {
    let house = House::new();
    let job = "for at in 0 1 2; do echo $(readlink /proc/$$/fd/$at || echo closed) >> fds; done
        echo done > out; exit 6";
    for (closed, numbers) in [("<&-", &[0][..]), (">&-", &[1]), ("2>&-", &[2]), ("<&- >&- 2>&-", &[0, 1, 2])] {
        let _ = std::fs::remove_file(house.path("fds"));
        house.script("sh", &format!("dflock exec k -c '{job}' {closed}; echo $? > code")).code(0);
        assert_eq!((house.read("out").as_str(), house.read("code").as_str()), ("done\n", "6\n"), "{closed}");
        assert!(!house.is_held("k"));
        // What was closed is closed or empty: nothing of ours took its place.
        let fds = house.read("fds");
        let fds: Vec<&str> = fds.lines().collect();
        assert!(numbers.iter().all(|at| ["closed", "/dev/null"].contains(&fds[*at])), "{closed}: {fds:?}");
    }
    // Nobody to tell of a lock that is lost, or is not given back.
    let script = "dflock exec -l 2 k -c 'kill -STOP $SERVER; exec sleep 60' <&- >&- 2>&-; echo $? > code";
    house.script("sh", &format!("SERVER={}; export SERVER; {script}", house.server().pid())).code(0);
    house.server().signal("CONT");
    assert_eq!(house.read("code"), "79\n");
}

#[test]
fn a_closed_window_does_not_end_what_nohup_started() {
    let house = House::new();
    let job = "echo $PPID $$ > begun; until [ -e go ]; do sleep 0.01; done; grep SigIgn /proc/self/status; exit 4";
    let mut command = house.command("nohup");
    let running = Running::start(command.args(["dflock", "exec", "k", "-c", job]));
    let begun = house.wait_for_file("begun");
    // To dflock, which has nothing to pass on, and to the command.
    for pid in begun.split_whitespace() {
        crate::house::signal(pid.parse().expect("a number"), "HUP");
    }
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let said = running.finish().code(4);
    let mask = said.out.split_whitespace().nth(1).expect("a mask");
    assert_eq!(u64::from_str_radix(mask, 16).expect("hex") & 1, 1, "HUP stays ignored: {said:?}");
    // The same while it waits.
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let waiting = Running::start(house.command("nohup").args(["dflock", "exec", "-w", "forever", "k", "true"]));
    house.wait_for_waiters("k", 1);
    waiting.signal("HUP");
    holder.signal("TERM");
    holder.finish();
    waiting.finish().code(0);
}

#[test]
fn the_command_knows_its_lock() {
    let house = House::new();
    let said = house.dflock(&[
        "exec",
        "k",
        "-l",
        "20",
        "-c",
        "echo $DFLOCK_KEY $DFLOCK_LEASE $DFLOCK_SERVER ${#DFLOCK_TOKEN}",
    ]);
    assert_eq!(said.ok(), format!("k 20 {} 32", house.server().address));
    let fences = house.script("sh", "dflock exec k -c 'echo $DFLOCK_FENCE'; dflock exec k -c 'echo $DFLOCK_FENCE'");
    let fences: Vec<u64> = fences.ok().lines().map(|fence| fence.parse().expect("a number")).collect();
    assert!(fences[0] < fences[1], "{fences:?}");
}

#[test]
fn signals_reach_the_command() {
    let house = House::new();
    for name in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"] {
        let trap = format!("trap 'echo got {name}; exit 3' {name}; echo ready > ready; while :; do sleep 0.01; done");
        let running = house.start(&["exec", "k", "-c", &trap]);
        house.wait_for_file("ready");
        running.signal(name);
        let said = running.finish();
        assert_eq!((said.code, said.out.trim()), (3, format!("got {name}").as_str()), "{said:?}");
        std::fs::remove_file(house.path("ready")).expect("the mark is removed");
    }
}

#[test]
fn a_signal_while_waiting_ends_it_at_once_and_leaves_the_queue() {
    let house = House::new();
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let waiting = house.start(&["exec", "-w", "forever", "k", "true"]);
        house.wait_for_waiters("k", 1);
        waiting.signal(name);
        assert_eq!(waiting.finish().code, 128 + number);
        house.wait_for_waiters("k", 0);
    }
    drop(holder);
}

#[test]
fn what_was_ignored_stays_ignored() {
    let house = House::new();
    let script = "trap '' HUP USR1; dflock exec k -c 'grep SigIgn /proc/self/status'; trap - HUP USR1; \
                  dflock exec k -c 'grep SigIgn /proc/self/status'";
    let said = house.script("sh", script);
    let masks: Vec<u64> = said
        .ok()
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("hex"))
        .collect();
    let bits = 1 << (1 - 1) | 1 << (10 - 1);
    assert_eq!(masks[0] & bits, bits, "{masks:x?}");
    assert_eq!(masks[1] & bits, 0, "{masks:x?}");
    let pipe = 1 << (13 - 1);
    assert_eq!(masks[1] & pipe, 0, "SIGPIPE is the command's own: {masks:x?}");
}

#[test]
fn what_a_job_leaves_behind_is_left_alone() {
    let house = House::new();
    house.dflock(&["exec", "k", "-c", "(sleep 0.3; echo still here > daemon) >/dev/null 2>&1 &"]).code(0);
    assert!(!house.is_held("k"));
    assert_eq!(house.wait_for_file("daemon"), "still here\n");
}

#[test]
fn no_name_of_a_guardian_is_left() {
    let house = House::new();
    let said = house.script("sh", "dflock exec k true; dflock exec -n k nonsense; ps -o comm= --ppid $$ | sort");
    assert!(!said.out.contains("guardian"), "{said:?}");
}

#[test]
fn under_a_process_one_of_its_own_it_reaps_and_ends_as_the_command() {
    let house = House::new();
    let mut command = house.command("unshare");
    // As process 1 of a container: orphans come to it, and TERM has no default action.
    let script = "sh -c 'sleep 0.05 &' ; sleep 0.2; exit 5";
    command.args(["-pf", "--mount-proc", "dflock", "exec", "k", "-c", script]);
    let said = finish(command.spawn().expect("unshare starts"));
    if said.err.contains("unshare") {
        eprintln!("SKIPPED: no PID namespace can be made here: {}", said.err);
        return;
    }
    assert_eq!(said.code, 5, "{said:?}");
    let mut command = house.command("unshare");
    let script = "trap 'exit 6' TERM; echo ready > ready; while :; do sleep 0.01; done";
    command.args(["-pf", "--mount-proc", "dflock", "exec", "k", "-c", script]);
    let running = Running::start(command.stdin(Stdio::null()));
    house.wait_for_file("ready");
    let inner = wait_for("process 1 of the namespace", || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid)).ok()?;
        children.split_whitespace().next()?.parse().ok()
    });
    crate::house::signal(inner, "TERM");
    assert_eq!(running.finish().code, 6);
    // Before it has even asked for the lock.
    let mut command = house.command("unshare");
    command.args(["-pf", "--mount-proc", "dflock", "exec", "--jitter", "1000h", "k", "true"]);
    let running = Running::start(command.stdin(Stdio::null()));
    let hears_term = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
    };
    let inner = wait_for("process 1 of the namespace to listen", || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid)).ok()?;
        children.split_whitespace().next()?.parse().ok().filter(|pid| hears_term(*pid))
    });
    crate::house::signal(inner, "TERM");
    assert_eq!(running.finish().code, 143);
}

/// A caller in whatever language, with a library that blocks signals or ignores its children, and forgets that.
#[test]
fn signals_that_the_caller_has_blocked_or_ignored_are_heard_and_given_back() {
    let house = House::new();
    // No shell: some of them unblock all.
    let job = "'grep', '-E', 'Sig(Blk|Ign)', '/proc/self/status'";
    let caller = |before: &str| {
        format!("import os, signal\n{before}\nos.execvp('dflock', ['dflock', 'exec', '-w', '20', 'k', {job}])")
    };
    if !crate::house::tools::is_there("python3") {
        return;
    }
    let all = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR2])";
    for (before, name, bits) in [
        (all, "SigBlk", [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGUSR2].as_slice()),
        ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "SigIgn", &[Signal::SIGCHLD]),
    ] {
        let begin = crate::house::now();
        let said =
            finish(house.command("python3").args(["-c", &caller(before)]).spawn().expect("python3 starts")).code(0);
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{before}: {:?}", begin.elapsed());
        let line = said.out.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line");
        let mask = u64::from_str_radix(line.trim(), 16).expect("a mask");
        for signal in bits {
            assert!(mask & (1 << (*signal as u32 - 1)) != 0, "{before}: {signal} for the command: {said:?}");
        }
        house.wait_until_free("k");
    }
    // Dflock itself hears what was blocked, while it waits too.
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let waiting = Running::start(house.command("python3").args(["-c", &caller(all)]));
    house.wait_for_waiters("k", 1);
    waiting.signal("TERM");
    waiting.finish().code(143);
    holder.signal("TERM");
    holder.finish().code(143);
}

/// An answer that says so; the command itself may want more of them than dflock does.
#[test]
fn too_few_descriptors_are_told_and_nothing_is_left_behind() {
    let house = House::new();
    for limit in 4..=20 {
        for verb in ["exec k true", "stats"] {
            let said = house.script("sh", &format!("ulimit -n {limit}; exec dflock {verb}"));
            assert!(
                [0, 69, 125, 126, 127].contains(&said.code) && !said.err.contains("panicked"),
                "{limit} {verb}: {said:?}"
            );
            house.wait_until_free("k");
        }
    }
}
