//! `--contain pidns`: nobody who was started by a command outlives its dflock, not even if the guardian is killed, too.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::contain::{as_we_see_it, can_have_namespaces};
use super::guardian::{guardian_of, observe, signal};
use super::pty::{begun, code, give_the_sign, job};
use super::pty_jobs::state;
use super::terminal::{CTRL_C, CTRL_Z, PROMPT, Terminal};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::skipped;
use crate::house::{now, wait_for};

const NOBODY: u32 = 65534;

/// A script with a child that has a session and an environment of its own.
const SCRIPT: &str =
    "setsid env -i sh -c 'trap : TERM HUP; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done' & wait";

fn start(house: &House, flags: &[&str], script: &str) -> Running {
    house.start(&[&["exec", "--contain", "pidns"], flags, &["k", "-c", script]].concat())
}

/// As we see it: to the command it is another number.
fn pid_in(house: &House, file: &str) -> u32 {
    as_we_see_it(house, house.wait_for_file(file).trim().parse().expect("a number"))
}

fn dflock_and_guardian_killed(running: &Running) {
    let guardian = wait_for("the guardian", || guardian_of(running.pid));
    running.signal("STOP");
    signal(guardian, Signal::SIGKILL);
    running.signal("KILL");
}

#[test]
fn with_dflock_and_guardian_killed_nobody_is_left() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let running = start(&house, &["-l", "60"], SCRIPT);
    let job = pid_in(&house, "pid");
    dflock_and_guardian_killed(&running);
    let begin = now();
    wait_for("the end of the job", || (!has_life(job)).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// As an ordinary user, by a user namespace.
#[test]
fn an_ordinary_user_has_the_same_and_stays_who_it_is() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let mut command = house.command("dflock");
    if nix::unistd::geteuid().is_root() {
        for place in [house.home.path(), &house.runtime] {
            std::os::unix::fs::chown(place, Some(NOBODY), Some(NOBODY)).expect("nobody has a home");
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let script = format!("id -u > user; id -g > group; echo note > note; {SCRIPT}");
    let mut running = Running::start(command.args(["exec", "-l", "60", "--contain", "pidns", "k", "-c", &script]));
    let begun = wait_for("a job, or a refusal", || {
        if house.read("pid").ends_with('\n') { Some(true) } else { (!running.is_running()).then_some(false) }
    });
    if !begun {
        return skipped(&format!("ordinary users can have no namespaces here: {:?}", running.finish()));
    }
    let job = pid_in(&house, "pid");
    if nix::unistd::geteuid().is_root() {
        assert_eq!((house.read("user"), house.read("group")), ("65534\n".to_owned(), "65534\n".to_owned()));
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(house.path("note")).expect("a note"));
        assert_eq!(owner, NOBODY);
    }
    dflock_and_guardian_killed(&running);
    wait_for("the end of the job", || (!has_life(job)).then_some(()));
}

/// The way in is not the way that everybody takes: so all that a command may expect is looked at once more.
#[test]
fn a_command_finds_what_it_finds_elsewhere() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let exec = |script: &str| {
        let text = format!("exec dflock exec --contain pidns k -- sh -c '{script}' zero one");
        house.script("sh", &format!("exec 7> seven; cd run; umask 027; export A=b; trap \"\" USR1; {text}"))
    };
    let said = exec("echo $0 $1 $A $DFLOCK_KEY; pwd; umask; echo to seven >&7; kill -USR1 $$; exit 7").code(7);
    let run = std::fs::canonicalize(house.path("run")).expect("a place");
    assert_eq!(said.out, format!("zero one b k\n{}\n0027\n", run.display()));
    assert_eq!(house.read("seven"), "to seven\n");
    // It is not process 1, to whom signals do nothing.
    exec("kill -TERM $$").code(143);
    exec("kill -SEGV $$").code(139);
    // What it sees of processes is its own.
    let said = exec("test -d /proc/$$ && readlink /proc/self/exe > /dev/null && cat /proc/1/comm").code(0);
    assert_eq!(said.out, "dflock-init\n");
    for _ in 0..10 {
        house.dflock(&["exec", "--contain", "pidns", "k", "no-such-command"]).code(127);
        house.dflock(&["exec", "--contain", "pidns", "k", "/etc/passwd"]).code(126);
    }
    assert!(!house.is_held("k"));
}

#[test]
fn signals_and_the_end_by_force_reach_everybody() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let running = start(&house, &[], "trap 'echo told; exit 6' TERM; echo begun > begun; while :; do sleep 0.01; done");
    house.wait_for_file("begun");
    running.signal("TERM");
    assert_eq!(running.finish().code(6).out, "told\n");
    // An orphan that obeys nothing.
    let script = format!("({SCRIPT}) & while [ ! -e pid ]; do sleep 0.01; done; sleep 0.2; kill -KILL $$");
    let running = start(&house, &["--kill-after", "0.3"], &script);
    let job = pid_in(&house, "pid");
    running.finish().code(137);
    assert!(!has_life(job), "the lock is free and it runs");
}

/// Nobody holds on to what the command said, and its daemon is nobody's any more: process 1 stays for it alone.
#[test]
fn a_daemon_outlives_dflock_and_process_1_leaves_after_it() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 600' <&- >&- 2>&- & while [ ! -e seen ]; do sleep 0.01; done";
    let running = start(&house, &["--min-hold", "1h"], script);
    let daemon = pid_in(&house, "pid");
    let text = std::fs::read_to_string(format!("/proc/{}/task/{0}/children", running.pid)).expect("children");
    let children = text.split_whitespace().map(|pid| pid.parse::<u32>().expect("a number"));
    let name_of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let process_1 = children.into_iter().find(|pid| name_of(*pid) == "dflock-init\n").expect("a process 1");
    std::fs::write(house.path("seen"), "").expect("the sign is given");
    running.finish().code(0);
    observe(Duration::from_millis(300), || has_life(daemon), "the daemon lives");
    signal(daemon, Signal::SIGKILL);
    wait_for("the end of process 1", || (!has_life(process_1)).then_some(()));
    house.end_holder_of("k");
}

#[test]
fn a_loss_that_is_only_told_ends_nobody_in_the_namespace() {
    let _quiet = crate::quiet();
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let running = start(&house, &["-l", "2", "--on-lost", "warn"], SCRIPT);
    let job = pid_in(&house, "pid");
    running.signal("STOP");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    running.signal("KILL");
    observe(Duration::from_secs(1), || has_life(job), "the command runs on");
    std::fs::write(house.path("go"), "").expect("the sign is given");
    running.finish().code(137);
    wait_for("the end of the job", || (!has_life(job)).then_some(()));
    // Killed before the loss, dflock takes the command along.
    std::fs::remove_file(house.path("go")).expect("it is there");
    std::fs::remove_file(house.path("pid")).expect("it is there");
    let running = start(&house, &["-l", "60", "--on-lost", "warn"], SCRIPT);
    let job = pid_in(&house, "pid");
    running.signal("KILL");
    house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!has_life(job));
}

/// The terminal's signals and those of job control come from outside of the namespace.
#[test]
fn at_a_terminal_ctrl_z_fg_and_ctrl_c_work() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    let script = "n=0; trap 'n=$((n + 1)); echo int $n' INT; until [ -e go ]; do wait; done; echo \"ints=$n\"; exit 5";
    terminal.enter(&job(&house, "--contain pidns", script));
    let (_, inner) = begun(&mut terminal);
    let leader = as_we_see_it(&house, inner.cast_unsigned()).cast_signed();
    for _ in 0..2 {
        terminal.wait_for_foreground(leader);
        terminal.type_in(CTRL_Z);
        terminal.wait_for(PROMPT);
        wait_for("a stopped command", || (state(leader) == 'T').then_some(()));
        assert!(house.is_held("k"));
        terminal.enter("fg");
        terminal.wait_for_foreground(leader);
    }
    wait_for("it to go on", || (state(leader) != 'T').then_some(()));
    terminal.type_in(CTRL_C);
    terminal.wait_for("int 1");
    give_the_sign(&house);
    terminal.wait_for("ints=1");
    assert_eq!(code(&mut terminal), "5");
    assert!(!house.is_held("k"));
}

#[test]
fn one_inside_of_another_ends_with_it() {
    if !can_have_namespaces() {
        return;
    }
    let house = House::new();
    let inner = format!("exec dflock exec -l 8 --contain pidns inner -c \"{}\"", SCRIPT.replace('$', "\\$"));
    let running = start(&house, &["-l", "8"], &inner);
    let job = pid_in(&house, "pid");
    dflock_and_guardian_killed(&running);
    wait_for("the end of the job", || (!has_life(job)).then_some(()));
    house.dflock(&["exec", "-w", "60", "--also", "inner", "k", "true"]).code(0);
}

#[test]
fn one_that_cannot_be_made_is_refused_before_the_lock_is_asked_for() {
    let house = House::new();
    // Somebody whom the system does not know may do nothing.
    let mut command = house.command("unshare");
    let said = Running::start(command.args(["-U", "dflock", "exec", "--contain", "pidns", "k", "true"])).finish();
    if said.err.contains("unshare") {
        return skipped(&format!("no user namespace can be made here: {}", said.err));
    }
    assert_eq!(said.code, 125, "{said:?}");
    assert!(
        said.err.contains("--contain pidns: no PID namespace") && said.err.contains("--contain cgroup"),
        "{said:?}"
    );
}
