//! A clean house for the command line: its own home, runtime directory and server, and no holder left in it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of the house")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::gate::Gate;
use super::home::Home;
pub use super::running::{Running, Said, finish};
use super::{Server, now, wait_for};

/// How every holder's command line begins.
pub const TITLE: &str = "dflock: holding ";

pub struct House {
    pub home: Home,
    /// Of mode 700; holders are in `dflock` below it.
    pub runtime: PathBuf,
    /// What `DFLOCK_SERVERS` says.
    pub servers: String,
    /// `None` if it uses somebody else's.
    server: Option<Server>,
}

impl House {
    /// With a `dflock serve` of its own.
    pub fn new() -> House {
        House::serving(&[])
    }

    /// The same, its server with these flags.
    pub fn serving(args: &[&str]) -> House {
        let server = Server::start(args);
        let mut house = House::at(&server.address);
        house.server = Some(server);
        house
    }

    /// For servers that are there already, as `--servers` names them.
    pub fn at(servers: &str) -> House {
        let home = Home::new();
        let runtime = home.path().join("run");
        fs::create_dir(&runtime).expect("a runtime directory");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("mode 700");
        House { home, runtime, servers: servers.to_owned(), server: None }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("a server of its own")
    }

    pub fn server_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server of its own")
    }

    /// A program that inherits nothing but this house; `dflock` is found in its `PATH`.
    pub fn command(&self, program: &str) -> Command {
        let dflock = Path::new(env!("CARGO_BIN_EXE_dflock"));
        let bin = dflock.parent().expect("a directory").display();
        let mut command = Command::new(if program == "dflock" { dflock.as_os_str() } else { program.as_ref() });
        command.env_clear().current_dir(self.home.path());
        command.env("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"));
        command.env("HOME", self.home.path()).env("DFLOCK_RUNTIME_DIR", self.runtime.join("dflock"));
        command.env("DFLOCK_SERVERS", &self.servers);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `dflock ARGS` to its end.
    pub fn dflock(&self, args: &[&str]) -> Said {
        let mut command = self.command("dflock");
        finish(command.args(args).spawn().expect("dflock starts"))
    }

    /// A script in a file, ready to be started by `sh` or `bash`.
    pub fn script_command(&self, shell: &str, text: &str) -> Command {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.home.path().join(format!("script-{number}"));
        fs::write(&path, text).expect("the script is written");
        let mut command = self.command(shell);
        command.arg(path);
        command
    }

    /// Runs a script to its end.
    pub fn script(&self, shell: &str, text: &str) -> Said {
        finish(self.script_command(shell, text).spawn().expect("the shell starts"))
    }

    /// Starts a script; it is killed if it still runs when dropped. Its `read` waits for [`Running::go_on`].
    pub fn start_script(&self, shell: &str, text: &str) -> Running {
        Running::start(self.script_command(shell, text).stdin(Stdio::piped()))
    }

    /// Starts `dflock ARGS`; it is killed if it still runs when dropped.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command("dflock").args(args))
    }

    /// What `dflock holders` lists.
    pub fn holders(&self) -> Vec<Value> {
        let document = self.dflock(&["holders", "--json"]).json();
        document["holders"].as_array().expect("a list of holders").clone()
    }

    /// The pids of this house's holders, those included that do not answer.
    pub fn holder_pids(&self) -> Vec<u32> {
        let files = fs::read_dir(self.runtime.join("dflock")).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let pids = names.filter_map(|name| name.strip_suffix(".lock")?.rsplit_once('-')?.1.parse().ok());
        pids.filter(|pid| is_holder(*pid)).collect()
    }

    /// Whether the server has this lock in somebody's hands.
    pub fn is_held(&self, key: &str) -> bool {
        self.dflock(&["status", key, "--json"]).json()["state"] == "held"
    }

    pub fn wait_until_free(&self, key: &str) {
        wait_for(&format!("{key} to be free"), || (!self.is_held(key)).then_some(()));
    }

    pub fn wait_until_held(&self, key: &str) {
        wait_for(&format!("{key} to be held"), || self.is_held(key).then_some(()));
    }

    /// How many wait for a lock.
    pub fn waiters(&self, key: &str) -> u64 {
        self.dflock(&["status", key, "--json"]).json()["lock"]["waiters"].as_u64().unwrap_or(0)
    }

    /// Waits until as many wait for a lock.
    pub fn wait_for_waiters(&self, key: &str, count: u64) {
        wait_for(&format!("{count} waiters for {key}"), || (self.waiters(key) == count).then_some(()));
    }

    /// Waits for the end of every holder.
    pub fn wait_until_nobody_holds(&self) {
        wait_for("the end of all holders", || self.holder_pids().is_empty().then_some(()));
    }

    /// Frees a lock that is tied to nobody, as who has no token does.
    pub fn end_holder_of(&self, key: &str) {
        for holder in self.holders().iter().filter(|holder| holder["key"] == key) {
            let pid = holder["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
            super::signal(pid, "TERM");
            wait_for(&format!("the end of the holder of {key}"), || (!is_holder(pid)).then_some(()));
        }
    }

    fn tell_holders(&self, signals: &[&str]) {
        for pid in self.holder_pids() {
            for name in signals {
                // It may end by itself at this moment.
                let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
    }

    /// A file of this house, or nothing.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.path().join(name)).unwrap_or_default()
    }

    /// Waits until a script has written a file that ends with a line end.
    pub fn wait_for_file(&self, name: &str) -> String {
        wait_for(&format!("the file {name}"), || Some(self.read(name)).filter(|text| text.ends_with('\n')))
    }

    /// A place where a script of this house waits.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::at(self.path(name))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Default for House {
    fn default() -> House {
        House::new()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // A stopped one must wake to end; one that cannot reach its server may take its time.
        self.tell_holders(&["TERM", "CONT"]);
        let begin = now();
        while !self.holder_pids().is_empty() && begin.elapsed() < Duration::from_secs(3) {
            thread::park_timeout(Duration::from_millis(2));
        }
        self.tell_holders(&["KILL"]);
    }
}

/// Whether a pid is that of a living holder: a number alone could be anybody's by now.
pub fn is_holder(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(TITLE.as_bytes())
}

/// Replaces every word of 32 hexadecimal digits.
pub fn mask_tokens(text: &str) -> String {
    let mut masked = String::new();
    let mut word = String::new();
    for letter in text.chars().chain(['\0']) {
        if letter.is_ascii_hexdigit() {
            word.push(letter);
            continue;
        }
        masked.push_str(if word.len() == 32 { "TOKEN" } else { &word });
        word.clear();
        if letter != '\0' {
            masked.push(letter);
        }
    }
    masked
}
