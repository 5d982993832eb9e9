//! Disks that are full or cannot be written: no locks are given out, what is held is served as far as it can be,
//! nothing unwritten is acknowledged, and all is well again when the disk is.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::damage::refused;
use crate::house::{Client, Server, wait_for};
use crate::kept::token_of;

/// A small disk of its own, gone when dropped.
struct Disk {
    place: TempDir,
}

impl Disk {
    /// `None` where nobody may mount.
    fn mount(options: &str) -> Option<Disk> {
        let place = tempfile::tempdir().expect("a place");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "dflock-test"]).arg(place.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: nobody may mount a disk here");
        }
        mounted.then_some(Disk { place })
    }

    fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    fn filler(&self) -> PathBuf {
        self.place.path().join("filler")
    }

    /// Not a byte is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file");
        let mut size = 64 * 1024;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the filler goes");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.place.path()).status();
    }
}

fn start(state: &Path) -> Server {
    Server::start(&["--state-dir", state.to_str().expect("a plain path"), "--max-locks", "1000000"])
}

fn count(server: &Server, name: &str) -> usize {
    server.events().iter().filter(|event| event["event"] == name).count()
}

/// Takes locks with long names until it gets none; returns what it got.
fn take_until_refused(client: &mut Client) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    loop {
        let keys: Vec<String> = (0..200).map(|number| format!("{:0>240}", taken.len() + number)).collect();
        client.send(keys.iter().map(|key| format!("l\n{key}\n0 3600\n")).collect::<String>().as_bytes());
        let answers: Vec<String> = keys.iter().map(|_| client.line()).collect();
        let refused = answers.iter().any(|answer| answer == "error");
        for (key, answer) in keys.into_iter().zip(answers) {
            if answer != "error" {
                taken.push((key, token_of(&answer)));
            }
        }
        if refused {
            return taken;
        }
        assert!(taken.len() < 200_000, "it has room without end");
    }
}

fn renew(client: &mut Client, locks: &[(String, String)]) {
    for part in locks.chunks(200) {
        client.send(part.iter().map(|(key, token)| format!("n\n{key}\n{token} 3600\n")).collect::<String>().as_bytes());
        for (key, _) in part {
            assert_eq!(client.line(), "ok 3600", "{key}");
        }
    }
}

fn is_silent(client: &mut Client) -> bool {
    is_silent_for(client, Duration::from_millis(300))
}

fn is_silent_for(client: &mut Client, time: Duration) -> bool {
    client.stream().set_read_timeout(Some(time)).expect("a timeout");
    let heard = client.stream().peek(&mut [0]);
    client.stream().set_read_timeout(Some(crate::house::CEILING)).expect("a timeout");
    heard.is_err()
}

/// Reads so many answers, or until there is none for so long; returns how many there were.
fn hear_renewals(asker: &mut TcpStream, count: usize, patience: Duration) -> usize {
    const ANSWER: &[u8] = b"ok 3600\n";
    asker.set_read_timeout(Some(patience)).expect("a timeout");
    let mut heard = Vec::new();
    while heard.len() < count * ANSWER.len() {
        let mut bytes = [0; 1024];
        match asker.read(&mut bytes) {
            Ok(read) if read > 0 => heard.extend_from_slice(&bytes[..read]),
            Ok(_) => panic!("the server hung up"),
            Err(_) => break,
        }
    }
    assert!(heard.chunks(ANSWER.len()).all(|answer| answer == ANSWER), "{:?}", String::from_utf8_lossy(&heard));
    heard.len() / ANSWER.len()
}

#[test]
fn a_full_disk_stops_grants_and_nothing_else_until_its_reserve_is_used_up() {
    let Some(disk) = Disk::mount("size=16m,mode=700") else { return };
    let mut server = start(&disk.state());
    let mut client = server.connect();
    client.ask("info", "_", "resume 60");
    let first = client.take("first", "0 3600");
    let mut waiter = server.connect();
    waiter.send(b"l\nfirst\n600\n");
    disk.fill();
    let mut taken = take_until_refused(&mut client);
    assert!(taken.len() > 5_000, "only {} fitted", taken.len());
    let failing = server.event("state_failing");
    assert!(failing["error"].as_str().is_some_and(|error| error.contains("No space left")), "{failing}");

    // What is held is served.
    renew(&mut client, &taken[..1000]);
    let (key, token) = taken.pop().expect("a lock");
    assert_eq!(client.ask("r", &key, &token), "ok");
    assert_eq!(client.ask("r", "first", &first), "ok");
    for (command, argument) in [("l", "0"), ("l", "600"), ("e", ""), ("sl", "0 2"), ("se", "2")] {
        assert_eq!(client.ask(command, "another", argument), "error");
    }
    assert!(is_silent(&mut waiter), "it waits on: nothing is given out");

    // The reserve lasts for so long; then there is no answer, rather than one that is not true.
    let mut asker = TcpStream::connect(&server.address).expect("a connection");
    let (mut renewed, mut owed) = (0, 0);
    while owed == 0 {
        let (key, token) = &taken[renewed % taken.len()];
        asker.write_all(format!("n\n{key}\n{token} 3600\n").repeat(100).as_bytes()).expect("written");
        owed = 100 - hear_renewals(&mut asker, 100, Duration::from_secs(2));
        renewed += 100 - owed;
        assert!(renewed < 1_000_000, "the reserve has no end");
    }
    assert!(renewed > 5_000, "the reserve was good for {renewed} renewals");
    assert_eq!((count(&server, "state_failing"), count(&server, "state_recovered")), (1, 0), "one line");

    disk.make_room();
    server.event("state_recovered");
    assert_eq!(hear_renewals(&mut asker, owed, crate::house::CEILING), owed);
    assert!(waiter.line().starts_with("ok "), "who waited is served");
    let another = client.take("another", "0 3600");
    assert_eq!((count(&server, "state_failing"), count(&server, "state_recovered")), (1, 1));

    server.signal("KILL");
    server.wait();
    let server = start(&disk.state());
    let mut client = server.connect();
    renew(&mut client, &taken);
    assert_eq!(client.ask("n", "another", &format!("{another} 60")), "ok 60");
    assert!(client.ask("l", &key, "0").starts_with("ok "), "what was released is free");
}

/// A disk in a file on another, small one: when that is full, what is written here fails where it is synced.
struct Rotten {
    below: Disk,
    place: TempDir,
}

impl Rotten {
    fn mount() -> Option<Rotten> {
        let below = Disk::mount("size=24m,mode=700")?;
        let (image, place) = (below.place.path().join("image"), tempfile::tempdir().expect("a place"));
        let made = fs::File::create(&image).and_then(|file| file.set_len(64 << 20));
        made.expect("an image");
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let ready = run(Command::new("mkfs.ext2").args(["-q", "-F", "-N", "64"]).arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(place.path()));
        if !ready {
            eprintln!("SKIPPED: nobody may mount a disk in a file here");
        }
        ready.then_some(Rotten { below, place })
    }
}

impl Drop for Rotten {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.place.path()).status();
    }
}

/// What was written may or may not be there: the old file is not trusted any more, and nobody is told anything.
#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_a_new_file_is_on_disk() {
    let Some(disk) = Rotten::mount() else { return };
    let state = disk.place.path().join("state");
    let mut server = start(&state);
    let mut client = server.connect();
    client.ask("info", "_", "resume 60");
    let mut taken = Vec::new();
    let first = client.take("first", "0 3600");
    disk.below.fill();
    let mut asker = server.connect();
    asker.ask("info", "_", "resume 60");
    while count(&server, "state_failing") == 0 {
        let key = format!("{:0>240}", taken.len());
        asker.send(format!("l\n{key}\n0 3600\n").as_bytes());
        // Slow is not silent: it answers, or it tells that it cannot.
        let failed = wait_for("an answer, or none", || {
            if count(&server, "state_failing") > 0 {
                return Some(true);
            }
            (!is_silent_for(&mut asker, Duration::from_millis(20))).then_some(false)
        });
        if failed {
            break;
        }
        let answer = asker.line();
        if answer == "error" {
            break;
        }
        taken.push((key, token_of(&answer)));
        assert!(taken.len() < 100_000, "it has room without end");
    }
    let failing = server.event("state_failing");
    assert_eq!(failing["what"], "sync", "{failing}");
    wait_for("no grants", || (client.ask("l", "new", "0") == "error").then_some(()));
    client.send(format!("n\nfirst\n{first} 3600\n").as_bytes());
    assert!(is_silent(&mut client), "a renewal that is not on disk was answered");

    disk.below.make_room();
    server.event("state_recovered");
    assert_eq!(client.line(), "ok 3600");
    server.signal("KILL");
    server.wait();
    let server = start(&state);
    let mut client = server.connect();
    assert_eq!(client.ask("n", "first", &format!("{first} 60")), "ok 60");
    renew(&mut client, &taken);
}

/// Killed while its disk is full, it starts again there: the old journal makes room for the reserve of the new.
#[test]
fn it_starts_on_a_full_disk_with_what_it_has() {
    let Some(disk) = Disk::mount("size=16m,mode=700") else { return };
    let mut server = start(&disk.state());
    let mut client = server.connect();
    client.ask("info", "_", "resume 60");
    let mine = client.take("mine", "0 3600");
    disk.fill();
    server.signal("KILL");
    server.wait();
    // Not a block more than the new journal takes.
    let filler = fs::OpenOptions::new().write(true).open(disk.filler()).expect("the filler");
    let size = filler.metadata().expect("its size").len();
    filler.set_len(size - 16 * 1024).expect("a little room");
    let server = start(&disk.state());
    let mut client = server.connect();
    assert_eq!(client.ask("n", "mine", &format!("{mine} 60")), "ok 60");
    wait_for("grants", || client.ask("l", "new", "0").starts_with("ok ").then_some(()));
}

/// Not a block is left: the room that the old journal had for the worst is what the new one lives on.
#[test]
fn killed_on_a_disk_without_a_block_left_it_starts_again() {
    let Some(disk) = Disk::mount("size=16m,mode=700") else { return };
    let mut server = start(&disk.state());
    let mut client = server.connect();
    client.ask("info", "_", "resume 60");
    let mine = client.take("mine", "0 3600");
    server.signal("KILL");
    server.wait();
    disk.fill();
    let server = start(&disk.state());
    let mut client = server.connect();
    for _ in 0..1000 {
        assert_eq!(client.ask("n", "mine", &format!("{mine} 3600")), "ok 3600");
    }
    disk.make_room();
    wait_for("grants", || client.ask("l", "new", "0").starts_with("ok ").then_some(()));
    assert_eq!(client.ask("l", "mine", "0"), "timeout");
}

/// That room is used up, too: it starts, and answers nobody until there is room.
#[test]
fn killed_when_its_reserve_was_used_up_it_starts_and_waits_for_room() {
    let Some(disk) = Disk::mount("size=16m,mode=700") else { return };
    let mut server = start(&disk.state());
    let mut client = server.connect();
    client.ask("info", "_", "resume 60");
    let mine = client.take("mine", "0 3600");
    disk.fill();
    let mut asker = TcpStream::connect(&server.address).expect("a connection");
    let mut rounds = 0;
    loop {
        asker.write_all(format!("n\nmine\n{mine} 3600\n").repeat(1000).as_bytes()).expect("written");
        if hear_renewals(&mut asker, 1000, Duration::from_secs(2)) < 1000 {
            break;
        }
        rounds += 1;
        assert!(rounds < 1000, "the reserve has no end");
    }
    server.signal("KILL");
    server.wait();
    let mut server = start(&disk.state());
    server.event("state_failing");
    let mut client = server.connect();
    client.send(format!("n\nmine\n{mine} 3600\n").as_bytes());
    assert!(is_silent(&mut client), "what is not on disk was answered");
    disk.make_room();
    server.event("state_recovered");
    assert_eq!(client.line(), "ok 3600");
    assert!(client.ask("l", "new", "0").starts_with("ok "));
}

#[test]
fn with_no_room_at_all_it_does_not_start_and_says_why() {
    let Some(disk) = Disk::mount("size=1m,mode=700") else { return };
    fs::create_dir(disk.state()).expect("a directory");
    fs::set_permissions(disk.state(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a mode");
    disk.fill();
    let said = refused(&disk.state());
    assert!(said.contains("--state-dir") && said.contains("No space left"), "{said}");
    assert!(said.contains("make room on that disk"), "{said}");
}

#[test]
fn a_read_only_disk_is_refused() {
    let Some(disk) = Disk::mount("size=1m,mode=700") else { return };
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.place.path()).status().expect("mount runs");
    assert!(status.success());
    let said = refused(&disk.state());
    assert!(said.starts_with("dflock: cannot make --state-dir ") && said.contains("Read-only file system"), "{said}");
    assert!(said.contains("on a file system that can be written"), "{said}");
}

/// The same with a limit on the size of files, which needs no disk of its own: even when the reserve is used up
/// there is room for a new journal, so whoever holds something is served for ever.
#[test]
fn a_limit_on_file_sizes_is_a_full_disk() {
    let home = tempfile::tempdir().expect("a directory");
    let mut server = start(&home.path().join("state"));
    let pid = server.pid().to_string();
    let limit = |bytes: &str| {
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status();
        assert!(status.expect("prlimit runs").success());
    };
    limit("4300000:unlimited");
    let mut client = server.connect();
    let taken = take_until_refused(&mut client);
    let failing = server.event("state_failing");
    assert!(failing["error"].as_str().is_some_and(|error| error.contains("File too large")), "{failing}");
    for _ in 0..5 {
        renew(&mut client, &taken);
    }
    limit("unlimited");
    server.event("state_recovered");
    assert!(client.ask("l", "new", "0").starts_with("ok "));
    renew(&mut client, &taken);
}
