//! At a terminal: what a command under a lock sees, and what is left of the terminal afterwards.

use nix::sys::signal::Signal;

use super::terminal::{CTRL_C, PROMPT, Terminal};
use super::trials_fleet::send;
use crate::house::clean::House;
use crate::house::wait_for;

/// A script that says who it is before anything else happens; returns how to start it under the lock `k`.
/// With `wait` it lets time pass without a fork: a shell that is in one cannot be stopped.
pub(crate) fn job(house: &House, flags: &str, script: &str) -> String {
    const BEGIN: &str = "exec 9<> pace\nwait() { read -r -t 0.005 -u 9; }\necho \"begun $PPID $$.\"\n";
    nix::unistd::mkfifo(&house.path("pace"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe that nobody writes to");
    std::fs::write(house.path("job"), format!("{BEGIN}{script}\n")).expect("the job is written");
    format!("dflock exec {flags} k bash job")
}

/// Counts Ctrl-C until there is a file `go`, and then exits with 3.
const COUNTS: &str = "trap 'n=$((n + 1)); echo int $n' INT; trap 'echo usr1' USR1
    echo ready; until [ -e go ]; do wait; done; echo \"ints=$n\"; exit 3";

/// Its dflock, and its own number, which is that of its group.
#[track_caller]
pub(crate) fn begun(terminal: &mut Terminal) -> (i32, i32) {
    terminal.wait_for("begun ");
    let text = terminal.wait_for(".");
    let (dflock, leader) = text.split_once(' ').expect("two numbers");
    (dflock.parse().expect("a number"), leader.parse().expect("a number"))
}

/// What `$?` is at the shell's next prompt.
#[track_caller]
pub(crate) fn code(terminal: &mut Terminal) -> String {
    terminal.wait_for(PROMPT);
    terminal.enter("echo code=$?");
    // Not the words that were typed.
    terminal.wait_for("\ncode=");
    terminal.wait_for("\r\n")
}

/// Until dflock hears what is typed: a moment after its command began.
#[track_caller]
pub(crate) fn wait_for_listener(terminal: &Terminal, dflock: i32, leader: i32) {
    let is_listener = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, tail)| tail.split_whitespace().nth(1)?.parse().ok());
        pid != leader && parent == Some(dflock)
    };
    wait_for("a listener", || {
        terminal.everybody().iter().any(|(pid, group)| *group == leader && is_listener(*pid)).then_some(())
    });
}

pub(crate) fn give_the_sign(house: &House) {
    std::fs::write(house.path("go"), "").expect("the sign is given");
}

#[test]
fn ctrl_c_reaches_the_command_once_and_its_code_counts() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "", COUNTS));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        wait_for_listener(&terminal, dflock, leader);
        terminal.type_in(CTRL_C);
        terminal.wait_for("int 1");
        // What dflock passes on comes in order: had it passed that one on, it would be there before this.
        send(dflock, Signal::SIGUSR1);
        terminal.wait_for("usr1");
        give_the_sign(&house);
        terminal.wait_for("ints=1");
        assert_eq!(code(&mut terminal), "3");
        assert!(!house.is_held("k"));
    }
}

#[test]
fn a_command_that_dies_of_ctrl_c_ends_dflock_the_same_way() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "", "exec sleep 60"));
        begun(&mut terminal);
        terminal.type_in(CTRL_C);
        assert_eq!(code(&mut terminal), "130");
        terminal.wait_for_foreground(terminal.leader());
        assert!(!house.is_held("k"));
    }
}

#[test]
fn a_second_ctrl_c_stops_a_command_that_ignores_it() {
    // One that obeys TERM dies of that, and one that does not after the grace.
    for (ignored, expected) in [("INT", "143"), ("INT TERM", "137")] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, "bash");
        let script = format!("trap '' {ignored}; echo ready; while :; do wait; done");
        terminal.enter(&job(&house, "--kill-after 0.3", &script));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        wait_for_listener(&terminal, dflock, leader);
        // Two that come within a moment are one.
        terminal.type_until(CTRL_C, "interrupted again");
        assert_eq!(code(&mut terminal), expected);
        assert!(!house.is_held("k"));
    }
}

#[test]
fn ctrl_c_while_waiting_leaves_the_queue_and_a_clean_line() {
    let house = House::new();
    let holder = house.start(&["exec", "k", "sleep", "60"]);
    house.wait_until_held("k");
    let mut terminal = Terminal::shell(&house, "bash");
    terminal.enter("dflock exec -w forever k true");
    terminal.wait_for("\r\x1b[Kdflock: waiting for k");
    terminal.wait_for(" so far");
    terminal.type_in(CTRL_C);
    terminal.wait_for("\r\x1b[K");
    assert_eq!(code(&mut terminal), "130");
    house.wait_for_waiters("k", 0);
    drop(holder);
}

#[test]
fn whoever_waits_for_a_second_is_told_once_it_is_a_terminal() {
    let house = House::new();
    let holder = house.start(&["exec", "k", "-c", "echo held > held; until [ -e go ]; do sleep 0.01; done"]);
    house.wait_for_file("held");
    let mut terminal = Terminal::shell(&house, "bash");
    // Not in a file, and not on a terminal that is not its stderr.
    terminal.enter("dflock exec -w 2.5 k true 2> err");
    assert_eq!(code(&mut terminal), "75");
    assert!(!house.read("err").contains("waiting for") && !terminal.shown().contains("waiting for"));
    terminal.enter("dflock exec -w forever k echo it is mine");
    terminal.wait_for("dflock: waiting for k on ");
    terminal.wait_for(", 1s so far");
    terminal.wait_for(", 2s so far");
    give_the_sign(&house);
    // Erased, and only then comes what the command says.
    let between = terminal.wait_for("it is mine\r\n");
    assert!(between.ends_with("\r\x1b[K"), "{between:?}");
    assert_eq!(code(&mut terminal), "0");
    assert_eq!(holder.finish().code, 0);
}

#[test]
fn a_command_reads_from_the_terminal() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "", "read line; echo \"got <$line>\"; cat; exit 4"));
        begun(&mut terminal);
        terminal.enter("some words");
        terminal.wait_for("got <some words>");
        terminal.enter("through cat");
        // As it is typed, and as cat says it.
        terminal.wait_for("through cat\r\nthrough cat\r\n");
        terminal.type_in("\x04");
        assert_eq!(code(&mut terminal), "4");
    }
}

/// A script without job control has its terminal back after each of these, or its next `read` would fail.
#[test]
fn the_terminal_is_the_shells_again_however_it_ended() {
    for (what, flags, job) in [
        ("a good end", "", "exit 0"),
        ("a death", "", "kill -KILL $$"),
        ("no such command", "", ""),
        ("too long a run", "--max-runtime 0.2", "exec sleep 60"),
        ("a lost lock", "-l 2", "kill -STOP $SERVER; trap '' TERM; while :; do sleep 0.01; done"),
    ] {
        let house = House::new();
        std::fs::write(house.path("job"), job).expect("the job is written");
        let command = if job.is_empty() { "no-such-command" } else { "sh job" };
        let server = house.server().pid();
        let script =
            format!("SERVER={server}; export SERVER\ndflock exec {flags} k {command}\nread line; echo \"got <$line>\"");
        std::fs::write(house.path("script"), script).expect("the script is written");
        let mut terminal = Terminal::running(&house, "sh", &["script"]);
        terminal.enter("hello");
        terminal.wait_for("got <hello>");
        assert!(terminal.wait().success(), "{what}: {}", terminal.shown());
        house.server().signal("CONT");
    }
}

#[test]
fn a_closed_window_reaches_the_command() {
    for shell in [None, Some("sh"), Some("bash")] {
        let house = House::new();
        let script = "trap 'echo hup > got; exit 0' HUP; echo ready; while :; do wait; done";
        let command = job(&house, "", script);
        let mut terminal = match shell {
            None => Terminal::running(&house, "dflock", &["exec", "k", "bash", "job"]),
            Some(shell) => Terminal::shell(&house, shell),
        };
        if shell.is_some() {
            terminal.enter(&command);
        }
        begun(&mut terminal);
        terminal.wait_for("ready");
        terminal.hang_up();
        assert_eq!(house.wait_for_file("got"), "hup\n", "{shell:?}");
        house.wait_until_free("k");
        wait_for("the end of everybody", || terminal.everybody().is_empty().then_some(()));
    }
}

/// Whoever gets the number of a listener that was killed has nothing to fear at the end of the command.
#[test]
fn the_number_of_a_killed_listener_is_forgotten() {
    let house = House::new();
    // In a namespace of its own, where the next number can be chosen.
    let script = r#"
        dflock exec k sh -c 'echo $PPID $$ > begun; until [ -e go ]; do sleep 0.01; done' &
        until [ -s begun ]; do sleep 0.01; done
        read -r dflock leader < begun
        find() { ps -o pid=,pgid= --ppid "$dflock" | while read -r pid group; do
            [ "$group" = "$leader" ] && [ "$pid" != "$leader" ] && echo "$pid"; done; }
        until listener=$(find) && [ -n "$listener" ]; do sleep 0.01; done
        kill -KILL "$listener"
        while [ -e "/proc/$listener" ]; do sleep 0.01; done
        until [ "$stranger" = "$listener" ]; do
            echo "$((listener - 1))" > /proc/sys/kernel/ns_last_pid || exit 9
            sleep 60 & stranger=$!
        done
        echo > go
        wait %1
        kill -0 "$stranger" && echo alive > out || echo killed > out
    "#;
    std::fs::write(house.path("script"), script).expect("the script is written");
    let arguments = ["-pf", "--mount-proc", "bash", "-m", "script"];
    let mut terminal = Terminal::running(&house, "unshare", &arguments);
    let status = terminal.wait();
    if house.read("out").is_empty() {
        skip(&format!("a PID namespace: {status}, {}", terminal.shown()));
        return;
    }
    assert_eq!(house.read("out"), "alive\n", "{}", terminal.shown());
}

#[test]
fn a_changed_window_reaches_the_command() {
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    // stty changes the rows and then the columns, and may be heard of once or twice.
    let script = "trap 'changed=yes' WINCH; echo ready
        until [ \"$changed $(stty size)\" = \"yes 41 97\" ]; do wait; done; echo it is 41 97; exit 6";
    terminal.enter(&job(&house, "", script));
    begun(&mut terminal);
    terminal.wait_for("ready");
    terminal.resize(41, 97);
    terminal.wait_for("41 97");
    assert_eq!(code(&mut terminal), "6");
}

/// Says that a test cannot be made here; an error where the machine is meant to have everything.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(what: &str) {
    assert!(std::env::var_os("DFLOCK_DEMAND_PEERS").is_none(), "not here: {what}");
    eprintln!("SKIPPED: not here: {what}");
}

#[test]
fn full_screen_programs_work_and_leave_the_terminal_as_it_was() {
    // What it is started with, what shows that it drew, and keys with what they must lead to.
    type Program = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
    let programs: [Program; 3] = [
        ("less text", "line 1\r\n", &[("G", "line 500"), ("g", "line 1\r\n")], "q"),
        ("vi -u NONE text", "line 1", &[("GoWRITTEN\x1b", "WRITTEN")], ":wq\r"),
        ("nano --ignorercfiles text", "line 1", &[("WRITTEN", "WRITTEN")], "\x0f\r\x18"),
    ];
    let mut tried = 0;
    for (program, drawn, keys, quit) in programs {
        let house = House::new();
        let name = program.split(' ').next().unwrap_or_default();
        if house.script("sh", &format!("command -v {name}")).code != 0 {
            eprintln!("SKIPPED: not here: {name}");
            continue;
        }
        tried += 1;
        let text: String = (1..=500).map(|number| format!("line {number}\n")).collect();
        std::fs::write(house.path("text"), text).expect("a text");
        let mut terminal = Terminal::shell(&house, "bash");
        terminal.resize(24, 80);
        let before = terminal.settings();
        terminal.enter(&format!("dflock exec k {program}"));
        terminal.wait_for("\r\n");
        terminal.wait_for(drawn);
        assert_ne!(terminal.settings(), before, "{name} reads single keys");
        for (key, shown) in keys {
            terminal.type_in(key);
            terminal.wait_for(shown);
        }
        terminal.type_in(quit);
        assert_eq!(code(&mut terminal), "0", "{name}");
        assert_eq!(terminal.settings(), before, "{name}");
        assert_eq!(house.read("text").contains("WRITTEN"), name != "less", "{name}");
    }
    if tried == 0 {
        skip("less, vi, nano");
    }
}
