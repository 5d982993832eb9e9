//! A soak in the real server: many clients, few keys, everything at random, and a checker that sees each grant.
//!
//! `DFLOCK_SOAK_S=600` makes it longer than its 20 seconds, `DFLOCK_SEED=7` gives it other chances.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::abuse::reset;
use crate::checker::{Checker, LIMITS};
use crate::house::watchdog::may_take;
use crate::house::{Server, now, wait_for};
use crate::lines::{Lines, tcp};
use crate::start::raise_descriptor_limit;

const CLIENTS: u64 = 200;

/// Leases that outlast the soak, so that only what the clients do ends them.
const LONG_LEASE: u32 = 3600;

struct Soaker<'a> {
    address: &'a str,
    checker: &'a Checker,
    random: u64,
    client: Lines<TcpStream>,
}

impl Soaker<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    fn run(&mut self, end: Instant) {
        while now() < end && !self.checker.stop.load(Ordering::Relaxed) {
            let key = usize::try_from(self.below(LIMITS.len() as u64)).expect("a small number");
            match self.below(100) {
                0..65 => self.acquire(key),
                65..80 => self.enqueue(key),
                80 => self.let_run_out(key),
                81..90 => self.vanish_while_waiting(key),
                90..95 => self.break_off(),
                _ => self.talk_nonsense(),
            }
        }
    }

    /// `l` or `sl`: the command, and its argument with these seconds to wait and to hold.
    fn asking(key: usize, wait: u64, lease: u32) -> (String, String) {
        match LIMITS[key] {
            1 => ("l".to_owned(), format!("{wait} {lease}")),
            limit => ("sl".to_owned(), format!("{wait} {limit} {lease}")),
        }
    }

    /// The same command for locks and for semaphores.
    fn of_kind(key: usize, command: &str) -> String {
        if LIMITS[key] == 1 { command.to_owned() } else { format!("s{command}") }
    }

    fn ask(&mut self, key: usize, command: &str, argument: &str) -> String {
        self.client.ask(command, &format!("key-{key}"), argument)
    }

    /// The token of a grant; complains of anything but a grant or what else is expected.
    fn token(&self, answer: &str, word: &str, otherwise: &[&str]) -> Option<String> {
        let mut fields = answer.split(' ');
        if fields.next() == Some(word) {
            return fields.next().map(str::to_owned);
        }
        if !otherwise.contains(&answer) {
            self.checker.complain(format!("an unexpected answer: {answer:?}"));
        }
        None
    }

    fn acquire(&mut self, key: usize) {
        let wait = self.below(3);
        let (command, argument) = Self::asking(key, wait, LONG_LEASE);
        let answer = self.ask(key, &command, &argument);
        if let Some(token) = self.token(&answer, "ok", &["timeout"]) {
            self.checker.enter(key, &token);
            self.hold(key, &token);
        }
    }

    fn enqueue(&mut self, key: usize) {
        let argument = if LIMITS[key] == 1 { LONG_LEASE.to_string() } else { format!("{} {LONG_LEASE}", LIMITS[key]) };
        let answer = self.ask(key, &Self::of_kind(key, "e"), &argument);
        let mut token = self.token(&answer, "acquired", &["queued"]);
        if let Some(token) = &token {
            self.checker.enter(key, token);
        } else {
            let wait = self.below(3).to_string();
            let answer = self.ask(key, &Self::of_kind(key, "w"), &wait);
            token = self.token(&answer, "ok", &["timeout"]);
            if let Some(token) = &token {
                self.checker.enter(key, token);
            }
        }
        if let Some(token) = token {
            self.hold(key, &token);
        }
    }

    /// Uses a lock for a moment, then gives it up in one of many ways.
    fn hold(&mut self, key: usize, token: &str) {
        for _ in 0..self.below(3) {
            // This is the work that the lock is for.
            std::thread::park_timeout(Duration::from_micros(200));
            let answer = self.ask(key, &Self::of_kind(key, "n"), &format!("{token} {LONG_LEASE}"));
            if answer != format!("ok {LONG_LEASE}") {
                self.checker.complain(format!("key {key} was lost while held: {answer}"));
            }
        }
        let chance = self.below(10);
        self.checker.leave(key);
        match chance {
            0 => self.reconnect(),
            1 => self.break_off(),
            _ => {
                let answer = self.ask(key, &Self::of_kind(key, "r"), token);
                if answer != "ok" {
                    self.checker.complain(format!("key {key} could not be released: {answer}"));
                }
            }
        }
    }

    /// Leaves a lock to its lease of a second. It counts as left at once: when it ends is the server's matter.
    fn let_run_out(&mut self, key: usize) {
        let (command, argument) = Self::asking(key, 0, 1);
        let answer = self.ask(key, &command, &argument);
        if let Some(token) = self.token(&answer, "ok", &["timeout"]) {
            self.checker.enter(key, &token);
            self.checker.leave(key);
        }
    }

    /// Closes with a request under way: the grant may come at this very moment.
    fn vanish_while_waiting(&mut self, key: usize) {
        let (command, argument) = Self::asking(key, 60, LONG_LEASE);
        self.client.send(format!("{command}\nkey-{key}\n{argument}\n").as_bytes());
        if self.below(2) == 0 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if self.below(2) == 0 { self.reconnect() } else { self.break_off() }
    }

    /// Half a request, then a reset.
    fn break_off(&mut self) {
        self.client.send(b"l\nkey-");
        reset(self.client.stream());
        self.reconnect();
    }

    fn reconnect(&mut self) {
        self.client = Lines::new(tcp(self.address));
    }

    fn talk_nonsense(&mut self) {
        let token = "0123456789abcdef0123456789abcdef";
        for (command, argument) in [("r", token), ("n", token), ("zz", ""), ("l", "-1")] {
            let answer = self.client.ask(command, "key-0", argument);
            if answer != "error" {
                self.checker.complain(format!("{command} {argument} is answered {answer:?}"));
            }
        }
    }
}

#[test]
fn two_hundred_clients_never_overlap() {
    raise_descriptor_limit();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (seconds, seed) = (number("DFLOCK_SOAK_S").unwrap_or(20), number("DFLOCK_SEED").unwrap_or(1));
    may_take(Duration::from_secs(120 + seconds));
    let server = Server::start(&["--gc-max-idle", "1", "--max-connections-per-ip", "0"]);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let (before, opened) = (server.memory_kib(), descriptors());
    let checker = Checker::new();
    // How long the soak goes on: the load is the test, nothing is waited for.
    let end = now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (address, checker) = (server.address.as_str(), &checker);
            scope.spawn(move || {
                let random = seed.wrapping_mul(1_000_003).wrapping_add(number);
                let client = Lines::new(tcp(address));
                Soaker { address, checker, random, client }.run(end);
            });
        }
    });
    let wrong = checker.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "with seed {seed}: {wrong:#?}");
    let grants: Vec<u64> = checker.keys.iter().map(|seen| seen.lock().unwrap().grants).collect();
    println!("{} grants in {seconds} s: {grants:?}", checker.grants.load(Ordering::Relaxed));
    assert!(grants.iter().all(|grants| *grants > 0), "a key that nobody ever got: {grants:?}");

    let mut look = server.connect();
    let begin = now();
    wait_for("stats to be empty", || {
        let stats = look.stats();
        let empty = ["locks", "semaphores", "idle_locks", "idle_semaphores"]
            .iter()
            .all(|group| stats[group].as_array().unwrap().is_empty());
        (empty && stats["connections"] == 1).then_some(())
    });
    println!("empty after {:?}; memory before {before}, after {} KiB", begin.elapsed(), server.memory_kib());
    assert_eq!(descriptors(), opened + 1, "only the connection that looks is open");
    wait_for("memory to be back", || (server.memory_kib() < before + 6 * 1024).then_some(()));
    assert!(!server.log_text().contains("panicked"), "{}", server.log_text());
}
