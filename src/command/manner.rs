//! How a command speaks: as text or JSON, with more or fewer words.

use clap::Args;
use serde::Serialize;

use crate::error::Failure;
use crate::output;

#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct Manner {
    /// Answer with one JSON object on stdout, failures too
    #[arg(long)]
    pub json: bool,

    /// Say nothing of a lock that is busy
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

impl Manner {
    /// Answers as JSON if that was asked for, and otherwise in the plain form.
    pub fn answer(self, document: &impl Serialize, plain: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { output::json(document) } else { output::plain(&plain()) }
    }

    /// A word for those who asked for more.
    pub fn remark(self, text: impl FnOnce() -> String) {
        if self.verbose {
            output::remark(&text());
        }
    }
}
