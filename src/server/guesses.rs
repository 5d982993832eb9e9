//! Guessing a secret is slow: after a few wrong ones, a client's address gets one turn after the other.
//!
//! A right one waits for its turn as well. If it did not, silence would say that a guess was wrong.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// So many wrong ones cost nobody anything: a token is being changed, or somebody has mistyped it.
const FREE: u32 = 10;

/// Between two turns, at first and at most.
const GAP: Duration = Duration::from_millis(100);
const LONGEST_GAP: Duration = Duration::from_millis(500);

/// Whoever would have to wait longer is told to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// An address is forgotten when it has guessed nothing for so long.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// With more addresses than this, those that are not known yet share one record.
const MOST_SOURCES: usize = 10_000;

#[derive(Default)]
pub(super) struct Guesses(Mutex<HashMap<Source, Tries>>);

/// Whose guesses are counted together; `None` for those on Unix sockets, and for all that are too many.
type Source = Option<IpAddr>;

struct Tries {
    wrong: u32,
    last: Moment,
    next_turn: Moment,
}

impl Guesses {
    /// How long an attempt has to wait before its secret is looked at; `None`: too long.
    pub(super) fn take_turn(&self, ip: Option<IpAddr>, now: Moment) -> Option<Duration> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = source_of(ip);
        let known = if sources.contains_key(&source) || sources.len() < MOST_SOURCES { source } else { None };
        let Some(tries) = sources.get_mut(&known) else { return Some(Duration::ZERO) };
        if now.since(tries.last) >= FORGET_AFTER {
            sources.remove(&known);
            return Some(Duration::ZERO);
        }
        if tries.wrong < FREE {
            return Some(Duration::ZERO);
        }
        let turn = tries.next_turn.max(now);
        let wait = turn.since(now);
        if wait > LONGEST_WAIT {
            return None;
        }
        tries.next_turn = turn + (GAP * (1 + tries.wrong / 50)).min(LONGEST_GAP);
        Some(wait)
    }

    pub(super) fn was_wrong(&self, ip: Option<IpAddr>, now: Moment) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut source = source_of(ip);
        if sources.len() >= MOST_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, tries| now.since(tries.last) < FORGET_AFTER);
            if sources.len() >= MOST_SOURCES {
                source = None;
            }
        }
        let tries = sources.entry(source).or_insert(Tries { wrong: 0, last: now, next_turn: now });
        tries.wrong = tries.wrong.saturating_add(1);
        tries.last = now;
    }
}

/// Who has one address of IPv6 has all of its network.
fn source_of(ip: Option<IpAddr>) -> Source {
    match ip {
        Some(IpAddr::V6(ip)) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            Some(IpAddr::V6(Ipv6Addr::from(network)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(0) + Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn turns_come_one_after_the_other_and_are_forgotten() {
        let guesses = Guesses::default();
        let (one, other) = ("2001:db8::1".parse().ok(), "2001:db8:0:1::1".parse().ok());
        for _ in 0..FREE {
            assert_eq!(guesses.take_turn(one, at(0)), Some(Duration::ZERO));
            guesses.was_wrong(one, at(0));
        }
        let neighbour = "2001:db8::2".parse().ok();
        assert_eq!(guesses.take_turn(neighbour, at(0)), Some(Duration::ZERO));
        assert_eq!(guesses.take_turn(one, at(0)), Some(GAP));
        assert_eq!(guesses.take_turn(neighbour, at(0)), Some(2 * GAP));
        assert_eq!(guesses.take_turn(other, at(0)), Some(Duration::ZERO));
        let turns = (0..100).filter(|_| guesses.take_turn(one, at(0)).is_some()).count();
        assert_eq!(turns, 18, "up to two seconds ahead");
        assert_eq!(guesses.take_turn(one, at(4)), Some(Duration::ZERO));
        assert_eq!(guesses.take_turn(one, at(400)), Some(Duration::ZERO));
        assert_eq!(guesses.take_turn(one, at(400)), Some(Duration::ZERO), "forgotten");
    }

    #[test]
    fn many_addresses_take_no_more_memory_than_there_is_for_them() {
        let guesses = Guesses::default();
        for number in 0..2 * MOST_SOURCES as u32 {
            guesses.was_wrong(Some(IpAddr::V4(number.into())), at(0));
        }
        assert!(guesses.0.lock().unwrap().len() <= MOST_SOURCES + 1);
        let stranger = "10.0.0.1".parse().ok();
        let _ = guesses.take_turn(stranger, at(0));
        assert!(guesses.take_turn(stranger, at(0)).is_some_and(|wait| !wait.is_zero()), "with all that are too many");
    }
}
