//! A real etcd for a test: members on free loopback ports, their data in a directory of their own, ended with it.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::home::Home;
use super::running::{Said, finish};
use super::watchdog::Witness;
use super::{CEILING, lasting_listener, wait_for};

pub struct Etcd {
    members: Vec<Mutex<Member>>,
    /// `http` or `https`.
    scheme: &'static str,
    _witnesses: Vec<Witness>,
    home: Home,
    flags: Vec<String>,
}

struct Member {
    client: u16,
    peer: u16,
    running: Option<Child>,
}

/// Where the programs are; `DFLOCK_ETCD` names another directory than the `PATH` has.
fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("DFLOCK_ETCD").or_else(|| std::env::var_os("PATH"))?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Whether there is an etcd; if not, it is said loudly that a test was skipped, or the test fails.
pub fn is_here(test: &str) -> bool {
    if program("etcd").is_some() && program("etcdctl").is_some() {
        return true;
    }
    let line =
        format!("SKIPPED {test}: etcd and etcdctl are not installed (apt-get install etcd-server etcd-client)\n");
    // Not through print: of a test that passes that is not shown.
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(std::env::var_os("DFLOCK_DEMAND_PEERS").is_none(), "DFLOCK_DEMAND_PEERS is set: {line}");
    false
}

impl Etcd {
    pub fn start(members: usize) -> Etcd {
        Etcd::start_with(members, "http", |_| Vec::new())
    }

    /// With more flags for every member, made in the directory that is given.
    pub fn start_with(count: usize, scheme: &'static str, flags: impl FnOnce(&std::path::Path) -> Vec<String>) -> Etcd {
        let home = Home::new();
        let flags = flags(home.path());
        // All at once, so that none is given twice.
        let ports: Vec<TcpListener> = (0..2 * count).map(|_| lasting_listener()).collect();
        let port = |at: usize| ports[at].local_addr().expect("an address").port();
        let members =
            (0..count).map(|at| Mutex::new(Member { client: port(2 * at), peer: port(2 * at + 1), running: None }));
        let witnesses = (0..count).map(|at| {
            let log = log_file(&home, at);
            Witness::new(format!("member m{at}"), move || std::fs::read_to_string(&log).unwrap_or_default())
        });
        let witnesses = witnesses.collect();
        let etcd = Etcd { members: members.collect(), scheme, _witnesses: witnesses, home, flags };
        drop(ports);
        for at in 0..count {
            etcd.launch(at);
        }
        etcd
    }

    /// Waits until it serves.
    pub fn ready(self) -> Etcd {
        self.wait_until_ready();
        self
    }

    pub fn wait_until_ready(&self) {
        wait_for("etcd to serve", || (self.ctl(&["put", "ready", "yes"]).code == 0).then_some(()));
    }

    fn member(&self, at: usize) -> std::sync::MutexGuard<'_, Member> {
        self.members[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn url(&self, at: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.member(at).client)
    }

    /// Starts a member that does not run.
    pub fn launch(&self, at: usize) {
        let peer = |at| format!("http://127.0.0.1:{}", self.member(at).peer);
        let all: Vec<String> = (0..self.members.len()).map(|at| format!("m{at}={}", peer(at))).collect();
        let data = self.home.path().join(format!("m{at}"));
        let (client, own_peer, all) = (self.url(at), peer(at), all.join(","));
        let log = OpenOptions::new().create(true).append(true).open(log_file(&self.home, at)).expect("a log");
        let mut command = self.command("etcd");
        command.arg("--name").arg(format!("m{at}")).arg("--data-dir").arg(&data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &own_peer, "--initial-advertise-peer-urls", &own_peer]);
        command.args(["--initial-cluster", &all, "--initial-cluster-state", "new"]);
        command.args(&self.flags);
        command.stdout(log.try_clone().expect("another handle")).stderr(log);
        self.member(at).running = Some(command.spawn().expect("etcd starts"));
    }

    /// One of etcd's programs, at home here.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name).expect("etcd is installed"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.home.path()).env("ETCDCTL_API", "3");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// To the member's process: STOP, CONT.
    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(member) = &self.member(at).running {
            kill(Pid::from_raw(member.id().cast_signed()), signal).expect("the member runs");
        }
    }

    /// Ends a member as by kill -9, and waits for that.
    pub fn kill(&self, at: usize) {
        if let Some(mut member) = self.member(at).running.take() {
            let _ = member.kill();
            let _ = member.wait();
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `host:port` of a member.
    pub fn address(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.member(at).client)
    }

    /// What `--servers` says.
    pub fn servers(&self) -> String {
        let all: Vec<String> = (0..self.members.len()).map(|at| self.address(at)).collect();
        format!("etcd://{}", all.join(","))
    }

    /// `etcdctl ARGS` for these members, not yet started.
    pub fn ctl_command(&self, args: &[&str]) -> Command {
        let urls: Vec<String> = (0..self.members.len()).map(|at| self.url(at)).collect();
        let mut command = self.command("etcdctl");
        command.args(["--endpoints", &urls.join(",")]).args(args);
        command
    }

    pub fn ctl(&self, args: &[&str]) -> Said {
        finish(self.ctl_command(args).spawn().expect("etcdctl starts"))
    }

    /// Which member leads; `None` while nobody does.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members.len()).find(|at| {
            let mut command = self.command("etcdctl");
            command.args(["--command-timeout", "1s", "--dial-timeout", "1s", "--endpoints", &self.url(*at)]);
            let said = finish(command.args(["endpoint", "status"]).spawn().expect("etcdctl starts"));
            said.code == 0 && said.out.split(", ").nth(4) == Some("true")
        })
    }

    pub fn wait_for_leader(&self) -> usize {
        wait_for("a leader", || self.leader())
    }

    /// The keys that begin with `start`.
    pub fn keys(&self, start: &str) -> Vec<String> {
        let said = self.ctl(&["get", "--prefix", "--keys-only", start]);
        said.out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Revokes the lease of the eldest key of a lock of ours.
    pub fn revoke_holder(&self, key: &str) -> bool {
        let said = self.ctl(&["get", "--prefix", "--keys-only", "--sort-by", "CREATE", &format!("dflock/lock/{key}/")]);
        let Some(first) = said.out.lines().find(|line| !line.is_empty()) else { return false };
        let lease = first.rsplit('/').next().expect("a lease").trim_start_matches('0');
        self.ctl(&["lease", "revoke", lease]).code == 0
    }

    /// Requests that all members have begun to serve so far, streams counted as one each.
    pub fn requests(&self) -> u64 {
        (0..self.members.len()).map(|at| requests_of(&self.address(at))).sum()
    }

    pub fn log(&self, at: usize) -> String {
        std::fs::read_to_string(log_file(&self.home, at)).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}

fn log_file(home: &Home, at: usize) -> PathBuf {
    home.path().join(format!("m{at}.log"))
}

fn requests_of(address: &str) -> u64 {
    let mut stream = TcpStream::connect(address).expect("the member listens");
    stream.set_read_timeout(Some(CEILING)).expect("a read timeout");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("metrics are text");
    let lines = text.lines().filter(|line| line.starts_with("grpc_server_started_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
