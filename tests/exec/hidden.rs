//! Who knows a secret shows its memory to root alone, and dumps no core: every verb, holders, guardians, process 1.

use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use nix::sys::signal::Signal;

use super::contain::can_have_namespaces;
use super::guardian::{guardian_of, signal};
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::tools::skipped;
use crate::house::{lasting_listener, wait_for};

const NOBODY: u32 = 65534;
const SECRET: &str = "a-secret-of-ours";

/// An ordinary user who has a file with a token; `None` where that user may not run what is tested here.
fn house_of_another(servers: &str) -> Option<House> {
    let house = House::at(servers);
    std::fs::write(house.path("token"), SECRET).expect("a token");
    std::fs::set_permissions(house.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("600");
    if nix::unistd::geteuid().is_root() {
        for place in [house.home.path(), &house.runtime, &house.path("token")] {
            chown(place, Some(NOBODY), Some(NOBODY)).expect("nobody has a home");
        }
    }
    let mut version = as_another(&house, &["--version"], "");
    if version.stdout(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Some(house);
    }
    skipped("another user may not run what is tested here");
    None
}

fn as_another(house: &House, args: &[&str], file: &str) -> Command {
    let mut command = house.command("dflock");
    command.args(args);
    if !file.is_empty() {
        command.env("DFLOCK_AUTH_TOKEN_FILE", house.path(file));
    }
    if nix::unistd::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
    }
    command
}

/// The memory of a process belongs to root then, whoever its user is; as does that of one that has ended.
fn is_hidden(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}/mem")).is_ok_and(|memory| memory.uid() == 0) && has_life(pid)
}

fn wait_until_hidden(pid: u32, who: &str) {
    wait_for(&format!("the memory of {who} to be hidden"), || is_hidden(pid).then_some(()));
}

/// They wait for the answer of a server that never gives one.
#[test]
fn every_verb_that_knows_a_secret_hides_it() {
    let silent = lasting_listener();
    let Some(house) = house_of_another(&silent.local_addr().expect("an address").to_string()) else { return };
    let verbs: [&[&str]; 7] = [
        &["exec", "k", "true"],
        &["acquire", "--owner", "none", "--max-hold", "60s", "k"],
        &["release", "k", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        &["renew", "k", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        &["enqueue", "--owner", "none", "--max-hold", "60s", "k"],
        &["status", "k"],
        &["stats"],
    ];
    for verb in verbs {
        let running = Running::start(&mut as_another(&house, verb, "token"));
        wait_until_hidden(running.pid, verb[0]);
        running.signal("KILL");
    }
    let running = Running::start(&mut as_another(&house, &["stats"], ""));
    let reach = || silent.accept().ok().map(|_| ());
    wait_for("one that asks", reach);
    assert!(!is_hidden(running.pid), "without a secret its memory is its user's");
    running.signal("KILL");
}

fn children(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn serving_another() -> Option<(House, House)> {
    let home = House::at("");
    std::fs::write(home.path("token"), SECRET).expect("a token");
    std::fs::set_permissions(home.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("600");
    let serving = House::serving(&["--auth-token-file", &home.path("token").display().to_string()]);
    let house = house_of_another(&serving.servers)?;
    Some((serving, house))
}

/// The one that is forked, and the one that is started in its place. The command is its user's.
#[test]
fn guardians_and_holders_hide_it_and_a_command_does_not() {
    let Some((_serving, house)) = serving_another() else { return };
    let exec = ["exec", "k", "-c", "ulimit -c > limit; echo $$ > pid; exec sleep 60"];
    let running = Running::start(&mut as_another(&house, &exec, "token"));
    let command = house.wait_for_file("pid").trim().parse().expect("a number");
    assert!(!is_hidden(command), "the memory of the command");
    assert_eq!(house.read("limit"), house.script("sh", "ulimit -c").out, "a command may dump a core as ever");
    let first = wait_for("the guardian", || guardian_of(running.pid));
    wait_until_hidden(first, "the guardian");
    signal(first, Signal::SIGKILL);
    let second = wait_for("another guardian", || guardian_of(running.pid).filter(|pid| *pid != first));
    wait_until_hidden(second, "the other guardian");
    running.signal("TERM");
    running.finish();

    let mut acquire = as_another(&house, &["acquire", "--owner", "none", "--max-hold", "60s", "held"], "token");
    let token = Running::start(&mut acquire).finish().code(0).out.trim().to_owned();
    let listed = Running::start(&mut as_another(&house, &["holders", "--json"], "token")).finish().json();
    let holder = listed["holders"][0]["pid"].as_u64().expect("a holder") as u32;
    assert!(is_hidden(holder), "the memory of the holder");
    Running::start(&mut as_another(&house, &["release", "held", &token], "token")).finish().code(0);
}

#[test]
fn with_a_namespace_it_is_hidden_as_well() {
    if !can_have_namespaces() {
        return;
    }
    let Some((_serving, house)) = serving_another() else { return };
    let exec = ["exec", "--contain", "pidns", "k", "-c", "echo begun > begun; exec sleep 60"];
    let mut running = Running::start(&mut as_another(&house, &exec, "token"));
    let begun = wait_for("a command, or a refusal", || {
        if house.read("begun").ends_with('\n') { Some(true) } else { (!running.is_running()).then_some(false) }
    });
    if !begun {
        let said = running.finish();
        // Without a secret it is the same, or it is our fault.
        let open = ["exec", "--contain", "pidns", "k", "true"];
        Running::start(&mut as_another(&house, &open, "")).finish().code(said.code);
        return skipped(&format!("ordinary users can have no namespaces here: {said:?}"));
    }
    assert!(is_hidden(running.pid), "the memory of dflock");
    let one = children(running.pid).into_iter().find(|pid| name(*pid) == "dflock-init").expect("process 1");
    wait_until_hidden(one, "process 1");
    wait_until_hidden(wait_for("the guardian", || guardian_of(running.pid)), "the guardian");
    let sleeps = || children(running.pid).into_iter().find(|pid| name(*pid) == "sleep");
    let command = wait_for("the command to be `sleep`", sleeps);
    assert!(!is_hidden(command), "the memory of the command");
    running.signal("TERM");
    running.finish();
}
