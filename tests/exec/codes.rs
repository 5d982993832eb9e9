//! The exit code of everything that can happen.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::house::clean::{House, finish};
use crate::house::now;

#[test]
fn the_commands_own_code_is_passed_on() {
    let house = House::new();
    for code in [0, 1, 7, 75, 79, 124, 125, 255] {
        let said = house.dflock(&["exec", "k", "sh", "-c", &format!("exit {code}")]).code(code);
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""), "{said:?}");
    }
    assert!(!house.is_held("k"));
}

#[test]
fn a_command_that_dies_of_a_signal_takes_dflock_with_it() {
    let house = House::new();
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("KILL", 9), ("USR1", 10), ("SEGV", 11)] {
        let said = house.dflock(&["exec", "k", "-c", &format!("kill -{name} $$")]);
        // The house shows a death by a signal as 128 + n, and so does a shell.
        assert_eq!(said.code, 128 + number, "{name}: {said:?}");
        let by_shell = house.script("sh", &format!("dflock exec k -c 'kill -{name} $$'; echo $?"));
        assert_eq!(by_shell.ok(), (128 + number).to_string());
    }
}

/// It has no name. Below reapers, where dflock had children before, it is told by them.
#[test]
fn a_command_that_dies_of_a_real_time_signal_is_dead_too() {
    let house = House::new();
    for number in [34, 64] {
        house.dflock(&["exec", "k", "-c", &format!("kill -{number} $$")]).code(128 + 9);
        let script = format!("sleep 60 <&- >&- 2>&- & exec dflock exec k -c 'kill -{number} $$'");
        house.script("bash", &script).code(128 + 9);
        assert!(!house.is_held("k"));
    }
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    let house = House::new();
    let said = house.dflock(&["exec", "k", "no-such-command"]).code(127);
    assert!(said.err.contains("no-such-command: command not found"), "{said:?}");
    let said = house.dflock(&["exec", "k", "/etc/passwd"]).code(126);
    assert!(said.err.contains("cannot be executed"), "{said:?}");
    // The lock was given back both times, and no guardian is left.
    assert!(!house.is_held("k"));
}

#[test]
fn a_busy_lock_is_75_or_what_the_user_chose() {
    let house = House::new();
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let said = house.dflock(&["exec", "-n", "k", "true"]).code(75);
    assert!(said.err.contains("k is held by somebody else"), "{said:?}");
    house.dflock(&["exec", "-w", "0.2", "k", "true"]).code(75);
    house.dflock(&["exec", "-n", "-E", "0", "k", "true"]).code(0);
    house.dflock(&["exec", "-n", "-E", "9", "k", "true"]).code(9);
    let said = house.dflock(&["exec", "-n", "-q", "k", "true"]).code(75);
    assert_eq!(said.err, "");
    let said = house.dflock(&["exec", "-n", "--json", "k", "true"]).code(75);
    assert_eq!(said.json()["error"], "busy");
    drop(holder);
}

#[test]
fn mistakes_are_125_and_take_no_lock() {
    let house = House::new();
    for wrong in [
        &["exec"][..],
        &["exec", "k"],
        &["exec", "", "true"],
        &["exec", "a b", "true"],
        &["exec", "k", "-c", "true", "--nonsense"],
        &["exec", "-l", "1", "k", "true"],
        &["exec", "-w", "soon", "k", "true"],
        &["exec", "--on-lost", "cry", "k", "true"],
        &["exec", "--also", "k", "k", "true"],
        &["exec", "--limit", "0", "k", "true"],
    ] {
        let said = house.dflock(wrong).code(125);
        assert!(!said.err.is_empty(), "{wrong:?}");
    }
    let said = house.dflock(&["exec", "-l", "1.9", "k", "true"]).code(125);
    assert!(said.err.contains("leaves no time to stop a command"), "{said:?}");
    // Without asking anybody.
    House::at("127.0.0.1:1").dflock(&["exec", "-l", "1.9", "k", "true"]).code(125);
    // A server may give shorter leases than that by itself.
    let short = House::serving(&["--default-lease-ttl", "1"]);
    short.dflock(&["exec", "k", "true"]).code(125);
    assert!(!short.is_held("k"));
}

#[test]
fn a_server_that_is_not_there_is_69() {
    let house = House::at("127.0.0.1:1");
    let said = house.dflock(&["exec", "k", "true"]).code(69);
    assert!(said.err.contains("nothing listens there"), "{said:?}");
}

#[test]
fn too_long_a_run_is_124() {
    let house = House::new();
    house.dflock(&["exec", "--max-runtime", "0.2", "k", "sleep", "60"]).code(124);
    // One that ignores TERM is killed, and whom it started with it.
    let stubborn = "trap '' TERM; sleep 60 & sleep 60; sleep 60";
    house.dflock(&["exec", "--max-runtime", "0.2", "--kill-after", "0.2", "k", "-c", stubborn]).code(124);
    assert!(!house.is_held("k"));
}

#[test]
fn too_long_a_run_does_not_wait_for_a_renewal() {
    let house = House::new();
    let begin = now();
    house.dflock(&["exec", "-l", "120", "--max-runtime", "0.2", "k", "sleep", "60"]).code(124);
    // The first one is due after forty seconds.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_lock_is_kept_while_another_is_waited_for() {
    let house = House::new();
    let other = house.start(&["exec", "-l", "60", "b", "sleep", "8"]);
    house.wait_until_held("b");
    let begin = now();
    house.dflock(&["exec", "-l", "6", "-w", "forever", "a", "--also", "b", "--", "true"]).code(0);
    assert!(begin.elapsed() > Duration::from_secs(6), "b was not waited for longer than the lease of a");
    other.finish().code(0);
}

#[test]
fn asking_for_ones_own_lock_is_told_not_waited_for() {
    let house = House::new();
    let said = house.dflock(&["exec", "k", "dflock", "exec", "k", "true"]).code(125);
    assert!(said.err.contains("held already by the dflock exec around this one"), "{said:?}");
    for verb in ["acquire", "enqueue"] {
        let said = house.dflock(&["exec", "k", "dflock", verb, "k"]).code(125);
        assert!(said.err.contains("held already by the dflock exec around this one"), "{said:?}");
    }
    let said = house.dflock(&["exec", "a", "dflock", "exec", "b", "sh", "-c", "echo $DFLOCK_HELD"]);
    assert_eq!(said.ok(), "a b");
}

/// Its command would go on under a lock that is somebody else's.
#[test]
fn a_command_cannot_give_its_lock_back_while_it_runs() {
    let house = House::new();
    let inside =
        "dflock release k; echo $?; dflock release k $DFLOCK_TOKEN; echo $?; dflock renew k >/dev/null; echo $?
        dflock acquire other >/dev/null && dflock release other; echo $?";
    let said = house.dflock(&["exec", "k", "-c", inside]);
    assert_eq!(said.ok(), "125\n125\n0\n0", "{said:?}");
    assert!(said.err.contains("k is held by the dflock exec around this command"), "{said:?}");
    // Nor one of those around it.
    let inside = "T=$DFLOCK_TOKEN dflock exec b -c 'dflock release k $T; echo $?; dflock renew k $T -l 1s; echo $?
        dflock renew k $T >/dev/null; echo $?'";
    assert_eq!(house.dflock(&["exec", "k", "-c", inside]).ok(), "125\n125\n0");
    let inside = "dflock sem release k --limit 2; echo $?";
    assert_eq!(house.dflock(&["exec", "--limit", "2", "k", "-c", inside]).ok(), "125");
}

#[test]
fn arguments_reach_the_command_to_the_byte() {
    let house = House::new();
    let show = "for word; do printf '[%s]' \"$word\"; done";
    let said = house.dflock(&["exec", "k", "sh", "-c", show, "x", "--", "-n", "", "a b", "-c", "$(id)", "*"]);
    assert_eq!(said.ok(), "[--][-n][][a b][-c][$(id)][*]");
    let said = house.dflock(&["exec", "k", "--", "printf", "%s|", "--", "-x"]);
    assert_eq!(said.ok(), "--|-x|");
    let mut command = house.command("dflock");
    command.args(["exec", "k", "sh", "-c", "printf %s \"$1\" | od -An -tx1", "x"]);
    command.arg(std::ffi::OsString::from_vec(vec![0xff, 0xfe, b'\n', b'"']));
    assert_eq!(finish(command.spawn().expect("it starts")).ok().trim(), "ff fe 0a 22");
}

#[test]
fn several_keys_are_taken_all_or_none() {
    let house = House::new();
    let said = house.dflock(&["exec", "b", "--also", "a", "--also", "c", "sh", "-c", "echo $DFLOCK_KEY $DFLOCK_HELD"]);
    assert_eq!(said.ok(), "b b a c");
    let holder = house.start(&["exec", "c", "sleep", "60"]);
    house.wait_until_held("c");
    house.dflock(&["exec", "-n", "b", "--also", "a", "--also", "c", "true"]).code(75);
    assert!(!house.is_held("a") && !house.is_held("b"), "rolled back");
    drop(holder);
}

#[test]
fn a_semaphore_lets_as_many_in() {
    let house = House::new();
    let first = house.start(&["exec", "--limit", "2", "s", "sleep", "60"]);
    let second = house.start(&["exec", "--limit", "2", "s", "sleep", "60"]);
    crate::house::wait_for("two slots held", || {
        (house.dflock(&["status", "s", "--json"]).json()["semaphore"]["holders"] == 2).then_some(())
    });
    house.dflock(&["exec", "-n", "--limit", "2", "s", "true"]).code(75);
    house.dflock(&["exec", "-n", "--limit", "3", "s", "true"]).code(76);
    drop((first, second));
}

#[test]
fn what_is_dflocks_own_end_is_said_in_json_too() {
    let house = House::new();
    let said =
        house.dflock(&["exec", "--json", "--max-runtime", "0.1", "--kill-after", "0.1", "k", "sleep", "9"]).code(124);
    assert_eq!((&said.json()["error"], &said.json()["exit"]), (&"max_runtime".into(), &124.into()), "{said:?}");
    let running = house.start(&["exec", "--json", "-l", "2", "k", "sleep", "60"]);
    house.wait_until_held("k");
    running.signal("STOP");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    running.signal("CONT");
    let said = running.finish().code(79);
    assert_eq!(said.json()["error"], "lost", "{said:?}");
}

#[test]
fn with_v_it_tells_what_it_waited_for_and_had() {
    let house = House::new();
    let said = house.dflock(&["exec", "-v", "-l", "90", "k", "true"]).code(0);
    let granted = format!("dflock: k was granted by {} after ", house.servers);
    let lines: Vec<&str> = said.err.lines().collect();
    assert!(lines[0].starts_with(&granted) && lines[0].ends_with("with a lease of 1m30s"), "{said:?}");
    assert!(lines[1].starts_with("dflock: the command has ended after "), "{said:?}");
}

#[test]
fn what_should_run_a_command_is_named_where_it_is_not_there() {
    let house = House::new();
    for (name, content, said) in [
        ("bad", "#!/no/such/sh -e\necho hi\n", "its interpreter /no/such/sh is not there"),
        ("windows", "#!/bin/sh\r\necho hi\r\n", "its lines end as on Windows"),
    ] {
        std::fs::write(house.path(name), content).expect("a script");
        std::fs::set_permissions(house.path(name), PermissionsExt::from_mode(0o755)).expect("its mode");
        let failed = house.dflock(&["exec", "k", &format!("./{name}")]).code(126);
        assert!(failed.err.contains(said), "{failed:?}");
        let mut by_path = house.command("dflock");
        by_path.args(["exec", "k", name]).env("PATH", house.path("."));
        assert!(finish(by_path.spawn().expect("it starts")).code(126).err.contains(said));
    }
    let failed = house.dflock(&["exec", "k", "."]).code(126);
    assert!(failed.err.contains(".: cannot be executed: it is a directory"), "{failed:?}");
    let failed = house.dflock(&["exec", "k", ""]).code(127);
    assert!(failed.err.contains("\"\": command not found"), "{failed:?}");
    assert!(!house.is_held("k"));
}

/// It dies of the same signal, and dumps no core over the command's.
#[test]
fn a_core_is_the_commands_alone() {
    let house = House::new();
    for signal in [Signal::SIGQUIT, Signal::SIGSEGV, Signal::SIGABRT] {
        let mut command = house.command("sh");
        let script = "ulimit -c unlimited 2>/dev/null; exec dflock exec k -c \"kill -$0 \\$\\$\"";
        let number = signal as i32;
        let status = command.args(["-c", script, &number.to_string()]).status().expect("it starts");
        assert_eq!((status.signal(), status.core_dumped()), (Some(number), false), "{signal}");
    }
}
