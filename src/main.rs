//! Parse, run one command, leave with its status. The only way out of the process.

use std::process::ExitCode;

use dflock::cli::Cli;
use dflock::error::Kind;
use dflock::output;

fn main() -> ExitCode {
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(usage) if usage.use_stderr() => {
            output::say(&usage.render().to_string());
            return ExitCode::from(Kind::Usage.exit());
        }
        Err(wanted) => {
            output::answer(&wanted.render().to_string());
            return ExitCode::SUCCESS;
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.kind.exit())
        }
    }
}
