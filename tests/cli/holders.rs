//! The holder: what kind of process it is, whom it lives for, and what ends it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::Value;

use crate::house::clean::{House, TITLE, is_holder};
use crate::house::{signal, wait_for};

fn pid_of(taken: &Value) -> u32 {
    u32::try_from(taken["holder_pid"].as_u64().expect("a pid")).expect("a pid")
}

/// A process that lives until it is killed, and whose death is noticed.
struct Cat(std::process::Child);

impl Cat {
    fn start() -> Cat {
        let mut command = Command::new("cat");
        Cat(command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().expect("cat runs"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_holder_keeps_nothing_of_whoever_started_it() {
    let house = House::new();
    let me = std::process::id().to_string();
    let said = house
        .script("bash", &format!("exec 7</etc/passwd 8>open-file 9<.; dflock acquire job --json --owner {me} | cat"));
    let pid = pid_of(&said.json());
    let at = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).expect("the holder lives");
    assert_eq!(at("cwd").as_os_str(), "/");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "it leads a session of its own");
    assert_eq!(fields[4], "0", "it has no terminal");
    // A moment after its report it lets go of the pipes.
    wait_for("stdin and stdout to be given up", || {
        (at("fd/0").ends_with("null") && at("fd/1").ends_with("null")).then_some(())
    });
    for number in 0..3 {
        assert_eq!(at(&format!("fd/{number}")).as_os_str(), "/dev/null");
    }
    let null = fs::metadata("/dev/null").unwrap().rdev();
    let mut others = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap();
        let link = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        let is_its_own = ["socket:", "anon_inode:"].iter().any(|kind| link.starts_with(kind))
            || link.starts_with(&*house.runtime.to_string_lossy())
            || link == format!("/proc/{pid}/schedstat");
        let is_null = fs::metadata(entry.path()).is_ok_and(|about| about.rdev() == null);
        assert!(is_its_own || is_null, "{number} -> {link}");
        others += 1;
    }
    assert!(others < 20, "{others} descriptors");
}

#[test]
fn ps_tells_the_key_and_the_server_and_nothing_tells_the_token() {
    let house = House::new();
    let taken = house.dflock(&["acquire", "nightly:backup/*", "--json"]).json();
    let pid = pid_of(&taken);
    let title = format!("{TITLE}nightly:backup/* on {}", house.servers);
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line.trim_end_matches('\0'), title);
    if let Ok(ps) = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output() {
        assert_eq!(String::from_utf8_lossy(&ps.stdout).trim_end(), title);
    } else {
        eprintln!("SKIPPED: there is no ps here");
    }
    let token = taken["token"].as_str().unwrap().as_bytes();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ", "comm"] {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            assert!(!bytes.windows(token.len()).any(|part| part == token), "{:?}/{file}", process.path());
        }
    }
}

#[test]
fn a_holder_ends_with_its_time() {
    let house = House::new();
    house.dflock(&["acquire", "short", "--max-hold", "1"]).ok();
    house.dflock(&["acquire", "shorter", "--owner", "none", "--max-hold", "0.2"]).ok();
    house.dflock(&["acquire", "long", "--owner", "none", "--max-hold", "1h"]).ok();
    let left = house.holders().into_iter().find(|holder| holder["key"] == "long").unwrap();
    assert!(left["owner_pid"].is_null() && left["max_hold_left_s"].as_f64().unwrap() > 3000.0, "{left}");
    house.wait_until_free("shorter");
    house.wait_until_free("short");
    wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
    assert!(house.is_held("long"));
}

#[test]
fn a_holder_ends_with_its_owner() {
    let house = House::new();
    let cat = Cat::start();
    house.dflock(&["acquire", "job", "--owner", &cat.pid()]).ok();
    let holder = house.holders().remove(0);
    assert_eq!((&holder["owner_pid"], &holder["owner_name"]), (&cat.0.id().into(), &"cat".into()));
    assert!(house.is_held("job"));
    drop(cat);
    house.wait_until_nobody_holds();
    assert!(!house.is_held("job"));
}

#[test]
fn an_owner_that_is_dead_but_not_reaped_has_ended() {
    let house = House::new();
    let cat = Cat::start();
    house.dflock(&["acquire", "job", "--owner", &cat.pid()]).ok();
    // Nobody waits for it: it stays in the list of processes.
    signal(cat.0.id(), "KILL");
    house.wait_until_nobody_holds();
    assert!(!house.is_held("job"));
    house.dflock(&["acquire", "job", "--owner", &cat.pid()]).code(125);
    assert!(!house.is_held("job"));
}

#[test]
fn an_owner_that_ends_while_it_is_waited_takes_the_wait_along() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    let cat = Cat::start();
    let waits = house.start(&["acquire", "job", "-w", "60", "--owner", &cat.pid()]);
    house.wait_for_waiters("job", 1);
    drop(cat);
    assert_ne!(waits.finish().code, 0);
    house.wait_for_waiters("job", 0);
    wait_for("one holder", || (house.holder_pids().len() == 1).then_some(()));
}

#[test]
fn a_terminated_holder_gives_its_lock_back() {
    let house = House::new();
    let pid = pid_of(&house.dflock(&["acquire", "job", "--json"]).json());
    signal(pid, "TERM");
    house.wait_until_free("job");
    house.wait_until_nobody_holds();
    assert_eq!(house.holders().len(), 0);
    house.dflock(&["release", "job"]).code(79);
}

#[test]
fn nothing_trips_over_a_killed_holder() {
    let house = House::new();
    let pid = pid_of(&house.dflock(&["acquire", "job", "-l", "2", "--json"]).json());
    signal(pid, "KILL");
    wait_for("its end", || (!is_holder(pid)).then_some(()));
    let dir = house.runtime.join("dflock");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "its two files are left");
    // A process that ends lets go of its files a moment after its name is gone.
    wait_for("them to be cleared away", || {
        (house.holders().is_empty() && fs::read_dir(&dir).unwrap().count() == 0).then_some(())
    });
    house.dflock(&["release", "job"]).code(79);
    house.dflock(&["renew", "job"]).code(79);
    house.dflock(&["wait", "job"]).code(79);
    // The lease is the latest end, and a new holder is none the worse for the old one's files.
    assert_eq!(house.dflock(&["acquire", "job", "-w", "20"]).masked(), "TOKEN\n");
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn leftovers_of_all_kinds_are_cleared_or_ignored() {
    let house = House::new();
    let dir = house.runtime.join("dflock");
    house.dflock(&["acquire", "job"]).ok();
    let names: Vec<String> =
        fs::read_dir(&dir).unwrap().flatten().map(|file| file.file_name().into_string().unwrap()).collect();
    let stem = names[0].rsplit_once('-').unwrap().0;
    // As of a process that was killed: a socket without a listener, a lock file without a lock.
    drop(std::os::unix::net::UnixListener::bind(dir.join(format!("{stem}-1.sock"))).unwrap());
    fs::write(dir.join(format!("{stem}-1.lock")), "").unwrap();
    fs::write(dir.join(format!("{stem}-2.lock")), "junk").unwrap();
    fs::write(dir.join(format!("{stem}-3.sock")), "").unwrap();
    fs::write(dir.join("unknown"), "").unwrap();
    assert_eq!(house.holders().len(), 1);
    house.dflock(&["renew", "job"]).ok();
    house.dflock(&["release", "job"]).ok();
    assert!(!house.is_held("job"));
    let left: HashSet<_> =
        fs::read_dir(&dir).unwrap().flatten().map(|file| file.file_name().into_string().unwrap()).collect();
    assert_eq!(left, HashSet::from([format!("{stem}-3.sock"), "unknown".to_owned()]));
}

#[test]
fn a_stopped_holder_hides_no_other() {
    let house = House::new();
    let pid = pid_of(&house.dflock(&["acquire", "frozen", "--json"]).json());
    house.dflock(&["acquire", "alive"]).ok();
    signal(pid, "STOP");
    let holders = house.holders();
    assert!(holders.iter().any(|holder| holder["key"] == "alive"), "{holders:?}");
    house.dflock(&["release", "alive"]).ok();
    let said = house.dflock(&["release", "frozen"]).code(125);
    assert!(said.err.contains("does not answer"), "{said:?}");
    signal(pid, "CONT");
    // What failed has not happened, not even later.
    assert!(house.is_held("frozen"));
    house.dflock(&["release", "frozen"]).ok();
    house.wait_until_free("frozen");
}

#[test]
fn strangers_on_the_socket_do_no_harm() {
    use std::io::Write;

    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    let dir = house.runtime.join("dflock");
    let socket = fs::read_dir(dir).unwrap().flatten().find(|file| file.path().extension().unwrap() == "sock").unwrap();
    let connect = || std::os::unix::net::UnixStream::connect(socket.path()).unwrap();
    let silent: Vec<_> = (0..20).map(|_| connect()).collect();
    connect().write_all(b"{\"Release\":\n").unwrap();
    connect().write_all(b"\0\xff\n").unwrap();
    connect().write_all(&vec![b'x'; 60_000]).unwrap();
    assert_eq!(house.holders().len(), 1);
    house.dflock(&["renew", "job"]).ok();
    house.dflock(&["release", "job"]).ok();
    assert!(!house.is_held("job"));
    house.wait_until_nobody_holds();
    drop(silent);
}
