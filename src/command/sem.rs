//! `dflock sem`: the lock verbs for a semaphore, with a limit.

use clap::{Args, Subcommand};

use super::acquire::Acquire;
use super::enqueue::Enqueue;
use super::manner::Manner;
use super::release::Release;
use super::renew::Renew;
use super::wait::WaitFor;
use crate::error::Failure;

/// Use a semaphore, which up to --limit N may hold: the same verbs
#[derive(Args, Debug)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(after_help = "Examples:
  dflock sem acquire crawl --limit 3 && { ./crawler; dflock sem release crawl --limit 3; }
  dflock exec --limit 3 crawl ./crawler   # simpler, for one command")]
pub struct Sem {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    #[command(after_help = "Examples:
  dflock sem acquire crawl --limit 3 && { ./crawler; dflock sem release crawl --limit 3; }
  lock=$(dflock sem acquire crawl --limit 3 --export) || exit; eval \"$lock\"")]
    Acquire(Limited<Acquire>),
    #[command(after_help = "Examples:
  dflock sem release crawl --limit 3
  dflock sem release crawl --limit 3 \"$token\"")]
    Release(Limited<Release>),
    #[command(after_help = "Examples:
  dflock sem renew crawl --limit 3 --lease 5m
  dflock sem renew crawl --limit 3 || exit  # still ours?")]
    Renew(Limited<Renew>),
    #[command(after_help = "Examples:
  dflock sem enqueue crawl --limit 3 && ./prepare && dflock sem wait crawl --limit 3 || exit
  dflock sem enqueue crawl --limit 3 --json")]
    Enqueue(Limited<Enqueue>),
    #[command(after_help = "Examples:
  dflock sem wait crawl --limit 3
  dflock sem wait crawl --limit 3 --timeout 5m")]
    Wait(Limited<WaitFor>),
}

#[derive(Args, Debug)]
struct Limited<T: Args> {
    /// How many may hold it at once: all must name the same number; the lock KEY is another thing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,

    #[command(flatten)]
    verb: T,
}

impl Sem {
    pub fn run(self) -> Result<u8, Failure> {
        match self.verb {
            Verb::Acquire(Limited { limit, verb }) => verb.run(Some(limit)),
            Verb::Release(Limited { limit, verb }) => verb.run(Some(limit)),
            Verb::Renew(Limited { limit, verb }) => verb.run(Some(limit)),
            Verb::Enqueue(Limited { limit, verb }) => verb.run(Some(limit)),
            Verb::Wait(Limited { limit, verb }) => verb.run(Some(limit)),
        }
    }

    pub fn manner(&self) -> Manner {
        match &self.verb {
            Verb::Acquire(Limited { verb, .. }) => verb.manner(),
            Verb::Release(Limited { verb, .. }) => verb.manner,
            Verb::Renew(Limited { verb, .. }) => verb.manner(),
            Verb::Enqueue(Limited { verb, .. }) => verb.manner(),
            Verb::Wait(Limited { verb, .. }) => verb.manner(),
        }
    }
}
