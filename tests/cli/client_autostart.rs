//! The server of this machine that nobody has to start. All of it needs the one default port, so it is one test.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use crate::client_fakes::{Fake, TOKEN, closed_port};
use crate::client_house::Desk;
use crate::house::{Client, signal, wait_for};

const HERE: &str = "127.0.0.1:6388";

/// Somebody who has set nothing at all.
fn nobody_set_anything() -> Desk {
    Desk::new().with("DFLOCK_AUTOSTART", "")
}

fn servers(desk: &Desk) -> Vec<u32> {
    desk.processes_with("serve")
}

fn is_free() -> bool {
    TcpListener::bind(HERE).is_ok()
}

/// Ends the one server that this house started.
fn end(desk: &Desk) {
    for pid in servers(desk) {
        signal(pid, "TERM");
    }
    wait_for("the end of the server", || servers(desk).is_empty().then_some(()));
    // Its port may be kept for a moment by connections that just ended, but nobody listens.
    wait_for("the port", || TcpStream::connect(HERE).is_err().then_some(()));
}

#[test]
fn the_server_of_this_machine() {
    if !is_free() || TcpStream::connect(HERE).is_ok() {
        eprintln!("SKIPPED: somebody listens on {HERE} already");
        return;
    }
    starts_one_and_uses_it();
    fifty_start_one();
    is_not_started_where_it_is_not_wanted();
    a_stranger_is_named();
}

fn starts_one_and_uses_it() {
    // What is meant for a server of somebody's own does not reach it.
    let desk = nobody_set_anything().with("DFLOCKD_PORT", "1").with("DFLOCKD_AUTH_TOKEN", "s3cret");
    let taken = desk.json(&["acquire", "k", "--json"]);
    assert_eq!((&taken["server"], &taken["state"]), (&HERE.into(), &"acquired".into()), "{taken}");
    let started = servers(&desk);
    assert_eq!(started.len(), 1, "processes: {started:?}");
    let about = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", started[0])).expect("it runs");
    assert_eq!(about("cwd"), PathBuf::from("/"), "it keeps no directory busy");
    // Other clients share it.
    assert_eq!(Client::connect(HERE).ask("l", "k", "0"), "timeout");
    desk.ok(&["acquire", "other"]);
    assert_eq!(servers(&desk), started, "it is there already");
    desk.ok(&["release", "k"]);
    desk.ok(&["release", "other"]);
    let mut client = Client::connect(HERE);
    assert!(client.ask("l", "k", "5").starts_with("ok "), "it is free again");
    drop(client);
    end(&desk);
}

fn fifty_start_one() {
    let desk = nobody_set_anything();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50)
            .map(|number| {
                let desk = &desk;
                scope.spawn(move || desk.run(&["acquire", &format!("key-{number}")]))
            })
            .collect();
        for asked in asking {
            let said = asked.join().expect("it ran");
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    });
    assert_eq!(servers(&desk).len(), 1, "fifty at once start one");
    assert_eq!(desk.json(&["stats"])["locks"].as_array().map(Vec::len), Some(50));
    for number in 0..50 {
        desk.ok(&["release", &format!("key-{number}")]);
    }
    end(&desk);
}

fn is_not_started_where_it_is_not_wanted() {
    let desk = Desk::new();
    desk.fails(&["acquire", "k"], 69, &["nothing listens there", HERE]);
    let dead = closed_port();
    for desk in [&nobody_set_anything().with("DFLOCK_SERVERS", &dead), &nobody_set_anything()] {
        desk.fails(&["acquire", "k", "-s", &dead], 69, &["nothing listens there", &dead]);
        assert_eq!(servers(desk), [0; 0], "a server that was named is not replaced");
    }
    // The same address, but named: somebody expects a server of their own there.
    let desk = nobody_set_anything().with("DFLOCK_SERVERS", HERE);
    desk.fails(&["acquire", "k"], 69, &["nothing listens there", HERE]);
    assert_eq!(servers(&desk), [0; 0]);
    // Looking starts nothing.
    let desk = nobody_set_anything();
    for verb in [&["stats"] as &[&str], &["status", "k"], &["holders"], &["config"], &["release", "k", "0123"]] {
        desk.run(verb);
    }
    assert_eq!(servers(&desk), [0; 0]);
    assert!(is_free());
}

fn a_stranger_is_named() {
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
            let args = [verb, &["--connect-timeout", "500ms"]].concat();
            desk.fails(&args, code, &[HERE, &me, "listens there"]);
        }
        assert_eq!(servers(&desk), [0; 0]);
        drop(stranger);
        wait_for("the end of the stranger", || TcpStream::connect(HERE).is_err().then_some(()));
    }
}
