//! The server of this machine, when nobody named another: started if nobody listens, named if a stranger does.
//!
//! Whoever finds nobody there executes this program again, as `serve --detach`, and waits for what it reports,
//! with a deadline. That process does everything that may take long: it waits for its turn, finds the directory
//! for the state, and serves, or learns that another one does already.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use crate::cgroup;
use crate::client::Starter;
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};
use crate::holder::registry::START_LOCK;
use crate::holder::start::this_program;
use crate::holder::{Site, places};
use crate::output;
use crate::server::journal::Mark;
use crate::settings::Settings;
use crate::settings::servers::DEFAULT_PORT;
use crate::sys::{self, Fork};

const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);

/// How long a server that was started stays when it is not used.
const IDLE_EXIT: &str = "60s";

/// Nothing is nearer than this machine.
const PROBE: Duration = Duration::from_secs(1);

/// A start may take so long, however short the wait for a lock is to be.
const START_LEAST: Duration = Duration::from_secs(1);

/// The longest line that a server reports.
const MAX_LINE: usize = 4 * 1024;

/// Events that the one who started a server waits for.
const BEGINS: &str = "starting";
const NOT_NEEDED: &str = "not_needed";
const LISTENS: &str = "listening";
const WAITS: &str = "waiting";

/// How a server is started for this site, if it is one that may be.
pub(crate) fn starter(site: &Site) -> Option<Starter> {
    let limit = site.connect_timeout;
    let start: Starter = Arc::new(move |until, is_told| Box::pin(start(until, limit, is_told)));
    (site.is_default && site.autostart && !site.tls).then_some(start)
}

/// Sees to it that the default server is there, if that is the one that will be asked: for a verb whose holder has
/// no way to say that it started one.
pub(crate) fn ensure(site: &Site) -> Result<(), Failure> {
    match starter(site) {
        Some(starter) if !is_there() => super::block_on(starter(Moment::NEVER, true)),
        _ => Ok(()),
    }
}

/// Says who it is that listens on the default address and does not answer as a lock server would.
pub(crate) fn name_stranger(settings: &Settings, mut failure: Failure) -> Failure {
    if settings.servers_are_default && !settings.autostart && failure.kind == Kind::Unreachable {
        let off = settings.set_by("autostart");
        failure.hint =
            Some(format!("no server is named, and {off} keeps dflock from starting one: set DFLOCK_SERVERS"));
    }
    let is_strange = matches!(failure.kind, Kind::Refused | Kind::Unreachable);
    if settings.servers_are_default
        && is_strange
        && let Some(stranger) = listener(DEFAULT_PORT).filter(|stranger| !stranger.contains("dflock"))
    {
        failure.message = format!("{} (process {stranger} listens there)", failure.message);
        failure.hint = Some("name a lock server with --servers or DFLOCK_SERVERS, or free the port".to_owned());
    }
    failure
}

fn is_there() -> bool {
    TcpStream::connect_timeout(&HERE, PROBE).is_ok()
}

async fn start(until: Moment, limit: Duration, is_told: bool) -> Result<(), Failure> {
    let now = clock::now();
    let until = until.min(now + limit).max(now + START_LEAST);
    let (mut child, stderr) = spawn().map_err(|why| cannot(&why))?;
    let mut report = Report::of(stderr).map_err(|why| cannot(&why))?;
    let came = timeout(until.since(now), report.next()).await;
    reap(&mut child, until).await;
    match came {
        Ok(Ok(Came::Listening)) => {
            if is_told {
                output::remark(&format!("started a lock server on {HERE}; it leaves when it is not used"));
            }
            Ok(())
        }
        Ok(Ok(Came::NotNeeded)) => Ok(()),
        Ok(Ok(Came::TooLate)) => {
            report.end_server();
            Ok(())
        }
        // Between users the bind decides, and another was quicker.
        Ok(Err(_)) if is_there() => Ok(()),
        Ok(Err(LastWords { why, hint })) => {
            let failure = cannot(&why);
            Err(if let Some(hint) = hint { failure.hint(hint) } else { failure })
        }
        Err(_) => {
            // It may not begin to serve when nobody waits for it any more.
            report.end_server();
            let seconds = until.since(now).as_secs_f64();
            Err(cannot(&format!("it did not begin to listen within {seconds:.1}s")))
        }
    }
}

fn cannot(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Unreachable, format!("cannot start a lock server on {HERE}: {why}"))
        .hint("name a lock server with --servers or DFLOCK_SERVERS; dflock serve shows more of what is wrong")
}

fn spawn() -> std::io::Result<(Child, ChildStderr)> {
    let mut command = Command::new(this_program()?);
    command.arg0("dflock").args(["serve", "--detach", "--log-format", "json", "--idle-exit", IDLE_EXIT]);
    command.args(["--host", "127.0.0.1", "--port", &DEFAULT_PORT.to_string(), "--fsync", "never"]);
    // It outlives us, so nothing of ours is meant for it, secrets least of all; but for where its state belongs.
    command.env_clear();
    for name in ["HOME", places::VARIABLE] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    sys::inherit_only_stdio(&mut command)?;
    sys::forget_caller(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    match child.stderr.take() {
        Some(stderr) => Ok((child, stderr)),
        None => Err(std::io::Error::other("it has no stderr")),
    }
}

/// The process that we started has left another one behind by now.
async fn reap(child: &mut Child, until: Moment) {
    while let Ok(None) = child.try_wait() {
        if clock::now() >= until {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// What a server that is starting says, line by line.
struct Report {
    lines: tokio::io::BufReader<pipe::Receiver>,
    /// Stands for the server's process.
    #[cfg(target_os = "linux")]
    process: Option<std::os::fd::OwnedFd>,
}

enum Came {
    Listening,
    NotNeeded,
    /// It waits for an address that another user's server has.
    TooLate,
}

/// What one that does not serve said, as every failure is told: why, and what to do.
struct LastWords {
    why: String,
    hint: Option<String>,
}

impl LastWords {
    fn of(lines: Vec<String>) -> LastWords {
        let mut lines = lines.into_iter();
        let why = lines.next().unwrap_or_else(|| "it ended without a word".to_owned());
        LastWords { why, hint: lines.next() }
    }
}

impl Report {
    fn of(stderr: ChildStderr) -> std::io::Result<Report> {
        let pipe = pipe::Receiver::from_owned_fd(stderr.into())?;
        Ok(Report {
            lines: tokio::io::BufReader::with_capacity(MAX_LINE, pipe),
            #[cfg(target_os = "linux")]
            process: None,
        })
    }

    async fn next(&mut self) -> Result<Came, LastWords> {
        let mut said = Vec::new();
        loop {
            let line = match self.line().await {
                Ok(Some(line)) => line,
                Ok(None) => return Err(LastWords::of(said)),
                Err(why) => return Err(LastWords { why: why.to_string(), hint: None }),
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            match event["event"].as_str() {
                Some(LISTENS) => return Ok(Came::Listening),
                Some(NOT_NEEDED) => return Ok(Came::NotNeeded),
                Some(BEGINS) => self.know_process(&event),
                Some(WAITS) if is_there() => return Ok(Came::TooLate),
                Some(_) => {}
                None => said.extend(line.strip_prefix("dflock: ").map(str::to_owned)),
            }
        }
    }

    async fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let piece = self.lines.fill_buf().await?;
            if piece.is_empty() || line.len() > MAX_LINE {
                return Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()));
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
            let used = end.map_or(piece.len(), |end| end + 1);
            self.lines.consume(used);
            if end.is_some() {
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn know_process(&mut self, event: &Value) {
        let pid = event["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        self.process = pid.and_then(|pid| sys::pidfd_open(pid).ok());
    }

    #[cfg(not(target_os = "linux"))]
    fn know_process(&mut self, _event: &Value) {}

    fn end_server(&self) {
        #[cfg(target_os = "linux")]
        if let Some(process) = &self.process {
            use std::os::fd::AsFd;

            // It may end at this moment by itself.
            let _ = sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
        }
    }
}

/// What the process that is to be the server has to know.
pub(crate) struct Turn {
    pub(crate) state_dir: PathBuf,
    /// Says where that is.
    pub(crate) mark: Option<Arc<Mark>>,
    /// While it is locked, nobody else starts one.
    _lock: File,
}

/// In the process that was started to be the server: leaves whoever started it, and waits for its turn. `None`:
/// another one serves already. What is said here is for the one who waits.
pub(crate) fn take_turn() -> Result<Option<Turn>, Failure> {
    let internal = |what: &'static str| move |why: std::io::Error| Failure::internal(what, &why);
    // Whoever started us must not be our parent: it would have to wait for us, or take us for part of a command.
    if let Fork::Parent(_) = sys::fork().map_err(internal("leave the process that started us"))? {
        sys::leave_fork();
    }
    nix::unistd::setsid().map_err(|why| Failure::internal("start a session", &why))?;
    // Where it may not go, it stays.
    let _ = cgroup::leave_commands();
    std::env::set_current_dir("/").map_err(internal("go to /"))?;
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"dflock-serve");
    tell(BEGINS);
    let dir = places::find_or_make()?;
    let lock = lock(&dir.join(START_LOCK))?;
    if is_there() {
        tell(NOT_NEEDED);
        return Ok(None);
    }
    let mark = mark().map(Arc::new);
    let known = mark.as_ref().map_or(Ok(None), |mark| mark.find())?;
    let state_dir = known.unwrap_or_else(|| dir.join(format!("server-{DEFAULT_PORT}{}", network())));
    Ok(Some(Turn { state_dir, mark, _lock: lock }))
}

/// What says where the state is of a server that is at this address, of this user, and in a directory of this choice.
fn mark() -> Option<Mark> {
    let mut name = format!("server-{DEFAULT_PORT}-{}", places::boot()?);
    match sys::network_cookie() {
        // Numbers of namespaces come again.
        Some(cookie) => name += &format!("-{cookie}"),
        None => name += &format!("-ns{}", network()),
    }
    if let Some(choice) = places::choice() {
        name += &format!("-{:08x}", crc32fast::hash(choice.as_os_str().as_bytes()));
    }
    Some(Mark::new(places::fixed(), &name))
}

fn tell(event: &str) {
    output::say(&format!("{{\"event\":\"{event}\",\"pid\":{}}}\n", std::process::id()));
}

/// Waits for as long as it takes: whoever waits for us has a deadline.
fn lock(path: &std::path::Path) -> Result<File, Failure> {
    let cannot = |why| Failure::usage(format!("cannot lock {}: {why}", path.display()));
    let file = File::options().create(true).append(true).open(path).map_err(cannot)?;
    file.lock().map_err(cannot)?;
    Ok(file)
}

/// Names the network that the address is of: each container may have its own.
fn network() -> String {
    let link = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let number: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    if number.is_empty() { number } else { format!("-{number}") }
}

/// Number and name of the process that listens on a TCP port, where the system tells.
fn listener(port: u16) -> Option<String> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|digit| digit.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if std::fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{pid} ({})", name.trim()));
            }
        }
    }
    Some("of another user".to_owned())
}

fn listening_inode(port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = File::open(table) else { continue };
        for line in BufReader::new(table).lines().map_while(Result::ok).skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_port = fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
            if is_port && fields.get(3) == Some(&LISTEN) {
                return fields.get(9).map(|inode| (*inode).to_owned());
            }
        }
    }
    None
}
