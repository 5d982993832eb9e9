//! A journal that was cut or changed: read to its last good record, or refused with a place and advice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use dflock::server::journal::frame::{FRAME, Frame, HEADER, Header};
use tempfile::TempDir;

use crate::house::Server;
use crate::house::running::Running;
use crate::kept::{Kept, token_of};
use crate::random::Random;

/// Frames that a new journal begins with.
const BEGINNING: usize = 2;

/// What a client was told, in order: each is answered only after everything before it is in the journal.
struct Story {
    journal: Vec<u8>,
    /// Where the journal ended when it was told, the key, and its token if it is held from then on.
    told: Vec<(usize, String, Option<String>)>,
}

/// A directory as a server takes it.
fn private_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    dir
}

/// Where the frames end, and the last of them.
fn end_of(journal: &[u8]) -> (Vec<usize>, usize) {
    let header = Header::read(journal).expect("a header");
    let (mut at, mut ends) = (HEADER, vec![HEADER]);
    while let Some((_, length)) = Frame::read(header, at as u64, &journal[at..]) {
        at += length;
        ends.push(at);
    }
    (ends, at)
}

fn story() -> Story {
    let mut kept = Kept::start(&[]);
    let mut client = kept.connect();
    client.ask("info", "_", "resume 60");
    let mut told = Vec::new();
    let end = |kept: &Kept| end_of(&fs::read(kept.journal()).expect("a journal")).1;
    for number in 0..12 {
        let (key, other) = (format!("key-{number}"), format!("sem-{number}"));
        let token = client.take(&key, "0 3600");
        told.push((end(&kept), key.clone(), Some(token.clone())));
        let slot = token_of(&client.ask("sl", &other, "0 2 3600"));
        told.push((end(&kept), other, Some(slot)));
        if number % 3 == 0 {
            assert_eq!(client.ask("r", &key, &token), "ok");
            told.push((end(&kept), key, None));
        }
    }
    kept.kill();
    Story { journal: fs::read(kept.journal()).expect("a journal"), told }
}

impl Story {
    /// Starts a server on a journal that was good up to `good`, and compares.
    fn check(&self, journal: &[u8], good: usize) {
        let dir = private_dir();
        fs::write(dir.path().join("journal"), journal).expect("the journal is written");
        let server = Server::start(&["--state-dir", dir.path().to_str().expect("a plain path")]);
        let mut client = server.connect();
        let mut held = std::collections::BTreeMap::new();
        for (end, key, token) in &self.told {
            if *end <= good {
                held.insert(key.clone(), token.clone());
            } else {
                held.entry(key.clone()).or_insert(None);
            }
        }
        for (key, token) in held {
            let (verb, ask) = if key.starts_with("sem") { ("sn", ("sl", "0 2")) } else { ("n", ("l", "0")) };
            match token {
                Some(token) => assert_eq!(client.ask(verb, &key, &format!("{token} 60")), "ok 60", "{key} at {good}"),
                None => assert!(client.ask(ask.0, &key, ask.1).starts_with("ok "), "{key} is free at {good}"),
            }
        }
    }
}

/// Starts a server that must not start; returns what it says.
pub fn refused(dir: &std::path::Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
    command.args(["serve", "--port", "0", "--state-dir"]).arg(dir).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // One that serves after all is ended with the test.
    Running::start(&mut command).finish().code(125).err
}

#[test]
fn cut_at_every_frame_and_anywhere_it_is_what_was_told_by_then() {
    let story = story();
    let (ends, end) = end_of(&story.journal);
    assert!(ends.len() > 25, "{} frames", ends.len());
    let mut random = Random::new(3);
    let mut cuts = ends[BEGINNING..].to_vec();
    cuts.extend((0..30).map(|_| ends[BEGINNING] + random.below((end - ends[BEGINNING]) as u64) as usize));
    for cut in cuts {
        let good = *ends.iter().rfind(|at| **at <= cut).expect("a frame");
        story.check(&story.journal[..cut], good);
    }
}

#[test]
fn a_changed_byte_is_refused_with_place_and_advice_or_is_the_torn_end() {
    let story = story();
    let (ends, end) = end_of(&story.journal);
    let last = ends[ends.len() - 2];
    let mut random = Random::new(4);
    let dir = private_dir();
    for round in 0..40 {
        let at = random.below(end as u64) as usize;
        let mut journal = story.journal.clone();
        journal[at] ^= 1 << random.below(8);
        if at >= last {
            story.check(&journal, last);
            continue;
        }
        fs::write(dir.path().join("journal"), &journal).expect("the journal is written");
        let said = refused(dir.path());
        let file = dir.path().join("journal");
        assert!(said.starts_with(&format!("dflock: cannot read the journal {}: it", file.display())), "{said}");
        assert!(said.contains("restore it from a copy"), "{said}");
        assert_eq!(fs::read(&file).expect("still there"), journal, "it is left alone");
        if at >= ends[BEGINNING] {
            let place = *ends.iter().rfind(|end| **end <= at).expect("a frame");
            assert!(said.contains(&format!("damaged at byte {place},")), "round {round}, changed at {at}: {said}");
            assert!(said.contains(&format!("truncate -s {place} {}", file.display())), "{said}");
            // The advice works.
            fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(place as u64)).expect("cut");
            story.check(&fs::read(&file).expect("the journal"), place);
        }
    }
}

#[test]
fn an_empty_or_strange_journal_is_never_a_silent_new_beginning() {
    let dir = private_dir();
    for content in [&b""[..], b"\0\0\0\0", b"hello", &[0; 10_000], &[0xff; 10_000]] {
        fs::write(dir.path().join("journal"), content).expect("written");
        let said = refused(dir.path());
        assert!(said.contains("it is no journal of dflock, or damaged at byte 0"), "{said}");
        assert_eq!(fs::read(dir.path().join("journal")).expect("still there"), content);
    }
}

/// The last batch was torn, and says so in the log.
#[test]
fn a_torn_end_is_told_in_one_line() {
    let story = story();
    let (ends, end) = end_of(&story.journal);
    let dir = private_dir();
    let last = ends[ends.len() - 2];
    let mut journal = story.journal[..end].to_vec();
    journal[end - 1] ^= 0x55;
    fs::write(dir.path().join("journal"), &journal).expect("written");
    let mut server = Server::start(&["--state-dir", dir.path().to_str().expect("a plain path")]);
    let torn = server.event("state_torn");
    assert_eq!((torn["at"].as_u64(), torn["bytes"].as_u64()), (Some(last as u64), Some((end - last) as u64)));
    assert!(end - last > FRAME);
    assert_eq!(server.events().iter().filter(|event| event["event"] == "state_torn").count(), 1);
}
