//! Directories that a server does not take: used by another, open to others, written by a newer version.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown, symlink};
use std::process::{Command, Stdio};

use nix::fcntl::AT_FDCWD;

use crate::damage::refused;
use crate::house::running::Running;
use crate::house::tools::{NOBODY, is_there, missing, skipped};
use crate::house::{Server, wait_for};
use crate::kept::{Kept, resumable};

#[test]
fn a_second_server_is_refused_and_a_dead_one_is_no_obstacle() {
    let mut kept = Kept::start(&[]);
    let pid = kept.server().pid();
    let said = refused(&kept.dir());
    let dir = kept.dir();
    let expected = format!("dflock: cannot use --state-dir {}: another server uses it (pid {pid})\n", dir.display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("stop that one first, or give this one a directory of its own"), "{said}");
    assert!(kept.connect().take("job", "0").len() == 32, "the first one does not mind");
    kept.restart();
    kept.stop();
    kept.start_again();
}

#[test]
fn what_is_made_is_closed_to_others_and_what_is_open_is_refused() {
    let kept = Kept::start(&[]);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&kept.dir()), mode(&kept.journal()), mode(&kept.dir().join("lock"))), (0o700, 0o600, 0o600));

    let home = tempfile::tempdir().expect("a directory");
    for open in [0o755, 0o770, 0o701] {
        fs::set_permissions(home.path(), fs::Permissions::from_mode(open)).expect("a mode");
        let said = refused(home.path());
        assert!(said.contains("others may look into it"), "{said}");
        assert!(said.contains(&format!("chmod 700 {}", home.path().display())), "{said}");
        assert_eq!(fs::read_dir(home.path()).expect("a directory").count(), 0, "nothing was made");
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("file");
    fs::write(&file, "").expect("a file");
    for path in [&file, &file.join("below")] {
        let said = refused(path);
        assert!(said.starts_with("dflock: cannot make --state-dir "), "{said}");
    }
}

/// Root is led to any file of the system by whoever owns the directory.
#[test]
fn a_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can make a directory of somebody else");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let (theirs, link) = (home.path().join("theirs"), home.path().join("link"));
    fs::create_dir(&theirs).expect("a directory");
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).expect("a mode");
    chown(&theirs, Some(65534), Some(65534)).expect("another owner");
    let said = refused(&theirs);
    assert!(said.contains("it belongs to another user (uid 65534)"), "{said}");
    assert_eq!(fs::read_dir(&theirs).expect("a directory").count(), 0, "nothing was made");
    // A link of theirs leads to a directory of ours.
    let ours = home.path().join("ours");
    fs::create_dir(&ours).expect("a directory");
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink(&ours, &link).expect("a link");
    lchown(&link, Some(65534), Some(65534)).expect("another owner");
    let said = refused(&link);
    assert!(said.contains("it is a link of another user"), "{said}");
    assert_eq!(fs::read_dir(&ours).expect("a directory").count(), 0, "nothing was made");
    // One of ours says where it is, as systemd does.
    lchown(&link, Some(0), Some(0)).expect("our link");
    let mut server = Server::start(&["--state-dir", link.to_str().expect("a plain path")]);
    server.event("state_opened");
    assert!(ours.join("journal").is_file());
}

#[test]
fn no_link_in_the_directory_is_followed() {
    for (name, is_refused) in [("lock", true), ("journal", true), ("journal.new", false)] {
        let home = tempfile::tempdir().expect("a directory");
        let (dir, precious) = (home.path().join("state"), home.path().join("precious"));
        fs::create_dir(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a mode");
        fs::write(&precious, "").expect("a file");
        symlink(&precious, dir.join(name)).expect("a link");
        if is_refused {
            let said = refused(&dir);
            assert!(said.contains("--state-dir"), "{name}: {said}");
        } else {
            // Half a journal is of no use: it is removed, and what it pointed to is not.
            let mut server = Server::start(&["--state-dir", dir.to_str().expect("a plain path")]);
            server.event("state_opened");
            server.connect().take("job", "0 60");
        }
        assert_eq!(fs::read(&precious).expect("a file"), b"", "{name} led to it");
    }
    // A pipe that nobody writes to would be waited for.
    let home = tempfile::tempdir().expect("a directory");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    nix::unistd::mkfifo(&home.path().join("journal"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(refused(home.path()).contains("is not a file"));
}

#[test]
fn a_newer_journal_is_refused_by_its_number() {
    let mut kept = Kept::start(&[]);
    kept.kill();
    let mut journal = fs::read(kept.journal()).expect("a journal");
    journal[12..16].copy_from_slice(&7u32.to_le_bytes());
    let sum = crc32fast::hash(&journal[..40]);
    journal[40..44].copy_from_slice(&sum.to_le_bytes());
    fs::write(kept.journal(), &journal).expect("written");
    let said = refused(&kept.dir());
    assert!(said.contains("it was written by a newer dflock (format 7; this one reads up to 1)"), "{said}");
    assert!(said.contains("start that version"), "{said}");
    assert_eq!(fs::read(kept.journal()).expect("a journal"), journal, "it is left alone");
}

#[test]
fn variables_name_the_directory_and_the_fsync() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("deep").join("state");
    let mut server = Server::start_with(&[], |command| {
        command.env("DFLOCKD_STATE_DIR", &dir).env("DFLOCKD_FSYNC", "interval");
    });
    server.event("state_opened");
    assert!(dir.join("journal").is_file());
    drop(server);
    let server = Server::start_with(&[], |command| {
        command.env("DFLOCKD_STATE_DIR", "");
    });
    assert!(!server.events().iter().any(|event| event["event"] == "state_opened"));
}

/// Who wrote a journal says what is held.
#[test]
fn files_of_another_user_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can make a file of somebody else");
        return;
    }
    for name in ["journal", "lock"] {
        let mut kept = Kept::start(&[]);
        let mut owner = resumable(&kept);
        owner.take("job", "0 600");
        kept.kill();
        chown(kept.dir().join(name), Some(NOBODY), None).expect("another owner");
        let journal = fs::read(kept.journal()).expect("a journal");
        let said = refused(&kept.dir());
        assert!(said.contains(&format!("{name} belongs to another user (uid {NOBODY})")), "{said}");
        assert_eq!(fs::read(kept.journal()).expect("a journal"), journal, "it is left alone");
        // One of root's is as good as ours: it may be restored from a copy.
        chown(kept.dir().join(name), Some(0), None).expect("root");
        assert_eq!(kept.start_again().event("state_opened")["held"], 1);
    }
}

/// Whoever may write to the directory above exchanges it for one of theirs, once it was looked at.
#[test]
fn one_that_is_exchanged_while_a_server_starts_is_not_used() {
    if !is_there("strace") {
        return missing("strace");
    }
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can make a directory of somebody else");
    }
    // It is looked whether it is there, whether it is a link, and whose it is.
    for stop_after in 1..=4 {
        let mut theirs = Kept::start(&[]);
        let mut owner = resumable(&theirs);
        owner.take("job", "0 600");
        theirs.kill();
        fs::remove_file(theirs.dir().join("lock")).expect("it goes");
        for place in [theirs.dir(), theirs.journal()] {
            chown(place, Some(NOBODY), Some(NOBODY)).expect("another owner");
        }
        let journal = fs::read(theirs.journal()).expect("a journal");
        let (ours, log) = (theirs.dir().with_extension("ours"), theirs.dir().with_extension("trace"));
        fs::DirBuilder::new().mode(0o700).create(&ours).expect("a directory");
        let (dir, trace) = (ours.to_str().expect("text"), log.to_str().expect("text"));
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-o", trace, "-P", dir, "-e", "trace=stat,lstat,newfstatat,statx", "-e"]);
        command.arg(format!("inject=stat,lstat,newfstatat,statx:signal=SIGSTOP:when={stop_after}"));
        command.args([env!("CARGO_BIN_EXE_dflock"), "serve", "--port", "0", "--state-dir", dir]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Running::start(&mut command);
        let is_stopped = || fs::read_to_string(&log).is_ok_and(|text| text.contains("stopped by SIGSTOP"));
        wait_for("a server that stands still", || (is_stopped() || !server.is_running()).then_some(()));
        let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        nix::fcntl::renameat2(AT_FDCWD, &ours, AT_FDCWD, &theirs.dir(), exchange).expect("they are exchanged");
        server.signal("CONT");
        let said = server.finish();
        assert_eq!(said.code, 125, "after look {stop_after}: {said:?}");
        assert!(said.err.contains("another user"), "after look {stop_after}: {said:?}");
        let left: Vec<_> = fs::read_dir(&ours).expect("theirs").map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(left, ["journal"], "after look {stop_after}");
        assert_eq!(fs::read(ours.join("journal")).expect("theirs"), journal, "after look {stop_after}");
    }
}
