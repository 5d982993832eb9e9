//! The server is killed at any moment under load, hundreds of times over the same directory: what was answered
//! is so, whatever was not may be either way, and fences only grow.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::house::watchdog::may_take;
use crate::house::{CEILING, Client, now};
use crate::kept::{Kept, fence_of, token_of};
use crate::random::Random;

const ROUNDS: u64 = 220;
const WORKERS: u64 = 6;
const MOST_KEYS: usize = 25;

/// One key of one worker, as far as it was told.
#[derive(Clone, Debug)]
enum Known {
    Free,
    Held(String),
    /// In the queue behind a lock that is never released.
    Queued(String),
    /// The last request got no answer: free or held, by a token that may be known.
    Either(Option<String>),
}

struct Worker {
    name: u64,
    random: Random,
    keys: HashMap<String, Known>,
    made: u64,
    last_fence: u64,
    answered: u64,
}

impl Worker {
    /// Asks until the server dies.
    fn work(&mut self, address: &str, over: &AtomicBool) {
        let Ok(stream) = TcpStream::connect(address) else { return };
        let mut wire = Wire { stream, heard: Vec::new() };
        if wire.ask("info\n_\nresume 60\n").is_none() {
            return;
        }
        while !over.load(Ordering::Relaxed) && self.step(&mut wire).is_some() {}
    }

    fn pick(&mut self, fits: impl Fn(&Known) -> bool) -> Option<String> {
        let mut all: Vec<&String> = self.keys.iter().filter(|(_, known)| fits(known)).map(|(key, _)| key).collect();
        all.sort_unstable();
        (!all.is_empty()).then(|| all[self.random.below(all.len() as u64) as usize].clone())
    }

    /// `None` when there was no answer.
    fn step(&mut self, wire: &mut Wire) -> Option<()> {
        let held = self.pick(|known| matches!(known, Known::Held(_)));
        let choice = match self.random.below(10) {
            // So few that comparing them takes no time.
            0..5 if self.keys.len() >= MOST_KEYS => 9,
            choice => choice,
        };
        match (choice, held) {
            (0..5, _) | (_, None) => {
                let key = match self.pick(|known| matches!(known, Known::Free)) {
                    Some(key) if self.keys.len() >= MOST_KEYS || self.random.chance(80) => key,
                    _ => {
                        self.made += 1;
                        let kind = if self.random.chance(30) { "sem" } else { "lock" };
                        // Long, so that the journal grows soon.
                        format!("{kind}-{}-{:0>200}", self.name, self.made)
                    }
                };
                self.keys.insert(key.clone(), Known::Either(None));
                let answer = wire.ask(&match key.starts_with("sem") {
                    true => format!("sl\n{key}\n0 3 3600\n"),
                    false => format!("l\n{key}\n0 3600\n"),
                })?;
                self.granted(&key, &answer);
            }
            (5..7, Some(key)) => {
                let Some(Known::Held(token)) = self.keys.get(&key).cloned() else { return Some(()) };
                // Whatever becomes of it, it is still held.
                let answer = wire.ask(&format!("{}\n{key}\n{token} 3600\n", verb(&key, "n")))?;
                assert_eq!(answer, "ok 3600");
            }
            (7, Some(_)) => {
                let key = format!("busy-{}", self.random.below(3));
                let answer = wire.ask(&format!("e\n{key}\n3600\n"))?;
                if answer.starts_with("queued ") {
                    self.keys.insert(format!("{key} {answer}"), Known::Queued(token_of(&answer)));
                } else {
                    assert_eq!(answer, "error_already_enqueued");
                }
            }
            (_, Some(key)) => {
                let Some(Known::Held(token)) = self.keys.get(&key).cloned() else { return Some(()) };
                self.keys.insert(key.clone(), Known::Either(Some(token.clone())));
                let answer = wire.ask(&format!("{}\n{key}\n{token}\n", verb(&key, "r")))?;
                assert_eq!(answer, "ok");
                self.keys.insert(key, Known::Free);
            }
        }
        self.answered += 1;
        Some(())
    }

    fn granted(&mut self, key: &str, answer: &str) {
        let token = token_of(answer);
        let fence = fence_of(&token);
        assert!(fence > self.last_fence, "fence {fence:x} after {:x}", self.last_fence);
        self.last_fence = fence;
        self.keys.insert(key.to_owned(), Known::Held(token));
    }

    /// Compares what it was told with what a restarted server knows.
    fn compare(&mut self, client: &mut Client) {
        for (key, known) in &mut self.keys {
            match known.clone() {
                Known::Held(token) => {
                    assert_eq!(
                        client.ask(verb(key, "n"), key, &format!("{token} 3600")),
                        "ok 3600",
                        "{key} was granted"
                    );
                    if !key.starts_with("sem") {
                        assert_eq!(client.ask("l", key, "0"), "timeout", "{key} is held");
                    }
                }
                Known::Free => {
                    let taken = client.ask(verb(key, "l"), key, if key.starts_with("sem") { "0 1" } else { "0" });
                    assert!(taken.starts_with("ok "), "{key} was released: {taken}");
                    assert!(fence_of(&token_of(&taken)) > self.last_fence, "the fence fell");
                    assert_eq!(client.ask(verb(key, "r"), key, &token_of(&taken)), "ok");
                }
                Known::Queued(ticket) => {
                    let (name, _) = key.split_once(' ').expect("a key and a ticket");
                    assert_eq!(client.ask("resume", name, &ticket), format!("queued {ticket}"));
                    // One client has one place of a key: it is left for the next.
                    assert_eq!(client.ask("w", name, "0"), "timeout");
                }
                Known::Either(Some(token)) => {
                    let still = client.ask(verb(key, "n"), key, &format!("{token} 3600"));
                    *known = if still == "ok 3600" { Known::Held(token) } else { Known::Free };
                }
                Known::Either(None) => {}
            }
        }
        // Who has what was asked for last nobody knows, so nobody asks again.
        self.keys.retain(|key, known| !matches!(known, Known::Either(None)) && !key.contains(' '));
    }
}

fn verb(key: &str, letter: &'static str) -> &'static str {
    match (key.starts_with("sem"), letter) {
        (true, "l") => "sl",
        (true, "r") => "sr",
        (true, "n") => "sn",
        (_, letter) => letter,
    }
}

/// A connection to a server that may die at any moment.
struct Wire {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Wire {
    fn ask(&mut self, request: &str) -> Option<String> {
        self.stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
        self.stream.write_all(request.as_bytes()).ok()?;
        loop {
            if let Some(at) = self.heard.iter().position(|byte| *byte == b'\n') {
                let rest = self.heard.split_off(at + 1);
                let line = std::mem::replace(&mut self.heard, rest);
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.heard.extend_from_slice(&bytes[..read]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => panic!("no answer within {CEILING:?}"),
                Err(_) => return None,
            }
        }
    }
}

/// Kills the server while the workers ask, looks at what the next one knows, and goes on with that one.
#[test]
fn killed_at_any_moment_it_knows_what_it_said() {
    may_take(Duration::from_secs(600));
    for fsync in ["always", "never"] {
        let rounds = if fsync == "always" { ROUNDS } else { 20 };
        let mut kept = Kept::start(&["--fsync", fsync]);
        let mut random = Random::new(7);
        let mut holder = kept.connect();
        let busy: Vec<String> = (0..3).map(|number| holder.take(&format!("busy-{number}"), "0 36000")).collect();
        let worker = |name| Worker {
            name,
            random: Random::new(1000 + name),
            keys: HashMap::new(),
            made: 0,
            last_fence: 0,
            answered: 0,
        };
        let mut workers: Vec<Worker> = (0..WORKERS).map(worker).collect();
        let (mut compactions, mut drafts) = (0, 0);
        for round in 0..rounds {
            let address = kept.server().address.clone();
            let over = Arc::new(AtomicBool::new(false));
            let working: Vec<_> = workers
                .drain(..)
                .map(|mut worker| {
                    let (address, over) = (address.clone(), over.clone());
                    std::thread::spawn(move || {
                        worker.work(&address, &over);
                        worker
                    })
                })
                .collect();
            let begin = now();
            if round % 50 == 29 {
                // Long enough for a new file to be begun; then at any moment of that.
                let draft = kept.dir().join("journal.new");
                while !draft.exists() && begin.elapsed() < CEILING {
                    std::thread::park_timeout(Duration::from_micros(300));
                }
                drafts += u64::from(draft.exists());
                compactions += 1;
                std::thread::park_timeout(Duration::from_micros(random.below(1500)));
            } else {
                std::thread::park_timeout(Duration::from_micros(random.below(40_000)));
            }
            kept.kill();
            over.store(true, Ordering::Relaxed);
            workers = working.into_iter().map(|worker| worker.join().expect("a worker")).collect();
            kept.start_again();
            let mut client = kept.connect();
            for (number, token) in busy.iter().enumerate() {
                assert_eq!(client.ask("n", &format!("busy-{number}"), &format!("{token} 36000")), "ok 36000");
            }
            // Each at its own connection: they know of nothing of each other's.
            std::thread::scope(|scope| {
                for worker in &mut workers {
                    scope.spawn(|| worker.compare(&mut kept.connect()));
                }
            });
        }
        let answered: u64 = workers.iter().map(|worker| worker.answered).sum();
        let held: usize = workers.iter().map(|worker| worker.keys.len()).sum();
        eprintln!(
            "--fsync {fsync}: {rounds} kills, {answered} answers, {held} keys at the end; killed while a new file was begun: {drafts} of {compactions}"
        );
        assert!(answered > rounds * 10, "hardly any load: {answered} answers");
    }
}
