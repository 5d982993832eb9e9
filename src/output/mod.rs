//! Every byte that reaches stdout or stderr. A closed one is no reason to fail.

pub mod background;
mod escape;
pub mod log;
mod prometheus;
mod screen;
mod table;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

pub use escape::escape;
pub use prometheus::Metrics;
pub use screen::Screen;
pub use table::Table;

use crate::error::{Failure, Kind};

/// The version of every JSON document: fields are only ever added.
pub const SCHEMA: u32 = 1;

/// What the last words are worth.
const FINISH_WITHIN: Duration = Duration::from_millis(200);

/// How long it may take to erase a line before somebody else writes.
const ERASE_WITHIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum Sink {
    Stdout,
    Stderr,
}

impl Sink {
    fn write(self, text: &str) -> io::Result<()> {
        match self {
            Sink::Stdout => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
            Sink::Stderr => io::stderr().write_all(text.as_bytes()),
        }
    }

    /// Whether a little of it would be taken at once.
    fn has_room(self) -> bool {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let descriptor = match self {
            Sink::Stdout => stdout.as_fd(),
            Sink::Stderr => stderr.as_fd(),
        };
        poll(&mut [PollFd::new(descriptor, PollFlags::POLLOUT)], PollTimeout::ZERO) == Ok(1)
    }
}

/// The plain answer to a command.
pub fn plain(text: &str) -> Result<(), Failure> {
    // Whoever closed it does not want it.
    more(text).map(|_| ())
}

/// The same in a form where text must stand as it is for a machine: a person is shown it in another.
pub fn exact(text: &str) -> Result<(), Failure> {
    if is_answer_seen() { plain(&escape::escape_lines(text)) } else { plain(text) }
}

/// An answer of which nothing may be missing: here a reader that is gone is a failure.
pub fn whole(text: &str) -> Result<(), Failure> {
    if more(text)? { Ok(()) } else { Err(Failure::new(Kind::Internal, "nobody reads the answer on stdout")) }
}

/// A part of an answer that goes on; `false` if nobody wants more of it.
pub fn more(text: &str) -> Result<bool, Failure> {
    if background::take(Sink::Stdout, text).is_ok() {
        return Ok(true);
    }
    match Sink::Stdout.write(text) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(why) => Err(Failure::new(Kind::Internal, format!("cannot write the answer to stdout: {why}"))),
        Ok(()) => Ok(true),
    }
}

/// The answer as one line of JSON.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    plain(&json_line(document)?)
}

pub fn json_line(document: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(document).map_err(|why| Failure::internal("write JSON", &why))?;
    Ok(escape::escape_json(&text) + "\n")
}

/// Names and values on one line, as a log has them.
pub fn fields(fields: &[(&'static str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}={}", log::quote(value))).collect::<Vec<_>>().join(" ")
}

/// Before the process ends: whoever reads has a moment to read it all.
pub fn finish() {
    background::settle(FINISH_WITHIN);
    // Where there is room it is not the reader who keeps us waiting, but the machine.
    if Sink::Stdout.has_room() && Sink::Stderr.has_room() {
        background::settle(FINISH_WITHIN * 10);
    }
}

/// Everything else that is said to a person.
pub fn say(text: &str) {
    if background::take(Sink::Stderr, text).is_err() {
        let _ = Sink::Stderr.write(text);
    }
}

/// Whether a person reads what is said.
pub fn is_person_there() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person reads the answer.
pub fn is_answer_seen() -> bool {
    io::stdout().is_terminal()
}

/// Whether the answer goes nowhere: a stdout that was closed is /dev/null by now.
pub fn is_answer_lost() -> bool {
    let device = |file: io::Result<File>| file.and_then(|file| file.metadata()).map(|about| about.rdev()).unwrap_or(0);
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let null = device(File::open("/dev/null"));
    null != 0 && device(stdout) == null
}

/// One line about what is going on.
pub fn remark(text: &str) {
    say(&format!("dflock: {}\n", escape(text)));
}

/// A line that the next one replaces, on a terminal only.
pub fn passing(text: &str) {
    // Where the last one is not shown yet, the next one would only wait behind it.
    if is_person_there() && background::is_done() {
        say(&format!("\r\x1b[K{}", escape(text)));
        IS_PASSING.store(true, Ordering::Relaxed);
    }
}

/// Erases what [`passing`] wrote.
pub fn passed() {
    if IS_PASSING.swap(false, Ordering::Relaxed) {
        say("\r\x1b[K");
        background::settle(ERASE_WITHIN);
    }
}

/// Whether a passing line is on the terminal.
static IS_PASSING: AtomicBool = AtomicBool::new(false);

/// A failure: what was tried and why it failed, and what to do next.
pub fn failure(failure: &Failure) {
    let mut text = format!("dflock: {}\n", escape(&failure.message));
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "dflock: {}", escape(hint));
    }
    say(&text);
}

/// The same, for a machine.
pub fn failure_json(failure: &Failure) {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        error: &'static str,
        message: &'a str,
        hint: Option<&'a str>,
        key: Option<&'a str>,
        server: Option<&'a str>,
        exit: u8,
    }
    let document = Document {
        schema: SCHEMA,
        error: failure.kind.row().name,
        message: &failure.message,
        hint: failure.hint.as_deref(),
        key: failure.key.as_deref(),
        server: failure.server.as_deref(),
        exit: failure.exit(),
    };
    // The exit code says it as well.
    let _ = json(&document);
}

/// One word for any POSIX shell, whatever is in it.
pub fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_for_a_shell() {
        assert_eq!(shell_quote("$(id) `id` \"x\" it's"), "'$(id) `id` \"x\" it'\\''s'");
    }
}
