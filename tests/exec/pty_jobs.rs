//! Job control: Ctrl-Z, `fg`, `bg` and `&` in shells that have it, and Ctrl-Z where nobody could say `fg`.

use nix::sys::signal::Signal;

use super::pty::{begun, code, give_the_sign, job};
use super::terminal::{CTRL_C, CTRL_Z, PROMPT, Terminal};
use super::trials_fleet::{has_life, send};
use crate::house::clean::House;
use crate::house::tools::is_there;
use crate::house::wait_for;

/// Ends with 5 when there is a file `go`.
const WAITS: &str = "echo ready; until [ -e go ]; do wait; done; exit 5";

/// Stopped, running, asleep, as the kernel says it; `?` when it is gone.
pub(crate) fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, tail)| tail.trim_start().chars().next()).unwrap_or('?')
}

#[track_caller]
fn wait_until_stopped(pid: i32) {
    wait_for(&format!("{pid} to be stopped"), || (state(pid) == 'T').then_some(()));
}

#[track_caller]
fn wait_until_it_goes_on(pid: i32) {
    wait_for(&format!("{pid} to go on"), || (state(pid) != 'T').then_some(()));
}

/// The shell is at its prompt and obeys.
#[track_caller]
fn assert_obeys(terminal: &mut Terminal) {
    terminal.wait_for_foreground(terminal.leader());
    terminal.enter("echo $((6 * 7))");
    terminal.wait_for("42\r\n");
    terminal.wait_for(PROMPT);
}

#[test]
fn ctrl_z_stops_both_and_fg_goes_on() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "", WAITS));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        for _ in 0..3 {
            assert_eq!(terminal.foreground(), Some(leader));
            // One that is typed while dflock is still about to let the command go on may be undone by that.
            terminal.type_until(CTRL_Z, PROMPT);
            wait_until_stopped(dflock);
            wait_until_stopped(leader);
            assert!(house.is_held("k"));
            assert_obeys(&mut terminal);
            terminal.enter("fg");
            terminal.wait_for_foreground(leader);
            wait_until_it_goes_on(leader);
        }
        give_the_sign(&house);
        assert_eq!(code(&mut terminal), "5");
    }
}

#[test]
fn fg_after_the_lease_ran_out_finds_the_command_dead() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "-l 2", WAITS));
        let (_, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        terminal.type_in(CTRL_Z);
        terminal.wait_for(PROMPT);
        // Its guardian does that, and then anybody may have the lock.
        wait_for("the end of a stopped command", || (!has_life(leader.cast_unsigned())).then_some(()));
        house.dflock(&["exec", "-w", "forever", "k", "true"]).code(0);
        assert_obeys(&mut terminal);
        terminal.enter("fg");
        terminal.wait_for("the lock was lost");
        assert_eq!(code(&mut terminal), "79");
        terminal.wait_for_foreground(terminal.leader());
    }
}

#[test]
fn in_the_background_it_runs_and_leaves_the_terminal_alone() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&format!("{} &", job(&house, "", WAITS)));
        begun(&mut terminal);
        terminal.wait_for("ready");
        assert_obeys(&mut terminal);
        // Ctrl-C is not meant for it.
        terminal.type_in(CTRL_C);
        terminal.wait_for(PROMPT);
        assert_obeys(&mut terminal);
        assert!(house.is_held("k"));
        terminal.enter("wait %1");
        give_the_sign(&house);
        assert_eq!(code(&mut terminal), "5");
        assert!(!house.is_held("k"));
        assert_obeys(&mut terminal);
    }
}

#[test]
fn bg_after_ctrl_z_does_not_take_the_terminal_from_the_shell() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&job(&house, "", WAITS));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        terminal.type_in(CTRL_Z);
        terminal.wait_for(PROMPT);
        wait_until_stopped(dflock);
        terminal.enter("bg");
        terminal.wait_for(PROMPT);
        wait_until_it_goes_on(leader);
        assert_obeys(&mut terminal);
        give_the_sign(&house);
        house.wait_until_free("k");
        assert_obeys(&mut terminal);
    }
}

#[test]
fn a_job_brought_to_the_front_has_the_terminal() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&format!("{} &", job(&house, "", WAITS)));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        terminal.enter("fg");
        terminal.wait_for("dflock exec k bash job");
        wait_for("the shell to be out of the way", || (terminal.foreground() != Some(terminal.leader())).then_some(()));
        terminal.type_in(CTRL_Z);
        terminal.wait_for(PROMPT);
        wait_until_stopped(dflock);
        wait_until_stopped(leader);
        terminal.enter("fg");
        wait_until_it_goes_on(leader);
        wait_until_it_goes_on(dflock);
        terminal.type_in(CTRL_C);
        assert_eq!(code(&mut terminal), "130");
    }
}

#[test]
fn a_background_job_that_wants_the_terminal_stops_until_fg() {
    for shell in ["sh", "bash"] {
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.enter(&format!("{} &", job(&house, "", "read line; echo \"got <$line>\"; exit 5")));
        let (dflock, leader) = begun(&mut terminal);
        wait_until_stopped(leader);
        wait_until_stopped(dflock);
        assert_obeys(&mut terminal);
        terminal.enter("fg");
        terminal.wait_for_foreground(leader);
        terminal.enter("hello");
        terminal.wait_for("got <hello>");
        assert_eq!(code(&mut terminal), "5");
    }
}

/// The shell waits for the script, not for dflock: all of them must stop.
#[test]
fn ctrl_z_stops_the_script_or_pipeline_around_it_too() {
    for around in ["sh script", "dflock exec k bash job | cat", "cat /dev/null | dflock exec k bash job"] {
        let house = House::new();
        let command = job(&house, "", WAITS);
        std::fs::write(house.path("script"), format!("{command}\nexit $?\n")).expect("the script is written");
        let mut terminal = Terminal::shell(&house, "bash");
        terminal.enter(&format!("set -o pipefail; {around}"));
        let (dflock, leader) = begun(&mut terminal);
        terminal.wait_for("ready");
        terminal.type_in(CTRL_Z);
        terminal.wait_for(PROMPT);
        wait_until_stopped(dflock);
        assert_obeys(&mut terminal);
        terminal.enter("fg");
        wait_until_it_goes_on(leader);
        give_the_sign(&house);
        assert_eq!(code(&mut terminal), "5", "{around}");
    }
}

/// Whoever else is of the pipeline has the terminal too: it is not taken from a pager.
#[test]
fn a_pager_beside_it_keeps_the_terminal() {
    for shell in ["bash", "zsh", "dash"] {
        if !is_there(shell) || !is_there("less") {
            continue;
        }
        let house = House::new();
        let mut terminal = Terminal::shell(&house, shell);
        terminal.resize(24, 80);
        // Both want to begin; whoever is slower begins beside the other.
        for line in [
            "dflock exec k seq 1 5000 | less",
            "dflock exec k sh -c 'sleep 0.3; seq 1 5000' | less",
            "dflock exec a seq 1 5000 | dflock exec b cat | less",
            "seq 1 5000 | dflock exec k less",
        ] {
            terminal.enter(line);
            terminal.wait_for("\r\n23");
            terminal.type_in("G");
            terminal.wait_for("5000");
            terminal.type_in("q");
            terminal.wait_for(PROMPT);
            assert_obeys(&mut terminal);
            ["k", "a", "b"].iter().for_each(|key| house.wait_until_free(key));
        }
    }
}

#[test]
fn ctrl_c_ends_a_pipeline_and_twice_kills_who_will_not() {
    let house = House::new();
    let stubborn = "trap '' INT TERM; echo ready; while :; do wait; done";
    let command = job(&house, "--kill-after 0.3", stubborn);
    let mut terminal = Terminal::shell(&house, "bash");
    terminal.enter(&format!("set -o pipefail; {command} | (trap '' INT; cat)"));
    terminal.wait_for("ready");
    terminal.type_until(CTRL_C, "interrupted again");
    assert_eq!(code(&mut terminal), "137");
    assert!(!house.is_held("k"));
}

/// As under `ssh -t host dflock …` or in a container: stopping would be for ever.
#[test]
fn ctrl_z_where_nobody_could_say_fg_stops_nothing() {
    let house = House::new();
    job(&house, "", "trap 'echo usr1' USR1; echo ready; until [ -e go ]; do wait; done; exit 5");
    let mut terminal = Terminal::running(&house, "dflock", &["exec", "k", "bash", "job"]);
    let (dflock, leader) = begun(&mut terminal);
    terminal.wait_for("ready");
    terminal.type_in(CTRL_Z);
    terminal.wait_for("^Z");
    // Both go on: this goes through dflock to the command.
    send(dflock, Signal::SIGUSR1);
    terminal.wait_for("usr1");
    terminal.wait_for_foreground(leader);
    give_the_sign(&house);
    assert_eq!(terminal.wait().code(), Some(5));
}

/// A shell inside, with jobs of its own.
#[test]
fn a_shell_under_a_lock_has_job_control() {
    let house = House::new();
    let mut terminal = Terminal::shell(&house, "bash");
    terminal.enter("PS1=inner: dflock exec k bash --norc --noprofile --noediting -i; echo and out");
    terminal.wait_for("\r\ninner:");
    terminal.enter("sleep 61");
    terminal.wait_for("sleep 61\r\n");
    wait_for("a job of the inner shell", || {
        let front = terminal.foreground()?;
        let line = std::fs::read(format!("/proc/{front}/cmdline")).ok()?;
        line.starts_with(b"sleep").then_some(())
    });
    terminal.type_in(CTRL_Z);
    terminal.wait_for("Stopped");
    terminal.wait_for("inner:");
    terminal.enter("kill %1; fg; exit 7");
    terminal.wait_for("and out\r\n");
    terminal.wait_for(PROMPT);
    assert_obeys(&mut terminal);
    assert!(!house.is_held("k"));
}
