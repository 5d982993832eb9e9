//! Parse, run one command, leave with its status. The only way out of the process.

use std::process::ExitCode;

use dflock::cli::{Cli, Leave};
use dflock::command::hold;
use dflock::error::Kind;
use dflock::{output, sys};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if hold::is_holder(arguments.next().as_deref(), arguments.count()) {
        hold::run();
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(usage) if usage.use_stderr() => {
            output::say(&usage.render().to_string());
            return ExitCode::from(Kind::Usage.exit());
        }
        Err(wanted) => {
            // Help that nobody reads is no failure.
            let _ = output::plain(&wanted.render().to_string());
            return ExitCode::SUCCESS;
        }
    };
    let manner = cli.manner();
    match cli.run() {
        Ok(Leave::Code(code)) => ExitCode::from(code),
        Ok(Leave::Signal(signal)) => {
            sys::die_of(signal);
            // Process 1 cannot die of a signal.
            ExitCode::from(128 + signal as u8)
        }
        Err(failure) => {
            let is_busy = failure.kind == Kind::Busy;
            match (manner.json, manner.quiet && is_busy) {
                (true, _) => output::failure_json(&failure),
                (false, true) => {}
                (false, false) => output::failure(&failure),
            }
            ExitCode::from(failure.exit())
        }
    }
}
