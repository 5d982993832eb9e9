//! `dflock enqueue`: join the queue without waiting, leave a holder behind.

use clap::Args;

use super::acquire::{Taken, Wanted};
use super::manner::Manner;
use crate::error::Failure;

/// Join the queue for a lock without waiting
///
/// Prints `acquired TOKEN` or `queued`. A background process keeps the place, and the lock once its turn
/// has come; `dflock wait` waits for that.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock enqueue deploy && ./prepare && dflock wait deploy && { ./deploy; dflock release deploy; }
  dflock enqueue deploy --json")]
pub struct Enqueue {
    #[command(flatten)]
    wanted: Wanted,
}

impl Enqueue {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let manner = self.wanted.manner;
        let (key, started, owner) = self.wanted.take(limit, true)?;
        let report = &started.report;
        manner.answer(&Taken::new(&key, limit, report, owner), || match &report.grant {
            Some(held) => format!("acquired {}\n", held.token.as_str()),
            None => "queued\n".to_owned(),
        })?;
        started.thank();
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.wanted.manner
    }
}
