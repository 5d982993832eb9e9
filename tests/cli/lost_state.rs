//! The directory of the server that dflock starts goes away while something is held, and the server is killed: the next one
//! does not begin another directory with nothing held.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::client_house::Desk;
use crate::house::clean::{House, Running, Said, finish};
use crate::house::home::dwellers;
use crate::house::network::in_own_network;
use crate::house::tools::skipped;
use crate::house::{Server, observe, signal, wait_for};

fn nobody_set_anything() -> Desk {
    Desk::new().with("DFLOCK_AUTOSTART", "").with("DFLOCK_CONNECT_RETRY", "0")
}

fn server_of(home: &Path) -> Option<u32> {
    let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    dwellers(home).into_iter().find(|pid| line(pid).starts_with(b"dflock\0serve\0"))
}

/// It has no time to notice that its directory went away.
fn kill_server_after(home: &Path, what: impl FnOnce()) {
    let server = server_of(home).expect("a server");
    signal(server, "STOP");
    what();
    signal(server, "KILL");
    wait_for("its end", || (server_of(home) != Some(server)).then_some(()));
}

fn command_that_holds(desk: &Desk) -> Running {
    let held = Running::start(&mut desk.command(&["exec", "-l", "60", "k", "-c", "echo > begun; exec sleep 100"]));
    wait_for("a command", || desk.path().join("begun").exists().then_some(()));
    held
}

fn make_own(dir: &Path) {
    fs::DirBuilder::new().mode(0o700).create(dir).expect("a directory");
}

#[test]
fn nothing_is_given_out_until_it_is_back() {
    in_own_network("lost_state::nothing_is_given_out_until_it_is_back", || {
        let desk = nobody_set_anything();
        let (run, away) = (desk.path().join("run"), desk.path().join("away"));
        let mut held = command_that_holds(&desk);
        held.signal("STOP");
        kill_server_after(desk.path(), || fs::rename(&run, &away).expect("it is there"));
        // Neither where it is missed, nor where there is another one.
        for is_replaced in [false, true] {
            if is_replaced {
                let _ = fs::remove_dir_all(&run);
                make_own(&run);
            }
            let said = desk.run(&["exec", "-n", "k", "-c", "echo > ran"]);
            assert_eq!(said.code, Some(69), "{said:?}");
            for part in ["cannot start a lock server", "/run/server-6388", "cannot be opened", "bring that", "rm -f /"]
            {
                assert!(said.err.contains(part), "{part}: {said:?}");
            }
            assert!(!desk.path().join("ran").exists());
            assert_eq!(server_of(desk.path()), None, "nobody serves");
        }
        fs::remove_dir_all(&run).expect("it was made");
        fs::rename(&away, &run).expect("it is back");
        assert_eq!(desk.run(&["exec", "-n", "k", "true"]).code, Some(75));
        held.signal("CONT");
        assert!(held.is_running());
        // Whoever holds something would start another one.
        drop(held);
    });
}

/// A directory of the same name, in the place of the one that was removed, may even have its number.
#[test]
fn an_empty_one_in_its_place_is_not_taken_for_it() {
    in_own_network("lost_state::an_empty_one_in_its_place_is_not_taken_for_it", || {
        let desk = nobody_set_anything();
        let held = command_that_holds(&desk);
        held.signal("STOP");
        let run = desk.path().join("run");
        let inside = fs::read_dir(&run).expect("it is there").flatten().find(|entry| entry.path().is_dir());
        let state = inside.expect("the state").path();
        kill_server_after(desk.path(), || {
            for file in fs::read_dir(&state).expect("files").flatten() {
                fs::remove_file(file.path()).expect("it is there");
            }
        });
        let said = desk.run(&["exec", "-n", "k", "true"]);
        assert_eq!(said.code, Some(69), "{said:?}");
        // As the message says, if nothing that has a lock runs any more.
        drop(held);
        let files = said.err.lines().last().and_then(|hint| hint.split_once("rm -f ")).expect("a way out").1.to_owned();
        assert!(Command::new("sh").args(["-c", &format!("rm -f {files}")]).status().expect("it runs").success());
        assert_eq!(desk.run(&["exec", "-n", "k", "true"]).code, Some(0));
    });
}

/// As that of a test that was ended, with all that it had.
#[test]
fn a_directory_of_another_name_is_another_choice() {
    in_own_network("lost_state::a_directory_of_another_name_is_another_choice", || {
        let desk = nobody_set_anything();
        let held = command_that_holds(&desk);
        held.signal("STOP");
        kill_server_after(desk.path(), || fs::remove_dir_all(desk.path().join("run")).expect("it is there"));
        assert_eq!(desk.run(&["exec", "-n", "k", "true"]).code, Some(69));
        assert_eq!(nobody_set_anything().run(&["exec", "-n", "k", "true"]).code, Some(0));
    });
}

/// A moment after the last lock nothing is said of the directory any more, so that it may go away.
#[test]
fn what_held_nothing_is_missed_by_nobody() {
    in_own_network("lost_state::what_held_nothing_is_missed_by_nobody", || {
        let desk = nobody_set_anything();
        let run = desk.path().join("run");
        let is_marked = || {
            let places = ["/run/dflock".to_owned(), format!("/tmp/dflock-{}", nix::unistd::geteuid())];
            let files = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
            let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
            texts.any(|text| text.contains(&run.display().to_string()))
        };
        let held = command_that_holds(&desk);
        assert!(is_marked());
        held.signal("TERM");
        wait_for("nothing to be said any more", || (!is_marked()).then_some(()));
        kill_server_after(desk.path(), || fs::remove_dir_all(&run).expect("it is there"));
        assert_eq!(desk.run(&["exec", "-n", "k", "true"]).code, Some(0));
        drop(held);
    });
}

/// Somebody who waits for a lock that is free, of a server whose directory is away.
fn waiter_at_one_that_gives_nothing_out(server: &mut Server, dir: &Path, desk: &Desk) -> Running {
    let holder = server.connect().take("other", "0 60");
    assert!(!holder.is_empty());
    fs::rename(dir, dir.with_extension("away")).expect("it is there");
    server.event("state_failing");
    let mut waiter = Running::start(&mut desk.command(&["exec", "-w", "60", "k", "-c", "echo > ran"]));
    observe(Duration::from_secs(1), || assert!(waiter.is_running(), "it asks again"));
    assert!(!desk.path().join("ran").exists());
    waiter
}

/// Nobody has anything there, so nobody loses anything by asking again.
#[test]
fn who_waits_outlasts_a_server_that_gives_nothing_out() {
    let desk = Desk::new();
    for is_replaced in [false, true] {
        let dir = desk.path().join(format!("state-{is_replaced}"));
        let path = dir.to_str().expect("text");
        let mut server = Server::start(&["--state-dir", path]);
        let desk = Desk::at(&server.address).with("DFLOCK_CONNECT_RETRY", "");
        let waiter = waiter_at_one_that_gives_nothing_out(&mut server, &dir, &desk);
        // Whoever does not wait hears what is wrong, at once or at the end.
        for limit in [["-n", "-q"], ["-w", "1"]] {
            let args = [&["exec"], &limit[..], &["k", "true"]].concat();
            let said = desk.run(&args);
            assert!(said.code == Some(76) && said.err.contains("gives nothing out"), "{said:?}");
        }
        if is_replaced {
            // By one that knows nothing of anybody.
            let port = server.address.rsplit_once(':').expect("a port").1.to_owned();
            server.signal("KILL");
            server.wait();
            let _next = Server::start(&["--port", &port]);
            assert_eq!(waiter.finish().code, 0);
        } else {
            fs::rename(dir.with_extension("away"), &dir).expect("it is back");
            assert_eq!(waiter.finish().code, 0);
        }
        assert!(desk.path().join("ran").exists());
    }
}

/// An account, of a number that nobody else has, with a home in the house.
struct Account {
    house: House,
    number: u32,
    homes: PathBuf,
    accounts: PathBuf,
}

impl Account {
    fn new(number: u32) -> Account {
        let house = House::at("");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
        mode(house.home.path(), 0o755);
        let homes = house.path("homes");
        fs::create_dir_all(homes.join("u")).expect("a home");
        mode(&homes, 0o755);
        mode(&homes.join("u"), 0o700);
        chown(homes.join("u"), Some(number), None).expect("it is given away");
        let accounts = house.path("accounts");
        let all = fs::read_to_string("/etc/passwd").expect("accounts");
        let home = homes.join("u");
        fs::write(&accounts, format!("{all}u:x:{number}:{number}::{}:/bin/sh\n", home.display())).expect("written");
        mode(&accounts, 0o644);
        let account = Account { house, number, homes, accounts };
        account.clear_away();
        account
    }

    fn in_tmp(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/dflock-{}", self.number))
    }

    fn clear_away(&self) {
        let _ = fs::remove_dir_all(self.in_tmp());
    }

    fn command(&self, args: &[&str]) -> Command {
        let become_them = r#"mount --bind "$0" /etc/passwd && n=$1 && shift &&
            exec setpriv --reuid "$n" --regid "$n" --clear-groups dflock "$@""#;
        let mut command = self.house.command("unshare");
        command.args(["-m", "sh", "-c", become_them]).arg(&self.accounts).arg(self.number.to_string()).args(args);
        // HOME says whose it is, and nothing more: the account has another one.
        command.env_remove("DFLOCK_RUNTIME_DIR").env("DFLOCK_CONNECT_RETRY", "0").current_dir("/");
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        finish(self.command(args).spawn().expect("it starts"))
    }

    /// `None` if nobody can be made somebody else here.
    fn command_that_holds(&self) -> Option<Running> {
        let begun = self.in_tmp().with_extension("begun");
        let _ = fs::remove_file(&begun);
        let script = format!("echo > {}; exec sleep 100", begun.display());
        let mut held = Running::start(&mut self.command(&["exec", "-l", "60", "k", "-c", &script]));
        wait_for("a command, or its refusal", || (begun.exists() || !held.is_running()).then_some(()));
        let _ = fs::remove_file(&begun);
        if held.is_running() {
            return Some(held);
        }
        skipped(&format!("the program cannot be run as another user here: {:?}", held.finish()));
        None
    }

    fn kill_server_after(&self, what: impl FnOnce()) {
        kill_server_after(self.house.home.path(), what);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.clear_away();
    }
}

#[test]
fn a_home_that_goes_away_or_comes_takes_no_lock_with_it() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can become somebody else");
    }
    in_own_network("lost_state::a_home_that_goes_away_or_comes_takes_no_lock_with_it", || {
        for is_home_first in [true, false] {
            let account = Account::new(54_331);
            let (home, away) = (account.homes.join("u"), account.homes.join("away"));
            if !is_home_first {
                fs::rename(&home, &away).expect("it is there");
            }
            let Some(held) = account.command_that_holds() else { return };
            held.signal("STOP");
            if is_home_first {
                account.kill_server_after(|| fs::rename(&home, &away).expect("it is there"));
                let said = account.run(&["exec", "-n", "k", "true"]);
                assert_eq!(said.code, 69, "{said:?}");
                assert!(said.err.contains("/homes/u/.local/state/dflock/"), "{said:?}");
                fs::rename(&away, &home).expect("it is back");
            } else {
                account.kill_server_after(|| fs::rename(&away, &home).expect("it comes"));
            }
            let said = account.run(&["exec", "-n", "k", "true"]);
            assert_eq!(said.code, 75, "{said:?}");
            held.signal("CONT");
            drop(held);
        }
    });
}

/// In /tmp anybody may have been first. Who was is not believed, and keeps nobody out.
#[test]
fn what_others_say_of_it_is_not_listened_to() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can become somebody else");
    }
    in_own_network("lost_state::what_others_say_of_it_is_not_listened_to", || {
        let account = Account::new(54_332);
        let Some(held) = account.command_that_holds() else { return };
        let file = wait_for("a mark", || fs::read_dir(account.in_tmp()).ok()?.flatten().next()).file_name();
        let text = fs::read_to_string(account.in_tmp().join(&file)).expect("a mark");
        drop(held);
        assert_eq!(account.run(&["exec", "-w", "20", "k", "true"]).code, 0);
        account.kill_server_after(|| account.clear_away());
        // As it was, but for a directory that is not there.
        let (numbers, _) = text.split_once("dir ").expect("a directory");
        fs::create_dir(account.in_tmp()).expect("a directory of somebody else");
        fs::set_permissions(account.in_tmp(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::write(account.in_tmp().join(&file), format!("{numbers}dir /nowhere\n")).expect("written");
        chown(account.in_tmp().join(&file), Some(account.number), None).expect("given away");
        for owner in [0, 12_345] {
            chown(account.in_tmp(), Some(owner), None).expect("given away");
            let said = account.run(&["exec", "-w", "5", "k", "true"]);
            assert_eq!(said.code, 0, "{said:?}");
            account.kill_server_after(|| {});
        }
        // Of ours it is believed.
        chown(account.in_tmp(), Some(account.number), None).expect("given back");
        fs::set_permissions(account.in_tmp(), fs::Permissions::from_mode(0o700)).expect("its mode");
        let said = account.run(&["exec", "-n", "k", "true"]);
        assert!(said.code == 69 && said.err.contains("/nowhere"), "{said:?}");
    });
}
