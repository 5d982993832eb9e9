//! `dflock stats`: what the servers hold, all asked at once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde::Serialize;

use super::local;
use super::manner::Manner;
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::backend::{Feature, IdleRow, LockRow, SemaphoreRow, Stats as Held};
use crate::error::{Failure, Kind};
use crate::output::{self, Metrics, Table};

/// Show what the servers hold
///
/// All servers are asked at once. One that does not answer is shown as such, and the exit code is 69 then.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock stats | jq '.locks[].key'
  dflock stats --format table
  dflock stats --key-prefix cron/")]
pub struct Stats {
    /// Form of the answer
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "json")]
    format: Format,

    /// Show only keys that begin with PREFIX
    #[arg(long, value_name = "PREFIX")]
    key_prefix: Option<OsString>,

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
    error: Option<&'static str>,
    message: Option<String>,
}

impl Stats {
    pub fn run(self) -> Result<u8, Failure> {
        let settings = self.target.settings(Vec::new())?;
        let backend = backend_of(&site_of(&settings, &self.target)?)?;
        backend.check(Feature::Stats)?;
        let start = self.key_prefix.unwrap_or_default();
        let mut answers = super::block_on(async { Ok(backend.stats(start.as_bytes()).await) })?;
        for (_, answer) in &mut answers {
            if let Err(failure) = answer {
                *failure = local::name_stranger(&settings, failure.clone());
            }
        }
        let failures: Vec<Failure> = answers.iter().filter_map(|(_, answer)| answer.clone().err()).collect();
        let document = merge(answers);
        match self.format {
            Format::Json => output::json(&document)?,
            Format::Table => output::plain(&as_table(&document))?,
            Format::Prometheus => output::plain(&as_metrics(&document))?,
        }
        if self.format != Format::Json && !self.manner.quiet {
            failures.iter().for_each(output::failure);
        }
        Ok(exit_code(&failures))
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
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
                let connections = Some(held.connections);
                all.servers.push(ServerRow { server, ok: true, connections, error: None, message: None });
            }
            Err(failure) => {
                let (error, message) = (Some(failure.kind.row().name), Some(failure.message));
                all.servers.push(ServerRow { server, ok: false, connections: None, error, message });
            }
        }
    }
    all
}

fn as_table(document: &Document) -> String {
    let mut servers = Table::new(&["SERVER", "STATE", "CONNECTIONS"]);
    for ServerRow { server, ok, connections, message, .. } in &document.servers {
        let state = if *ok { "up".to_owned() } else { message.clone().unwrap_or_default() };
        servers.row(vec![server.clone(), state, connections.map_or("-".to_owned(), |count| count.to_string())]);
    }
    let mut locks = Table::new(&["KEY", "KIND", "HOLDERS", "WAITERS", "LEASE LEFT", "SERVER"]);
    for Of { row, server } in &document.locks {
        let holders = u64::from(row.owner_conn_id > 0 || row.lease_expires_in_s > 0.0);
        locks.row(vec![
            row.key.clone(),
            "lock".to_owned(),
            holders.to_string(),
            row.waiters.to_string(),
            format!("{:.1}s", row.lease_expires_in_s),
            server.clone(),
        ]);
    }
    for Of { row, server } in &document.semaphores {
        let holders = format!("{}/{}", row.holders, row.limit);
        let (kind, waiters) = ("semaphore".to_owned(), row.waiters.to_string());
        locks.row(vec![row.key.clone(), kind, holders, waiters, "-".to_owned(), server.clone()]);
    }
    format!("{}\n{}", servers.render(), locks.render())
}

fn as_metrics(document: &Document) -> String {
    let mut metrics = Metrics::default();
    metrics.gauge("dflock_up", "Whether the server answers.");
    for row in &document.servers {
        metrics.sample("dflock_up", &[("server", &row.server)], f64::from(u8::from(row.ok)));
    }
    metrics.gauge("dflock_connections", "Connections of the server.");
    for row in &document.servers {
        if let Some(connections) = row.connections {
            metrics.sample("dflock_connections", &[("server", &row.server)], connections as f64);
        }
    }
    metrics.gauge("dflock_lock_lease_seconds", "Time left of the lease of a held lock.");
    for Of { row, server } in &document.locks {
        metrics.sample("dflock_lock_lease_seconds", &[("server", server), ("key", &row.key)], row.lease_expires_in_s);
    }
    metrics.gauge("dflock_waiters", "Who waits for a key.");
    for Of { row, server } in &document.locks {
        let labels = [("server", server.as_str()), ("kind", "lock"), ("key", &row.key)];
        metrics.sample("dflock_waiters", &labels, row.waiters as f64);
    }
    for Of { row, server } in &document.semaphores {
        let labels = [("server", server.as_str()), ("kind", "semaphore"), ("key", &row.key)];
        metrics.sample("dflock_waiters", &labels, row.waiters as f64);
    }
    metrics.gauge("dflock_semaphore_holders", "Slots of a semaphore that are held.");
    for Of { row, server } in &document.semaphores {
        metrics.sample("dflock_semaphore_holders", &[("server", server), ("key", &row.key)], row.holders as f64);
    }
    metrics.gauge("dflock_semaphore_limit", "Slots that a semaphore has.");
    for Of { row, server } in &document.semaphores {
        metrics.sample("dflock_semaphore_limit", &[("server", server), ("key", &row.key)], row.limit as f64);
    }
    metrics.render()
}
