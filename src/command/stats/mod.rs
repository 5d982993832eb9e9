//! `dflock stats`: what the servers hold, all asked at once.

mod forms;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::autostart;
use super::manner::Manner;
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::backend::{Backend, Feature, IdleRow, LockRow, SemaphoreRow, Stats as Held};
use crate::error::{Failure, Kind};
use crate::output;
use crate::settings::{Settings, duration};

/// Show what the servers hold
///
/// All servers are asked at once. One that does not answer is shown as such, and the exit code is 69 then.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock stats | jq '.locks[].key'
  dflock stats --watch 5s --key-prefix cron/")]
pub struct Stats {
    /// Form of the answer [default: json]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,

    /// Show only keys that begin with PREFIX
    #[arg(long, value_name = "PREFIX")]
    key_prefix: Option<OsString>,

    /// Ask every DUR, and show a live table on a terminal, lines otherwise [default: 2s]
    #[arg(long, value_name = "DUR", num_args = 0..=1, default_missing_value = "2s",
          value_parser = duration::parse_above_zero)]
    watch: Option<Duration>,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Table,
    Prometheus,
}

/// What all servers said, merged; every entry says whose it is.
#[derive(Serialize)]
struct Document {
    schema: u32,
    connections: u64,
    locks: Vec<Of<LockRow>>,
    semaphores: Vec<Of<SemaphoreRow>>,
    idle_locks: Vec<Of<IdleRow>>,
    idle_semaphores: Vec<Of<IdleRow>>,
    servers: Vec<ServerRow>,
}

/// A row, and the server that has it.
#[derive(Serialize)]
struct Of<T> {
    #[serde(flatten)]
    row: T,
    server: String,
}

#[derive(Serialize)]
struct ServerRow {
    server: String,
    ok: bool,
    connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<u64>,
    error: Option<&'static str>,
    message: Option<String>,
}

impl Stats {
    pub fn run(self) -> Result<u8, Failure> {
        let settings = self.target.settings(Vec::new())?;
        let backend = backend_of(&site_of(&settings)?)?;
        backend.check(Feature::Stats)?;
        let start = self.key_prefix.as_deref().unwrap_or_default().as_bytes();
        if let Some(every) = self.watch {
            let form = watch::Form::of(self.format, self.manner.json)?;
            return super::block_on(watch::run(every, form, async || ask(&backend, &settings, start).await.0));
        }
        let (document, failures) = super::block_on(async { Ok(ask(&backend, &settings, start).await) })?;
        let format = self.format.unwrap_or(Format::Json);
        match format {
            Format::Json => output::json(&document)?,
            Format::Table => output::plain(&forms::table(&document))?,
            Format::Prometheus => output::exact(&forms::metrics(&document))?,
        }
        if format != Format::Json && !self.manner.quiet {
            failures.iter().for_each(output::failure);
        }
        Ok(exit_code(&failures))
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}

/// What all servers say, and what went wrong with those that do not.
async fn ask(backend: &Backend, settings: &Settings, start: &[u8]) -> (Document, Vec<Failure>) {
    let mut answers = backend.stats(start).await;
    for (_, answer) in &mut answers {
        if let Err(failure) = answer {
            *failure = autostart::name_stranger(settings, failure.clone());
        }
    }
    let failures = answers.iter().filter_map(|(_, answer)| answer.clone().err()).collect();
    (merge(answers), failures)
}

/// That of the failures where they are of one kind; otherwise what is missing counts.
fn exit_code(failures: &[Failure]) -> u8 {
    match failures {
        [] => 0,
        [first, more @ ..] if more.iter().all(|other| other.kind == first.kind) => first.exit(),
        _ => Kind::Unreachable.exit(),
    }
}

fn merge(answers: Vec<(String, Result<Held, Failure>)>) -> Document {
    let mut all = Document {
        schema: output::SCHEMA,
        connections: 0,
        locks: Vec::new(),
        semaphores: Vec::new(),
        idle_locks: Vec::new(),
        idle_semaphores: Vec::new(),
        servers: Vec::new(),
    };
    for (server, answer) in answers {
        match answer {
            Ok(held) => {
                let name = || server.clone();
                all.connections += held.connections;
                all.locks.extend(held.locks.into_iter().map(|row| Of { row, server: name() }));
                all.semaphores.extend(held.semaphores.into_iter().map(|row| Of { row, server: name() }));
                all.idle_locks.extend(held.idle_locks.into_iter().map(|row| Of { row, server: name() }));
                all.idle_semaphores.extend(held.idle_semaphores.into_iter().map(|row| Of { row, server: name() }));
                let (connections, grants) = (Some(held.connections), held.grants);
                all.servers.push(ServerRow { server, ok: true, connections, grants, error: None, message: None });
            }
            Err(failure) => {
                let (error, message) = (Some(failure.kind.row().name), Some(failure.message));
                all.servers.push(ServerRow { server, ok: false, connections: None, grants: None, error, message });
            }
        }
    }
    all
}
