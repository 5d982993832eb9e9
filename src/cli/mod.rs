//! The command line as a type: the list of verbs.

mod usage;

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use nix::sys::signal::Signal;

use crate::command::about;
use crate::command::acquire::Acquire;
use crate::command::completions::Completions;
use crate::command::config::Config;
use crate::command::enqueue::Enqueue;
use crate::command::exec::Exec;
use crate::command::holders::Holders;
use crate::command::man::Man;
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
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(after_help = "Examples:
  dflock exec demo -- echo \"only one of us at a time\"
  dflock exec -n nightly -E 0 ./backup.sh   # skip quietly if it runs elsewhere

dflock VERB --help tells all about one. More: man dflock")]
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
    Completions(Completions),
    Man(Man),
}

type Describe = fn(Command) -> Command;

/// Each verb by itself, as [`Verb`] has them all.
const VERBS: [(&str, Describe); 14] = [
    ("exec", Exec::augment_args),
    ("acquire", Acquire::augment_args),
    ("release", Release::augment_args),
    ("renew", Renew::augment_args),
    ("enqueue", Enqueue::augment_args),
    ("wait", WaitFor::augment_args),
    ("sem", Sem::augment_args),
    ("status", Status::augment_args),
    ("stats", Stats::augment_args),
    ("holders", Holders::augment_args),
    ("serve", Serve::augment_args),
    ("config", Config::augment_args),
    ("completions", Completions::augment_args),
    ("man", Man::augment_args),
];

/// What stands above every verb.
fn top() -> Command {
    Command::new("dflock").version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true).max_term_width(100)
}

/// Why there is nothing to run.
pub enum NotRun {
    /// Help or the version, which was asked for.
    Asked(String),
    /// A verb of a verb is missing; its help says which there are.
    HelpInstead(String),
    Wrong {
        failure: Failure,
        is_json: bool,
    },
}

impl Cli {
    /// Reads the arguments, and the environment where a flag has a variable.
    pub fn from_command_line() -> Result<Cli, NotRun> {
        let mut arguments: Vec<OsString> = std::env::args_os().collect();
        let verb = arguments.get(1).map(OsString::as_os_str);
        let command = verb.and_then(Cli::command_with).unwrap_or_else(Cli::command);
        let command = command.long_version(about::version()).mut_subcommands(finished);
        if let Some(exec) = command.find_subcommand("exec").filter(|_| verb.is_some_and(|verb| verb == "exec")) {
            let behind = usage::with_separator(exec, arguments.split_off(2));
            arguments.extend(behind);
        }
        let read = command.try_get_matches_from(&arguments).and_then(|read| Cli::from_arg_matches(&read));
        read.map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => NotRun::Asked(error.render().to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => NotRun::HelpInstead(error.render().to_string()),
            _ => {
                let is_json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
                NotRun::Wrong { failure: usage::in_words(&error, &verb_path(&arguments)), is_json }
            }
        })
    }

    /// The command line with one verb only: to describe them all takes longer than to take a lock.
    fn command_with(verb: &OsStr) -> Option<Command> {
        let (name, describe) = VERBS.iter().find(|(name, _)| verb == *name)?;
        Some(top().subcommand(describe(Command::new(*name))))
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
            Verb::Completions(verb) => verb.run(Cli::command()),
            Verb::Man(verb) => verb.run(Cli::command()),
        };
        code.map(Leave::Code)
    }

    /// How it wants to be answered, failures included.
    pub fn manner(&self) -> Manner {
        match &self.verb {
            Verb::Exec(verb) => verb.manner(),
            Verb::Acquire(verb) => verb.manner(),
            Verb::Release(verb) => verb.manner,
            Verb::Renew(verb) => verb.manner(),
            Verb::Enqueue(verb) => verb.manner(),
            Verb::Wait(verb) => verb.manner(),
            Verb::Sem(verb) => verb.manner(),
            Verb::Status(verb) => verb.manner(),
            Verb::Stats(verb) => verb.manner(),
            Verb::Holders(verb) => verb.manner(),
            Verb::Serve(_) | Verb::Completions(_) | Verb::Man(_) => Manner::default(),
            Verb::Config(verb) => verb.manner(),
        }
    }
}

/// The verb, and that of a verb which has its own.
fn verb_path(arguments: &[OsString]) -> String {
    let words = arguments.iter().skip(1).take(2).map(|word| word.to_string_lossy());
    let mut path = "dflock".to_owned();
    for (at, word) in words.enumerate() {
        if at == 0 && VERBS.iter().any(|(name, _)| *name == word) || path == "dflock sem" && !word.starts_with('-') {
            path = format!("{path} {word}");
        }
    }
    path
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

/// A verb, and the verbs it has, as they are read and shown.
fn finished(verb: Command) -> Command {
    // Of a flag that is given twice the last one counts, as where a script adds to a wrapper's.
    let verb = verb.args_override_self(true).mut_args(without_empty_variable).mut_args(with_any_duration);
    about::with_end(verb).mut_subcommands(finished)
}

/// An empty variable is how a script unsets one.
fn without_empty_variable(argument: Arg) -> Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    if argument.get_env().is_some_and(is_empty) { argument.env(None::<&'static str>) } else { argument }
}

/// So that `-w -1` is told to be no duration, and not that there is no option -1.
fn with_any_duration(argument: Arg) -> Arg {
    let names = argument.get_value_names().unwrap_or_default();
    let is_number = names.iter().any(|name| matches!(name.as_str(), "DUR" | "N"));
    let is_optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
    if is_number && !is_optional { argument.allow_hyphen_values(true) } else { argument }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_by_itself_is_the_one_among_all() {
        let mut all = Cli::command();
        all.build();
        let names: Vec<&str> = all.get_subcommands().map(Command::get_name).collect();
        assert_eq!(names, VERBS.map(|(name, _)| name));
        for (name, _) in VERBS {
            let mut alone = Cli::command_with(OsStr::new(name)).unwrap();
            alone.build();
            let help =
                |command: &mut Command| command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert_eq!(help(&mut alone), help(&mut all));
        }
    }
}
