//! How much memory there may be in use, whoever asks for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

/// What blocked clients may have sent ahead, beyond what each may, all together.
const AHEAD_IN_ALL: usize = 16 * 1024 * 1024;

pub(super) struct Memory {
    /// Bytes; `None` for any number.
    most: Option<usize>,
    ahead: AtomicUsize,
}

impl Memory {
    pub(super) fn new(most: Option<usize>) -> Memory {
        Memory { most, ahead: AtomicUsize::new(0) }
    }

    /// Whether somebody new may hold or wait. The last quarter is for connections: those who hold come back on new ones.
    pub(super) fn has_room_for_claims(&self) -> bool {
        self.most.is_none_or(|most| sys::allocated() < most / 4 * 3)
    }

    pub(super) fn has_room_for_connections(&self) -> bool {
        self.most.is_none_or(|most| sys::allocated() < most)
    }

    /// Room for what a blocked client sends ahead, if there is any left.
    pub(super) fn take_ahead(&self, bytes: usize) -> Option<Ahead<'_>> {
        let taken = self.ahead.fetch_add(bytes, Ordering::Relaxed);
        let share = Ahead { memory: self, bytes };
        (taken + bytes <= AHEAD_IN_ALL).then_some(share)
    }
}

/// Given back when dropped.
pub(super) struct Ahead<'a> {
    memory: &'a Memory,
    bytes: usize,
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.memory.ahead.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_ahead_is_bounded_in_total_and_given_back() {
        let memory = Memory::new(None);
        let half = memory.take_ahead(AHEAD_IN_ALL / 2);
        assert!(half.is_some() && memory.take_ahead(AHEAD_IN_ALL).is_none());
        let rest = memory.take_ahead(AHEAD_IN_ALL / 2);
        assert!(rest.is_some() && memory.take_ahead(1).is_none());
        drop((half, rest));
        assert!(memory.take_ahead(AHEAD_IN_ALL).is_some());
    }
}
