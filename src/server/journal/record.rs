//! Pure: one thing that happened to a lock or a place, to bytes and back.
//!
//! A record is a tag and its fields, numbers little-endian. What a restarted server would not use is not
//! written: that a connection broke (its lock is held on to the end of its lease anyway).

use std::time::Duration;

use crate::clock::Moment;
use crate::lock::Kind;
use crate::server::stamp::Stamp;
use crate::server::table::{Change, End};

const GRANTED: u8 = 1;
const RENEWED: u8 = 2;
const ENDED: u8 = 3;
const QUEUED: u8 = 4;
const LEFT: u8 = 5;
const RESUMED: u8 = 6;
const LAST_NUMBER: u8 = 7;
const COMPLETE: u8 = 8;

/// Flags of a grant or place.
const SEMAPHORE: u8 = 1;
const TICKET: u8 = 2;
const KNOWN: u8 = 4;

#[derive(Clone, Debug)]
pub enum Record {
    Happened(Change),
    /// At least every fence and ticket given out so far.
    LastNumber(u64),
    /// What this journal began with is all there.
    Complete,
}

/// Appends what is written of a change, which may be nothing.
pub fn write(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Granted { key, kind, stamp, ticket, lease_s, until, known } => {
            let known = if *known { KNOWN } else { 0 };
            let has_ticket = if ticket.is_some() { TICKET } else { 0 };
            write_claim(out, GRANTED, *kind, known | has_ticket);
            write_stamp(out, *stamp);
            if let Some(ticket) = ticket {
                write_stamp(out, *ticket);
            }
            write_numbers(out, &[*lease_s, until.as_nanos()]);
            write_key(out, key);
        }
        Change::Queued { key, kind, ticket, lease_s, resume } => {
            write_claim(out, QUEUED, *kind, 0);
            write_stamp(out, *ticket);
            write_numbers(out, &[*lease_s, nanos(*resume)]);
            write_key(out, key);
        }
        Change::Renewed { fence, lease_s, until } => {
            out.push(RENEWED);
            write_numbers(out, &[*fence, *lease_s, until.as_nanos()]);
        }
        Change::Ended { fence, why } => {
            out.push(ENDED);
            write_numbers(out, &[*fence]);
            out.push(match why {
                End::Released => 0,
                End::Expired => 1,
                End::Disconnected => 2,
            });
        }
        Change::Left { place } => {
            out.push(LEFT);
            write_numbers(out, &[*place]);
        }
        Change::Resumed { number, lease_s, resume } => {
            out.push(RESUMED);
            write_numbers(out, &[*number, *lease_s, nanos(*resume)]);
        }
        Change::LeftBehind { .. } => {}
    }
}

pub fn write_last_number(number: u64, out: &mut Vec<u8>) {
    out.push(LAST_NUMBER);
    write_numbers(out, &[number]);
}

pub fn write_complete(out: &mut Vec<u8>) {
    out.push(COMPLETE);
}

fn write_claim(out: &mut Vec<u8>, tag: u8, kind: Kind, flags: u8) {
    out.push(tag);
    match kind {
        Kind::Lock => out.push(flags),
        Kind::Semaphore { limit } => {
            out.push(flags | SEMAPHORE);
            write_numbers(out, &[limit]);
        }
    }
}

fn write_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    write_numbers(out, &[stamp.number, stamp.salt]);
}

fn write_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The protocol has no keys that are longer than its lines, so two bytes are plenty.
fn write_key(out: &mut Vec<u8>, key: &[u8]) {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&key[..usize::from(length)]);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Takes one record off the front; `None` if there is none that makes sense.
pub fn read(bytes: &mut &[u8]) -> Option<Record> {
    let [tag] = take(bytes)?;
    Some(Record::Happened(match tag {
        GRANTED => {
            let (kind, flags) = read_claim(bytes)?;
            let stamp = read_stamp(bytes)?;
            let ticket = if flags & TICKET != 0 { Some(read_stamp(bytes)?) } else { None };
            let (lease_s, until) = (read_number(bytes)?, Moment::from_nanos(read_number(bytes)?));
            Change::Granted {
                key: read_key(bytes)?.into(),
                kind,
                stamp,
                ticket,
                lease_s,
                until,
                known: flags & KNOWN != 0,
            }
        }
        QUEUED => {
            let (kind, _) = read_claim(bytes)?;
            let ticket = read_stamp(bytes)?;
            let (lease_s, resume) = (read_number(bytes)?, Duration::from_nanos(read_number(bytes)?));
            Change::Queued { key: read_key(bytes)?.into(), kind, ticket, lease_s, resume }
        }
        RENEWED => Change::Renewed {
            fence: read_number(bytes)?,
            lease_s: read_number(bytes)?,
            until: Moment::from_nanos(read_number(bytes)?),
        },
        ENDED => Change::Ended {
            fence: read_number(bytes)?,
            why: match take(bytes)? {
                [0] => End::Released,
                [1] => End::Expired,
                [2] => End::Disconnected,
                _ => return None,
            },
        },
        LEFT => Change::Left { place: read_number(bytes)? },
        RESUMED => Change::Resumed {
            number: read_number(bytes)?,
            lease_s: read_number(bytes)?,
            resume: Duration::from_nanos(read_number(bytes)?),
        },
        LAST_NUMBER => return Some(Record::LastNumber(read_number(bytes)?)),
        COMPLETE => return Some(Record::Complete),
        _ => return None,
    }))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn read_stamp(bytes: &mut &[u8]) -> Option<Stamp> {
    Some(Stamp { number: read_number(bytes)?, salt: read_number(bytes)? })
}

fn read_claim(bytes: &mut &[u8]) -> Option<(Kind, u8)> {
    let [flags] = take(bytes)?;
    let kind = if flags & SEMAPHORE != 0 { Kind::Semaphore { limit: read_number(bytes)? } } else { Kind::Lock };
    Some((kind, flags))
}

fn read_key<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(u16::from_le_bytes(take(bytes)?));
    let (key, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        Stamp { number, salt: !number }
    }

    fn every_kind() -> Vec<Change> {
        let until = Moment::from_nanos(123_456_789);
        let resume = Duration::from_millis(1500);
        let semaphore = Kind::Semaphore { limit: u64::MAX };
        let key = |text: &[u8]| text.into();
        vec![
            Change::Granted {
                key: key(b"k"),
                kind: Kind::Lock,
                stamp: stamp(7),
                ticket: None,
                lease_s: 1,
                until,
                known: true,
            },
            Change::Granted {
                key: key(&[0xff; 256]),
                kind: semaphore,
                stamp: stamp(8),
                ticket: Some(stamp(3)),
                lease_s: u64::MAX,
                until: Moment::NEVER,
                known: false,
            },
            Change::Renewed { fence: 7, lease_s: 2, until },
            Change::Ended { fence: 7, why: End::Released },
            Change::Ended { fence: 7, why: End::Expired },
            Change::Ended { fence: 7, why: End::Disconnected },
            Change::Queued { key: key(b"q"), kind: semaphore, ticket: stamp(3), lease_s: 9, resume },
            Change::Queued { key: key(b""), kind: Kind::Lock, ticket: stamp(4), lease_s: 9, resume: Duration::ZERO },
            Change::Left { place: 3 },
            Change::Resumed { number: 3, lease_s: 5, resume },
        ]
    }

    /// With the salts, which `Debug` leaves out.
    fn shown(change: &Change) -> String {
        let salts = match change {
            Change::Granted { stamp, ticket, .. } => (stamp.salt, ticket.map(|ticket| ticket.salt)),
            Change::Queued { ticket, .. } => (ticket.salt, None),
            _ => (0, None),
        };
        format!("{change:?} {salts:?}")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all = every_kind();
        let mut bytes = Vec::new();
        all.iter().for_each(|change| write(change, &mut bytes));
        write_last_number(42, &mut bytes);
        write_complete(&mut bytes);
        let mut rest = bytes.as_slice();
        for change in &all {
            let Some(Record::Happened(read)) = read(&mut rest) else { panic!("no {change:?}") };
            assert_eq!(shown(&read), shown(change));
        }
        assert!(matches!(read(&mut rest), Some(Record::LastNumber(42))));
        assert!(matches!(read(&mut rest), Some(Record::Complete)));
        assert!(rest.is_empty());
    }

    #[test]
    fn half_a_record_is_none() {
        for change in every_kind() {
            let mut bytes = Vec::new();
            write(&change, &mut bytes);
            for cut in 0..bytes.len() {
                assert!(read(&mut &bytes[..cut]).is_none(), "{change:?} cut at {cut}");
            }
        }
        for tag in [0, 9, 255] {
            assert!(read(&mut [tag, 0, 0, 0].as_slice()).is_none());
        }
    }

    #[test]
    fn that_a_connection_broke_is_not_written() {
        let mut bytes = Vec::new();
        write(&Change::LeftBehind { number: 1, away_until: Moment::NEVER }, &mut bytes);
        assert!(bytes.is_empty());
    }
}
