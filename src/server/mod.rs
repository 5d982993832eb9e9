//! The embedded lock server: listen, admit, stop in good order.
//!
//! Connections are tasks (`session`); they share one [`table`] behind one lock (`shared`). The table
//! decides, everything else only carries bytes, time and randomness to it and its replies back.

mod accept;
mod admit;
mod credentials;
mod event;
mod guesses;
pub mod journal;
mod log_limit;
mod memory;
mod session;
mod shared;
pub mod stamp;
mod stats;
mod succession;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Notify, mpsc};

use admit::{Doors, Gate};
pub use credentials::{Credentials, CredentialsInForce};
pub use event::{Event, Field, Level};
use guesses::Guesses;
use journal::Journal;
use log_limit::LogLimit;
use memory::Memory;
use shared::Shared;
use succession::Succession;
use table::{Limits, Table};

use crate::clock;
use crate::error::Failure;
use crate::net::Listener;
use crate::net::socket_file::SocketAccess;

/// How long answers may take on their way out of a server that leaves.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long a server that is not used any more tries to write down its end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How often a server that may leave for it looks whether its state can be kept.
const LOOK_AT_STATE_EVERY: Duration = Duration::from_secs(1);

/// The longest that a broken connection's locks may be kept for it.
const MAX_RESUME_S: u64 = 300;

pub struct Options {
    pub hosts: Vec<String>,
    pub port: u16,
    /// Of every host that is a socket file.
    pub socket: SocketAccess,
    pub limits: Limits,
    pub default_lease_s: u64,
    pub max_lease_s: u64,
    /// 0 for any number.
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    /// Bytes; `None` for any number.
    pub max_memory: Option<usize>,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    /// Zero: wait for the holders for ever.
    pub shutdown_timeout: Duration,
    pub idle_exit: Option<Duration>,
    /// Where what is held is kept over restarts.
    pub state: Option<journal::Options>,
    pub credentials: Credentials,
}

/// Where a server's events go.
pub type Report = Arc<dyn Fn(Event) + Send + Sync>;

pub struct Server {
    listeners: Vec<Listener>,
    context: Arc<Context>,
    shutdown_timeout: Duration,
    idle_exit: Option<Duration>,
    leaves_without_state: bool,
}

/// What every connection is handed.
struct Context {
    shared: Shared,
    gate: Arc<Gate>,
    report: Report,
    credentials: CredentialsInForce,
    guesses: Guesses,
    memory: Memory,
    refusals: LogLimit,
    out_of_memory: LogLimit,
    wrong_secrets: LogLimit,
    failed_handshakes: LogLimit,
    auto_release: bool,
    default_lease_s: u64,
    max_lease_s: u64,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Server {
    /// Listens; connections are accepted by [`Server::run`].
    pub async fn bind(options: Options, report: Report) -> Result<Server, Failure> {
        let earlier = Arc::new(Notify::new());
        let mut succession = Succession::new(report.clone());
        let (table, journal) = match &options.state {
            None => (Table::new(options.limits, clock::wall_nanos()), None),
            Some(state) => {
                let wake = earlier.clone();
                let on_accepting = Box::new(move || wake.notify_one());
                let dir = succession.dir(&state.dir, state.is_remade).await?;
                let (table, journal) = journal::open(dir, state, options.limits, &report, on_accepting)?;
                (table, Some(journal))
            }
        };
        // Without a state, whoever is there now has locks that we would know nothing of.
        let mut succession = journal.is_some().then_some(succession);
        let mut listeners = Vec::new();
        for host in &options.hosts {
            let bound = match &mut succession {
                Some(succession) => succession.listeners(host, options.port, options.socket).await,
                None => Listener::bind(host, options.port, options.socket).await,
            };
            listeners.extend(bound.map_err(|why| cannot_listen(host, options.port, &why))?);
        }
        if let Some(journal) = &journal {
            journal.begin_to_serve()?;
        }
        let memory = Memory::new(options.max_memory);
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let doors = Doors::new(
            options.max_connections,
            options.max_connections_per_ip,
            usize::try_from(descriptors).unwrap_or(usize::MAX),
            memory.most_extras(),
        );
        let context = Context {
            shared: Shared::new(table, journal, earlier),
            gate: Gate::new(doors),
            report,
            credentials: CredentialsInForce::new(options.credentials),
            guesses: Guesses::default(),
            memory,
            refusals: LogLimit::default(),
            out_of_memory: LogLimit::default(),
            wrong_secrets: LogLimit::default(),
            failed_handshakes: LogLimit::default(),
            auto_release: options.limits.auto_release,
            default_lease_s: options.default_lease_s,
            max_lease_s: options.max_lease_s,
            read_timeout: options.read_timeout,
            write_timeout: options.write_timeout,
        };
        Ok(Server {
            listeners,
            context: Arc::new(context),
            shutdown_timeout: options.shutdown_timeout,
            idle_exit: options.idle_exit,
            leaves_without_state: options.state.is_some_and(|state| state.is_remade),
        })
    }

    /// To be replaced while it serves.
    pub fn credentials(&self) -> CredentialsInForce {
        self.context.credentials.clone()
    }

    /// Serves until told to stop: the first `stops` lets holders finish, the second does not.
    /// What is still under way when this returns ends with the runtime.
    pub async fn run(self, mut stops: mpsc::Receiver<()>) {
        let Server { listeners, context, shutdown_timeout, idle_exit, leaves_without_state } = self;
        for listener in &listeners {
            (context.report)(Event::Listening { address: listener.to_string() });
            if !context.credentials.get().has_secret() && listener.is_open_to_others() {
                (context.report)(Event::Open { address: listener.to_string() });
            }
        }
        let timekeeper = context.clone();
        tokio::spawn(async move { timekeeper.shared.keep_time().await });
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept::accept_from(listener, context.clone()));
        }
        let unused = tokio::select! {
            () = without_state(&context), if leaves_without_state => {
                (context.report)(Event::LeftWithoutState);
                if let Some(journal) = context.shared.journal() {
                    journal.is_needed_no_more();
                }
                accepting.shutdown().await;
                return;
            }
            stop = stops.recv() => {
                if stop.is_none() {
                    // Nobody is left who could tell us to stop.
                    std::future::pending::<()>().await;
                }
                false
            }
            () = unused_for(&context, idle_exit) => true,
        };
        match context.shared.journal() {
            journal if unused => {
                // Nothing is held, but what ended last may not be on disk yet. If it cannot be, that was told to nobody.
                if let Some(journal) = journal {
                    let _ = tokio::time::timeout(CLOSE_WITHIN, journal.close()).await;
                    journal.is_needed_no_more();
                }
                (context.report)(Event::IdleExit { after: idle_exit.unwrap_or_default() });
            }
            None => context.drain(shutdown_timeout, stops).await,
            Some(journal) => context.hand_over(journal, shutdown_timeout, stops).await,
        }
        // The door stays open until nobody holds anything here any more. Whoever asks meanwhile hears that it has
        // to ask again, and no other server can take our place and give away what is held.
        accepting.shutdown().await;
    }
}

impl Context {
    fn count_refusal(&self, why: &'static str) {
        self.refusals.tell(&self.report, move |count| Event::ConnectionsRefused { why, count });
    }

    async fn drain(&self, timeout: Duration, mut stops: mpsc::Receiver<()>) {
        let load = self.shared.drain();
        let connections = self.gate.connections();
        (self.report)(Event::Draining { connections, held: load.held, waiting: load.waiting });
        let timeout = if timeout.is_zero() { Duration::MAX } else { timeout };
        let held = || self.shared.read(|table, _| table.load().held);
        let end = tokio::select! {
            () = self.shared.nothing_held() => Event::Drained,
            () = tokio::time::sleep(timeout) => Event::DrainTimeout { held: held() },
            Some(()) = stops.recv() => Event::EndedBySecondSignal { held: held() },
        };
        (self.report)(end);
    }

    /// Leaves as soon as all is on disk: what is held is held again by the next server.
    async fn hand_over(&self, journal: &Journal, timeout: Duration, mut stops: mpsc::Receiver<()>) {
        let load = self.shared.hand_over();
        let connections = self.gate.connections();
        (self.report)(Event::Draining { connections, held: load.held, waiting: load.waiting });
        let timeout = if timeout.is_zero() { Duration::MAX } else { timeout };
        let held = || self.shared.read(|table, _| table.load().held);
        let kept = async {
            // A kindness: who hears nothing asks the next server.
            let _ = tokio::time::timeout(ANSWER_WITHIN, async {
                while !journal.is_all_said() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            journal.close().await;
        };
        let end = tokio::select! {
            () = kept => Event::StateKept { dir: journal.dir().display().to_string(), held: held() },
            () = tokio::time::sleep(timeout) => Event::DrainTimeout { held: held() },
            Some(()) = stops.recv() => Event::EndedBySecondSignal { held: held() },
        };
        (self.report)(end);
        if held() == 0 {
            journal.is_needed_no_more();
        }
        // From here on nothing is written any more: connections that end now end nothing.
        journal.stop();
    }
}

/// Returns once nobody was connected and nothing held or queued for so long. From then on nothing is given out.
async fn unused_for(context: &Context, idle_exit: Option<Duration>) {
    let Some(idle_exit) = idle_exit else { return std::future::pending().await };
    let begin = clock::server_now();
    loop {
        if context.gate.connections() > 0 {
            context.gate.emptied.notified().await;
        }
        let now = clock::server_now();
        let empty_since =
            if context.gate.connections() > 0 { now } else { context.gate.empty_since().unwrap_or(begin) };
        let since = context.shared.unused_since().unwrap_or(now).max(empty_since);
        if now.since(since) >= idle_exit && context.shared.close_if_unused() {
            return;
        }
        tokio::time::sleep((since + idle_exit).since(now)).await;
    }
}

/// Returns once nothing can be given out, as it could not be kept, and nothing is held any more.
async fn without_state(context: &Context) {
    let Some(journal) = context.shared.journal() else { return std::future::pending().await };
    while journal.accepts() || !context.shared.close_if_nothing_held() {
        tokio::time::sleep(LOOK_AT_STATE_EVERY).await;
    }
}

fn cannot_listen(host: &str, port: u16, why: &std::io::Error) -> Failure {
    let place = if host.starts_with("unix:") { host.to_owned() } else { format!("{host} port {port}") };
    let failure = Failure::usage(format!("cannot listen on {place}: {why}"));
    match why.kind() {
        std::io::ErrorKind::AddrInUse if host.starts_with("unix:") => {
            failure.hint("another server is there already; --host unix:/path takes another place")
        }
        std::io::ErrorKind::PermissionDenied if host.starts_with("unix:") => {
            failure.hint("put the socket into a directory of the user that the server runs as")
        }
        std::io::ErrorKind::AddrInUse => failure.hint("another server is there already; --port N takes another port"),
        std::io::ErrorKind::PermissionDenied => {
            failure.hint("ports below 1024 need privileges; --port N takes another")
        }
        _ => failure,
    }
}
