//! Pure: what is held and queued, as a fold over what happened; and the same again as records, to begin a
//! new journal with.
//!
//! Records about what is not there are passed over, and a grant written twice is one grant: a new journal may
//! be begun slice by slice while things go on happening, and reading it leads to the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::record;
use crate::clock::Moment;
use crate::lock::Kind;
use crate::server::stamp::Stamp;
use crate::server::table::{Change, Limits, OldGrant, OldPlace, Table};

/// How far the fence jumps ahead with every start: beyond whatever was given out and, with an fsync that is
/// not always, never reached the disk. As numbers start at the wall clock's nanoseconds, it is a second.
const FENCE_JUMP: u64 = 1_000_000_000;

/// Bytes of a record beside its key, about.
const RECORD: usize = 56;

#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// By fence.
    grants: BTreeMap<u64, Grant>,
    /// By ticket number.
    places: BTreeMap<u64, Place>,
    last_number: u64,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Grant {
    grant: OldGrant,
    /// Its client has the token or can get it with a ticket.
    known: bool,
}

#[derive(Clone, Debug)]
struct Place {
    key: Arc<[u8]>,
    kind: Kind,
    ticket: Stamp,
    lease_s: u64,
    resume: Duration,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug)]
pub enum Cursor {
    GrantsFrom(u64),
    PlacesFrom(u64),
}

impl Kept {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Granted { key, kind, stamp, ticket, lease_s, until, known } => {
                if let Some(ticket) = ticket {
                    self.forget_place(ticket.number);
                }
                self.count(stamp.number.max(ticket.map_or(0, |ticket| ticket.number)));
                let (key, kind, stamp, ticket, lease_s, until) =
                    (key.clone(), *kind, *stamp, *ticket, *lease_s, *until);
                self.bytes += RECORD + key.len();
                let grant = OldGrant { key, kind, stamp, ticket, lease_s, until };
                let before = self.grants.insert(stamp.number, Grant { grant, known: *known });
                self.bytes -= before.map_or(0, |before| RECORD + before.grant.key.len());
            }
            Change::Renewed { fence, lease_s, until } => {
                if let Some(Grant { grant, known }) = self.grants.get_mut(fence) {
                    grant.lease_s = *lease_s;
                    grant.until = *until;
                    *known = true;
                }
            }
            Change::Ended { fence, .. } => self.forget_grant(*fence),
            Change::Queued { key, kind, ticket, lease_s, resume } => {
                self.count(ticket.number);
                self.forget_place(ticket.number);
                let (key, kind, ticket, lease_s, resume) = (key.clone(), *kind, *ticket, *lease_s, *resume);
                self.bytes += RECORD + key.len();
                self.places.insert(ticket.number, Place { key, kind, ticket, lease_s, resume });
            }
            Change::Left { place } => self.forget_place(*place),
            Change::Resumed { number, lease_s, resume } => {
                if let Some(place) = self.places.get_mut(number) {
                    place.lease_s = *lease_s;
                    place.resume = *resume;
                }
            }
            Change::LeftBehind { .. } => {}
        }
    }

    /// Numbers up to this one were given out.
    pub fn count(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    /// As every server gives them out: no fence or ticket is another's too. A table relies on it.
    pub fn has_each_number_once(&self) -> bool {
        let mut tickets: Vec<u64> =
            self.grants.values().filter_map(|held| held.grant.ticket).map(|it| it.number).collect();
        tickets.extend(self.places.keys());
        let count = tickets.len();
        tickets.sort_unstable();
        tickets.dedup();
        tickets.len() == count && !tickets.iter().any(|number| self.grants.contains_key(number))
    }

    fn forget_grant(&mut self, fence: u64) {
        if let Some(gone) = self.grants.remove(&fence) {
            self.bytes -= RECORD + gone.grant.key.len();
        }
    }

    fn forget_place(&mut self, number: u64) {
        if let Some(gone) = self.places.remove(&number) {
            self.bytes -= RECORD + gone.key.len();
        }
    }

    pub fn held(&self) -> usize {
        self.grants.len()
    }

    /// When the last of all leases ends.
    pub fn ends(&self) -> Moment {
        self.grants.values().map(|held| held.grant.until).max().unwrap_or(Moment::from_nanos(0))
    }

    pub fn queued(&self) -> usize {
        self.places.len()
    }

    /// Bytes of a journal that says no more than this, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins anew on another clock, which shows `now` where the one before would have shown `then`. Gone are
    /// leases that ended meanwhile, and grants whose token nobody can know. Numbers begin at `wall_nanos`, but
    /// above all that were ever given out, whatever the wall clock says.
    pub fn wake(&mut self, then: Moment, now: Moment, wall_nanos: u64) {
        self.grants.retain(|_, Grant { grant, known }| {
            if grant.until != Moment::NEVER {
                let left = grant.until.since(then);
                *known &= !left.is_zero();
                grant.until = now + left;
            }
            *known
        });
        self.last_number = wall_nanos.max(self.last_number.saturating_add(FENCE_JUMP));
        let keys = self.grants.values().map(|held| held.grant.key.len());
        self.bytes = keys.chain(self.places.values().map(|place| place.key.len())).map(|key| RECORD + key).sum();
    }

    /// A table that goes on from here. Every lease runs to its end; a place waits as long as was agreed on.
    pub fn table(&self, limits: Limits, now: Moment) -> Table {
        let grants = self.grants.values().map(|held| held.grant.clone());
        let places = self.places.values().map(|place| OldPlace {
            key: place.key.clone(),
            kind: place.kind,
            ticket: place.ticket,
            lease_s: place.lease_s,
            away_until: now + place.resume,
        });
        Table::restored(limits, self.last_number, now, grants, places)
    }

    pub fn begin_snapshot(&self, out: &mut Vec<u8>) -> Cursor {
        record::write_last_number(self.last_number, out);
        Cursor::GrantsFrom(0)
    }

    /// Appends records until `out` has so many bytes; `None` when all is written.
    pub fn snapshot(&self, cursor: Cursor, bytes: usize, out: &mut Vec<u8>) -> Option<Cursor> {
        let mut places_from = 0;
        match cursor {
            Cursor::GrantsFrom(from) => {
                for (fence, Grant { grant, known }) in self.grants.range(from..) {
                    if out.len() >= bytes {
                        return Some(Cursor::GrantsFrom(*fence));
                    }
                    let OldGrant { key, kind, stamp, ticket, lease_s, until } = grant.clone();
                    record::write(&Change::Granted { key, kind, stamp, ticket, lease_s, until, known: *known }, out);
                }
            }
            Cursor::PlacesFrom(from) => places_from = from,
        }
        for (number, place) in self.places.range(places_from..) {
            if out.len() >= bytes {
                return Some(Cursor::PlacesFrom(*number));
            }
            let Place { key, kind, ticket, lease_s, resume } = place.clone();
            record::write(&Change::Queued { key, kind, ticket, lease_s, resume }, out);
        }
        record::write_complete(out);
        None
    }

    /// The whole of it, as records.
    pub fn to_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let cursor = self.begin_snapshot(&mut out);
        self.snapshot(cursor, usize::MAX, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::journal::record::Record;
    use crate::server::table::End;

    const SECOND: Duration = Duration::from_secs(1);

    fn stamp(number: u64) -> Stamp {
        Stamp { number, salt: number * 3 + 1 }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn granted(key: &str, fence: u64, until: Moment) -> Change {
        let (key, kind, stamp) = (key.as_bytes().into(), Kind::Lock, stamp(fence));
        Change::Granted { key, kind, stamp, ticket: None, lease_s: 10, until, known: true }
    }

    fn queued(key: &str, number: u64) -> Change {
        let (key, ticket) = (key.as_bytes().into(), stamp(number));
        Change::Queued { key, kind: Kind::Lock, ticket, lease_s: 10, resume: 5 * SECOND }
    }

    fn fold(changes: &[Change]) -> Kept {
        let mut kept = Kept::default();
        changes.iter().for_each(|change| kept.apply(change));
        kept
    }

    fn read(mut records: &[u8]) -> Kept {
        let mut kept = Kept::default();
        while !records.is_empty() {
            match record::read(&mut records).expect("a record") {
                Record::Happened(change) => kept.apply(&change),
                Record::LastNumber(number) => kept.count(number),
                Record::Complete => {}
            }
        }
        kept
    }

    #[test]
    fn what_ended_is_gone_and_the_rest_is_there() {
        let mut changes = vec![granted("a", 1, at(10)), granted("b", 2, at(10)), queued("b", 3), queued("b", 4)];
        changes.push(Change::Renewed { fence: 1, lease_s: 7, until: at(17) });
        changes.push(Change::Ended { fence: 2, why: End::Released });
        changes.push(Change::Left { place: 4 });
        let kept = fold(&changes);
        assert_eq!((kept.held(), kept.queued(), kept.last_number), (1, 1, 4));
        assert_eq!(kept.grants[&1].grant.until, at(17));
        assert_eq!(kept.grants[&1].grant.lease_s, 7);
        let emptied = [Change::Ended { fence: 1, why: End::Expired }, Change::Left { place: 3 }];
        changes.extend(emptied);
        let kept = fold(&changes);
        assert_eq!((kept.held(), kept.queued(), kept.bytes()), (0, 0, 0));
    }

    #[test]
    fn a_place_that_is_granted_is_a_place_no_more() {
        let mut grant = granted("a", 9, at(10));
        if let Change::Granted { ticket, .. } = &mut grant {
            *ticket = Some(stamp(3));
        }
        let kept = fold(&[queued("a", 3), grant]);
        assert_eq!((kept.held(), kept.queued()), (1, 0));
        assert_eq!(kept.grants[&9].grant.ticket.map(|ticket| ticket.number), Some(3));
    }

    #[test]
    fn a_snapshot_in_slices_reads_back_whatever_happens_between_them() {
        let mut kept = fold(&(1..=20).map(|fence| granted("key", fence, at(fence))).collect::<Vec<_>>());
        (30..40).for_each(|number| kept.apply(&queued("key", number)));
        let mut written = Vec::new();
        let mut cursor = Some(kept.begin_snapshot(&mut written));
        let mut step = 0;
        while let Some(from) = cursor {
            let mut slice = Vec::new();
            cursor = kept.snapshot(from, 100, &mut slice);
            written.extend(slice);
            step += 1;
            let happens = [
                granted("new", 100 + step, at(5)),
                Change::Ended { fence: step * 3, why: End::Released },
                Change::Renewed { fence: 21 - step, lease_s: 99, until: at(99) },
                Change::Left { place: 29 + step },
                Change::Ended { fence: 99 + step, why: End::Released },
            ];
            for change in &happens {
                kept.apply(change);
                record::write(change, &mut written);
            }
        }
        assert!(step > 5, "{step} slices");
        assert_eq!(read(&written).to_records(), kept.to_records());
        assert_eq!(read(&written).bytes(), kept.bytes());
    }

    #[test]
    fn waking_moves_leases_and_forgets_what_is_over() {
        let mut unknown = granted("u", 3, at(1000));
        if let Change::Granted { known, .. } = &mut unknown {
            *known = false;
        }
        let forever = granted("f", 4, Moment::NEVER);
        let mut kept = fold(&[granted("a", 1, at(100)), granted("b", 2, at(130)), unknown, forever]);
        kept.wake(at(100), at(7), 0);
        assert_eq!(kept.grants.keys().copied().collect::<Vec<_>>(), [2, 4]);
        assert_eq!(kept.grants[&2].grant.until, at(37));
        assert_eq!(kept.grants[&4].grant.until, Moment::NEVER);
        assert_eq!(kept.bytes(), read(&kept.to_records()).bytes());
    }

    #[test]
    fn a_token_that_became_known_is_kept() {
        let mut grant = granted("u", 3, at(1000));
        if let Change::Granted { known, .. } = &mut grant {
            *known = false;
        }
        let mut kept = fold(&[grant, Change::Renewed { fence: 3, lease_s: 10, until: at(1000) }]);
        kept.wake(at(1), at(1), 0);
        assert_eq!(kept.held(), 1);
    }

    #[test]
    fn numbers_only_grow_whatever_the_wall_clock_says() {
        let mut kept = fold(&[granted("a", 5_000, at(10)), Change::Ended { fence: 5_000, why: End::Released }]);
        kept.wake(at(0), at(0), 77);
        assert!(kept.last_number > 5_000);
        let before = kept.last_number;
        let mut kept = read(&kept.to_records());
        kept.wake(at(0), at(0), 0);
        assert!(kept.last_number > before);
        kept.wake(at(0), at(0), u64::MAX / 2);
        assert_eq!(kept.last_number, u64::MAX / 2);
    }
}
