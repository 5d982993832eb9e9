//! Where dflock had children before its command (`helper & exec dflock exec ...`), two small processes stand between them:
//! nobody is to notice, whatever becomes of those.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::guardian::{guardian_of, observe, signal};
use super::guardian_deaf::hold;
use super::pty::{code, give_the_sign, job};
use super::pty_jobs::state;
use super::terminal::{CTRL_C, CTRL_Z, PROMPT, Terminal};
use super::trials_fleet::{has_life, send};
use crate::house::clean::{House, Running, Said};
use crate::house::wait_for;

/// What has most of dflock's environment, and neither its parents nor its mark, from the first moment on.
const RUNAWAY: &str = "(env -u DFLOCK_RUN setsid sh -c 'trap : TERM HUP; echo $$ > pid; \
     while [ ! -e go ]; do sleep 0.01; done' <&- >&- 2>&- &)";

fn command(house: &House, flags: &str, script: &str) -> Command {
    let around = format!("sleep 60 <&- >&- 2>&- & exec dflock exec {flags} k -c \"$JOB\"");
    let mut command = house.script_command("sh", &around);
    command.env("JOB", script);
    command
}

fn start(house: &House, flags: &str, script: &str) -> Running {
    Running::start(&mut command(house, flags, script))
}

fn run(house: &House, script: &str) -> Said {
    start(house, "", script).finish()
}

fn pid_in(house: &House, file: &str) -> u32 {
    house.wait_for_file(file).trim().parse().expect("a number")
}

fn reaper_below(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let is_reaper =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "reaper\n");
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_reaper)
}

/// The upper one, and the lower one.
fn reapers_of(dflock: u32) -> [u32; 2] {
    wait_for("both reapers", || {
        let upper = reaper_below(dflock)?;
        Some([upper, reaper_below(upper)?])
    })
}

#[test]
fn the_command_ends_as_it_does_elsewhere() {
    let house = House::new();
    let said = run(&house, "echo out; echo err >&2; cat; exit 7").code(7);
    assert_eq!((said.out, said.err), ("out\n".to_owned(), "err\n".to_owned()));
    let script = "exec 7< job; ls /proc/self/fd > before; sleep 60 <&- >&- 2>&- & exec dflock exec k ls /proc/self/fd";
    std::fs::write(house.path("job"), "").expect("a file");
    let said = house.script("sh", script).code(0);
    assert_eq!(said.out, house.read("before"));
    run(&house, "exit 0").code(0);
    run(&house, "kill -TERM $$").code(143);
    run(&house, "kill -SEGV $$").code(139);
    for (program, code) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        house.script("sh", &format!("sleep 60 <&- >&- 2>&- & exec dflock exec k {program}")).code(code);
    }
    assert!(!house.is_held("k"));
}

#[test]
fn signals_go_to_the_command_though_its_parent_is_another_one() {
    let house = House::new();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 6' TERM; echo > begun; while :; do sleep 0.01; done";
    let running = start(&house, "", script);
    house.wait_for_file("begun");
    running.signal("USR1");
    let [upper, lower] = reapers_of(running.pid);
    for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGCONT, Signal::SIGALRM] {
        signal(upper, number);
    }
    // Whoever means the parent of the command means dflock.
    observe(Duration::from_millis(100), || has_life(lower), "it obeys nobody");
    signal(lower, Signal::SIGTERM);
    assert_eq!(running.finish().code(6).out, "usr1\nterm\n");
    for reaper in [upper, lower] {
        assert!(!has_life(reaper), "it leaves with dflock");
    }
}

/// The end of the one is as good as the end of dflock itself: nobody could tell later who is the command's.
#[test]
fn a_command_ends_with_either_of_its_reapers_and_nobody_is_overlooked() {
    for which in 0..2 {
        for signals in [&[Signal::SIGKILL][..], &[Signal::SIGSTOP, Signal::SIGKILL]] {
            let house = House::new();
            let flags = "--contain group -l 60 --kill-after 0.3";
            let running = start(&house, flags, &format!("{RUNAWAY}; exec sleep 60"));
            let runaway = pid_in(&house, "pid");
            let reapers = reapers_of(running.pid);
            signals.iter().for_each(|number| signal(reapers[which], *number));
            let said = running.finish().code(137);
            assert_eq!(said.err.matches("somebody has killed a reaper").count(), 1, "{said:?}");
            assert!(!has_life(runaway), "{which}: dflock has left, and it runs");
            house.dflock(&["exec", "-n", "k", "true"]).code(0);
            assert!(reapers.iter().all(|reaper| !has_life(*reaper)), "{which}");
        }
    }
}

/// Both at once: whoever was seen, and whoever carries the mark.
#[test]
fn with_both_killed_whoever_was_seen_is_ended() {
    let house = House::new();
    let script = "(setsid env -i sh -c 'trap : TERM HUP; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done' \
         <&- >&- 2>&- & sleep 1); exec sleep 60";
    let running = start(&house, "--contain group -l 60 --kill-after 0.3", script);
    let runaway = pid_in(&house, "pid");
    observe(Duration::from_millis(1500), || has_life(runaway), "it runs");
    let reapers = reapers_of(running.pid);
    reapers.iter().for_each(|reaper| signal(*reaper, Signal::SIGSTOP));
    reapers.iter().for_each(|reaper| signal(*reaper, Signal::SIGKILL));
    running.finish().code(137);
    assert!(!has_life(runaway), "dflock has left, and it runs");
}

#[test]
fn a_loss_that_is_only_told_goes_on_and_a_reaper_that_is_killed_still_ends_it() {
    let house = House::new();
    let running =
        start(&house, "--contain group -l 60 --on-lost warn --kill-after 0.3", "echo $$ > pid; exec sleep 60");
    let leader = pid_in(&house, "pid");
    let [_, lower] = reapers_of(running.pid);
    signal(lower, Signal::SIGKILL);
    running.finish().code(137);
    assert!(!has_life(leader), "dflock has left, and it runs");
}

#[test]
fn one_that_is_stopped_goes_on() {
    let house = House::new();
    let running = start(&house, "-l 60", "echo > begun; while [ ! -e go ]; do sleep 0.01; done; exit 5");
    house.wait_for_file("begun");
    let reapers = reapers_of(running.pid);
    reapers.iter().for_each(|reaper| signal(*reaper, Signal::SIGSTOP));
    for reaper in reapers {
        wait_for(&format!("reaper {reaper} of {reapers:?} to go on"), || {
            (state(reaper.cast_signed()) == 'S').then_some(())
        });
    }
    give_the_sign(&house);
    running.finish().code(5);
}

/// The end of the command is kept from us then.
#[test]
fn one_in_the_hands_of_a_debugger_keeps_nobody_alive() {
    let house = House::new();
    let running = start(&house, "--contain group -l 60 --kill-after 0.3", &format!("{RUNAWAY}; exec sleep 60"));
    let runaway = pid_in(&house, "pid");
    let [_, lower] = reapers_of(running.pid);
    let Some(debugger) = hold(&house, lower) else { return };
    running.signal("TERM");
    // It obeys that; but who ends by force has others looked for, and nobody says that it has ended.
    observe(Duration::from_millis(300), || has_life(running.pid), "dflock cannot know");
    drop(debugger);
    running.finish().code(143);
    assert!(!has_life(runaway));
    // A lease that is over is over.
    std::fs::remove_file(house.path("pid")).expect("it is there");
    std::fs::remove_file(house.path("held")).expect("it is there");
    let flags = "--contain group -l 60 --max-runtime 1 --kill-after 0.3";
    let running = start(&house, flags, &format!("{RUNAWAY}; exec sleep 60"));
    let runaway = pid_in(&house, "pid");
    let [_, lower] = reapers_of(running.pid);
    let Some(_debugger) = hold(&house, lower) else { return };
    running.finish().code(124);
    assert!(!has_life(runaway));
}

#[test]
fn a_daemon_is_left_alone_and_nobody_of_ours_stays_with_it() {
    let house = House::new();
    let script = "(setsid sh -c 'echo $$ > pid; exec sleep 60' <&- >&- 2>&- &); while [ ! -e go ]; do sleep 0.01; done";
    let running = start(&house, "", script);
    let daemon = pid_in(&house, "pid");
    let reapers = reapers_of(running.pid);
    give_the_sign(&house);
    running.finish().code(0);
    assert!(reapers.iter().all(|reaper| !has_life(*reaper)));
    observe(Duration::from_millis(300), || has_life(daemon), "the daemon lives");
    signal(daemon, Signal::SIGKILL);
}

#[test]
fn they_hold_nothing_and_end_with_a_killed_dflock_after_everybody_else() {
    let house = House::new();
    let running = start(&house, "--contain group -l 60", &format!("{RUNAWAY}; exec sleep 60"));
    let runaway = pid_in(&house, "pid");
    let reapers = reapers_of(running.pid);
    for (reaper, descriptors) in reapers.into_iter().zip([0, 2]) {
        // Nobody but root sees that.
        if nix::unistd::geteuid().is_root() {
            let files = std::fs::read_dir(format!("/proc/{reaper}/fd")).expect("its descriptors").count();
            assert_eq!(files, descriptors);
            assert_eq!(std::fs::read_link(format!("/proc/{reaper}/cwd")).expect("a place"), std::path::Path::new("/"));
        }
        let line = std::fs::read_to_string(format!("/proc/{reaper}/cmdline")).expect("a line");
        assert!(line.starts_with("reaper of process ") && !line.contains("dflock"), "{line}");
    }
    running.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!has_life(runaway), "the lock is free and it runs");
    wait_for("the end of both", || reapers.iter().all(|reaper| !has_life(*reaper)).then_some(()));
    // With the guardian killed, too, the command dies by the hand of its parent.
    std::fs::remove_file(house.path("pid")).expect("it is there");
    let running = start(&house, "-l 60", "echo $$ > pid; exec sleep 60");
    let leader = pid_in(&house, "pid");
    let guardian = wait_for("the guardian", || guardian_of(running.pid));
    running.signal("STOP");
    signal(guardian, Signal::SIGKILL);
    running.signal("KILL");
    wait_for("the end of the command", || (!has_life(leader)).then_some(()));
}

/// Its dflock, which is its parent's parent's parent, and its own number.
fn begun(terminal: &mut Terminal) -> (i32, i32) {
    let (parent, leader) = super::pty::begun(terminal);
    let parent_of = |pid: i32| -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let parent = stat.rsplit_once(')').and_then(|(_, tail)| tail.split_whitespace().nth(1)?.parse().ok());
        parent.expect("a number")
    };
    (parent_of(parent_of(parent)), leader)
}

fn enter(house: &House, terminal: &mut Terminal, flags: &str, script: &str) {
    let line = job(house, flags, script);
    terminal.enter(&format!("sh -c 'sleep 60 <&- >&- 2>&- & exec {line}'"));
}

#[test]
fn at_a_terminal_ctrl_z_fg_bg_and_ctrl_c_work() {
    let counts = "n=0; trap 'n=$((n + 1)); echo int $n' INT; trap 'echo usr1' USR1; echo ready
        until [ -e go ]; do wait; done; echo \"ints=$n\"; exit 5";
    for (shell, flags) in [("sh", ""), ("bash", "--contain group")] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        enter(&house, &mut terminal, flags, counts);
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        for _ in 0..3 {
            terminal.wait_for_foreground(leader);
            terminal.type_until(CTRL_Z, PROMPT);
            for pid in [dflock, leader] {
                wait_for("a stop", || (state(pid) == 'T').then_some(()));
            }
            assert!(house.is_held("k"));
            terminal.enter("fg");
            terminal.wait_for_foreground(leader);
            wait_for("it to go on", || (state(leader) != 'T' && state(dflock) != 'T').then_some(()));
        }
        super::pty::wait_for_listener(&terminal, dflock, leader);
        terminal.type_in(CTRL_C);
        terminal.wait_for("int 1");
        send(dflock, Signal::SIGUSR1);
        terminal.wait_for("usr1");
        terminal.type_until(CTRL_Z, PROMPT);
        terminal.enter("bg");
        terminal.wait_for(PROMPT);
        wait_for("it to go on", || (state(leader) != 'T').then_some(()));
        terminal.wait_for_foreground(terminal.leader());
        terminal.enter("fg");
        wait_for("the shell to be out of the way", || (terminal.foreground() != Some(terminal.leader())).then_some(()));
        give_the_sign(&house);
        terminal.wait_for("ints=1");
        assert_eq!(code(&mut terminal), "5");
        assert!(!house.is_held("k"));
        terminal.wait_for_foreground(terminal.leader());
    }
}

#[test]
fn at_a_terminal_a_command_dies_of_ctrl_c_or_of_a_second_one() {
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    enter(&house, &mut terminal, "", "exec sleep 60");
    begun(&mut terminal);
    terminal.type_in(CTRL_C);
    assert_eq!(code(&mut terminal), "130");
    terminal.wait_for_foreground(terminal.leader());
    std::fs::remove_file(house.path("pace")).expect("it is there");
    enter(&house, &mut terminal, "--kill-after 0.3", "trap '' INT TERM; echo ready; while :; do wait; done");
    terminal.wait_for("ready");
    terminal.type_until(CTRL_C, "interrupted again");
    assert_eq!(code(&mut terminal), "137");
    assert!(!house.is_held("k"));
}

/// In the background, it asks for the terminal and stops; a lease that ends while all are stopped is lost.
#[test]
fn at_a_terminal_who_wants_it_stops_and_who_is_stopped_too_long_loses_the_lock() {
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    let line = job(&house, "-l 2", "read line; echo \"got <$line>\"; echo ready; until [ -e go ]; do wait; done");
    terminal.enter(&format!("sh -c 'sleep 60 <&- >&- 2>&- & exec {line}' &"));
    let (dflock, leader) = begun(&mut terminal);
    for pid in [leader, dflock] {
        wait_for("a stop", || (state(pid) == 'T').then_some(()));
    }
    terminal.enter("fg");
    terminal.wait_for_foreground(leader);
    terminal.enter("hello");
    terminal.wait_for("got <hello>");
    terminal.wait_for("ready");
    terminal.type_until(CTRL_Z, PROMPT);
    wait_for("the end of a stopped command", || (!has_life(leader.cast_unsigned())).then_some(()));
    house.dflock(&["exec", "-w", "forever", "k", "true"]).code(0);
    terminal.enter("fg");
    terminal.wait_for("the lock was lost");
    assert_eq!(code(&mut terminal), "79");
}
