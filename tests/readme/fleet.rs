//! The fleet that the examples speak of: its servers on this machine, its files, its jobs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use crate::blocks::readme;
use crate::house::Server;
use crate::house::clean::{House, Said};

pub struct Fleet {
    pub house: House,
    others: Vec<Server>,
    secure: Server,
}

impl Fleet {
    /// All servers run, all files and jobs that the examples name are there.
    pub fn new() -> Fleet {
        let house = House::new();
        let home = house.home.path();
        certificates(home);
        private(home, "secret", "s3cret\n");
        for job in jobs() {
            let path = home.join(&job);
            fs::write(&path, format!("#!/bin/sh\necho {job}\n")).expect("the job is written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be executed");
        }
        let file = |name: &str| home.join(name).display().to_string();
        let (cert, key, secret) = (file("server.pem"), file("server.key"), file("secret"));
        let secure = Server::start(&["--tls-cert", cert.as_str(), "--tls-key", &key, "--auth-token-file", &secret]);
        let others = vec![Server::start(&[]), Server::start(&[])];
        Fleet { house, others, secure }
    }

    /// An example with the names of this fleet in it.
    pub fn here(&self, text: &str) -> String {
        let [second, third] = [&self.others[0].address, &self.others[1].address];
        // The servers of this fleet are no cluster; of one member that cannot be told.
        let one_member = format!("dflockd://{}", self.house.servers);
        text.replace("/tmp/", "./")
            .replace("dflockd://lock1.example.com:6388,lock2.example.com:6388", &one_member)
            .replace("lock1.example.com:6388", &self.house.servers)
            .replace("lock2.example.com:6388", second)
            .replace("lock3.example.com:6388", third)
            .replace("locks.example.com:6388", &self.secure.address)
            .replace("/usr/bin/dflock", env!("CARGO_BIN_EXE_dflock"))
    }

    /// Runs an example as a script.
    pub fn script(&self, shell: &str, text: &str) -> Said {
        self.house.script(shell, &self.here(text))
    }

    /// Runs one command with further variables.
    pub fn run(&self, words: &[String], variables: &[(String, String)]) -> Said {
        let words: Vec<String> = words.iter().map(|word| self.here(word)).collect();
        let mut command: Command = self.house.command(&words[0]);
        command.args(&words[1..]).envs(variables.iter().map(|(name, value)| (name, self.here(value))));
        crate::house::clean::finish(command.spawn().expect("it starts"))
    }
}

/// Every `./job` that is named anywhere.
fn jobs() -> BTreeSet<String> {
    let text = readme();
    let is_of_name = |letter: &char| letter.is_ascii_lowercase() || matches!(letter, '-' | '.');
    let names = text.match_indices("./").map(|(at, _)| text[at + 2..].chars().take_while(is_of_name).collect());
    names.map(|name: String| name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty()).collect()
}

fn private(home: &Path, name: &str, text: &str) {
    fs::write(home.join(name), text).expect("the file is written");
    fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o600)).expect("it can be made private");
}

/// An authority, and a server's certificate for this machine.
fn certificates(home: &Path) {
    let mut about = CertificateParams::new(Vec::new()).expect("parameters");
    about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(about, KeyPair::generate().expect("a key")).expect("a certificate");
    private(home, "ca.pem", &authority.pem());
    let mut about = CertificateParams::new(Vec::new()).expect("parameters");
    about.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    let key = KeyPair::generate().expect("a key");
    private(home, "server.pem", &about.signed_by(&key, &authority).expect("a certificate").pem());
    private(home, "server.key", &key.serialize_pem());
}
