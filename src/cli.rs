//! The command line as a type: the list of verbs.

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use nix::sys::signal::Signal;

use crate::command::acquire::Acquire;
use crate::command::config::Config;
use crate::command::enqueue::Enqueue;
use crate::command::exec::Exec;

use crate::command::holders::Holders;
use crate::command::manner::Manner;
use crate::command::release::Release;
use crate::command::renew::Renew;
use crate::command::sem::Sem;
use crate::command::serve::Serve;
use crate::command::stats::Stats;
use crate::command::status::Status;
use crate::command::wait::WaitFor;
use crate::error::{Failure, Kind};
use crate::exec::Outcome;
use crate::exec::status::{Ending, Status as Ran};

/// Run a command while holding a distributed lock
#[derive(Parser, Debug)]
#[command(name = "dflock", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Exec(Box<Exec>),
    Acquire(Box<Acquire>),
    Release(Box<Release>),
    Renew(Box<Renew>),
    Enqueue(Box<Enqueue>),
    Wait(Box<WaitFor>),
    Sem(Box<Sem>),
    Status(Box<Status>),
    Stats(Box<Stats>),
    Holders(Holders),
    Serve(Box<Serve>),
    Config(Box<Config>),
}

impl Cli {
    /// Reads the arguments, and the environment where a flag has a variable.
    pub fn from_command_line() -> Result<Cli, clap::Error> {
        let command = Cli::command().mut_subcommands(|verb| {
            // Of a flag that is given twice the last one counts, as where a script adds to a wrapper's.
            verb.args_override_self(true).mut_args(without_empty_variable)
        });
        Cli::from_arg_matches(&command.try_get_matches()?)
    }

    /// Runs the command; says how to leave where that is not a failure's to say.
    pub fn run(self) -> Result<Leave, Failure> {
        let code = match self.verb {
            Verb::Exec(verb) => return verb.run().map(Leave::of),
            Verb::Acquire(verb) => verb.run(None),
            Verb::Release(verb) => verb.run(None),
            Verb::Renew(verb) => verb.run(None),
            Verb::Enqueue(verb) => verb.run(None),
            Verb::Wait(verb) => verb.run(None),
            Verb::Sem(verb) => verb.run(),
            Verb::Status(verb) => verb.run(),
            Verb::Stats(verb) => verb.run(),
            Verb::Holders(verb) => verb.run(),
            Verb::Serve(verb) => verb.run().map(|()| 0),
            Verb::Config(verb) => verb.run(),
        };
        code.map(Leave::Code)
    }

    /// How it wants to be answered, failures included.
    pub fn manner(&self) -> Manner {
        match &self.verb {
            Verb::Exec(verb) => verb.manner(),
            Verb::Acquire(verb) => verb.manner,
            Verb::Release(verb) => verb.manner,
            Verb::Renew(verb) => verb.manner(),
            Verb::Enqueue(verb) => verb.manner(),
            Verb::Wait(verb) => verb.manner(),
            Verb::Sem(verb) => verb.manner(),
            Verb::Status(verb) => verb.manner(),
            Verb::Stats(verb) => verb.manner(),
            Verb::Holders(verb) => verb.manner(),
            Verb::Serve(_) => Manner::default(),
            Verb::Config(verb) => verb.manner(),
        }
    }
}

/// How the process ends.
pub enum Leave {
    Code(u8),
    Signal(Signal),
}

impl Leave {
    fn of(outcome: Outcome) -> Leave {
        match outcome {
            Outcome::Interrupted(signal) | Outcome::Ran(Ran::Child(Ending::Killed(signal))) => Leave::Signal(signal),
            Outcome::Ran(Ran::Child(Ending::Exited(code))) => Leave::Code(code),
            Outcome::Ran(Ran::Lost) => Leave::Code(Kind::Lost.exit()),
            Outcome::Ran(Ran::RuntimeOver) => Leave::Code(Kind::RuntimeOver.exit()),
        }
    }
}

/// An empty variable is how a script unsets one.
fn without_empty_variable(argument: Arg) -> Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    if argument.get_env().is_some_and(is_empty) { argument.env(None::<&'static str>) } else { argument }
}
