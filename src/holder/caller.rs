//! The command that started a holder: it hears one line, and says when it has passed that on.

use std::io::Write;

use tokio::io::AsyncReadExt;

use super::Report;
use crate::error::Failure;

/// The command that started us. It holds the other end of our stdin until it has passed on what we report.
pub(super) struct Caller {
    stdin: Option<tokio::net::unix::pipe::Receiver>,
    pub(super) is_told: bool,
}

/// What a caller does in the end.
pub(super) enum Heard {
    /// It has passed on the report: the lock is wanted.
    Thanks,
    /// It is gone, and nobody knows of the lock.
    Gone,
}

impl Caller {
    pub(super) fn new() -> std::io::Result<Caller> {
        use std::os::fd::AsFd;

        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stdin = tokio::net::unix::pipe::Receiver::from_file(std::fs::File::from(stdin))?;
        Ok(Caller { stdin: Some(stdin), is_told: false })
    }

    pub(super) async fn hear(&mut self) -> Heard {
        let Some(stdin) = &mut self.stdin else { return std::future::pending().await };
        match stdin.read(&mut [0]).await {
            Ok(1) => Heard::Thanks,
            _ => Heard::Gone,
        }
    }

    /// Says how it went; `false` if nobody listens any more.
    pub(super) fn tell(&mut self, report: &Result<Report, Failure>) -> bool {
        self.is_told = true;
        tell(report).is_ok()
    }

    /// From now on we are on our own.
    pub(super) fn part(&mut self) {
        self.stdin = None;
        detach();
    }
}

pub(super) fn tell(report: &Result<Report, Failure>) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = std::fs::File::options().write(true).open("/dev/stdout")?;
    stdout.write_all(&line)
}

/// Nobody must wait for the end of our output.
fn detach() {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        // They stay open at worst; a reader of the report has read its line.
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}
