//! Guessing a secret is slow: after a few wrong ones, a client's address gets one turn after the other.
//!
//! A right one waits for its turn as well. If it did not, silence would say that a guess was wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::net::listen::Origin;

/// So many wrong ones cost nobody anything: a token is being changed, or somebody has mistyped it.
const FREE: u32 = 10;

/// Between two turns, at first and at most.
const GAP: Duration = Duration::from_millis(100);
const LONGEST_GAP: Duration = Duration::from_millis(500);

/// Whoever would have to wait longer is told to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// An address is forgotten when it has guessed nothing for so long.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// So many are known by themselves; of each wider kind of network, as many.
const MOST_SOURCES: usize = 10_000;

/// An address that is forgotten for want of room leaves its wrong ones to its network, and that one to a wider one. So
/// many cost nobody in there anything: who is there may be somebody else.
const FREE_OF: [u32; 3] = [FREE, 10 * FREE, 100 * FREE];

#[derive(Default)]
pub(super) struct Guesses(Mutex<[HashMap<Source, Tries>; 3]>);

/// Whose guesses are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// A user of this machine, on a Unix socket. Nobody can pretend to be another one.
    User(u32),
    V4(u32),
    V6(u128),
}

struct Tries {
    wrong: u32,
    last: Moment,
    next_turn: Moment,
}

impl Guesses {
    /// How long an attempt has to wait before its secret is looked at; `None`: too long.
    pub(super) fn take_turn(&self, from: Origin, now: Moment) -> Option<Duration> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (width, sources) in known.iter_mut().enumerate() {
            let source = Source::of(from, width);
            let Some(tries) = sources.get_mut(&source) else { continue };
            if now.since(tries.last) >= FORGET_AFTER {
                sources.remove(&source);
                continue;
            }
            return if tries.wrong < FREE_OF[width] { Some(Duration::ZERO) } else { tries.take_turn(now) };
        }
        Some(Duration::ZERO)
    }

    pub(super) fn was_wrong(&self, from: Origin, now: Moment) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut source, mut wrong) = (Source::of(from, 0), 1);
        for (width, sources) in known.iter_mut().enumerate() {
            let forgotten = if sources.contains_key(&source) { None } else { make_room(sources, FREE_OF[width]) };
            let tries = sources.entry(source).or_insert(Tries { wrong: 0, last: now, next_turn: now });
            tries.wrong = tries.wrong.saturating_add(wrong);
            tries.last = now;
            let Some((quiet, tries)) = forgotten else { return };
            if now.since(tries.last) >= FORGET_AFTER {
                return;
            }
            (source, wrong) = (quiet.widened(width + 1), tries.wrong);
        }
    }
}

impl Tries {
    fn take_turn(&mut self, now: Moment) -> Option<Duration> {
        let turn = self.next_turn.max(now);
        let wait = turn.since(now);
        if wait > LONGEST_WAIT {
            return None;
        }
        self.next_turn = turn + (GAP * (1 + self.wrong / 50)).min(LONGEST_GAP);
        Some(wait)
    }
}

impl Source {
    /// Who has one address of IPv6 has all of its network.
    fn of(from: Origin, width: usize) -> Source {
        let narrow = match from {
            Origin::User(user) => Source::User(user),
            Origin::Address(IpAddr::V4(ip)) => Source::V4(ip.to_bits()),
            Origin::Address(IpAddr::V6(ip)) => Source::V6(ip.to_bits()),
        };
        narrow.widened(width)
    }

    /// Of IPv4 an address, a /24 and a /16; of IPv6 a /64, a /56 and a /48.
    fn widened(self, width: usize) -> Source {
        match self {
            Source::User(user) => Source::User(user),
            Source::V4(bits) => Source::V4(bits & (u32::MAX << (8 * width))),
            Source::V6(bits) => Source::V6(bits & (u128::MAX << (64 + 8 * width))),
        }
    }
}

/// Forgets one if there are too many: of those that are not slowed down, if there are any, the one that has been quiet
/// for the longest.
fn make_room(sources: &mut HashMap<Source, Tries>, free: u32) -> Option<(Source, Tries)> {
    if sources.len() < MOST_SOURCES {
        return None;
    }
    let (quietest, _) = sources.iter().min_by_key(|(_, tries)| (tries.wrong >= free, tries.last))?;
    let quietest = *quietest;
    sources.remove_entry(&quietest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(0) + Duration::from_secs(1000 + seconds)
    }

    fn address(text: &str) -> Origin {
        Origin::Address(text.parse().expect("an address"))
    }

    #[test]
    fn turns_come_one_after_the_other_and_are_forgotten() {
        let guesses = Guesses::default();
        let (one, other) = (address("2001:db8::1"), address("2001:db8:0:1::1"));
        for _ in 0..FREE {
            assert_eq!(guesses.take_turn(one, at(0)), Some(Duration::ZERO));
            guesses.was_wrong(one, at(0));
        }
        let neighbour = address("2001:db8::2");
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
    fn many_addresses_take_no_more_memory_than_there_is_for_them_and_slow_their_own_networks_alone() {
        let guesses = Guesses::default();
        // From 10.0.0.0 on: twenty thousand addresses, one after the other.
        for number in 0..2 * MOST_SOURCES as u32 {
            guesses.was_wrong(
                Origin::Address(IpAddr::V4((0x0a00_0000 + number).into())),
                at(0) + Duration::from_nanos(number.into()),
            );
        }
        assert!(guesses.0.lock().unwrap().iter().all(|sources| sources.len() <= MOST_SOURCES));
        let wait = |from: Origin| guesses.take_turn(from, at(1)).expect("a turn");
        for honest in [address("10.1.0.1"), address("192.0.2.1"), address("2001:db8::1"), Origin::User(1000)] {
            for _ in 0..100 {
                assert!(wait(honest).is_zero());
            }
        }
        assert!(wait(address("10.0.77.9")).is_zero(), "known by itself, for one wrong one");
        wait(address("10.0.7.0"));
        assert!(!wait(address("10.0.7.0")).is_zero(), "with its network, as it was forgotten");
        assert!(guesses.take_turn(address("10.0.7.0"), at(400)).is_some_and(|wait| wait.is_zero()));
    }

    #[test]
    fn users_of_this_machine_are_counted_one_by_one() {
        let guesses = Guesses::default();
        for _ in 0..FREE {
            guesses.was_wrong(Origin::User(1), at(0));
        }
        let second = |user| [0, 1].map(|_| guesses.take_turn(Origin::User(user), at(0)))[1];
        assert_eq!((second(1), second(2)), (Some(GAP), Some(Duration::ZERO)));
    }
}
