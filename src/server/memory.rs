//! How much memory there may be in use, whoever asks for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sys;

/// What blocked clients may have sent ahead, beyond what each may, all together.
const AHEAD_IN_ALL: usize = 16 * 1024 * 1024;

/// What a connection may come to take besides what it has, once little is done at a time: a piece of a request or of
/// an answer, and what waiting for it takes.
const MOST_WHEN_TIGHT: usize = 3 * 1024;

/// With half a TLS record.
const MOST_WITH_TLS: usize = MOST_WHEN_TIGHT + 18 * 1024;

/// What a TLS handshake may take: a client's message is up to 64 KiB long, and is kept until it is whole.
const HANDSHAKE: usize = 80 * 1024;
const FEWEST_HANDSHAKES: usize = 16;

/// The part of memory that is kept for those who come back.
const FOR_EXTRAS: usize = 16;

pub(super) struct Memory {
    /// Bytes; `None` for any number.
    most: Option<usize>,
    ahead: AtomicUsize,
    handshakes: Semaphore,
}

impl Memory {
    pub(super) fn new(most: Option<usize>) -> Memory {
        let handshakes = most.map_or(Semaphore::MAX_PERMITS, |most| most / 4 / HANDSHAKE);
        let handshakes = handshakes.clamp(FEWEST_HANDSHAKES, Semaphore::MAX_PERMITS);
        Memory { most, ahead: AtomicUsize::new(0), handshakes: Semaphore::new(handshakes) }
    }

    /// Whether requests are to be read and answered a little at a time. It is so before anybody is refused anything:
    /// bytes on their way must not take what locks need.
    pub(super) fn is_tight(&self) -> bool {
        self.most.is_some_and(|most| sys::allocated() >= most / 2)
    }

    /// Whether somebody new may hold or wait. The last quarter is for connections: those who hold come back on new ones.
    pub(super) fn has_room_for_claims(&self) -> bool {
        self.most.is_none_or(|most| sys::allocated() < most / 4 * 3)
    }

    /// Whether there is room for one connection more, whatever those that are there do with what is tight. The last
    /// sixteenth is for those on extra places.
    pub(super) fn has_room_for_connections(&self, there: usize, have_tls: bool, is_extra: bool) -> bool {
        let each = if have_tls { MOST_WITH_TLS } else { MOST_WHEN_TIGHT };
        let kept = |most| if is_extra { 0 } else { most / FOR_EXTRAS };
        self.most
            .is_none_or(|most| sys::allocated().saturating_add((there + 1).saturating_mul(each)) < most - kept(most))
    }

    /// How many extra places there may be: all of them may be in a TLS handshake, and wait for nobody else's.
    pub(super) fn most_extras(&self) -> usize {
        self.most.map_or(usize::MAX, |most| most / FOR_EXTRAS / HANDSHAKE)
    }

    /// Waits until there is room for one TLS handshake more.
    pub(super) async fn handshake(&self) -> Option<SemaphorePermit<'_>> {
        self.handshakes.acquire().await.ok()
    }

    /// Whether there are as many TLS handshakes as there may be.
    pub(super) fn has_no_room_for_handshakes(&self) -> bool {
        self.handshakes.available_permits() == 0
    }

    /// Room for what a blocked client sends ahead, if there is any left.
    pub(super) fn take_ahead(&self, bytes: usize) -> Option<Ahead<'_>> {
        let taken = self.ahead.fetch_add(bytes, Ordering::Relaxed);
        let share = Ahead { memory: self, bytes };
        let in_all = self.most.map_or(AHEAD_IN_ALL, |most| AHEAD_IN_ALL.min(most / 8));
        (taken + bytes <= in_all).then_some(share)
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
