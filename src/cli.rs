//! The command line as a type: the list of verbs.

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Reads the arguments, and the environment where a flag has a variable.
    pub fn from_command_line() -> Result<Cli, clap::Error> {
        let command = Cli::command().mut_subcommands(|verb| verb.mut_args(without_empty_variable));
        Cli::from_arg_matches(&command.try_get_matches()?)
    }

    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Serve(serve) => serve.run(),
        }
    }
}

/// An empty variable is how a script unsets one.
fn without_empty_variable(argument: Arg) -> Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    if argument.get_env().is_some_and(is_empty) { argument.env(None::<&'static str>) } else { argument }
}
