//! The server that a talk is played to: ours, or the one that `$DFLOCKD` names.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::house::{self, Server};
use crate::script::Script;

pub(crate) fn other_server() -> Option<OsString> {
    std::env::var_os("DFLOCKD").filter(|path| !path.is_empty())
}

pub(crate) struct Peer {
    running: Running,
    pub(crate) address: String,
    /// Keeps the secret's file.
    _home: TempDir,
}

enum Running {
    Ours(Server),
    Other(Other),
}

impl Peer {
    /// Panics when it does not start.
    pub(crate) fn start(script: &Script) -> Peer {
        let home = tempfile::tempdir().expect("a folder for the talk");
        let mut flags = script.flags.clone();
        if let Some(secret) = &script.secret {
            let path = home.path().join("secret");
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).expect("a new file");
            file.write_all(secret).expect("the secret is written");
            flags.extend(["--auth-token-file".to_owned(), path.display().to_string()]);
        }
        let environment = script.environment.iter().map(|(name, value)| (name, value));
        let (running, address) = match other_server() {
            None => {
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                let server = Server::start_with(&flags, |command| {
                    command.envs(environment);
                });
                let address = server.address.clone();
                (Running::Ours(server), address)
            }
            Some(program) => {
                let mut command = Command::new(program);
                command.args(&flags).env_clear().envs(environment);
                let (other, address) = Other::start(command, home.path());
                (Running::Other(other), address)
            }
        };
        Peer { running, address, _home: home }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = match &self.running {
            Running::Ours(server) => server.pid(),
            Running::Other(other) => other.child.id(),
        };
        house::signal(pid, name);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        match &mut self.running {
            Running::Ours(server) => server.wait(),
            Running::Other(other) => house::wait_for("the server's end", || other.status()),
        }
    }
}

/// A server that is not ours, ended when dropped.
struct Other {
    child: Child,
}

impl Other {
    fn start(mut command: Command, home: &Path) -> (Other, String) {
        // It cannot take a free port by itself and say which.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let log = home.join("log");
        command.args(["--host", "127.0.0.1", "--port", &free.port().to_string()]).current_dir(home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        let mut other = Other { child: command.spawn().expect("the server starts") };
        house::wait_for("the server to listen", || {
            if let Some(status) = other.status() {
                panic!("the server ended ({status}): {}", fs::read_to_string(&log).unwrap_or_default());
            }
            TcpStream::connect(free).ok()
        });
        (other, free.to_string())
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the server can be waited for")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
