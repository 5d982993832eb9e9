//! Whole sessions, byte by byte, with a real server in this process.
//!
//! An input is what up to three connections say, and in which order. It is said twice: as it is, and in pieces.
//! Nobody may notice the difference, the server ends every connection whose client is gone, and serves the next one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dflock::net::socket_file::SocketAccess;
use dflock::server::table::Limits;
use dflock::server::{Credentials, Options, Server};
use dflock::wire::{Frame, next_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Target, fuzz, now};
use crate::mutate::{self, mutate};
use crate::random::Random;
use crate::wire;

/// Bytes that mean something to the player of a session, each with one byte behind it.
const PROOF: u8 = 1;
const SWITCH: u8 = 2;
const CLOSE: u8 = 3;

/// How long the end of a connection may take.
const CEILING: Duration = Duration::from_secs(20);

/// Leases and timeouts are of whole seconds: in less time than this none ends.
const BRIEF: Duration = Duration::from_millis(500);

const SECRET: &[u8] = b"s3 cret";

#[test]
fn sessions() {
    fuzz(&Target { name: "session", inputs: 600, make, check, memory: |length| 2 * 1024 * 1024 + 128 * length });
}

fn make(random: &mut Random) -> Vec<u8> {
    // A wrong secret takes its time.
    let needs_secret = random.chance(3);
    let mut script = vec![if needs_secret { 0 } else { 1 + random.below(255) as u8 }, random.next() as u8];
    if needs_secret && random.chance(80) {
        script.extend([b"auth\n_\n", SECRET, b"\n"].concat());
    }
    let keys: &[&str] = if random.chance(70) { &["a"] } else { &["a", "b", "c"] };
    for _ in 0..random.below(14) {
        let key = *random.pick(keys);
        let proof = [PROOF, random.below(4) as u8];
        let line = |random: &mut Random, some: &[&str]| random.pick(some).replace("KEY", key).into_bytes();
        match random.below(20) {
            0..4 => script.extend(line(random, &["l\nKEY\n0\n", "l\nKEY\n9000\n", "l\nKEY\n9 9\n"])),
            4..6 => script.extend(line(random, &["sl\nKEY\n0 2\n", "sl\nKEY\n900 2\n", "se\nKEY\n2\n"])),
            6..8 => script.extend(line(random, &["e\nKEY\n\n", "e\nKEY\n30\n"])),
            8..10 => script.extend(line(random, &["w\nKEY\n0\n", "w\nKEY\n9000\n", "sw\nKEY\n900\n"])),
            10..13 => {
                let verbs = ["r\nKEY\n", "sr\nKEY\n", "n\nKEY\n", "resume\nKEY\n", "sresume\nKEY\n"];
                script.extend([line(random, &verbs), proof.to_vec(), b"\n".to_vec()].concat());
            }
            13 => script.extend(line(random, &["info\n_\nresume 60\n", "stats\n_\n_\n", "ping\n_\n_\n"])),
            14..17 => script.extend([SWITCH, random.below(3) as u8]),
            17 => script.extend([CLOSE, 0]),
            _ => script.extend(wire::request(random)),
        }
    }
    if random.chance(30) {
        let words: [&[u8]; 8] = [
            b"\n",
            b"\r",
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\n",
            &[SWITCH, 1],
            &[CLOSE, 0],
            b"l\na\n0\n",
            b"auth\n_\nx\n",
        ];
        mutate(random, &mut script, &words);
    }
    if random.chance(3) {
        script.extend(vec![b'x'; random.below(40_000) as usize]);
    }
    if random.chance(5) {
        script.extend(mutate::bytes(random, 50).repeat(100));
    }
    script
}

/// What is done on one connection, or to it.
enum Step<'a> {
    Say(&'a [u8]),
    /// The token or ticket that so many others were told after.
    Prove(usize),
    Switch(usize),
    Close,
}

fn steps(mut script: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while !script.is_empty() {
        let plain = script.iter().position(|byte| (PROOF..=CLOSE).contains(byte)).unwrap_or(script.len());
        let (said, rest) = script.split_at(plain);
        if !said.is_empty() {
            steps.push(Step::Say(said));
        }
        let Some((control, rest)) = rest.split_first() else { break };
        let (argument, rest) = rest.split_first().map_or((0, rest), |(argument, rest)| (usize::from(*argument), rest));
        steps.push(match *control {
            PROOF => Step::Prove(argument % 8),
            SWITCH => Step::Switch(argument % 3),
            _ => Step::Close,
        });
        script = rest;
    }
    steps
}

fn check(input: &[u8]) {
    let [kind, pieces, script @ ..] = input else { return };
    let began = now();
    let whole = play(*kind, script, usize::MAX);
    // One byte, or a few, at a time.
    let in_pieces = play(*kind, script, 1 + usize::from(pieces % 32));
    if began.elapsed() < BRIEF {
        assert_eq!(whole, in_pieces, "in pieces something else is answered");
    }
}

/// What each connection heard, one after the other as they were opened.
fn play(kind: u8, script: &[u8], piece: usize) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let options = options(kind, &path);
        let secret = options.credentials.secrets.first().cloned();
        let server = Server::bind(options, Arc::new(|_| {})).await.expect("a server");
        let (_stop, stops) = mpsc::channel(1);
        tokio::spawn(server.run(stops));
        let mut player = Player::new(path);
        if secret.is_some() {
            player.last_words_after = Duration::from_millis(150);
        }
        for step in steps(script) {
            player.step(step, piece).await;
        }
        player.finish().await;
        // It is there for the next one.
        let mut greeting = Vec::new();
        if let Some(secret) = secret {
            greeting = [b"auth\n_\n", secret.as_slice(), b"\n"].concat();
        }
        greeting.extend(b"ping\n_\n_\n");
        let mut witness = Player::new(player.path.clone());
        witness.step(Step::Say(&greeting), usize::MAX).await;
        witness.finish().await;
        assert!(witness.heard[0].ends_with(b"ok\n"), "the next client hears {:?}", witness.heard[0].escape_ascii());
        player.told()
    })
}

fn options(kind: u8, path: &std::path::Path) -> Options {
    let limits = Limits {
        keys: if kind & 2 == 0 { 100 } else { 2 },
        waiters: if kind & 4 == 0 { 0 } else { 1 },
        idle: Duration::from_secs(60),
        auto_release: kind & 24 != 8,
    };
    Options {
        hosts: vec![format!("unix:{}", path.display())],
        port: 0,
        socket: SocketAccess::default(),
        limits,
        default_lease_s: 33,
        max_lease_s: 86_400,
        max_connections: 0,
        max_connections_per_ip: 0,
        max_memory: None,
        read_timeout: Duration::from_secs(23),
        write_timeout: Duration::from_secs(5),
        shutdown_timeout: Duration::from_secs(30),
        idle_exit: None,
        state: None,
        credentials: Credentials { tls: None, secrets: (kind == 0).then(|| SECRET.to_vec()).into_iter().collect() },
    }
}

struct Player {
    path: PathBuf,
    connections: [Option<(UnixStream, usize)>; 3],
    current: usize,
    last_words_after: Duration,
    /// Of all connections, in the order in which they were opened.
    heard: Vec<Vec<u8>>,
    said: Vec<Vec<u8>>,
}

impl Player {
    fn new(path: PathBuf) -> Player {
        Player {
            path,
            connections: [None, None, None],
            current: 0,
            last_words_after: Duration::ZERO,
            heard: Vec::new(),
            said: Vec::new(),
        }
    }

    async fn step(&mut self, step: Step<'_>, piece: usize) {
        match step {
            Step::Say(bytes) => self.say(bytes, piece).await,
            Step::Prove(back) => {
                self.settle().await;
                let all = self.heard.iter().flat_map(|heard| heard.split(|byte| b" \n".contains(byte)));
                let proofs: Vec<&[u8]> = all.filter(|word| is_proof(word)).collect();
                let proof = proofs.iter().rev().nth(back).map_or(b"none".to_vec(), |proof| proof.to_vec());
                self.say(&proof, piece).await;
            }
            Step::Switch(to) => {
                self.settle().await;
                self.current = to;
            }
            Step::Close => {
                self.settle().await;
                // What is wrong is answered late.
                tokio::time::sleep(self.last_words_after).await;
                self.connections[self.current] = None;
                self.settle().await;
            }
        }
    }

    async fn say(&mut self, bytes: &[u8], piece: usize) {
        if self.connections[self.current].is_none() {
            let stream = UnixStream::connect(&self.path).await.expect("the server is there");
            self.connections[self.current] = Some((stream, self.heard.len()));
            self.heard.push(Vec::new());
            self.said.push(Vec::new());
        }
        // Each write takes room of its own in a socket, and of what is sent ahead of its turn not all is read.
        for bytes in bytes.chunks(piece.max(bytes.len() / 100)) {
            let Some((stream, number)) = &mut self.connections[self.current] else { return };
            self.said[*number].extend(bytes);
            // Who has heard the last word may not be able to.
            let written = timeout(CEILING, stream.write_all(bytes)).await;
            assert!(written.is_ok(), "the server reads no more");
            if piece < usize::MAX {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Until nothing is said any more. All runs on this thread, so that nobody is merely slow.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 30 {
            tokio::task::yield_now().await;
            quiet += 1;
            for (stream, number) in self.connections.iter_mut().flatten() {
                let mut bytes = [0; 4096];
                while let Ok(read) = stream.try_read(&mut bytes)
                    && read > 0
                {
                    self.heard[*number].extend(&bytes[..read]);
                    quiet = 0;
                }
            }
        }
    }

    /// Nobody says anything more: every connection ends.
    async fn finish(&mut self) {
        self.settle().await;
        for at in 0..self.connections.len() {
            let Some((mut stream, number)) = self.connections[at].take() else { continue };
            // It may be gone already.
            let _ = stream.shutdown().await;
            let rest = timeout(CEILING, stream.read_to_end(&mut self.heard[number])).await;
            assert!(rest.is_ok(), "a connection does not end");
            drop(stream);
            self.settle().await;
        }
        for (said, heard) in self.said.iter().zip(&self.heard) {
            let requests = requests_in(said);
            let most = (requests + 1) * (1024 + 2048 * self.said.len() * (requests + 1));
            assert!(heard.len() <= most, "{requests} requests are answered by {} bytes", heard.len());
            let answers = heard.iter().filter(|byte| **byte == b'\n').count();
            assert!(answers <= requests + 1, "{requests} requests are answered by {answers} lines");
            assert!(heard.is_empty() || heard.ends_with(b"\n"), "half an answer");
        }
    }

    /// What was heard, but for what is different every time.
    fn told(&self) -> Vec<String> {
        let mut known: Vec<Vec<u8>> = Vec::new();
        let mut name = |word: &[u8]| match known.iter().position(|other| other == word) {
            Some(at) => format!("proof-{at}"),
            None => {
                known.push(word.to_vec());
                format!("proof-{}", known.len() - 1)
            }
        };
        let mut tell = |heard: &Vec<u8>| {
            let mut told = String::new();
            let mut before = b"".as_slice();
            for word in heard.split_inclusive(|byte| b" \n,:".contains(byte)) {
                let (bare, end) = word.split_at(word.len() - 1);
                let is_time = bare.contains(&b'.') && bare.iter().all(|byte| b"0123456789.}]".contains(byte));
                match () {
                    () if is_proof(bare) => told.push_str(&name(bare)),
                    () if is_time => told.push_str("time"),
                    // Of one that was ended by the server nobody knows for how long it is read on.
                    () if before.ends_with(b"\"connections\"") => told.push_str("some"),
                    () => told.push_str(&bare.escape_ascii().to_string()),
                }
                told.push_str(&String::from_utf8_lossy(end));
                before = bare;
            }
            told
        };
        self.heard.iter().map(&mut tell).collect()
    }
}

fn is_proof(word: &[u8]) -> bool {
    word.len() == 32 && word.iter().all(u8::is_ascii_hexdigit)
}

/// Whole ones; what follows a line that is too long is none any more.
fn requests_in(said: &[u8]) -> usize {
    let (mut used, mut requests) = (0, 0);
    while let Frame::Whole { used: more, .. } = next_frame(&said[used..]) {
        used += more;
        requests += 1;
    }
    requests
}
