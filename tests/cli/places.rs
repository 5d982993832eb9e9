//! The runtime directory: missing, not ours, open to others, not writable. Never a lock without a holder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::house::clean::{House, Said, finish};

const NOBODY: u32 = 65534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode is set");
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `acquire` in a house with this runtime directory, or none.
fn acquire_in(house: &House, runtime: Option<&Path>) -> Said {
    with(house, runtime, &["acquire", "job"])
}

fn with(house: &House, runtime: Option<&Path>, args: &[&str]) -> Said {
    let mut command = house.command("dflock");
    match runtime {
        Some(dir) => command.env("XDG_RUNTIME_DIR", dir),
        None => command.env_remove("XDG_RUNTIME_DIR"),
    };
    finish(command.args(args).spawn().expect("dflock starts"))
}

#[track_caller]
fn assert_refused(house: &House, said: &Said, word: &str) {
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.starts_with("dflock: ") && said.err.contains(word), "{said:?}");
    assert!(said.err.contains("XDG_RUNTIME_DIR") || said.err.contains("chmod"), "a way out: {said:?}");
    assert_eq!(said.out, "");
    assert!(!house.is_held("job"), "no lock is left on the server");
}

#[test]
fn without_a_runtime_directory_there_is_another() {
    let house = House::new();
    let file = house.path("file");
    fs::write(&file, "").unwrap();
    let deep = house.path(&"long".repeat(20));
    fs::create_dir(&deep).unwrap();
    mode(&deep, 0o700);
    let missing = house.path("missing");
    for runtime in [None, Some(missing.as_path()), Some(file.as_path()), Some(deep.as_path())] {
        // Others may use it at the same time, so the key is our own.
        let key = format!("places-{}", std::process::id());
        let token = with(&house, runtime, &["acquire", &key]).ok().to_owned();
        with(&house, runtime, &["renew", &key]).ok();
        with(&house, runtime, &["release", &key, &token]).ok();
        assert!(!house.is_held(&key));
    }
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let house = House::new();
    house.dflock(&["holders"]).ok();
    let dir = house.runtime.join("dflock");
    for wrong in [0o755, 0o710, 0o777] {
        mode(&dir, wrong);
        assert_refused(&house, &acquire_in(&house, Some(&house.runtime)), &format!("mode {wrong:03o}"));
        assert_refused(&house, &with(&house, Some(&house.runtime), &["holders"]), "mode");
    }
    mode(&dir, 0o700);
    // That the directory above is open does no harm.
    mode(&house.runtime, 0o755);
    acquire_in(&house, Some(&house.runtime)).ok();
    house.dflock(&["release", "job"]).ok();
}

#[test]
fn what_is_no_directory_is_refused() {
    let house = House::new();
    let dir = house.runtime.join("dflock");
    fs::write(&dir, "").unwrap();
    assert_refused(&house, &acquire_in(&house, Some(&house.runtime)), "is none");
    fs::remove_file(&dir).unwrap();
    let elsewhere = house.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    mode(&elsewhere, 0o700);
    std::os::unix::fs::symlink(&elsewhere, &dir).unwrap();
    assert_refused(&house, &acquire_in(&house, Some(&house.runtime)), "is none");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_directory_of_another_user_is_not_used() {
    if !is_root() {
        eprintln!("SKIPPED: only root can give a directory away");
        return;
    }
    let house = House::new();
    house.dflock(&["holders"]).ok();
    let dir = house.runtime.join("dflock");
    chown(&dir, Some(NOBODY), None).unwrap();
    assert_refused(&house, &acquire_in(&house, Some(&house.runtime)), "belongs to another");
    // All of it another's, as under sudo: there is a directory for that.
    chown(&house.runtime, Some(NOBODY), None).unwrap();
    let key = format!("sudo-{}", std::process::id());
    let token = with(&house, Some(&house.runtime), &["acquire", &key]).ok().to_owned();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    with(&house, Some(&house.runtime), &["release", &key, &token]).ok();
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
