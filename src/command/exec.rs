//! `dflock exec`: run a command under a lock.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::acquire::Patience;
use super::autostart;
use super::busy::{self, who_has_it};
use super::guardian;
use super::held;
use super::manner::Manner;
use super::site::{backend_of, site_that_waits};
use super::target::Target;
use crate::backend::{Ask, Backend, Inherited, Status, Wait};
use crate::error::{Failure, Kind as Wrong};
use crate::exec::contain::{self, Containment};
use crate::exec::guard::Guard;
use crate::exec::policy::Rules;
use crate::exec::{self, Handing, Job, Outcome, SHORTEST_LEASE};
use crate::holder::{self, Site, start};
use crate::lock::{Grant, Key, Kind};
use crate::output;
use crate::settings::duration::{self, in_words};
use crate::settings::{SECRET_VARIABLES, Settings};

/// Run a command while holding a lock
///
/// Exits as the command does. If the lock is lost while it runs, the command and its whole process group are
/// stopped before anybody else can have the lock, and the exit code is 79.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock exec nightly -- ./backup.sh
  dflock exec -n nightly -E 0 ./backup.sh   # skip quietly if it runs elsewhere")]
pub struct Exec {
    /// Name of the lock
    #[arg(value_name = "KEY")]
    key: OsString,

    /// The command and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required_unless_present = "shell")]
    program: Vec<OsString>,

    /// Run STRING with /bin/sh
    #[arg(short = 'c', long = "command", value_name = "STRING", conflicts_with = "program")]
    shell: Option<OsString>,

    #[command(flatten)]
    wait: Patience,

    /// Take one of N slots: all must name the same N, and whoever names none takes another lock
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Take this key too, all or nothing (can be repeated)
    #[arg(long, value_name = "KEY")]
    also: Vec<OsString>,

    /// Exit code when the lock is not obtained [default: 75]
    #[arg(short = 'E', long, value_name = "N")]
    busy_code: Option<u8>,

    /// How long the command may take to end when it is told to [default: 5s]
    #[arg(long, value_name = "DUR")]
    kill_after: Option<String>,

    /// What to do when the lock is lost
    #[arg(long, value_name = "WHAT", value_enum, default_value = "stop")]
    on_lost: OnLost,

    /// How to hold the command's processes together, so that all of them can be ended
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto")]
    contain: Contain,

    /// How long the command may run; then it is stopped and the exit code is 124
    #[arg(long, value_name = "DUR", value_parser = duration::parse_above_zero)]
    max_runtime: Option<Duration>,

    /// Keep the lock at least this long, even if the command ends before: a holder has it meanwhile
    #[arg(long, value_name = "DUR", value_parser = duration::parse_above_zero)]
    min_hold: Option<Duration>,

    /// Wait a random time up to this before asking
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    jitter: Option<Duration>,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnLost {
    /// Stop the command
    Stop,
    /// Say so and let it run on
    Warn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Contain {
    /// In a cgroup where one can be made, otherwise as group
    Auto,
    /// By who descends from the command
    Group,
    /// In a cgroup of its own, below dflock's; refused where that cannot be made
    Cgroup,
    /// In a PID namespace, which ends with dflock whatever happens; refused where that cannot be made
    Pidns,
}

impl Exec {
    pub fn manner(&self) -> Manner {
        self.manner
    }

    pub fn run(self) -> Result<Outcome, Failure> {
        let busy_code = self.busy_code;
        self.run_it().map_err(|failure| match (failure.kind, busy_code) {
            (Wrong::Busy, Some(code)) => failure.exit_with(code),
            _ => failure,
        })
    }

    fn run_it(self) -> Result<Outcome, Failure> {
        let mut flags = self.wait.flags();
        flags.extend(self.kill_after.clone().map(|time| ("kill_after", time)));
        let settings = self.target.settings(flags)?;
        if let Some(lease) = settings.lease.filter(|lease| *lease < SHORTEST_LEASE) {
            let seconds = lease.as_secs_f64();
            return Err(Failure::usage(format!("a lease of {seconds}s leaves no time to stop a command"))
                .hint(format!("{} must be at least 2s", settings.set_by("lease"))));
        }
        let asks = self.asks(&settings)?;
        let held = held::with_outer(&asks);
        let site = site_that_waits(&settings)?;
        let backend = backend_of(&site)?;
        for ask in &asks {
            held::refuse_what_is_ours(&backend, &ask.key, ask.kind, ask.wait != Wait::For(Duration::ZERO))?;
        }
        let rules = Rules {
            kill_after: settings.kill_after,
            kill_after_given: settings.kill_after_given,
            warn_on_lost: self.on_lost == OnLost::Warn,
            max_runtime: self.max_runtime,
        };
        let program = match self.shell {
            Some(script) => vec!["/bin/sh".into(), "-c".into(), script],
            None => self.program,
        };
        // A part of it, from nothing to all of it.
        let part = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let job = Job {
            asks,
            program,
            rules,
            held,
            secrets: &SECRET_VARIABLES,
            first_pause: self.jitter.unwrap_or_default().mul_f64(part),
            min_hold: self.min_hold.unwrap_or_default(),
        };
        let contain = match self.contain {
            Contain::Auto => contain::Contain::Auto,
            Contain::Group => contain::Contain::Group,
            Contain::Cgroup => contain::Contain::Cgroup,
            Contain::Pidns => contain::Contain::PidNamespace,
        };
        // After a loss that is only told, the command outlives even us.
        let containment = Containment::prepare(contain, !rules.warn_on_lost)?;
        // Before the first thread: it is a copy of this process.
        let guard = Guard::start(&|locks| guardian::let_go(locks, &site), guardian::successor(&site))?;
        output::background::begin();
        let key = job.asks[0].key.clone();
        let user = Onlooker { manner: self.manner, key: &key, backend: &backend, site: &site };
        let manner = self.manner;
        let outcome = super::block_on(async {
            let outcome = exec::run(job, &backend, guard, containment, &user).await;
            match outcome {
                Err(failure) => Err(who_has_it(&backend, &key, failure, manner).await),
                outcome => outcome,
            }
        });
        if let (Ok(Outcome::Ran(status)), true) = (&outcome, manner.json) {
            tell_json(*status, &key, &backend);
        }
        outcome.map_err(|failure| autostart::name_stranger(&settings, failure))
    }

    fn asks(&self, settings: &Settings) -> Result<Vec<Ask>, Failure> {
        let mut asks: Vec<Ask> = Vec::new();
        for (at, name) in std::iter::once(&self.key).chain(&self.also).enumerate() {
            let key = Key::from_argument(name).map_err(Failure::usage)?;
            if asks.iter().any(|ask| ask.key == key) {
                return Err(Failure::usage(format!("{key} is named twice")).hint("KEY and every --also must differ"));
            }
            let kind = match self.limit {
                Some(limit) if at == 0 => Kind::Semaphore { limit },
                _ => Kind::Lock,
            };
            let wait = settings.timeout.map_or(Wait::Forever, Wait::For);
            asks.push(Ask { key, kind, lease: settings.lease, wait });
        }
        Ok(asks)
    }
}

/// Nothing of its own is said of an end that is the command's.
fn tell_json(status: exec::status::Status, key: &Key, backend: &Backend) {
    use exec::status::Status;

    let (kind, what) = match status {
        Status::Child(_) => return,
        Status::Lost => (Wrong::Lost, "the lock was lost while the command ran"),
        Status::RuntimeOver => (Wrong::RuntimeOver, "the command ran longer than --max-runtime"),
    };
    let mut failure = Failure::new(kind, what);
    (failure.key, failure.server) = (Some(key.to_string()), Some(backend.server_of(key).1));
    output::failure_json(&failure);
}

/// A person at a terminal, or nobody.
struct Onlooker<'a> {
    manner: Manner,
    key: &'a Key,
    backend: &'a Backend,
    site: &'a Site,
}

impl exec::User for Onlooker<'_> {
    fn say(&self, text: &str) {
        // In a log of many jobs, it matters which.
        output::remark(&format!("{}: {text}", self.key));
    }

    fn is_watching(&self) -> bool {
        !self.manner.quiet && output::is_person_there()
    }

    fn waiting(&self, time: Duration, known: Option<&Status>) {
        let (key, time) = (self.key, in_words(Duration::from_secs(time.as_secs())));
        let server = self.backend.server_of(key).1;
        let known = known.and_then(busy::in_words).map_or(String::new(), |words| format!(": {words}"));
        output::passing(&format!("dflock: waiting for {key} on {server}, {time} so far{known}"));
    }

    fn waited(&self) {
        output::passed();
    }

    fn took(&self, time: Duration, first: &Grant) {
        self.manner.remark(|| {
            let (server, waited, lease) = (&first.server, in_words(time), in_words(first.lease));
            format!("{} was granted by {server} after {waited}, with a lease of {lease}", self.key)
        });
    }

    fn ended(&self, time: Duration) {
        self.manner.remark(|| format!("the command has ended after {}", in_words(time)));
    }

    fn hand_over<'a>(&'a self, ask: &'a Ask, grant: &'a Grant, time: Duration) -> Handing<'a> {
        Box::pin(self.hand_over_to_holder(ask, grant, time))
    }
}

impl Onlooker<'_> {
    async fn hand_over_to_holder(&self, ask: &Ask, grant: &Grant, time: Duration) -> Result<(), Failure> {
        let stays = |why: &dyn std::fmt::Display| {
            self.manner.remark(|| format!("{} is kept by dflock itself for {time:.1?}: {why}", ask.key));
        };
        if std::process::id() == 1 {
            stays(&"with process 1 every holder would end");
            return Err(Failure::new(Wrong::Internal, "process 1 has to stay"));
        }
        let Grant { token, fence, lease, server, .. } = grant.clone();
        let job = holder::Job {
            site: self.site.clone(),
            key: ask.key.clone(),
            kind: ask.kind,
            lease: Some(lease),
            wait: None,
            two_phase: false,
            owner: None,
            max_hold: Some(time),
            signal_on_lost: None,
            inherited: Some(Inherited { token, fence, lease }),
        };
        let started = start::start(&job, &server).await.inspect_err(|failure| stays(failure))?;
        self.manner.remark(|| format!("{} is kept for {time:.1?} by process {}", ask.key, started.report.pid));
        started.thank();
        Ok(())
    }
}
