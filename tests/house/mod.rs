//! A clean house for tests: the real binary with its own home, its own server, and nothing inherited.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of the house")]

pub mod cgroups;
pub mod clean;
pub mod etcd;
pub mod gate;
pub mod home;
pub mod network;
pub mod original;
pub mod proxy;
pub mod quota;
pub mod running;
pub mod tools;
pub mod typist;
pub mod watchdog;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use home::Home;
use serde_json::Value;
use watchdog::{Witness, waiting_for};

/// How long a test waits for anything before it gives up: far more than it ever takes.
pub const CEILING: Duration = Duration::from_secs(30);

/// Waits until `look` finds something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let _waiting = waiting_for(what);
    let begin = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < CEILING, "waited {CEILING:?} for {what}");
        std::thread::yield_now();
        // Looking again at once would take the processor from what is waited for.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Listens on a port that is not among those that the system gives to anybody who connects. So a server that is away for
/// a moment finds it free when it is back.
pub fn lasting_listener() -> TcpListener {
    loop {
        let port = 20_000 + getrandom::u32().expect("randomness") % 10_000;
        if let Ok(listener) = TcpListener::bind(format!("127.0.0.1:{port}")) {
            return listener;
        }
    }
}

/// Such a port, for a server that is to be started again.
pub fn lasting_port() -> String {
    lasting_listener().local_addr().expect("an address").port().to_string()
}

/// A window in which nothing may happen but what `check` allows.
pub fn observe(window: Duration, mut check: impl FnMut()) {
    let begin = now();
    while begin.elapsed() < window {
        check();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A test measures with the ordinary clock.
#[expect(clippy::disallowed_methods, reason = "tests stand outside the house's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Whoever starts the tests in the background of a script, or under nohup, has Ctrl-C or hang-ups ignored, and
/// every program would inherit that.
pub fn hear_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};

    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            #[expect(unsafe_code, reason = "setting the default action runs no code of ours")]
            // SAFETY: the default action is no handler.
            let _ = unsafe { signal(number, SigHandler::SigDfl) };
        }
    });
}

/// A `dflock serve` of its own, ended when dropped.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`, or what it listens on first.
    pub address: String,
    log: Arc<Mutex<Vec<String>>>,
    _witness: Witness,
    pub home: Home,
}

impl Server {
    pub fn start(args: &[&str]) -> Server {
        Server::start_with(args, |_| {})
    }

    /// `prepare` may change the command's environment and limits.
    pub fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Server {
        Server::start_by(Command::new(env!("CARGO_BIN_EXE_dflock")), args, prepare)
    }

    /// The same by a command that ends with the path of dflock.
    pub fn start_by(mut command: Command, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Server {
        let home = Home::new();
        command.args(["serve", "--port", "0", "--log-format", "json"]).args(args);
        command.env_clear().env("HOME", home.path()).current_dir(home.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("the server starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                written.lock().expect("the log").push(line);
            }
        });
        let shown = log.clone();
        let witness = Witness::new(format!("server {}", child.id()), move || shown.lock().expect("the log").join("\n"));
        let mut server = Server { child, address: String::new(), log, _witness: witness, home };
        let listening = server.event("listening");
        server.address = listening["address"].as_str().expect("an address").to_owned();
        server
    }

    /// Waits for an event in the log.
    pub fn event(&mut self, name: &str) -> Value {
        wait_for(&format!("event {name}"), || {
            let found = self.events().into_iter().find(|event| event["event"] == name);
            if found.is_none()
                && let Ok(Some(status)) = self.child.try_wait()
                && !self.events().iter().any(|event| event["event"] == name)
            {
                panic!("the server ended ({status}) before {name}: {}", self.log_text());
            }
            found
        })
    }

    pub fn events(&self) -> Vec<Value> {
        self.log.lock().expect("the log").iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn log_text(&self) -> String {
        self.log.lock().expect("the log").join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.address)
    }

    /// Sends a signal by its name, as `kill` does.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the server's end", || self.child.try_wait().expect("the server can be waited for"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the server can be waited for").is_none()
    }

    /// Memory that is really there, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("memory is told");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// Processor time used, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the server runs");
        let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
    }

    /// What `stats` says.
    pub fn stats(&self) -> Value {
        self.connect().stats()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that a test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -s {name} {pid}");
}

/// A connection that speaks lines.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap_or_else(|why| panic!("connecting to {address}: {why}"));
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
        stream.set_write_timeout(Some(CEILING)).expect("a write timeout");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Client { stream, reader }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// One line without its end; panics at the end of the connection.
    pub fn line(&mut self) -> String {
        self.try_line().expect("a line, not the end of the connection")
    }

    /// One line, or `None` at the end of the connection (closed or reset).
    pub fn try_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Some(String::from_utf8_lossy(&line).into_owned())
            }
            Ok(_) => panic!("half a line: {:?}", String::from_utf8_lossy(&line)),
            Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(why) => panic!("reading a line: {why}"),
        }
    }

    /// One request and its answer.
    pub fn ask(&mut self, command: &str, key: &str, argument: &str) -> String {
        self.send(format!("{command}\n{key}\n{argument}\n").as_bytes());
        self.line()
    }

    /// Takes a lock that must be free or become so; returns its token.
    pub fn take(&mut self, key: &str, argument: &str) -> String {
        let answer = self.ask("l", key, argument);
        let mut fields = answer.split(' ');
        assert_eq!(fields.next(), Some("ok"), "l {key} {argument}: {answer}");
        fields.next().expect("a token").to_owned()
    }

    pub fn stats(&mut self) -> Value {
        let answer = self.ask("stats", "_", "_");
        serde_json::from_str(answer.strip_prefix("ok ").expect("ok before the document")).expect("stats are JSON")
    }

    /// Whatever comes until the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => rest,
            Err(why) => panic!("waiting for the end: {why}"),
        }
    }
}
