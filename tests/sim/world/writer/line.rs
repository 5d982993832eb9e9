//! Between the table and the writer: stands for `server::journal::line`.

use super::*;

/// Between the table and the writer.
#[derive(Default)]
pub struct Line {
    pub(super) journal: bool,
    pub(super) changes: Vec<Change>,
    pub(super) mark: u64,
    pub(super) kept: u64,
    pub accepts: bool,
    /// Answers do not wait: a planted bug.
    rash: bool,
    rash_when_failing: bool,
    pub(super) writer: Option<Waker>,
}

impl Line {
    /// Of a server that keeps nothing.
    pub fn to_nowhere() -> Line {
        Line { accepts: true, ..Line::default() }
    }

    pub fn to_journal(plant: Plant) -> Line {
        let (rash, rash_when_failing) = (plant == Plant::AnswerBeforeFsync, plant == Plant::AnswerOnFailingDisk);
        Line { journal: true, accepts: true, rash, rash_when_failing, ..Line::default() }
    }

    pub fn add(&mut self, changes: &[Change]) {
        if !self.journal || changes.is_empty() {
            return;
        }
        self.changes.extend_from_slice(changes);
        self.mark += 1;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// An answer that is given now follows from everything up to here.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    pub fn kept(&self) -> u64 {
        let rash = self.rash || self.rash_when_failing && !self.accepts;
        if self.journal && !rash { self.kept } else { u64::MAX }
    }
}
