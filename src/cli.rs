//! The command line as a type: the list of verbs.

use clap::{Parser, Subcommand};

use crate::command::serve::Serve;
use crate::error::Failure;

/// Run a command while holding a distributed lock
#[derive(Parser, Debug)]
#[command(name = "dflock", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Serve(Box<Serve>),
}

impl Cli {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Serve(serve) => serve.run(),
        }
    }
}
