//! Where holders are: found from everywhere, missing, not ours, open to others, not writable. Never a lock without
//! a holder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::house::clean::{House, Running, Said, finish};
use crate::house::home::dwellers;
use crate::house::network::in_own_network;
use crate::house::tools::skipped;
use crate::house::{signal, wait_for};

const NOBODY: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode is set");
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `acquire` with this directory, or none, named.
fn acquire_in(house: &House, dir: Option<&Path>) -> Said {
    with(house, dir, &["acquire", "job"])
}

fn with(house: &House, dir: Option<&Path>, args: &[&str]) -> Said {
    let mut command = house.command("dflock");
    match dir {
        Some(dir) => command.env("DFLOCK_RUNTIME_DIR", dir),
        None => command.env_remove("DFLOCK_RUNTIME_DIR"),
    };
    finish(command.args(args).spawn().expect("dflock starts"))
}

/// A user of this number, who need not have an account.
struct User<'a> {
    house: &'a House,
    number: u32,
}

impl User<'_> {
    /// `None`: the program cannot be run by them here.
    fn run(&self, variables: &[(&str, &Path)], args: &[&str]) -> Option<Said> {
        let mut command = self.house.command("dflock");
        command.env_remove("DFLOCK_RUNTIME_DIR").env_remove("HOME").current_dir("/").uid(self.number);
        command.envs(variables.iter().copied()).args(args);
        match command.spawn() {
            Ok(child) => Some(finish(child)),
            Err(why) => {
                crate::house::tools::skipped(&format!("the program cannot be run as another user here: {why}"));
                None
            }
        }
    }

    fn dir(&self, name: &str) -> std::path::PathBuf {
        let dir = self.house.path(name);
        fs::create_dir_all(&dir).expect("a directory");
        mode(&dir, 0o700);
        chown(&dir, Some(self.number), None).expect("it is given away");
        dir
    }
}

#[track_caller]
fn assert_refused(house: &House, said: &Said, word: &str) {
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.starts_with("dflock: ") && said.err.contains(word), "{said:?}");
    assert!(said.err.contains("DFLOCK_RUNTIME_DIR") || said.err.contains("chmod"), "a way out: {said:?}");
    assert_eq!(said.out, "");
    assert!(!house.is_held("job"), "no lock is left on the server");
}

#[test]
fn any_path_will_do() {
    let house = House::new();
    let deep = house.path(&"long".repeat(20)).join("deep".repeat(20));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    for dir in [deep, house.path("missing")] {
        let token = with(&house, Some(&dir), &["acquire", "job"]).ok().to_owned();
        with(&house, Some(&dir), &["renew", "job"]).ok();
        with(&house, Some(&dir), &["release", "job", &token]).ok();
        assert!(!house.is_held("job"));
    }
}

/// What only a login has makes no difference: neither that it is there, nor that it is gone.
#[test]
fn every_session_of_a_user_finds_every_holder() {
    if !is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let house = House::new();
    mode(house.home.path(), 0o755);
    let user = User { house: &house, number: 54_321 };
    let (home, login) = (user.dir("home"), user.dir("login"));
    let (at_login, in_cron) = ([("HOME", home.as_path()), ("XDG_RUNTIME_DIR", &login)], [("HOME", home.as_path())]);
    // It may be anybody's, and harms nobody.
    let squatted = Path::new("/tmp/dflock-54321");
    let _ = fs::create_dir(squatted);
    for (takes, gives) in [(&at_login[..], &in_cron[..]), (&in_cron, &at_login)] {
        let free = ["--owner", "none", "--max-hold", "60s"];
        let Some(taken) = user.run(takes, &[&["acquire", "job"], &free[..]].concat()) else { return };
        let token = taken.ok();
        assert!(user.run(gives, &["holders"]).expect("it ran").ok().contains("job"));
        let _ = fs::remove_dir_all(&login);
        user.run(gives, &["renew", "job", token]).expect("it ran").ok();
        user.run(gives, &["release", "job", token]).expect("it ran").ok();
        assert!(!house.is_held("job"));
        user.dir("login");
    }
    // Somebody else's home, as under sudo, is not written to; with none of their own there is nothing left.
    let other = house.path("other");
    fs::create_dir(&other).unwrap();
    for home in [&[("HOME", other.as_path())][..], &[]] {
        let said = user.run(home, &["acquire", "job"]).expect("it ran");
        assert_refused(&house, &said, "for a holder");
        assert_eq!(fs::read_dir(&other).unwrap().count() + fs::read_dir(squatted).unwrap().count(), 0);
        // A command needs no such place.
        user.run(home, &["exec", "job", "true"]).expect("it ran").ok();
        user.run(home, &["status", "job"]).expect("it ran").ok();
        assert!(!user.run(home, &["holders"]).expect("it ran").ok().contains("job"));
    }
    let _ = fs::remove_dir(squatted);
}

/// `HOME` is what cron, sudo and su leave it. A server of another home would not know what was held.
#[test]
fn two_homes_of_a_user_have_one_state() {
    if !is_root() {
        return skipped("only root can become somebody else");
    }
    // One account has a home, the other has none that is there, as `nobody`.
    in_own_network("places::two_homes_of_a_user_have_one_state", || {
        two_homes(54_322, true);
        two_homes(54_323, false);
    });
}

fn two_homes(number: u32, is_at_home: bool) {
    let house = House::at("");
    mode(house.home.path(), 0o755);
    let user = User { house: &house, number };
    let (home, other) = (user.dir("home"), user.dir("other"));
    let accounts = house.path("accounts");
    let all = fs::read_to_string("/etc/passwd").expect("accounts");
    let own = if is_at_home { home.as_path() } else { Path::new("/nonexistent") };
    let somebody = format!("{all}somebody:x:{number}:{number}::{}:/bin/sh\n", own.display());
    fs::write(&accounts, somebody).expect("written");
    mode(&accounts, 0o644);
    // Its uid is the number after the file of accounts.
    let become_them = r#"mount --bind "$0" /etc/passwd && n=$1 && shift &&
            exec setpriv --reuid "$n" --regid "$n" --clear-groups dflock "$@""#;
    let dflock = |home: &Path, args: &[&str]| {
        let mut command = house.command("unshare");
        command.args(["-m", "sh", "-c", become_them]).arg(&accounts).arg(number.to_string()).args(args);
        command.env_remove("DFLOCK_RUNTIME_DIR").env("HOME", home).current_dir("/");
        command
    };
    let script = format!("echo > {}/begun; exec sleep 100", other.display());
    let mut first = Running::start(&mut dflock(&other, &["exec", "-l", "30", "k", "-c", &script]));
    wait_for("a command, or its refusal", || (other.join("begun").exists() || !first.is_running()).then_some(()));
    if !first.is_running() {
        return skipped(&format!("the program cannot be run as another user here: {:?}", first.finish()));
    }
    let server = || {
        let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        dwellers(house.home.path()).into_iter().find(|pid| line(pid).starts_with(b"dflock\0serve\0"))
    };
    // Whoever asks next starts the next server.
    first.signal("STOP");
    signal(server().expect("a server"), "KILL");
    wait_for("its end", || server().is_none().then_some(()));
    let said = finish(dflock(&home, &["exec", "-n", "k", "true"]).spawn().expect("it starts"));
    assert_eq!(said.code, 75, "{said:?}");
    first.signal("CONT");
    drop(first);
    if !is_at_home {
        let _ = fs::remove_dir_all(format!("/tmp/dflock-{number}"));
    }
}

#[test]
fn root_needs_no_login_either() {
    if !is_root() {
        eprintln!("SKIPPED: only root is root");
        return;
    }
    let house = House::new();
    let elsewhere = house.path("login");
    fs::create_dir(&elsewhere).unwrap();
    // Others may use it at the same time, so the key is our own.
    let key = format!("places-{}", std::process::id());
    let at_login = |args: &[&str]| {
        let mut command = house.command("dflock");
        command.env_remove("DFLOCK_RUNTIME_DIR").env("XDG_RUNTIME_DIR", &elsewhere);
        finish(command.args(args).spawn().expect("dflock starts"))
    };
    let token = at_login(&["acquire", &key]).ok().to_owned();
    assert!(with(&house, None, &["holders", "--keys"]).ok().contains(&key));
    with(&house, None, &["release", &key, &token]).ok();
    assert!(!house.is_held(&key));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let house = House::new();
    let dir = house.runtime.join("dflock");
    house.dflock(&["acquire", "first"]).ok();
    house.dflock(&["release", "first"]).ok();
    for wrong in [0o755, 0o710, 0o777] {
        mode(&dir, wrong);
        assert_refused(&house, &acquire_in(&house, Some(&dir)), &format!("mode {wrong:03o}"));
        assert_refused(&house, &with(&house, Some(&dir), &["holders"]), "mode");
    }
    mode(&dir, 0o700);
    // That the directory above is open does no harm.
    mode(&house.runtime, 0o755);
    acquire_in(&house, Some(&dir)).ok();
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn what_is_no_directory_is_refused() {
    let house = House::new();
    let dir = house.runtime.join("dflock");
    fs::write(&dir, "").unwrap();
    assert_refused(&house, &acquire_in(&house, Some(&dir)), "is none");
    fs::remove_file(&dir).unwrap();
    let elsewhere = house.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    mode(&elsewhere, 0o700);
    std::os::unix::fs::symlink(&elsewhere, &dir).unwrap();
    assert_refused(&house, &acquire_in(&house, Some(&dir)), "is none");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_directory_of_another_user_is_not_used() {
    if !is_root() {
        eprintln!("SKIPPED: only root can give a directory away");
        return;
    }
    let house = House::new();
    let dir = house.runtime.join("dflock");
    fs::create_dir(&dir).unwrap();
    mode(&dir, 0o700);
    chown(&dir, Some(NOBODY), None).unwrap();
    for verb in ["acquire", "release"] {
        assert_refused(&house, &with(&house, Some(&dir), &[verb, "job"]), "belongs to another");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let house = House::new();
    let mut command = house.command("dflock");
    command.args(["acquire", "job"]);
    if is_root() {
        // Root may write anywhere, so somebody else has to try. The house is made enterable for that.
        mode(house.home.path(), 0o755);
        chown(&house.runtime, Some(NOBODY), None).unwrap();
        command.uid(NOBODY).current_dir("/");
    }
    mode(&house.runtime, 0o500);
    match command.spawn() {
        Ok(child) => assert_refused(&house, &finish(child), "cannot make the directory"),
        Err(why) => eprintln!("SKIPPED: the program cannot be run as another user here: {why}"),
    }
    mode(&house.runtime, 0o700);
}

#[test]
fn a_full_disk_leaves_no_lock() {
    let house = House::new();
    let mount = |args: &[&str]| std::process::Command::new("mount").args(args).output();
    let dir = house.path("full");
    fs::create_dir(&dir).unwrap();
    let is_mounted = is_root()
        && mount(&["-t", "tmpfs", "-o", "mode=700,nr_inodes=2", "tmpfs", &dir.to_string_lossy()])
            .is_ok_and(|output| output.status.success());
    if !is_mounted {
        eprintln!("SKIPPED: no small file system can be mounted here");
        return;
    }
    // One inode is the root, one the directory: there is none for a lock file.
    let said = acquire_in(&house, Some(&dir));
    let _ = std::process::Command::new("umount").arg(&dir).status();
    assert_refused(&house, &said, "cannot");
}

#[test]
fn nobody_else_may_give_a_lock_back() {
    if !is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    mode(house.home.path(), 0o755);
    let mut command = house.command("dflock");
    command.args(["release", "job"]).uid(NOBODY).current_dir("/");
    match command.spawn() {
        Ok(child) => assert_ne!(finish(child).code, 0),
        Err(why) => eprintln!("SKIPPED: the program cannot be run as another user here: {why}"),
    }
    assert!(house.is_held("job"));
}
