//! `dflock serve`: run a lock server.

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Group;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::autostart;
use super::serve_files::{CredentialFiles, reload_on};
use crate::cgroup;
use crate::error::{Failure, Kind};
use crate::net::socket_file::SocketAccess;
use crate::output::log;
use crate::server::table::Limits;
use crate::server::{Event, Level, Options, Report, Server, journal};
use crate::settings::duration;
use crate::settings::is_of_a_service;
use crate::settings::servers::DEFAULT_PORT;
use crate::sys;

/// More threads than this only get into each other's way at the table.
const MAX_THREADS: usize = 8;

const PORT_VARIABLE: &str = "DFLOCKD_PORT";

/// Run a lock server
///
/// It speaks the protocol of dflockd, so that the dflockd clients of other languages work against it
/// unchanged. SIGTERM or SIGINT stops it: whoever asks for a lock is told to ask again, holders may renew and
/// release until nothing is held or --shutdown-timeout is over; a second signal ends it at once.
///
/// With --state-dir what is held outlives the server: a restarted one holds every lock to the end of its
/// lease for whoever has its token, and SIGTERM does not wait for holders.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --auth-token-file secret
  dflock serve --host unix:/run/dflock.sock")]
pub struct Serve {
    /// Address to listen on: an IP address, a host name, or unix:/path (can be repeated)
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", env = "DFLOCKD_HOST")]
    host: Vec<String>,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT, env = PORT_VARIABLE, value_parser = parse_port)]
    port: u16,

    /// Who may connect to a socket file, in octal as for chmod; 660 if only --socket-group is named, else as the umask says
    #[arg(long, value_name = "MODE", env = "DFLOCKD_SOCKET_MODE", value_parser = parse_mode)]
    socket_mode: Option<u32>,

    /// Group of a socket file: a name, or a number
    #[arg(long, value_name = "GROUP", env = "DFLOCKD_SOCKET_GROUP")]
    socket_group: Option<String>,

    /// Lease of a lock whose client names none, in seconds
    #[arg(long, value_name = "DUR", default_value = "33", env = "DFLOCKD_DEFAULT_LEASE_TTL_S",
          value_parser = duration::parse_whole_seconds)]
    default_lease_ttl: u64,

    /// The longest lease that is given out: whoever asks for a longer one is told this one
    #[arg(long, value_name = "DUR", default_value = "1d", env = "DFLOCKD_MAX_LEASE",
          value_parser = duration::parse_whole_seconds)]
    max_lease: u64,

    /// How many keys there may be; unused ones give way
    #[arg(long, value_name = "N", default_value_t = 1_000_000, env = "DFLOCKD_MAX_LOCKS",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_locks: u32,

    /// How many connections there may be; 0 for as many as there are descriptors
    #[arg(long, value_name = "N", default_value_t = 0, env = "DFLOCKD_MAX_CONNECTIONS")]
    max_connections: u32,

    /// How many connections one address may have; 0 for any number [default: half of all, if 64 or more are allowed]
    #[arg(long, value_name = "N", env = "DFLOCKD_MAX_CONNECTIONS_PER_IP")]
    max_connections_per_ip: Option<u32>,

    /// How much memory may be in use, such as 512M or 2G; 0 for any amount [default: half of what there is]
    ///
    /// With half of it in use requests are read and answered a little at a time. With three quarters nobody new is given a
    /// lock or a place in a queue (error_max_locks), and those who do not read their answers are cut off. When fifteen
    /// sixteenths may not be enough for one more, nobody new is let in (error_max_connections). Those who hold a lock renew,
    /// release and come back as ever. The system needs some more for each connection, which --max-connections bounds.
    #[arg(long, value_name = "SIZE", env = "DFLOCKD_MAX_MEMORY", value_parser = parse_size)]
    max_memory: Option<u64>,

    /// How many may wait for one key, and as many whose client is away; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 0, env = "DFLOCKD_MAX_WAITERS")]
    max_waiters: u32,

    /// How long a client may take for a request, and be silent while it neither holds nor waits
    #[arg(long, value_name = "DUR", default_value = "23", env = "DFLOCKD_READ_TIMEOUT_S",
          value_parser = duration::parse_above_zero)]
    read_timeout: Duration,

    /// How long a client may take to read an answer; 0 for any time
    #[arg(long, value_name = "DUR", default_value = "5", env = "DFLOCKD_WRITE_TIMEOUT_S",
          value_parser = duration::parse)]
    write_timeout: Duration,

    /// How long holders may finish once the server is told to stop; 0 for any time
    #[arg(long, value_name = "DUR", default_value = "30", env = "DFLOCKD_SHUTDOWN_TIMEOUT_S",
          value_parser = duration::parse)]
    shutdown_timeout: Duration,

    /// How long a key that nobody uses is remembered
    #[arg(long, value_name = "DUR", default_value = "60", env = "DFLOCKD_GC_MAX_UNUSED_TIME",
          value_parser = duration::parse)]
    gc_max_idle: Duration,

    /// Release a client's locks when its connection closes (the default)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", env = "DFLOCKD_AUTO_RELEASE_ON_DISCONNECT",
          value_parser = parse_bool, action = clap::ArgAction::Set)]
    auto_release_on_disconnect: bool,

    /// Keep a client's locks until their lease ends when its connection closes; beats the flag above
    #[arg(long)]
    no_auto_release_on_disconnect: bool,

    #[command(flatten)]
    files: CredentialFiles,

    /// Directory to keep what is held in, over crashes, restarts and upgrades; made if it is not there
    ///
    /// Nothing is answered before it is written there. After a restart every lease goes on, the time that passed
    /// counts, queue places wait for their clients, and fences go on growing. On SIGTERM the server leaves as
    /// soon as everything is on disk, without waiting for holders. When the disk is full or fails, no locks
    /// are given out, renewals and releases are answered as far as they can be written, and it recovers by itself.
    /// One server at a time may use a directory, and nobody else may look into it (chmod 700).
    #[arg(long, value_name = "DIR", env = "DFLOCKD_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// When what is written to --state-dir is brought to the disk itself
    ///
    /// Whatever is chosen, a crash of the server alone loses nothing. If the machine crashes or loses power,
    /// grants, renewals and releases that were answered can be lost: with "always" none; with "interval" those
    /// of the last 50 ms, or of as long as the disk takes; with "never" those of the time that the system
    /// keeps to itself, usually up to 30 s. A lost grant may be given to somebody else.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "always", env = "DFLOCKD_FSYNC")]
    fsync: Fsync,

    /// Stop when nothing was connected, held or queued for this long
    #[arg(long, value_name = "DUR", value_parser = duration::parse_above_zero)]
    idle_exit: Option<Duration>,

    /// As a command starts it in the background: alone, away from its terminal, with its state among our own files
    #[arg(long, hide = true)]
    detach: bool,

    /// Form of the log on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: log::Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fsync {
    /// Before anything is answered
    Always,
    /// At most every 50 ms
    Interval,
    /// When the system does it
    Never,
}

impl Serve {
    pub fn run(mut self) -> Result<(), Failure> {
        let (mut turn, mut mark) = (None, None);
        if self.detach {
            let Some(taken) = autostart::take_turn()? else { return Ok(()) };
            self.state_dir = Some(taken.state_dir.clone());
            mark.clone_from(&taken.mark);
            turn = Some(taken);
        }
        raise_descriptor_limit();
        let log = log::Log::start(self.log_format);
        let report = reporter(log.clone());
        let files = self.files.clone();
        let mut options = self.options()?;
        if let Some(state) = &mut options.state {
            state.mark = mark;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        super::check_descriptors()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .map_err(|why| Failure::new(Kind::Internal, format!("cannot start threads: {why}")))?;
        let served = runtime.block_on(async {
            let stops = stop_signals()?;
            let hangups = signal(SignalKind::hangup()).map_err(cannot_listen_for_signals)?;
            let server = Server::bind(options, report.clone()).await?;
            tokio::spawn(reload_on(hangups, files, server.credentials(), report));
            // Whoever else wants to start one finds this one now.
            drop(turn);
            server.run(stops).await;
            Ok(())
        });
        // What is being written at this moment is finished; connections close with the runtime.
        drop(runtime);
        log.finish();
        served
    }

    fn options(self) -> Result<Options, Failure> {
        let credentials = self.files.read()?;
        let socket = self.socket_access()?;
        let limits = Limits {
            keys: self.max_locks as usize,
            waiters: self.max_waiters as usize,
            idle: self.gc_max_idle,
            auto_release: self.auto_release_on_disconnect && !self.no_auto_release_on_disconnect,
        };
        let fsync = match self.fsync {
            Fsync::Always => journal::Fsync::Always,
            Fsync::Interval => journal::Fsync::Interval,
            Fsync::Never => journal::Fsync::Never,
        };
        // An empty variable is one that is not set.
        let dir = self.state_dir.filter(|dir| !dir.as_os_str().is_empty());
        Ok(Options {
            state: dir.map(|dir| journal::Options { dir, fsync, is_remade: self.detach, mark: None }),
            hosts: self.host,
            port: self.port,
            socket,
            limits,
            default_lease_s: self.default_lease_ttl,
            max_lease_s: self.max_lease,
            max_connections: self.max_connections as usize,
            max_connections_per_ip: self
                .max_connections_per_ip
                .map_or_else(|| half_of_connections(self.max_connections), |number| number as usize),
            max_memory: match self.max_memory {
                Some(0) => None,
                Some(bytes) => Some(usize::try_from(bytes).unwrap_or(usize::MAX)),
                None => Some(half_of_memory()),
            },
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
            shutdown_timeout: self.shutdown_timeout,
            idle_exit: self.idle_exit,
            credentials,
        })
    }
}

impl Serve {
    fn socket_access(&self) -> Result<SocketAccess, Failure> {
        let group = match &self.socket_group {
            Some(name) if !name.is_empty() => Some(group_id(name)?),
            _ => None,
        };
        let mode = self.socket_mode.or(group.map(|_| 0o660));
        if mode.is_some() && !self.host.iter().any(|host| host.starts_with("unix:")) {
            return Err(Failure::usage("--socket-mode and --socket-group are for socket files, and no --host is one")
                .hint("add --host unix:/path, or leave them out"));
        }
        Ok(SocketAccess { mode, group })
    }
}

fn group_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(Failure::usage(format!("--socket-group: there is no group {name}"))),
        Err(why) => Err(Failure::usage(format!("--socket-group: cannot look up the group {name}: {why}"))),
    }
}

/// A server that is for no more connections than this leaves all of them to whoever comes.
const FEW_CONNECTIONS: u32 = 64;

/// One address cannot keep all others out. As many connections as there are descriptors, where no number is named.
fn half_of_connections(all: u32) -> usize {
    if (1..FEW_CONNECTIONS).contains(&all) {
        return 0;
    }
    let descriptors = || getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let all = if all > 0 { u64::from(all) } else { descriptors() };
    usize::try_from(all.div_ceil(2)).unwrap_or(usize::MAX)
}

/// Of this machine, or of the control group that we are in.
fn half_of_memory() -> usize {
    const LEAST: u64 = 16 * 1024 * 1024;
    const UNKNOWN: u64 = 2 * 1024 * 1024 * 1024;
    let all = [sys::memory_size(), cgroup::memory::limit()].into_iter().flatten().min().unwrap_or(UNKNOWN);
    usize::try_from((all / 2).max(LEAST)).unwrap_or(usize::MAX)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("write a size such as 512M or 2G".to_owned()),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "write a size such as 512M or 2G".to_owned())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write three octal digits, such as 660".to_owned())
}

fn reporter(log: log::Log) -> Report {
    Arc::new(move |event: Event| {
        let level = match event.level() {
            Level::Info => "info",
            Level::Warn => "warn",
        };
        log.line(level, event.name(), event.message(), &event.fields());
    })
}

/// SIGTERM and SIGINT, as they come, and the end of the terminal that we were started at.
fn stop_signals() -> Result<mpsc::Receiver<()>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot_listen_for_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_listen_for_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot_listen_for_signals)?;
    let (sender, receiver) = mpsc::channel(2);
    // One that has hung up is a terminal no more.
    let was_at_terminal = stdin().is_terminal();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => if !was_at_terminal || stdin().is_terminal() { continue },
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn cannot_listen_for_signals(why: std::io::Error) -> Failure {
    Failure::new(Kind::Internal, format!("cannot listen for signals: {why}"))
}

/// Every connection takes a descriptor, and the usual soft limit is far below what the system allows.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Without it there is only room for fewer connections.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What Kubernetes says of a service `dflockd` is no wish of anybody's.
fn parse_port(text: &str) -> Result<u16, String> {
    let is_told = std::env::var(PORT_VARIABLE).is_ok_and(|value| value == text);
    if is_told && is_of_a_service(PORT_VARIABLE, text) {
        return Ok(DEFAULT_PORT);
    }
    text.parse().map_err(|_| "a port is a number from 0 to 65535".to_owned())
}

/// As the original reads them in its environment.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" => Ok(true),
        "0" | "no" | "false" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}
