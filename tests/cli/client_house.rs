//! A clean house for a client, where everything that is wrong is collected and said at the end.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::house::home::{Home, dwellers};
use crate::house::{now, wait_for};

/// A user with a home, who has set nothing.
pub struct Desk {
    home: Home,
    variables: Vec<(String, String)>,
    /// Everything that is not as it should be: said at the end, so that one run shows all of it.
    complaints: Mutex<Vec<String>>,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Desk {
    pub fn new() -> Desk {
        let home = Home::new();
        for (name, mode) in [("run", 0o700), ("config", 0o755)] {
            std::fs::create_dir(home.path().join(name)).expect("a directory");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(home.path().join(name), mode).expect("its mode");
        }
        // A test that forgets to name a server must not start one; most want to know of a failure at once.
        let variables = [("DFLOCK_AUTOSTART", "0"), ("DFLOCK_CONNECT_RETRY", "0")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Desk { home, variables, complaints: Mutex::default() }
    }

    /// A house whose servers are named in the environment.
    pub fn at(servers: &str) -> Desk {
        Desk::new().with("DFLOCK_SERVERS", servers)
    }

    /// Sets a variable; an empty value unsets it.
    pub fn with(mut self, name: &str, value: &str) -> Desk {
        self.variables.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.variables.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
        command.args(args).env_clear().current_dir(self.path());
        command.env("HOME", self.path()).env("DFLOCK_RUNTIME_DIR", self.path().join("run"));
        command.env("XDG_CONFIG_HOME", self.path().join("config"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        finish(self.command(args))
    }

    /// A command that must succeed; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        assert_eq!(said.err, "", "{args:?} should be silent");
        said.out.trim_end().to_owned()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args).out).unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    pub fn complain(&self, what: String) {
        self.complaints.lock().expect("the list").push(what);
    }

    pub fn expect(&self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.complain(what());
        }
    }

    /// A command that must fail with this code and say these parts, as text and as JSON, with a hint.
    pub fn fails(&self, args: &[&str], code: i32, parts: &[&str]) -> Said {
        let said = self.run(args);
        let mut wrong = shortcomings(&said, code, parts);
        if said.err.lines().count() < 2 {
            wrong.push("gives no hint".to_owned());
        }
        let json: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let other = self.run(&json);
        if wrong.is_empty() {
            wrong = shortcomings_of_document(&other, code, args[0] == "stats", parts);
        }
        self.expect(wrong.is_empty(), || format!("{args:?} {wrong:?}: {said:?}; with --json {}", other.out.trim_end()));
        said
    }

    /// The same without JSON and hint.
    pub fn refuses(&self, args: &[&str], code: i32, parts: &[&str]) -> Said {
        let said = self.run(args);
        let wrong = shortcomings(&said, code, parts);
        self.expect(wrong.is_empty(), || format!("{args:?} {wrong:?}: {said:?}"));
        said
    }

    /// Nobody of ours keeps anything.
    pub fn keeps_nothing(&self) {
        let holders = &self.json(&["holders", "--json"])["holders"];
        self.expect(holders.as_array().is_some_and(Vec::is_empty), || format!("holders are left: {holders}"));
    }

    /// The processes of this house, by their environment.
    pub fn processes(&self) -> Vec<u32> {
        dwellers(self.path())
    }

    /// Those of them whose command line has this word.
    pub fn processes_with(&self, word: &str) -> Vec<u32> {
        let has_word = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        };
        self.processes().into_iter().filter(has_word).collect()
    }

    pub fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path: PathBuf = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        std::fs::write(&path, text).expect("the file can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        path.to_str().expect("a path that is text").to_owned()
    }
}

/// What a failure should be and is not.
fn shortcomings(said: &Said, code: i32, parts: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    if said.code != Some(code) {
        wrong.push(format!("should end with {code}"));
    }
    if !said.out.is_empty() {
        wrong.push("has an answer".to_owned());
    }
    if !said.err.starts_with("dflock: ") {
        wrong.push("does not begin with its name".to_owned());
    }
    wrong.extend(parts.iter().filter(|part| !said.err.contains(**part)).map(|part| format!("does not say {part:?}")));
    wrong
}

fn shortcomings_of_document(said: &Said, code: i32, names_no_key: bool, parts: &[&str]) -> Vec<String> {
    let Ok(document) = serde_json::from_str::<Value>(&said.out) else {
        return vec!["is no JSON with --json".to_owned()];
    };
    let mut names: Vec<&str> = document.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let message = document["message"].as_str().unwrap_or_default();
    let error = match code {
        69 => "unreachable",
        75 => "busy",
        76 => "refused",
        77 => "denied",
        79 => "lost",
        _ => "usage",
    };
    let hint = document["hint"].as_str().unwrap_or_default();
    let wrong = [
        (said.code == Some(code) && document["exit"] == code, "has another exit with --json"),
        (said.err.is_empty(), "says more than JSON with --json"),
        (names == ["error", "exit", "hint", "key", "message", "schema", "server"], "has other fields"),
        (document["schema"] == 1, "has no schema"),
        (document["error"] == error, "has another error"),
        (parts.iter().all(|part| message.contains(part) || hint.contains(part)), "has another message"),
        (document["hint"].is_string(), "has no hint"),
        // Nobody was asked, if the command itself is wrong or there is no holder to ask.
        (document["server"].is_string() || code == 125 || code == 79, "has no server"),
        (document["key"].is_string() || code == 125 || names_no_key, "has no key"),
    ];
    wrong.iter().filter(|(is_right, _)| !is_right).map(|(_, what)| (*what).to_owned()).collect()
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let complaints = std::mem::take(&mut *self.complaints.lock().expect("the list"));
            assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
        }
    }
}

/// Runs a command to its end, or to the ceiling.
#[track_caller]
pub fn finish(mut command: Command) -> Said {
    let begin = now();
    let ended = crate::house::clean::finish(command.spawn().expect("dflock starts"));
    Said { code: Some(ended.code), out: ended.out, err: ended.err, took: begin.elapsed() }
}

/// Waits until a real server holds nothing: what a client that failed leaves behind goes with its connection.
pub fn holds_nothing(server: &crate::house::Server) {
    wait_for("the server to hold nothing", || {
        let stats = server.stats();
        let is_empty = |name: &str| stats[name].as_array().is_some_and(Vec::is_empty);
        (is_empty("locks") && is_empty("semaphores")).then_some(())
    });
}
