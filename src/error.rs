//! The kinds of failure: exit code, machine name and meaning of each, in one table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a script must tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Busy,
    Lost,
    RuntimeOver,
    Unreachable,
    Denied,
    Refused,
    Usage,
    Internal,
    CannotExecute,
    CommandNotFound,
}

/// One row of the exit-code table.
pub struct Row {
    pub kind: Kind,
    pub exit: u8,
    /// The `error` field of `--json`.
    pub name: &'static str,
    pub meaning: &'static str,
}

/// Every code that is dflock's own. Besides them a command's own code is passed on, and a signal
/// that ends the command, or dflock while it waits, ends dflock by the same signal (128+n in a shell).
pub const TABLE: [Row; 10] = [
    row(Kind::Busy, 75, "busy", "not obtained: busy, or the wait limit passed"),
    row(Kind::Lost, 79, "lost", "lost while the command ran, or not held any more"),
    row(Kind::RuntimeOver, 124, "max_runtime", "the command ran longer than --max-runtime"),
    row(Kind::Unreachable, 69, "unreachable", "no server reachable, or it went away before the command started"),
    row(Kind::Denied, 77, "denied", "authentication refused, or the server's certificate"),
    row(Kind::Refused, 76, "refused", "the server refused, spoke nonsense, or cannot do this"),
    row(Kind::Usage, 125, "usage", "usage or settings error"),
    row(Kind::Internal, 125, "internal", "internal failure"),
    row(Kind::CannotExecute, 126, "cannot_execute", "the command cannot be executed"),
    row(Kind::CommandNotFound, 127, "command_not_found", "the command was not found"),
];

const fn row(kind: Kind, exit: u8, name: &'static str, meaning: &'static str) -> Row {
    Row { kind, exit, name, meaning }
}

impl Kind {
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    pub fn exit(self) -> u8 {
        self.row().exit
    }
}

/// A failure as the user meets it: what was tried, on what, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    pub key: Option<String>,
    pub server: Option<String>,
    /// Instead of the kind's, where the user chose one.
    #[serde(default)]
    chosen_exit: Option<u8>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), hint: None, key: None, server: None, chosen_exit: None }
    }

    #[must_use]
    pub fn exit_with(mut self, code: u8) -> Failure {
        self.chosen_exit = Some(code);
        self
    }

    pub fn exit(&self) -> u8 {
        self.chosen_exit.unwrap_or(self.kind.exit())
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    pub fn internal(tried: &str, why: &dyn fmt::Display) -> Failure {
        Failure::new(Kind::Internal, format!("cannot {tried}: {why}"))
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_finds_its_own_row() {
        for row in &TABLE {
            assert_eq!(row.kind.row().name, row.name);
        }
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
