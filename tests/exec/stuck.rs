//! Nobody who does not read what dflock says may hold it up: a pipe that is full, a terminal stopped by Ctrl-S.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{pipe2, write};

use super::pty::{begun, code, job};
use super::terminal::{CTRL_Q, CTRL_S, Terminal};
use super::trials_fleet::{has_life, send};
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{now, observe, wait_for};

/// Ignores TERM, so that only a KILL in time can end it.
const STUBBORN: &str = "trap '' TERM; echo $$ > begun; while :; do sleep 0.01; done";

/// Both ends of a pipe that has no room left; nobody reads it.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    fcntl(&writing, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("it does not wait");
    for size in [4096, 1] {
        while write(&writing, &vec![b'x'; size]) != Err(Errno::EAGAIN) {}
    }
    fcntl(&writing, FcntlArg::F_SETFL(OFlag::empty())).expect("it waits");
    (reading, writing)
}

/// Starts dflock with nobody who reads its stderr; returns the end that has to be kept.
fn start_unheard(house: &House, server: &str, arguments: &[&str]) -> (Running, OwnedFd) {
    let (reading, writing) = full_pipe();
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", server).args(arguments).stderr(writing);
    (Running::start(&mut command), reading)
}

#[track_caller]
fn wait_for_death(pid: u32, within: Duration) {
    let begin = now();
    wait_for("the end of a command whose lock is lost", || (!has_life(pid)).then_some(()));
    assert!(begin.elapsed() < within, "it took {:?}", begin.elapsed());
}

/// A loss that is proved leaves the command a second, whoever reads of it.
#[test]
fn a_full_pipe_does_not_delay_the_end_of_a_command_whose_lock_is_lost() {
    let original = Original::start(Duration::from_secs(23));
    let house = House::at(&original.address);
    let proxy = Proxy::to(&original.address);
    let (running, _unread) = start_unheard(&house, &proxy.address, &["exec", "-l", "60", "k", "-c", STUBBORN]);
    let leader = house.wait_for_file("begun").trim().parse().expect("a number");
    proxy.refuse(true);
    proxy.cut();
    // The lease alone would leave it nearly a minute.
    wait_for_death(leader, Duration::from_secs(8));
    running.finish().code(79);
}

/// The same for a lock that somebody released with its token, where the server keeps locks over broken connections.
#[test]
fn a_stopped_terminal_does_not_delay_the_end_of_a_command_whose_lock_is_lost() {
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    terminal.enter(&job(&house, "-l 12", "echo $DFLOCK_TOKEN > token; trap '' TERM; while :; do wait; done"));
    let (dflock, leader) = begun(&mut terminal);
    let token = house.wait_for_file("token");
    terminal.type_in(CTRL_S);
    assert_eq!(house.server().connect().ask("r", "k", token.trim()), "ok");
    // It is noticed at the next renewal, after four seconds at most.
    wait_for_death(leader.cast_unsigned(), Duration::from_secs(9));
    wait_for("the end of dflock", || (!has_life(dflock.cast_unsigned())).then_some(()));
    terminal.type_in(CTRL_Q);
    assert_eq!(code(&mut terminal), "79");
}

/// Whatever has to be said at the end is worth a moment, not more.
#[test]
fn nobody_who_reads_does_not_hold_up_the_end() {
    // The lock cannot be given back: a failure to tell.
    let house = House::new();
    let script = "echo ready > begun; until [ -e go ]; do sleep 0.01; done; exit 4";
    let (running, _unread) = start_unheard(&house, &house.servers, &["exec", "k", "-c", script]);
    house.wait_for_file("begun");
    house.server().signal("STOP");
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let begin = now();
    running.finish().code(4);
    // Two seconds are for the server.
    assert!(begin.elapsed() < Duration::from_secs(8), "it took {:?}", begin.elapsed());
    house.server().signal("CONT");
    // A command that is not there, and a lock that is busy; as text and as JSON on a stdout like that.
    house.wait_until_free("k");
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    for (arguments, code) in [(&["exec", "other", "no-such-command"][..], 127), (&["exec", "-n", "k", "true"], 75)] {
        let (running, _unread) = start_unheard(&house, &house.servers, arguments);
        running.finish().code(code);
        let (reading, writing) = full_pipe();
        let mut command = house.command("dflock");
        let running = Running::start(command.args(arguments).arg("--json").stdout(writing));
        running.finish();
        drop(reading);
    }
    drop(holder);
}

/// It waits for its lock, tells so, and hears TERM; and one whose turn comes begins.
#[test]
fn a_stopped_terminal_holds_up_neither_a_signal_nor_the_beginning() {
    for is_told_to_end in [true, false] {
        let house = House::new();
        let holder = house.start(&["exec", "k", "-c", "until [ -e go ]; do sleep 0.01; done"]);
        house.wait_until_held("k");
        let arguments = ["exec", "-w", "forever", "k", "touch", "begun"];
        let mut terminal = Terminal::running(&house, "dflock", &arguments);
        house.wait_for_waiters("k", 1);
        terminal.wait_for(" so far");
        terminal.type_in(CTRL_S);
        // In this window it writes to the stopped terminal.
        observe(Duration::from_millis(2500), || assert!(!house.path("begun").exists()));
        if is_told_to_end {
            send(terminal.leader(), Signal::SIGTERM);
            assert_eq!(terminal.wait().signal(), Some(Signal::SIGTERM as i32));
        }
        std::fs::write(house.path("go"), "").expect("the sign is given");
        holder.finish().code(0);
        if !is_told_to_end {
            assert_eq!(terminal.wait().code(), Some(0));
            assert!(house.path("begun").exists());
        }
    }
}

/// Nothing is lost where somebody reads, and nothing goes to a file that has no room.
#[test]
fn whoever_reads_reads_it_all() {
    let house = House::new();
    let said = house.dflock(&["exec", "--max-runtime", "0.1", "k", "sleep", "60"]).code(124);
    assert_eq!(said.err, "dflock: k: the command ran longer than --max-runtime\n");
    let said = house.dflock(&["exec", "k", "no-such-command"]).code(127);
    assert!(said.err.ends_with("is it in PATH?\n"), "{said:?}");
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let mut command = house.command("dflock");
    command.args(["exec", "--max-runtime", "0.1", "k", "sleep", "60"]).stderr(full);
    Running::start(&mut command).finish().code(124);
    // A file that may not grow, which is a signal to whoever writes on.
    let script = "exec 2> file; ulimit -f 0; dflock exec --max-runtime 0.1 k sleep 60";
    house.script("bash", script).code(124);
}

/// A debugger that holds a process keeps its end from dflock, which must not wait for that, nor renew for ever.
#[test]
fn a_command_in_the_hands_of_a_debugger_is_not_waited_for() {
    if !crate::house::tools::is_there("python3") {
        return;
    }
    let house = House::new();
    let job = "echo $$ > pid; while :; do sleep 0.05; done";
    let running = house.start(&["exec", "--max-runtime", "2", "--kill-after", "0.2", "k", "-c", job]);
    let pid = house.wait_for_file("pid");
    // PTRACE_SEIZE, so that it runs on; and nothing after it.
    let hold = "import ctypes, sys, time\nheld = ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0)\n\
                open('held', 'w').write(f'{held}\\n')\ntime.sleep(60)";
    let debugger = Running::start(house.command("python3").args(["-c", hold, pid.trim()]));
    if house.wait_for_file("held").trim() != "0" {
        return crate::house::tools::skipped("nobody can be traced here");
    }
    running.finish().code(124);
    house.wait_until_free("k");
    drop(debugger);
}
