//! `dflock acquire`: take a lock, leave a holder behind, return.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::autostart;
use super::busy::who_has_it;
use super::export;
use super::held;
use super::manner::Manner;
use super::site::{backend_of, site_that_waits};
use super::target::Target;
use crate::backend::Feature;
use crate::error::Failure;
use crate::holder::owner::Owner;
use crate::holder::start::{self, Started};
use crate::holder::{Job, Report};
use crate::lock::{Key, Kind};
use crate::output;
use crate::settings::duration;

/// Take a lock and keep it until it is released
///
/// Prints the token. A background process keeps the lock until `dflock release`, until the calling script
/// ends (however it ends), or until --max-hold is over.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock acquire nightly && { ./job; dflock release nightly; }
  lock=$(dflock acquire nightly --export) || exit; eval \"$lock\"")]
pub struct Acquire {
    #[command(flatten)]
    wanted: Wanted,

    /// Print the token and more as variables, for `eval`; the lines fail unless the lock was taken
    #[arg(long, conflicts_with = "json")]
    export: bool,
}

/// A lock, or a place in its queue, that a holder is to keep.
#[derive(Args, Debug)]
pub struct Wanted {
    /// Name of the lock
    #[arg(value_name = "KEY")]
    pub key: OsString,

    #[command(flatten)]
    pub wait: Patience,

    #[command(flatten)]
    pub keep: Keep,

    #[command(flatten)]
    pub target: Target,

    #[command(flatten)]
    pub manner: Manner,
}

/// How long to wait, and for how long to be granted.
#[derive(Args, Clone, Debug)]
pub struct Patience {
    /// Fail at once if it is busy
    #[arg(short, long, conflicts_with = "timeout")]
    pub no_wait: bool,

    /// How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]
    #[arg(short = 'w', long, value_name = "DUR")]
    pub timeout: Option<String>,

    /// Lease: how long the server keeps the lock without hearing from us [default: the server's]
    #[arg(short, long, value_name = "DUR")]
    pub lease: Option<String>,
}

/// How a holder keeps a lock.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Holder")]
pub struct Keep {
    /// Release when this process ends, or `none` [default: the calling script]
    #[arg(long, value_name = "PID")]
    owner: Option<String>,

    /// Release after this long at the latest
    #[arg(long, value_name = "DUR", value_parser = duration::parse_above_zero)]
    max_hold: Option<Duration>,

    /// Send this signal to the owner when the lock is lost, even if the holder is killed
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    signal_on_lost: Option<i32>,
}

impl Patience {
    /// As the settings that they are.
    pub fn flags(&self) -> crate::settings::Flags {
        let timeout = if self.no_wait { Some("0".to_owned()) } else { self.timeout.clone() };
        let timeout = timeout.map(|timeout| ("timeout", timeout));
        timeout.into_iter().chain(self.lease.clone().map(|lease| ("lease", lease))).collect()
    }
}

impl Acquire {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let (is_exported, manner) = (self.export, self.wanted.manner);
        if is_exported {
            export::check()?;
        }
        let (key, started, owner) = self.wanted.take(limit, false)?;
        let report = &started.report;
        let held = report.grant.as_ref().ok_or_else(|| Failure::internal("take the lock", &"no grant came"))?;
        if is_exported {
            export::succeed(&key, report, held, owner)?;
        } else {
            manner.answer(&Taken::new(&key, limit, report, owner), || format!("{}\n", held.token.as_str()))?;
        }
        started.thank();
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.wanted.manner
    }
}

impl Wanted {
    /// Starts a holder and waits for what it reports.
    pub fn take(self, limit: Option<u64>, two_phase: bool) -> Result<(Key, Started, Option<Owner>), Failure> {
        let key = Key::from_argument(&self.key).map_err(Failure::usage)?;
        let settings = self.target.settings(self.wait.flags())?;
        let kind = limit.map_or(Kind::Lock, |limit| Kind::Semaphore { limit });
        let owner = self.keep.owner()?;
        let site = site_that_waits(&settings)?;
        let backend = backend_of(&site)?;
        if limit.is_some() {
            backend.check(Feature::Semaphores)?;
        }
        if two_phase {
            backend.check(Feature::TwoPhase)?;
        }
        // A place in the queue is for later, and may be meant for when what we have is given back.
        held::refuse_what_is_ours(&backend, &key, kind, !two_phase && settings.timeout != Some(Duration::ZERO))?;
        let (_, server) = backend.server_of(&key);
        autostart::ensure(&site)?;
        if let Some(owner) = owner {
            let name = owner.name().unwrap_or_default();
            self.manner.remark(|| format!("{key} will be tied to process {} ({name})", owner.pid));
        }
        let job = Job {
            site,
            key: key.clone(),
            kind,
            lease: settings.lease,
            wait: settings.timeout,
            two_phase,
            owner,
            max_hold: self.keep.max_hold,
            signal_on_lost: self.keep.signal_on_lost,
            inherited: None,
        };
        let started = super::block_on(start::start(&job, &server)).map_err(|failure| {
            let manner = self.manner;
            let known = super::block_on(async { Ok(who_has_it(&backend, &key, failure.clone(), manner).await) });
            autostart::name_stranger(&settings, known.unwrap_or(failure))
        })?;
        Ok((key, started, owner))
    }
}

impl Keep {
    fn owner(&self) -> Result<Option<Owner>, Failure> {
        match self.owner.as_deref() {
            None => Owner::of_caller().map(Some),
            Some("none") if self.max_hold.is_none() => {
                Err(Failure::usage("--owner none needs --max-hold").hint("otherwise nothing would ever end the lock"))
            }
            Some("none") => Ok(None),
            Some(pid) => match pid.parse() {
                Ok(pid) if pid > 0 => Owner::of(pid).map(Some),
                _ => Err(Failure::usage(format!("--owner {pid:?} is neither a process number nor none"))),
            },
        }
    }
}

/// The answer of `acquire`, `enqueue` and `wait`.
#[derive(Serialize)]
pub struct Taken {
    schema: u32,
    key: String,
    server: String,
    state: &'static str,
    limit: Option<u64>,
    token: Option<String>,
    fence: Option<u64>,
    /// The same: readers of JSON cut numbers this large to 53 bits.
    fence_text: Option<String>,
    lease_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    holder_pid: u32,
    owner_pid: Option<i32>,
}

impl Taken {
    pub fn new(key: &Key, limit: Option<u64>, report: &Report, owner: Option<Owner>) -> Taken {
        let held = report.grant.as_ref();
        Taken {
            schema: output::SCHEMA,
            key: key.to_string(),
            server: report.server.clone(),
            state: if held.is_some() { "acquired" } else { "queued" },
            limit,
            token: held.map(|held| held.token.as_str().to_owned()),
            fence: held.and_then(|held| held.fence),
            fence_text: held.and_then(|held| held.fence).map(|fence| fence.to_string()),
            lease_s: held.map(|held| held.lease.as_secs_f64()),
            position: report.position,
            holder_pid: report.pid,
            owner_pid: owner.map(|owner| owner.pid),
        }
    }
}

fn parse_signal(text: &str) -> Result<i32, String> {
    use nix::sys::signal::Signal;

    let number = text.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let signal = number.or_else(|| name.parse().ok());
    signal.map(|signal| signal as i32).ok_or_else(|| "write a signal such as TERM, USR1 or 10".to_owned())
}
