//! Where it listens: several places at once, IPv6, and Unix sockets that others left behind or still use.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::house::tools::NOBODY;
use crate::house::{Server, wait_for};
use crate::lines::unix;
use crate::start::{private_file, refused, refused_with};

fn host_of(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[test]
fn one_table_behind_all_addresses() {
    let home = tempfile::tempdir().unwrap();
    let host = host_of(&home.path().join("socket"));
    let server = Server::start(&["--host", "127.0.0.1", "--host", &host, "--host", "localhost"]);
    let addresses: Vec<String> = wait_for("all addresses", || {
        let events = server.events();
        let listening = events.iter().filter(|event| event["event"] == "listening");
        let all: Vec<_> = listening.map(|event| event["address"].as_str().unwrap().to_owned()).collect();
        (all.len() >= 3).then_some(all)
    });
    assert_eq!(addresses[1], host);
    let mut holder = unix(&host);
    let token = holder.take("job", "0 600");
    for address in addresses.iter().filter(|address| !address.starts_with("unix:")) {
        assert_eq!(crate::house::Client::connect(address).ask("l", "job", "0"), "timeout", "at {address}");
    }
    assert_eq!(server.connect().ask("r", "job", &token), "ok");
}

#[test]
fn ipv6_with_and_without_brackets() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    }
    for host in ["::1", "[::1]"] {
        let server = Server::start(&["--host", host, "--max-connections-per-ip", "1"]);
        assert!(server.address.starts_with("[::1]:"), "{}", server.address);
        let mut client = server.connect();
        client.take("job", "0");
        assert_eq!(server.connect().line(), "error_max_connections");
    }
}

#[test]
fn a_port_in_use_is_refused_with_a_hint() {
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let said = refused(&["--port", port]);
    assert!(said.contains(&format!("127.0.0.1 port {port}")) && said.contains("--port N"), "{said}");
    server.connect().take("job", "0");
    // What it had bound before that is let go.
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    refused(&["--host", &host_of(&path), "--host", "127.0.0.1", "--port", port]);
    assert!(!path.exists(), "a socket file of a server that never was");
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let long = host_of(&home.path().join("x".repeat(120)));
    let hosts = ["192.0.2.1", "unix:/nowhere/at/all", "unix:", long.as_str(), &host_of(home.path()), ""];
    for host in hosts {
        let said = refused(&["--port", "0", "--host", host]);
        assert!(said.contains("cannot listen") && said.contains(host), "{host}: {said}");
    }
    assert!(home.path().is_dir());
}

#[test]
fn a_socket_file_left_by_a_killed_server_is_taken_over() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let server = Server::start(&["--host", &host_of(&path)]);
    unix(&server.address).take("job", "0");
    server.signal("KILL");
    drop(server);
    assert!(path.exists(), "a killed server cannot clean up");
    let server = Server::start(&["--host", &host_of(&path)]);
    unix(&server.address).take("job", "0");
}

#[test]
fn a_socket_file_in_use_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let server = Server::start(&["--host", &host_of(&path)]);
    let mut holder = unix(&server.address);
    let token = holder.take("job", "0 600");
    assert!(refused(&["--host", &server.address]).contains(&server.address));
    // One that does not answer at the moment is still there.
    server.signal("STOP");
    assert!(refused(&["--host", &server.address]).contains(&server.address));
    server.signal("CONT");
    assert_eq!(unix(&server.address).ask("r", "job", &token), "ok");
    // So is one that is no dflock.
    let other = home.path().join("other");
    let _listener = UnixListener::bind(&other).unwrap();
    refused(&["--host", &host_of(&other)]);
    assert!(std::fs::metadata(&other).unwrap().file_type().is_socket());
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let home = tempfile::tempdir().unwrap();
    let file = private_file(home.path(), "precious", "my only copy");
    let said = refused(&["--host", &format!("unix:{file}")]);
    assert!(said.contains(&file), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "my only copy");
}

#[test]
fn a_server_removes_no_socket_but_its_own() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let mut first = Server::start(&["--host", &host_of(&path)]);
    // Somebody tidies up, and another server takes the place.
    std::fs::remove_file(&path).unwrap();
    let second = Server::start(&["--host", &host_of(&path)]);
    first.signal("TERM");
    assert_eq!(first.wait().code(), Some(0));
    assert!(path.exists(), "the socket of the second server");
    unix(&second.address).take("job", "0");
}

/// Any user can lock a directory that he can read, for ever.
#[test]
fn a_locked_directory_holds_up_nobody() {
    let home = tempfile::tempdir().unwrap();
    let folder = std::fs::File::open(home.path()).unwrap();
    folder.lock().unwrap();
    let path = home.path().join("socket");
    let server = Server::start(&["--host", &host_of(&path)]);
    unix(&server.address).take("job", "0");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["socket"], "nothing else is left there");
}

#[test]
fn whoever_keeps_the_place_of_a_socket_is_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let lock = home.path().join("socket.lock");
    let file = std::fs::File::create(private_file(home.path(), "socket.lock", "")).unwrap();
    file.lock().unwrap();
    let said = refused(&["--host", &host_of(&path)]);
    assert!(said.contains("another server is starting there") && said.contains(lock.to_str().unwrap()), "{said}");
    drop(file);
    drop(Server::start(&["--host", &host_of(&path)]));
    // What others made there, or a link, is not used.
    let precious = private_file(home.path(), "precious", "my only copy");
    std::os::unix::fs::symlink(&precious, &lock).unwrap();
    assert!(refused(&["--host", &host_of(&path)]).contains("socket.lock"));
    std::fs::remove_file(&lock).unwrap();
    std::fs::write(&lock, "").unwrap();
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refused(&["--host", &host_of(&path)]).contains("not a file that only we can use"));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "my only copy");
}

#[test]
fn a_socket_is_for_whom_it_was_made() {
    let home = tempfile::tempdir().unwrap();
    let host = host_of(&home.path().join("socket"));
    let seen = |args: &[&str]| {
        let server = Server::start(&[&["--host", &host], args].concat());
        unix(&server.address).take("job", "0");
        let about = std::fs::metadata(home.path().join("socket")).unwrap();
        (about.mode() & 0o777, about.gid())
    };
    let mine = nix::unistd::getegid().as_raw();
    assert_eq!(seen(&["--socket-mode", "600"]), (0o600, mine));
    assert_eq!(seen(&["--socket-mode", "0666"]), (0o666, mine));
    assert_eq!(seen(&["--socket-group", &mine.to_string()]), (0o660, mine));
    if nix::unistd::geteuid().is_root() {
        let group = nix::unistd::Group::from_name("daemon").unwrap().expect("a group that is everywhere");
        assert_eq!(seen(&["--socket-group", "daemon", "--socket-mode", "620"]), (0o620, group.gid.as_raw()));
        // A server that is no member of it cannot do so, and tells why.
        let open = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(open.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let host = host_of(&open.path().join("socket"));
        let said = refused_with(&["--host", &host, "--socket-group", "daemon"], |command| {
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        });
        assert!(said.contains("of which the server must be a member"), "{said}");
    }
    for mode in ["rw", "8", "1777", "-1", ""] {
        assert!(refused(&["--host", &host, &format!("--socket-mode={mode}")]).contains("--socket-mode"), "{mode}");
    }
    assert!(refused(&["--host", &host, "--socket-group", "no-such-group"]).contains("no-such-group"));
    assert!(refused(&["--socket-mode", "600", "--port", "0"]).contains("--host"));
}

/// Ended when dropped.
struct Rivals(Vec<Child>);

impl Drop for Rivals {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two servers behind one name would grant one lock twice.
#[test]
fn of_servers_that_start_together_one_gets_the_socket() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..150 {
        let path = home.path().join(format!("socket-{round}"));
        // Left behind: bound, and nobody listens any more.
        drop(UnixListener::bind(&path).unwrap());
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
            command.args(["serve", "--host", &host_of(&path)]).env_clear().current_dir(home.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut rivals = Rivals((0..8).map(|_| start()).collect());
        // All but one give up; the last one never does.
        let mut ended = 0;
        wait_for("all but one to give up", || {
            ended = rivals.0.iter_mut().filter_map(|child| child.try_wait().unwrap()).count();
            (ended + 1 >= rivals.0.len()).then_some(())
        });
        assert_eq!(ended, rivals.0.len() - 1, "round {round}: nobody serves");
        wait_for("the one that is left", || UnixStream::connect(&path).ok());
        unix(&host_of(&path)).take("job", "0");
    }
}

/// Whoever may write to its directory puts a link there before the mode is set, or while it is.
#[test]
fn what_takes_the_place_of_a_socket_keeps_its_mode() {
    if !crate::house::tools::is_there("strace") {
        return crate::house::tools::missing("strace");
    }
    for (call, follows, is_refused) in
        [("bind:delay_exit", "chmod", true), ("chmod,fchmodat:delay_enter", "listen", false)]
    {
        // Whoever comes too late tries again, and has more time then.
        let in_time = [1, 4, 16].into_iter().any(|seconds| {
            let call = format!("{call}={seconds}000000");
            is_replaced(&call, follows, is_refused)
        });
        assert!(in_time, "{call}: this machine is too slow");
    }
}

/// Replaces a socket while `call` is held up; `false` if what follows that was first.
fn is_replaced(call: &str, follows: &str, is_refused: bool) -> bool {
    let home = tempfile::tempdir().expect("a home");
    let (path, log) = (home.path().join("socket"), home.path().join("trace"));
    let victim = private_file(home.path(), "victim", "private");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", log.to_str().expect("text"), "-e", "trace=bind,chmod,fchmodat,listen", "-e"]);
    command.args([&format!("inject={call}"), env!("CARGO_BIN_EXE_dflock"), "serve", "--port", "0"]);
    command.args(["--host", &host_of(&path), "--socket-mode", "666"]).current_dir(home.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut server = command.spawn().expect("strace runs");
    let has_called = |name: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("{name}(")));
    wait_for("a socket", || std::fs::symlink_metadata(&path).ok());
    std::fs::rename(&path, home.path().join("socket.old")).expect("it is moved");
    std::os::unix::fs::symlink(&victim, &path).expect("a link");
    let in_time = !has_called(follows);
    let ended = wait_for("a server, or a refusal", || {
        let ended = server.try_wait().expect("a child").is_some();
        (ended || has_called("listen")).then_some(ended)
    });
    let group = nix::unistd::Pid::from_raw(-server.id().cast_signed());
    let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
    let said = String::from_utf8_lossy(&server.wait_with_output().expect("it ends").stderr).into_owned();
    assert_eq!(std::fs::metadata(&victim).expect("it is there").mode() & 0o777, 0o600, "{call}: {said}");
    if in_time && is_refused {
        assert!(ended && said.contains("somebody has put something else in its place"), "{call}: {said}");
        assert!(path.is_symlink(), "{call}: what is there is not ours to remove");
    }
    in_time
}
