//! Pure: how late a process wakes, and so what it has to expect of its next waking.
//!
//! Whom the system refused a processor, as it does in a container with a quota, it will refuse it again: that counts
//! from its first time. Who did not run for any other reason was stopped, or slept with the machine. That says
//! nothing of the next time, unless it happens twice within a lease. Where the system does not tell the one from the
//! other, both are taken for the worse.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// What is remembered is forgotten in so many parts, one after the other.
const PARTS: u32 = 8;

/// Who has to be sure to be awake at a moment sets out so many times the worst lateness before it.
const CARE: u32 = 3;

#[derive(Clone, Debug, Default)]
pub struct Lateness {
    parts: VecDeque<Part>,
    refused_before: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Part {
    began: Moment,
    refused: Duration,
    /// The latest two, whatever the reason.
    late: [Duration; 2],
}

impl Lateness {
    /// Begins, refused so much before.
    pub fn begin(&mut self, refused: Option<Duration>) {
        self.refused_before = refused;
    }

    /// Awake `now`, and not because it was time: what it was refused since it looked last counts as one waiting.
    pub fn looked(&mut self, now: Moment, refused: Option<Duration>, window: Duration) {
        let more = self.refused_since(refused);
        self.remember(now, Duration::ZERO, more, window);
    }

    /// Awake `now`, though it should have been at `due`. `refused` is for how long it has been refused a processor in
    /// all its life, where the system tells. This is remembered for `window`.
    pub fn woke(&mut self, now: Moment, due: Moment, refused: Option<Duration>, window: Duration) {
        let late = now.since(due);
        let more = self.refused_since(refused);
        self.remember(now, late, more.min(late), window);
    }

    fn refused_since(&mut self, refused: Option<Duration>) -> Duration {
        let before = std::mem::replace(&mut self.refused_before, refused);
        refused.zip(before).map_or(Duration::ZERO, |(now, before)| now.saturating_sub(before))
    }

    fn remember(&mut self, now: Moment, late: Duration, refused: Duration, window: Duration) {
        while self.parts.front().is_some_and(|part| now.since(part.began) > window + window / PARTS) {
            self.parts.pop_front();
        }
        if late.is_zero() && refused.is_zero() {
            return;
        }
        match self.parts.back_mut() {
            Some(part) if now.since(part.began) < window / PARTS => part.add(late, refused),
            _ => self.parts.push_back(Part { began: now, refused, late: [late, Duration::ZERO] }),
        }
    }

    /// How much sooner than the last moment somebody has to act who may be so late.
    pub fn margin(&self) -> Duration {
        self.worst() * CARE
    }

    /// The part of it that is owed to a system that gives too little processor time, and not to stops: one who was
    /// stopped is not late because of it the next time.
    pub fn starved_margin(&self) -> Duration {
        self.starved() * CARE
    }

    /// Whether the system tells the one from the other.
    pub fn is_told(&self) -> bool {
        self.refused_before.is_some()
    }

    pub fn starved(&self) -> Duration {
        if !self.is_told() {
            return self.worst();
        }
        self.parts.iter().map(|part| part.refused).max().unwrap_or_default()
    }

    pub fn worst(&self) -> Duration {
        let refused = self.parts.iter().map(|part| part.refused).max();
        let mut late: Vec<Duration> = self.parts.iter().flat_map(|part| part.late).collect();
        late.sort_unstable();
        let twice = late.iter().rev().nth(1).copied();
        refused.max(twice).unwrap_or_default()
    }
}

impl Part {
    fn add(&mut self, late: Duration, refused: Duration) {
        self.refused = self.refused.max(refused);
        let [most, second] = self.late;
        self.late = if late > most { [late, most] } else { [most, second.max(late)] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);
    const WINDOW: Duration = Duration::from_secs(8);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Wakes at these milliseconds, so late, and refused a processor for so long in all.
    fn after(wakes: &[(u64, u64, Option<u64>)]) -> Lateness {
        let mut lateness = Lateness::default();
        for (at, late, refused) in wakes {
            lateness.woke(T0 + ms(*at), T0 + ms(*at) - ms(*late), refused.map(ms), WINDOW);
        }
        lateness
    }

    #[test]
    fn who_is_in_time_needs_no_margin() {
        assert_eq!(Lateness::default().margin(), Duration::ZERO);
        assert_eq!(after(&[(100, 0, Some(0)), (200, 0, Some(50))]).margin(), Duration::ZERO);
        // Told something before it was due.
        let mut early = Lateness::default();
        early.woke(T0, T0 + ms(500), None, WINDOW);
        early.woke(T0, Moment::NEVER, None, WINDOW);
        assert_eq!(early.margin(), Duration::ZERO);
    }

    #[test]
    fn whom_a_processor_was_refused_once_expects_it_again() {
        assert_eq!(after(&[(100, 0, Some(7)), (2100, 1900, Some(1907))]).margin(), ms(5700));
        // A part of the time it was stopped.
        assert_eq!(after(&[(100, 0, Some(7)), (2100, 1900, Some(207))]).worst(), ms(200));
        // It was refused on many occasions, of which this is one.
        assert_eq!(after(&[(100, 0, Some(7)), (2100, 100, Some(1907))]).worst(), ms(100));
    }

    #[test]
    fn one_pause_is_none_but_two_are_how_it_is_here() {
        for refused in [None, Some(0)] {
            assert_eq!(after(&[(100, 0, refused), (9000, 8000, refused), (9100, 2, refused)]).worst(), ms(2));
            let twice = [(1000, 700, refused), (3000, 900, refused), (3100, 800, refused)];
            assert_eq!(after(&twice).worst(), ms(800));
            assert_eq!(after(&twice[..2]).worst(), ms(700));
        }
    }

    #[test]
    fn stops_are_no_want_of_processor_time() {
        let stops = |refused| after(&[(100, 0, refused), (2500, 2300, refused), (5100, 2300, refused)]);
        assert_eq!((stops(Some(7)).starved(), stops(Some(7)).worst()), (Duration::ZERO, ms(2300)));
        assert_eq!(stops(None).starved(), ms(2300), "nobody tells");
    }

    /// Its first wakings are all that is known when a command begins.
    #[test]
    fn who_was_refused_a_processor_from_the_beginning_knows_it() {
        let mut lateness = Lateness::default();
        lateness.looked(T0, Some(ms(90)), WINDOW);
        assert_eq!(lateness.starved(), Duration::ZERO, "in all its life before");
        lateness.looked(T0 + ms(800), Some(ms(790)), WINDOW);
        assert_eq!(lateness.starved(), ms(700));
        let mut lateness = Lateness::default();
        lateness.begin(Some(ms(90)));
        lateness.looked(T0, Some(ms(190)), WINDOW);
        assert_eq!(lateness.starved(), ms(100));
    }

    #[test]
    fn what_is_longer_ago_than_a_lease_is_forgotten() {
        let mut lateness = after(&[(0, 0, Some(0)), (1000, 600, Some(600)), (1200, 500, Some(1100))]);
        for at in 2..9 {
            lateness.woke(T0 + ms(at * 1000), T0 + ms(at * 1000 - 1), Some(ms(1100)), WINDOW);
            assert_eq!(lateness.worst(), ms(600), "{at}");
        }
        lateness.woke(T0 + ms(10_200), T0 + ms(10_200), Some(ms(1100)), WINDOW);
        assert_eq!(lateness.worst(), ms(1));
        assert!(lateness.parts.len() <= PARTS as usize + 2);
    }

    #[test]
    fn however_often_it_is_asked_it_does_not_grow() {
        let mut lateness = Lateness::default();
        for at in 0..100_000u64 {
            lateness.woke(T0 + ms(at), T0 + ms(at) - ms(at % 7), Some(ms(at)), WINDOW);
            assert!(lateness.parts.len() <= PARTS as usize + 2);
        }
        assert_eq!(lateness.worst(), ms(6));
    }
}
