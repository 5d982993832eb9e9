//! The server of this machine that nobody has to start, nor to look after.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dflock::procfs::Process;

use crate::client_fakes::{Fake, TOKEN, closed_port};
use crate::client_house::{Desk, finish};
use crate::house::clean::Running;
use crate::house::network::{HERE, in_own_network};
use crate::house::{Client, Server, now, signal, wait_for};
use crate::settings_traps::PACKAGED;

/// Somebody who has set nothing at all.
fn nobody_set_anything() -> Desk {
    Desk::new().with("DFLOCK_AUTOSTART", "").with("DFLOCK_CONNECT_RETRY", "")
}

fn servers(desk: &Desk) -> Vec<u32> {
    desk.processes_with("serve")
}

/// The one server that this house started. Others that were to be it may not have ended yet.
fn server(desk: &Desk) -> u32 {
    wait_for("one server", || match servers(desk)[..] {
        [pid] => Some(pid),
        _ => None,
    })
}

/// Ends the server of this house.
fn end(desk: &Desk) {
    for pid in servers(desk) {
        signal(pid, "TERM");
    }
    wait_for("the end of the server", || servers(desk).is_empty().then_some(()));
    // Its port may be kept for a moment by connections that just ended, but nobody listens.
    wait_for("the port", || TcpStream::connect(HERE).is_err().then_some(()));
}

fn kill_server(desk: &Desk) {
    let pid = server(desk);
    signal(pid, "KILL");
    wait_for("the end of the server", || (!servers(desk).contains(&pid)).then_some(()));
}

#[test]
fn starts_one_and_uses_it() {
    in_own_network("client_autostart::starts_one_and_uses_it", || {
        // What is meant for a server of somebody's own does not reach it.
        let desk = nobody_set_anything().with("DFLOCKD_PORT", "1").with("DFLOCKD_AUTH_TOKEN", "s3cret");
        let taken = desk.json(&["acquire", "k", "--json"]);
        assert_eq!((&taken["server"], &taken["state"]), (&HERE.into(), &"acquired".into()), "{taken}");
        let started = server(&desk);
        let about = |name: &str| std::fs::read_link(format!("/proc/{started}/{name}")).expect("it runs");
        assert_eq!(about("cwd"), PathBuf::from("/"), "it keeps no directory busy");
        // Other clients share it.
        assert_eq!(Client::connect(HERE).ask("l", "k", "0"), "timeout");
        desk.ok(&["acquire", "other"]);
        assert_eq!(server(&desk), started, "it is there already");
        desk.ok(&["release", "k"]);
        desk.ok(&["release", "other"]);
        let mut client = Client::connect(HERE);
        assert!(client.ask("l", "k", "5").starts_with("ok "), "it is free again");
        drop(client);
        end(&desk);
    });
}

#[test]
fn fifty_at_once_start_one() {
    in_own_network("client_autostart::fifty_at_once_start_one", || {
        let desk = nobody_set_anything();
        let all: Vec<_> = std::thread::scope(|scope| {
            let run = |number: usize| {
                let key = format!("key-{number}");
                if number.is_multiple_of(2) { desk.run(&["acquire", &key]) } else { desk.run(&["exec", &key, "true"]) }
            };
            let asking: Vec<_> = (0..50).map(|number| scope.spawn(move || run(number))).collect();
            asking.into_iter().map(|asked| asked.join().expect("it ran")).collect()
        });
        assert!(all.iter().all(|said| said.code == Some(0)), "{all:?}");
        server(&desk);
        let told: usize = all.iter().map(|said| said.err.matches("started a lock server").count()).sum();
        assert_eq!(told, 1, "and one of them says so: {all:?}");
        assert_eq!(desk.json(&["stats"])["locks"].as_array().map(Vec::len), Some(25));
        for number in (0..50).step_by(2) {
            desk.ok(&["release", &format!("key-{number}")]);
        }
        end(&desk);
    });
}

#[test]
fn its_start_is_told_off_a_terminal_too() {
    in_own_network("client_autostart::its_start_is_told_off_a_terminal_too", || {
        for verb in [&["exec", "k", "true"] as &[&str], &["acquire", "k"], &["enqueue", "k"]] {
            let desk = nobody_set_anything();
            let said = desk.run(verb);
            assert_eq!((said.code, said.err.lines().count()), (Some(0), 1), "{said:?}");
            assert!(said.err.starts_with("dflock: started a lock server on 127.0.0.1:6388"), "{said:?}");
            assert_eq!(desk.run(&["exec", "other", "true"]).err, "", "once");
            if verb[0] != "exec" {
                // Whoever holds something would start another one.
                desk.ok(&["release", "k"]);
            }
            end(&desk);
        }
    });
}

/// By a clean-up of old files, or at the end of a login.
#[test]
fn its_directory_may_be_removed() {
    in_own_network("client_autostart::its_directory_may_be_removed", || {
        let desk = nobody_set_anything();
        let mut first =
            Running::start(&mut desk.command(&["exec", "-l", "30", "k", "-c", "echo > begun; exec sleep 100"]));
        wait_for("a command", || desk.path().join("begun").exists().then_some(()));
        std::fs::remove_dir_all(desk.path().join("run")).expect("it is there");
        for key in ["a", "b"] {
            let said = desk.run(&["exec", "-n", key, "true"]);
            assert_eq!(said.code, Some(0), "{said:?}");
        }
        // All that it knew is there again, for the next one.
        first.signal("STOP");
        kill_server(&desk);
        let said = desk.run(&["exec", "-n", "k", "true"]);
        assert_eq!(said.code, Some(75), "{said:?}");
        first.signal("CONT");
        assert!(first.is_running());
        // Whoever holds something would start another one.
        drop(first);
        end(&desk);
    });
}

/// It is missed while nobody asks for anything, too: who kills the server a moment later finds all of it.
#[test]
fn its_directory_is_soon_missed() {
    in_own_network("client_autostart::its_directory_is_soon_missed", || {
        let desk = nobody_set_anything();
        let first = Running::start(&mut desk.command(&["exec", "-l", "60", "k", "-c", "echo > begun; exec sleep 100"]));
        wait_for("a command", || desk.path().join("begun").exists().then_some(()));
        let run = desk.path().join("run");
        std::fs::remove_dir_all(&run).expect("it is there");
        let begin = dflock::clock::now();
        wait_for("it to be made again", || run.exists().then_some(()));
        let took = dflock::clock::now().since(begin);
        assert!(took.as_secs() < 7, "{took:?}");
        drop(first);
        end(&desk);
    });
}

#[test]
fn one_whose_directory_cannot_be_made_again_leaves() {
    in_own_network("client_autostart::one_whose_directory_cannot_be_made_again_leaves", || {
        let desk = nobody_set_anything();
        desk.run(&["exec", "k", "true"]);
        let pid = server(&desk);
        let run = desk.path().join("run");
        std::fs::remove_dir_all(&run).expect("it is there");
        std::fs::write(&run, "").expect("a file in its place");
        wait_for("its end", || {
            // Somebody asks all the time.
            let said = desk.run(&["exec", "-n", "--require-server", "k", "true"]);
            assert_ne!(said.code, Some(0), "{said:?}");
            (!servers(&desk).contains(&pid)).then_some(())
        });
        std::fs::remove_file(&run).expect("it is there");
        std::fs::DirBuilder::new().mode(0o700).create(&run).expect("a directory");
        assert_eq!(desk.run(&["exec", "-n", "k", "true"]).code, Some(0));
        end(&desk);
    });
}

#[test]
fn is_not_started_where_it_is_not_wanted() {
    in_own_network("client_autostart::is_not_started_where_it_is_not_wanted", || {
        let desk = Desk::new();
        desk.fails(&["acquire", "k"], 69, &["nothing listens there", HERE]);
        let dead = closed_port();
        for desk in [&Desk::at(&dead).with("DFLOCK_AUTOSTART", ""), &Desk::new().with("DFLOCK_AUTOSTART", "")] {
            desk.fails(&["acquire", "k", "-s", &dead], 69, &["nothing listens there", &dead]);
            assert_eq!(servers(desk), [0; 0], "a server that was named is not replaced");
        }
        // The same address, but named: somebody expects a server of their own there.
        let desk = Desk::at(HERE).with("DFLOCK_AUTOSTART", "");
        desk.fails(&["acquire", "k"], 69, &["nothing listens there", HERE]);
        assert_eq!(servers(&desk), [0; 0]);
        // Turned off, in each way there is; what the package installs is one.
        let by_file = nobody_set_anything();
        let file = by_file.file("config/dflock/config.toml", PACKAGED, 0o644);
        for (desk, flags, source) in [
            (&by_file, &[] as &[&str], file.as_str()),
            (&nobody_set_anything(), &["--require-server"], "--require-server"),
            (&nobody_set_anything().with("DFLOCK_AUTOSTART", "0"), &[], "DFLOCK_AUTOSTART"),
        ] {
            let parts = ["nothing listens there", "no server is named", source, "DFLOCK_SERVERS"];
            desk.fails(&[&["acquire", "k"], flags].concat(), 69, &parts);
            desk.refuses(&[&["exec", "k"], flags, &["true"]].concat(), 69, &parts);
            assert_eq!(servers(desk), [0; 0]);
        }
        // Looking starts nothing.
        let desk = nobody_set_anything();
        for verb in [&["stats"] as &[&str], &["status", "k"], &["holders"], &["config"], &["release", "k", "0123"]] {
            desk.run(verb);
        }
        assert_eq!(servers(&desk), [0; 0]);
    });
}

#[test]
fn somebody_else_on_the_port_is_named() {
    in_own_network("client_autostart::somebody_else_on_the_port_is_named", || {
        let me = std::process::id().to_string();
        for (says, code) in [("HTTP/1.1 400 Bad Request\r\n\r\n", 76), ("", 69), ("silence", 69)] {
            // The port of a server that just ended may be free again only in a moment.
            let listener = wait_for("the port", || TcpListener::bind(HERE).ok());
            let stranger = Fake::on(listener, move |mut peer| {
                let _ = peer.lines.try_line();
                if says == "silence" {
                    return peer.stay();
                }
                peer.say(says);
            });
            let desk = nobody_set_anything();
            for verb in [&["acquire", "k"] as &[&str], &["status", "k"], &["release", "k", TOKEN]] {
                let args = [verb, &["--connect-timeout", "500ms", "--connect-retry", "100ms"]].concat();
                desk.fails(&args, code, &[HERE, &me, "listens there"]);
            }
            assert_eq!(servers(&desk), [0; 0]);
            drop(stranger);
            wait_for("the end of the stranger", || TcpStream::connect(HERE).is_err().then_some(()));
        }
    });
}

/// As a shell script runs it; what the caller has set for itself is not meant for a server that outlives it.
#[test]
fn nothing_of_its_caller_reaches_it() {
    in_own_network("client_autostart::nothing_of_its_caller_reaches_it", || {
        let desk = nobody_set_anything().with("BACKUP_PASSWORD", "s3cret").with("DFLOCK_AUTH_TOKEN", "s3cret");
        let script = "umask 0; trap '' TERM HUP INT QUIT PIPE; ulimit -t 60; ulimit -S -n 64; ulimit -f 100000
            exec 9>kept 8</dev/null; echo 300 >/proc/self/oom_score_adj
            exec nice -n 7 \"$0\" exec k sh -c 'echo kept >&9; umask; ulimit -t; nice; trap'";
        let mut command = Command::new("sh");
        let inner = desk.command(&[]);
        command.args(["-c", script]).arg(inner.get_program()).env_clear().current_dir(desk.path());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = finish(command);
        assert_eq!(said.code, Some(0), "{said:?}");
        // The command has all of it.
        assert_eq!(said.out.lines().take(3).collect::<Vec<_>>(), ["0000", "60", "7"], "{said:?}");
        assert_eq!(std::fs::read_to_string(desk.path().join("kept")).unwrap(), "kept\n", "descriptor 9 is the job's");
        let pid = server(&desk);
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
        let environment = read("environ");
        let names: Vec<&str> = environment.split_terminator('\0').filter_map(|line| line.split('=').next()).collect();
        assert!(names.iter().all(|name| ["HOME", "DFLOCK_RUNTIME_DIR"].contains(name)), "{names:?}");
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
            line.split_whitespace().nth(1).expect("a value").to_owned()
        };
        assert_eq!((field("Umask:"), field("SigBlk:")), ("0077".to_owned(), "0".repeat(16)));
        assert_ne!(field("PPid:"), std::process::id().to_string());
        let ignored = u64::from_str_radix(&field("SigIgn:"), 16).expect("a mask");
        let ignores = |signal: u32| ignored & (1 << (signal - 1)) != 0;
        assert!(![1, 2, 3, 15].into_iter().any(ignores), "it ignores {ignored:x}");
        let stat = read("stat");
        let after_name: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let limits = read("limits");
        let limit = |name: &str| {
            let line = limits.lines().find(|line| line.starts_with(name)).expect("a limit");
            line[26..].split_whitespace().next().expect("a value").to_owned()
        };
        assert_ne!(limit("Max open files"), "64");
        assert_eq!(read("oom_score_adj").trim(), "0");
        // Not everybody may take back what they have given up.
        let may = |given_up: &str| Command::new("sh").args(["-c", given_up]).stderr(Stdio::null()).status();
        if may("ulimit -t 60 && ulimit -t unlimited").is_ok_and(|status| status.success()) {
            assert_eq!((limit("Max cpu time").as_str(), limit("Max file size").as_str()), ("unlimited", "unlimited"));
        }
        if may("nice -n 5 renice -n 0 $$").is_ok_and(|status| status.success()) {
            assert_eq!(after_name[16], "0", "niceness");
        }
        let links: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("it runs")
            .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
            .collect();
        assert!(!links.iter().any(|link| link.ends_with("/kept")), "{links:?}");
        end(&desk);
    });
}

#[test]
fn a_start_that_hangs_has_a_deadline() {
    in_own_network("client_autostart::a_start_that_hangs_has_a_deadline", || {
        let desk = nobody_set_anything();
        // As of one that is stopped in the middle of it.
        let turn = std::fs::File::create(desk.path().join("run/server-start.lock")).expect("the lock of the start");
        turn.lock().expect("it is ours");
        for flags in [["-n", "--connect-timeout", "1s"], ["-w=60", "--connect-timeout", "1s"]] {
            for verb in [&["exec"] as &[&str], &["acquire"]] {
                let args = [verb, &flags, &["k", "true"][..if verb[0] == "exec" { 2 } else { 1 }]].concat();
                let said = desk.refuses(&args, 69, &["cannot start a lock server", "within 1.0s"]);
                desk.expect(said.took < Duration::from_secs(6), || format!("{:?} for a start", said.took));
            }
        }
        wait_for("nobody to be left of it", || servers(&desk).is_empty().then_some(()));
        drop(turn);
        let said = desk.run(&["exec", "-n", "k", "true"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        end(&desk);
    });
}

/// Its state is kept, and whoever holds a lock sees to it that there is another server.
#[test]
fn killing_it_frees_nothing() {
    in_own_network("client_autostart::killing_it_frees_nothing", || {
        let desk = nobody_set_anything();
        let log = desk.path().join("log");
        let count = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        let job = format!("while [ ! -e stop ]; do echo x >>{}; sleep 0.01; done", log.display());
        let mut running = desk.command(&["exec", "-l", "10", "job", "-c", &job]).spawn().expect("it starts");
        wait_for("the job", || (count() > 0).then_some(()));
        desk.ok(&["acquire", "kept", "-l", "60"]);
        for round in 0..8 {
            kill_server(&desk);
            // At any moment from now on.
            for _ in 0..3 {
                for key in ["job", "kept"] {
                    let said = desk.run(&["exec", "-n", key, "true"]);
                    assert_eq!(said.code, Some(75), "round {round}: {said:?}");
                }
            }
            let before = count();
            wait_for("the job to go on", || (count() > before + 2).then_some(()));
        }
        assert_eq!(desk.json(&["holders", "--json"])["holders"][0]["state"], "held");
        std::fs::write(desk.path().join("stop"), "").expect("the job is told to end");
        assert_eq!(running.wait().expect("it ends").code(), Some(0));
        assert_eq!(desk.run(&["exec", "-n", "job", "true"]).code, Some(0));
        desk.ok(&["release", "kept"]);
        end(&desk);
    });
}

#[test]
fn stopping_it_frees_nothing() {
    in_own_network("client_autostart::stopping_it_frees_nothing", || {
        let desk = nobody_set_anything();
        let mut running = desk.command(&["exec", "job", "-c", "echo >ready; while [ ! -e stop ]; do sleep 0.01; done"]);
        let mut running = running.spawn().expect("it starts");
        wait_for("the job", || desk.path().join("ready").exists().then_some(()));
        for round in 0..4 {
            signal(server(&desk), "TERM");
            let begin = now();
            while begin.elapsed() < Duration::from_millis(500) {
                let said = desk.run(&["exec", "-n", "job", "true"]);
                assert_eq!(said.code, Some(75), "round {round}: {said:?}");
            }
        }
        // Whoever waits goes on waiting.
        let waiting = desk.command(&["exec", "-w", "30", "job", "true"]).spawn().expect("it starts");
        wait_for("a waiter", || (desk.json(&["stats"])["locks"][0]["waiters"] == 1).then_some(()));
        signal(server(&desk), "TERM");
        std::fs::write(desk.path().join("stop"), "").expect("the job is told to end");
        assert_eq!(running.wait().expect("it ends").code(), Some(0));
        let said = waiting.wait_with_output().expect("it ends");
        assert!(said.status.success(), "{said:?}");
        end(&desk);
    });
}

/// In cron there is no `XDG_RUNTIME_DIR`, and at a login's end what it names is removed.
#[test]
fn its_state_is_where_every_session_of_the_user_looks() {
    in_own_network("client_autostart::its_state_is_where_every_session_of_the_user_looks", || {
        let desk = nobody_set_anything();
        let login = desk.path().join("login");
        std::fs::create_dir(&login).expect("a directory");
        let at_login = |args: &[&str]| {
            let mut command = desk.command(args);
            command.env("XDG_RUNTIME_DIR", &login);
            finish(command)
        };
        let taken = at_login(&["acquire", "job", "-l", "60", "--owner", "none", "--max-hold", "1m"]);
        assert_eq!(taken.code, Some(0));
        std::fs::remove_dir_all(&login).expect("the login has ended");
        kill_server(&desk);
        assert_eq!(desk.run(&["exec", "-n", "job", "true"]).code, Some(75));
        desk.ok(&["release", "job", taken.out.trim()]);
        end(&desk);
    });
}

/// A command that another command runs may be the one who starts it. It is an orphan then, and comes to the `dflock exec`
/// around; but it is nobody's leftover.
#[test]
fn a_server_that_a_command_had_started_is_not_ended_with_the_command() {
    in_own_network("client_autostart::a_server_that_a_command_had_started_is_not_ended_with_the_command", || {
        let around = Server::start(&[]);
        let desk = nobody_set_anything();
        for contain in ["auto", "group"] {
            let script = "\"$0\" acquire k2 && echo begun >begun; while :; do sleep 0.01; done";
            let args = ["exec", "-s", &around.address, "--contain", contain, "k1", "sh", "-c", script];
            let mut outer =
                desk.command(&[&args[..], &[env!("CARGO_BIN_EXE_dflock")]].concat()).spawn().expect("it runs");
            wait_for("the inner one", || desk.path().join("begun").exists().then_some(()));
            let started = server(&desk);
            let parent = Process::of(i32::try_from(started).expect("a pid")).map(|process| process.parent);
            assert_eq!(parent, i32::try_from(outer.id()).ok(), "it came to whoever takes in orphans");
            signal(outer.id(), "TERM");
            let status = wait_for("the end", || outer.try_wait().expect("it can be waited for"));
            assert_eq!(status.code().or_else(|| status.signal().map(|signal| 128 + signal)), Some(143));
            assert_eq!(server(&desk), started);
            // The holder is gone with its owner, by itself.
            assert_eq!(desk.run(&["exec", "-w", "20", "k2", "true"]).code, Some(0));
            end(&desk);
            std::fs::remove_file(desk.path().join("begun")).expect("it is there");
        }
    });
}

/// Whoever comes when it leaves is served, or finds another one; never a failure.
#[test]
fn its_leaving_is_nobodys_failure() {
    in_own_network("client_autostart::its_leaving_is_nobodys_failure", || {
        let desk = nobody_set_anything();
        let mut met = 0;
        for round in 0..60 {
            // It leaves as soon as nobody is connected, which is when the next one comes.
            let mut leaving = Server::start(&["--port", "6388", "--idle-exit", "30ms"]);
            let ready = now();
            let pause = Duration::from_micros(28_000 + 200 * (round % 20));
            while ready.elapsed() < pause {
                std::thread::park_timeout(pause.saturating_sub(ready.elapsed()));
            }
            for _ in 0..3 {
                let said = desk.run(&["exec", "-n", "k", "true"]);
                assert_eq!(said.code, Some(0), "round {round}: {said:?}");
                met += usize::from(!said.err.is_empty());
            }
            leaving.wait();
            end(&desk);
        }
        eprintln!("{met} of 180 started a server of their own");
    });
}

/// Whoever binds the port first could be anybody; what nobody named must be somebody's who could do worse anyway.
#[test]
fn a_strangers_server_gets_no_request() {
    in_own_network("client_autostart::a_strangers_server_gets_no_request", || {
        if !nix::unistd::geteuid().is_root() {
            return crate::house::tools::skipped("only root can be somebody else");
        }
        for (user, is_trusted) in [(12_345, false), (65_534, false), (999, true), (0, true)] {
            let serve = |command: &mut Command| {
                command.uid(user).current_dir("/").env("HOME", "/");
            };
            let mut server = Server::start_with(&["--port", "6388"], serve);
            let desk = nobody_set_anything().with("DFLOCK_AUTH_TOKEN", "s3cret");
            let fails: [&[&str]; 4] =
                [&["exec", "k", "true"], &["acquire", "k"], &["status", "k"], &["release", "k", TOKEN]];
            if is_trusted {
                assert_eq!(desk.run(fails[0]).code, Some(0), "of user {user}");
            } else {
                for args in fails {
                    let said = desk.refuses(args, 77, &["another user", &user.to_string(), "--servers"]);
                    desk.expect(said.took < Duration::from_secs(4), || format!("{:?}", said.took));
                }
                let info = Client::connect(HERE).ask("info", "_", "_");
                assert!(info.contains("\"grants\":0"), "{info}");
            }
            // Whoever names it trusts it.
            assert_eq!(desk.run(&["exec", "-s", HERE, "k", "true"]).code, Some(0), "of user {user}");
            server.signal("TERM");
            server.wait();
            wait_for("the port", || TcpListener::bind(HERE).ok());
        }
    });
}
