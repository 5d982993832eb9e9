//! What a holder process runs. Nobody types this: see `holder::start`.

use std::ffi::OsStr;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use super::guardian;
use super::site::backend_of;
use crate::cgroup;
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::exec::guard::{Guard, HeldLock};
use crate::holder::witness::{Telling, Witness};
use crate::holder::{Job, Report, TITLE, run};
use crate::lease::keeper::Lifeline;
use crate::lock::{Key, Space, Token};

/// How long the guardian may take to hear of a loss; then the holder itself tells the owner.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The longest job.
const MAX_JOB: u64 = 256 * 1024;

/// Whether this process was started to be a holder.
pub fn is_holder(first_argument: Option<&OsStr>, more_arguments: usize) -> bool {
    more_arguments == 0 && first_argument.is_some_and(|first| first.as_bytes().starts_with(TITLE.as_bytes()))
}

/// Lives as a holder. What it has to say goes through its stdout, a pipe, as one line.
pub fn run() {
    if let Err(failure) = begin() {
        let report: Result<Report, Failure> = Err(failure);
        let mut line = serde_json::to_vec(&report).unwrap_or_default();
        line.push(b'\n');
        if let Ok(mut stdout) = std::fs::File::options().write(true).open("/dev/stdout") {
            // Whoever started us may be gone.
            let _ = stdout.write_all(&line);
        }
    }
}

fn begin() -> Result<(), Failure> {
    // A session of its own: no terminal's Ctrl-C or hang-up reaches it, and no directory stays busy.
    nix::unistd::setsid().map_err(|why| Failure::internal("start a session", &why))?;
    // Nor does it end with the command that it may have been started from. Where it may not go, it stays.
    let _ = cgroup::leave_commands();
    std::env::set_current_dir("/").map_err(|why| Failure::internal("go to /", &why))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"dflock-holder");
    let mut line = Vec::new();
    let mut stdin = std::io::Read::take(std::io::stdin().lock(), MAX_JOB);
    stdin.read_until(b'\n', &mut line).map_err(|why| Failure::internal("read the job", &why))?;
    let job: Job = serde_json::from_slice(&line).map_err(|why| Failure::internal("read the job", &why))?;
    let witness = witness(&job)?;
    let backend = backend_of(&job.site)?;
    super::block_on(async {
        run::run(job, backend, witness).await;
        Ok(())
    })
}

/// Forked before the first thread: it is a copy of this process.
fn witness(job: &Job) -> Result<Option<Box<dyn Witness>>, Failure> {
    if job.owner.is_none() || job.signal_on_lost.is_none() || !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let guard = Guard::start(&|locks| guardian::let_go(locks, &job.site), guardian::successor(&job.site))?;
    Ok(Some(Box::new(Guardian { guard, key: job.key.clone(), space: job.kind.space() })))
}

/// The guardian of a holder: the lock has no command, but an owner.
struct Guardian {
    guard: Guard,
    key: Key,
    space: Space,
}

impl Witness for Guardian {
    fn watch_for(&mut self, owner: OwnedFd, signal: i32) -> std::io::Result<()> {
        self.guard.owner(signal, owner)
    }

    fn held(&mut self, token: &Token, connection: Option<OwnedFd>) -> std::io::Result<()> {
        let lock = HeldLock { key: self.key.clone(), space: self.space, token: token.clone() };
        self.guard.lock(lock, connection.map(Arc::new))
    }

    fn reconnected(&mut self, token: &Token, connection: Lifeline) {
        self.guard.reconnected(token, connection);
    }

    fn held_until(&mut self, moment: Moment) {
        self.guard.held_until(moment);
    }

    fn tell<'a>(&'a mut self) -> Telling<'a> {
        let now = clock::now();
        self.guard.held_until(now);
        Box::pin(async move { self.guard.answered(now + ANSWER_WITHIN).await.is_ok() })
    }

    fn attend_at(&self) -> Moment {
        self.guard.attend_at()
    }

    fn attend(&mut self) {
        self.guard.look_at_processes();
        // One that cannot be replaced now is tried again, and missed only if we are killed too.
        let _ = self.guard.attend();
    }

    fn farewell(self: Box<Self>) {
        self.guard.farewell();
    }
}
