//! Re-executes this program in the background and waits for its one line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};

use super::{Job, Report, TITLE};
use crate::error::{Failure, Kind};
use crate::sys;

/// A holder that has reported and waits to hear that its report was passed on.
pub struct Started {
    pub report: Report,
    stdin: ChildStdin,
}

impl Started {
    /// The user knows of the lock now. Without this the holder lets go: nobody could give it back.
    pub fn thank(mut self) {
        // If it ended meanwhile, that is found out by whoever asks for it next.
        let _ = self.stdin.write_all(b"+");
    }
}

/// Starts a holder; returns when it has the lock (or its place in the queue), or has failed.
pub fn start(job: &Job, server: &str) -> Result<Started, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::internal("start a holder", why);
    let mut command = Command::new(this_program().map_err(|why| cannot(&why))?);
    // A lock on descriptor 9 of the calling script must not live on in the holder, nor a pipe of `$(…)`.
    sys::inherit_only_stdio(&mut command).map_err(|why| cannot(&why))?;
    command.arg0(format!("{TITLE}{} on {server}", printable(&job.key.to_string())));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|why| cannot(&why))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return Err(cannot(&"it has no pipes")) };
    let mut line = serde_json::to_vec(job).map_err(|why| cannot(&why))?;
    line.push(b'\n');
    // If it ended at once, what it says is worth more than that it does not listen.
    let _ = stdin.write_all(&line);
    let mut report = String::new();
    // While our end of its stdin is open it knows that somebody waits.
    BufReader::new(stdout).read_line(&mut report).map_err(|why| cannot(&why))?;
    if report.is_empty() {
        return Err(Failure::new(Kind::Internal, "the holder ended without a word").hint("it may have been killed"));
    }
    let report = serde_json::from_str::<Result<Report, Failure>>(&report).map_err(|why| cannot(&why))??;
    Ok(Started { report, stdin })
}

/// The file we run from, even if it was replaced meanwhile.
pub fn this_program() -> std::io::Result<PathBuf> {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { Ok(own) } else { std::env::current_exe() }
}

/// For `ps`: a key may hold anything.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
