//! Starting `dflock serve` in other ways than the house does: to be refused, or with few descriptors.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::house::home::Home;
use crate::house::{CEILING, Server, now, wait_for};

/// Starts a server that must not start; returns what it says.
pub fn refused(args: &[&str]) -> String {
    refused_with(args, |_| {})
}

/// The same; `prepare` may change the command's environment.
pub fn refused_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> String {
    let home = Home::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dflock"));
    command.arg("serve").args(args).env_clear().env("HOME", home.path()).current_dir(home.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    prepare(&mut command);
    let mut process = Process(command.spawn().expect("the server starts"));
    let begin = now();
    let status = loop {
        if let Some(status) = process.0.try_wait().expect("the server can be waited for") {
            break status;
        }
        assert!(begin.elapsed() < CEILING, "serve {args:?} started, and should have refused to");
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    };
    let mut said = String::new();
    process.0.stderr.take().expect("stderr is piped").read_to_string(&mut said).expect("it speaks UTF-8");
    assert_eq!(status.code(), Some(125), "serve {args:?} says: {said}");
    said
}

/// A server that may have no more than so many descriptors, whatever it tries.
pub fn with_descriptors(limit: u32, args: &[&str]) -> Server {
    Server::start_with(args, |command| {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\""));
        shell.arg(command.get_program()).args(command.get_args()).env_clear();
        if let Some(home) = command.get_current_dir() {
            shell.current_dir(home).env("HOME", home);
        }
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = shell;
    })
}

/// Raises this process's soft limit of descriptors, for tests with many connections; returns what there is now.
pub fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit is allowed");
    hard
}

/// An event in the log of a server that may have ended already.
pub fn logged(server: &Server, name: &str) -> Value {
    wait_for(&format!("event {name}"), || server.events().into_iter().find(|event| event["event"] == name))
}

/// Writes a file only its owner may read, and returns its path as text.
pub fn private_file(home: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path: PathBuf = home.join(name);
    std::fs::write(&path, text).expect("the file can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it can be made private");
    path.to_str().expect("a path that is text").to_owned()
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
