//! A server with a state directory, which outlives it; and what it says to tokens.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::house::{Client, Server};

pub struct Kept {
    home: TempDir,
    flags: Vec<String>,
    server: Option<Server>,
}

impl Kept {
    /// In memory where there is such a place: a disk is not what these tests are about.
    pub fn start(flags: &[&str]) -> Kept {
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let home = home.expect("a home for the state");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut kept = Kept { home, flags, server: None };
        kept.start_again();
        kept
    }

    pub fn start_again(&mut self) -> &mut Server {
        let dir = self.dir();
        let mut flags = vec!["--state-dir", dir.to_str().expect("a plain path")];
        flags.extend(self.flags.iter().map(String::as_str));
        self.server.insert(Server::start(&flags))
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub fn journal(&self) -> PathBuf {
        self.dir().join("journal")
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it runs")
    }

    pub fn connect(&self) -> Client {
        self.server.as_ref().expect("it runs").connect()
    }

    /// As a power cut would be for the server alone.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal("KILL");
            server.wait();
        }
    }

    pub fn stop(&mut self) -> Server {
        let mut server = self.server.take().expect("it runs");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0), "{}", server.log_text());
        server
    }

    pub fn restart(&mut self) -> Value {
        self.kill();
        self.start_again().event("state_opened")
    }
}

/// A client whose locks outlive its connection for a minute.
pub fn resumable(kept: &Kept) -> Client {
    let mut client = kept.connect();
    let info = client.ask("info", "_", "resume 60");
    assert!(info.contains("\"resume_s\":60"), "{info}");
    client
}

pub fn token_of(answer: &str) -> String {
    let mut fields = answer.split(' ');
    assert!(matches!(fields.next(), Some("ok" | "acquired" | "queued")), "{answer}");
    fields.next().expect("a token").to_owned()
}

pub fn fence_of(token: &str) -> u64 {
    u64::from_str_radix(&token[..16], 16).expect("a fence")
}
