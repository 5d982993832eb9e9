//! What a server answers is believed if it is less than what was asked for.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::house::clean::{House, Running};
use crate::house::{now, wait_for};

/// A server that grants everything for `granted` seconds, and answers renewals in turn as it is told; then it is
/// silent. It frees nothing, and knows nothing of `info`.
struct Stingy {
    address: String,
    /// When a renewal came, and what it asked for.
    renewals: Receiver<(Instant, String)>,
}

impl Stingy {
    fn start(granted: u64, answers: &'static [&'static str]) -> Stingy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (tell, renewals) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tell = tell.clone();
                std::thread::spawn(move || serve(&stream, granted, answers, &tell));
            }
        });
        Stingy { address, renewals }
    }

    fn renewal(&self) -> (Instant, String) {
        self.renewals.recv_timeout(crate::house::CEILING).expect("a renewal")
    }
}

fn serve(stream: &TcpStream, granted: u64, answers: &[&str], tell: &Sender<(Instant, String)>) {
    let (mut lines, mut writer) = (BufReader::new(stream).lines(), stream);
    let mut answers = answers.iter();
    loop {
        let mut line = || lines.next().and_then(Result::ok);
        let (Some(command), Some(_), Some(argument)) = (line(), line(), line()) else { return };
        let answer = match command.as_str() {
            "l" => Some(format!("ok {:032x} {granted}", 7)),
            "n" => {
                let _ = tell.send((now(), argument.split(' ').nth(1).unwrap_or_default().to_owned()));
                answers.next().map(|answer| (*answer).to_owned())
            }
            "r" => Some("ok".to_owned()),
            _ => Some("error".to_owned()),
        };
        let Some(answer) = answer else { continue };
        if writer.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// A command that obeys nothing but KILL, under a lease of `lease`; its pid.
fn stubborn(house: &House, lease: &str) -> (Running, u32) {
    let job = "trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done";
    let running = house.start(&["exec", "-l", lease, "k", "--", "sh", "-c", job]);
    let pid = house.wait_for_file("pid").trim().parse().expect("a pid");
    (running, pid)
}

fn wait_for_death(pid: u32) -> Instant {
    let is_dead = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    wait_for("the end of the command", || is_dead().then(now))
}

#[test]
fn a_command_is_dead_before_a_lease_ends_that_the_server_cut_short() {
    let server = Stingy::start(15, &["ok 12"]);
    let house = House::at(&server.address);
    let (running, pid) = stubborn(&house, "15");
    let (sent, asked) = server.renewal();
    assert_eq!(asked, "15");
    let died = wait_for_death(pid);
    assert!(died.duration_since(sent) < Duration::from_secs(12), "{:?}", died.duration_since(sent));
    assert_eq!(running.finish().code, 79);
}

/// It asks for the whole lease every time, so that a server that cuts once has cut once.
#[test]
fn a_lease_that_was_cut_short_is_asked_for_in_full_again() {
    let server = Stingy::start(6, &["ok 4", "ok 3", "ok 6", "ok 9000000000", "ok 6"]);
    let house = House::at(&server.address);
    let (running, _) = stubborn(&house, "6");
    for _ in 0..5 {
        assert_eq!(server.renewal().1, "6");
    }
    running.signal("KILL");
    running.finish().code(137);
}

#[test]
fn a_lease_of_nothing_ends_the_command_at_once() {
    let server = Stingy::start(15, &["ok 0"]);
    let house = House::at(&server.address);
    let (running, pid) = stubborn(&house, "15");
    let (sent, _) = server.renewal();
    let died = wait_for_death(pid);
    assert!(died.duration_since(sent) < Duration::from_secs(5), "{:?}", died.duration_since(sent));
    assert_eq!(running.finish().code, 79);
}

/// As much as the server gave when the lock was taken, not as much as was wished for.
#[test]
fn a_grant_for_less_than_was_asked_for_is_what_the_command_is_told() {
    let server = Stingy::start(5, &["ok 5", "ok 5"]);
    let house = House::at(&server.address);
    let said = house.dflock(&["exec", "-l", "120", "k", "-c", "echo $DFLOCK_LEASE"]);
    assert_eq!(said.ok(), "5", "{said:?}");
}
