//! Re-executes this program in the background and waits for its one line.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::{Job, Report, TITLE};
use crate::error::{Failure, Kind};
use crate::sys;

/// How long a holder may take besides waiting for the lock and reaching its server.
const MORE: Duration = Duration::from_secs(30);

/// The same, of one that has only to take a lock over: somebody else keeps the lock until then.
const MORE_TO_TAKE_OVER: Duration = Duration::from_secs(5);

/// The longest report.
const MAX_REPORT: u64 = 64 * 1024;

/// A holder that has reported and waits to hear that its report was passed on.
pub struct Started {
    pub report: Report,
    stdin: File,
}

impl Started {
    /// The user knows of the lock now. Without this the holder lets go: nobody could give it back.
    pub fn thank(mut self) {
        // If it ended meanwhile, that is found out by whoever asks for it next.
        let _ = self.stdin.write_all(b"+");
    }
}

/// Starts a holder; returns when it has the lock (or its place in the queue), or has failed. Nothing else of this
/// process is held up meanwhile, such as the renewals of other locks.
pub async fn start(job: &Job, server: &str) -> Result<Started, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::internal("start a holder", why);
    let mut command = Command::new(this_program().map_err(|why| cannot(&why))?);
    // A lock on descriptor 9 of the calling script must not live on in the holder, nor a pipe of `$(…)`.
    sys::inherit_only_stdio(&mut command).map_err(|why| cannot(&why))?;
    command.arg0(format!("{TITLE}{} on {server}", printable(&job.key.to_string())));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|why| cannot(&why))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(cannot(&"it has no pipes"));
    };
    let mut conversing = pin!(converse(job, stdin, stdout));
    let told = match patience(job) {
        None => conversing.await,
        Some(limit) => match timeout(limit, conversing.as_mut()).await {
            Ok(told) => told,
            Err(_) => {
                // Before our end of its stdin closes: it would give the lock back then, and somebody else may be
                // keeping it. It may have ended by itself.
                let _ = child.kill();
                return Err(Failure::new(Kind::Internal, "the holder does not say whether it has the lock")
                    .hint("it was killed; if it had the lock, the lease ends it"));
            }
        },
    };
    let (report, stdin) = told.map_err(|why| cannot(&why))?;
    if report.is_empty() {
        return Err(Failure::new(Kind::Internal, "the holder ended without a word").hint("it may have been killed"));
    }
    let report = serde_json::from_slice::<Result<Report, Failure>>(&report).map_err(|why| cannot(&why))??;
    Ok(Started { report, stdin })
}

/// Passes on the job, and reads one line. While our end of its stdin is open it knows that somebody waits.
async fn converse(job: &Job, stdin: ChildStdin, stdout: ChildStdout) -> std::io::Result<(Vec<u8>, File)> {
    let mut stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
    let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
    let mut line = serde_json::to_vec(job)?;
    line.push(b'\n');
    // If it ended at once, what it says is worth more than that it does not listen.
    let _ = stdin.write_all(&line).await;
    let mut report = Vec::new();
    BufReader::new(stdout.take(MAX_REPORT)).read_until(b'\n', &mut report).await?;
    Ok((report, File::from(stdin.into_blocking_fd()?)))
}

/// How long a holder may take until it reports. `None`: whoever asked for the lock waits for ever.
fn patience(job: &Job) -> Option<Duration> {
    let reach = job.site.connect_timeout.saturating_add(job.site.connect_retry);
    match job.inherited {
        Some(_) => Some(job.site.connect_timeout.saturating_add(MORE_TO_TAKE_OVER)),
        None => job.wait.map(|wait| wait.saturating_add(reach).saturating_add(MORE)),
    }
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
