//! `dflock status`: held or free, and by whom as far as the server says.

use std::ffi::OsString;

use clap::Args;
use serde::Serialize;

use super::autostart;
use super::busy::lease_left;
use super::manner::Manner;
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::backend::{Feature, LockRow, SemaphoreRow};
use crate::error::Failure;
use crate::lock::Key;
use crate::output::{self, escape};

/// Show whether a lock is held
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock status nightly
  dflock status nightly --json | jq .state")]
pub struct Status {
    /// Name of the lock
    #[arg(value_name = "KEY")]
    key: OsString,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    key: String,
    server: String,
    shard: usize,
    state: &'static str,
    lock: Option<LockRow>,
    semaphore: Option<SemaphoreRow>,
}

impl Status {
    pub fn run(self) -> Result<u8, Failure> {
        let key = Key::from_argument(&self.key).map_err(Failure::usage)?;
        let settings = self.target.settings(Vec::new())?;
        let backend = backend_of(&site_of(&settings)?)?;
        backend.check(Feature::Status)?;
        let (shard, _) = backend.server_of(&key);
        let is_one_of_many = settings.servers.shards.len() > 1;
        let status =
            super::block_on(backend.status(&key)).map_err(|failure| autostart::name_stranger(&settings, failure))?;
        let is_held = status.lock.as_ref().is_some_and(LockRow::is_held) || status.semaphore.is_some();
        let document = Document {
            schema: output::SCHEMA,
            key: key.to_string(),
            server: status.server,
            shard,
            state: if is_held { "held" } else { "free" },
            lock: status.lock,
            semaphore: status.semaphore,
        };
        self.manner.answer(&document, || lines(&document, is_one_of_many))?;
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}

fn lines(document: &Document, is_one_of_many: bool) -> String {
    let Document { key, server, shard, lock, semaphore, .. } = document;
    let shard = if is_one_of_many { format!(" (shard {shard})") } else { String::new() };
    let (key, place) = (escape(key), format!("on {}{shard}", escape(server)));
    let mut text = String::new();
    if let Some(row) = lock.as_ref().filter(|row| !row.is_held()) {
        text.push_str(&format!("{key}: free, {} waiting, {place}\n", row.waiters));
    } else if let Some(row) = lock {
        text.push_str(&format!(
            "{key}: held by {}, {} of its lease left, {} waiting, {place}\n",
            escape(&row.holder()),
            lease_left(row),
            row.waiters
        ));
    }
    if let Some(row) = semaphore {
        text.push_str(&format!(
            "{key}: {} of {} slots held, {} waiting, {place}\n",
            row.holders, row.limit, row.waiters
        ));
    }
    if text.is_empty() { format!("{key}: free, {place}\n") } else { text }
}
