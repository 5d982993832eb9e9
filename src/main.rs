//! Parse, run one command, leave with its status. The only way out of the process.

use std::process::ExitCode;

use dflock::cli::{Cli, Leave, NotRun};
use dflock::command::manner::Manner;
use dflock::command::{about, export, guardian, hold};
use dflock::error::{Failure, Kind};
use dflock::{output, sys};

#[global_allocator]
static ALLOCATOR: sys::CountingAllocator = sys::CountingAllocator;

/// Whatever fails inside of dflock: it says so, and its guardian sees to the command.
fn main() -> ExitCode {
    sys::signals::hear_all();
    std::panic::set_hook(Box::new(|failure| output::say(&format!("dflock: failed inside: {failure}"))));
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        output::finish();
        ExitCode::from(Kind::Internal.exit())
    })
}

fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    let (first, more) = (arguments.next(), arguments.count());
    if hold::is_holder(first.as_deref(), more) {
        hold::run();
        return ExitCode::SUCCESS;
    }
    if guardian::is_guardian(first.as_deref(), more) {
        guardian::run();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().len() < 2 {
        output::say(about::FIRST_STEPS);
        return ExitCode::from(Kind::Usage.exit());
    }
    let is_exported = export::is_asked_for(std::env::args_os().skip(1));
    if is_exported {
        export::open();
    }
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        // A shell would evaluate the help, and go on.
        Err(NotRun::Asked(text)) if is_exported && !output::is_answer_seen() => {
            output::say(&text);
            return leave(Kind::Usage.exit(), is_exported);
        }
        Err(NotRun::Asked(text)) => match output::plain(&text) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(failure) => return fail(&failure, Manner::default(), is_exported),
        },
        Err(NotRun::HelpInstead(text)) => {
            output::say(&text);
            return leave(Kind::Usage.exit(), is_exported);
        }
        Err(NotRun::Wrong { failure, is_json }) => {
            return fail(&failure, Manner { json: is_json && !is_exported, ..Manner::default() }, is_exported);
        }
    };
    let manner = cli.manner();
    match cli.run() {
        Ok(Leave::Code(code)) => {
            output::finish();
            ExitCode::from(code)
        }
        Ok(Leave::Signal(signal)) => {
            output::finish();
            sys::die_of(signal);
            // Process 1 cannot die of a signal.
            ExitCode::from(128 + signal as u8)
        }
        Err(failure) => fail(&failure, manner, is_exported),
    }
}

fn fail(failure: &Failure, manner: Manner, is_exported: bool) -> ExitCode {
    let is_busy = failure.kind == Kind::Busy;
    match (manner.json, manner.quiet && is_busy) {
        (true, _) => output::failure_json(failure),
        (false, true) => {}
        (false, false) => output::failure(failure),
    }
    output::finish();
    leave(failure.exit(), is_exported)
}

/// After a failure, which a shell that evaluates our answer must notice too.
fn leave(code: u8, is_exported: bool) -> ExitCode {
    if is_exported {
        export::fail(code);
    }
    ExitCode::from(code)
}
