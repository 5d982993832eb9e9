//! Pure: the header of a journal, and frames of records with their checksums.
//!
//! A frame's checksum covers where it stands and a random number of its file, so that nothing else is ever
//! taken for one: not bytes of an older file, not a key that a client chose. Each says up to where the file
//! was on disk for sure when it was written, which tells damage from a batch that a crash tore: what was
//! promised to anybody lies before that point.

use super::downtime::{Boot, Times};
use crate::clock::Moment;

/// Bytes of the header.
pub const HEADER: usize = 44;

/// Bytes of a frame before its records.
pub const FRAME: usize = 36;

/// The most bytes of records in a frame.
pub const MAX_RECORDS: usize = 1024 * 1024;

/// How every journal of every version begins: this, and then its version.
const MAGIC: &[u8; 12] = b"dflock state";

/// A newer one is refused.
pub const VERSION: u32 = 1;

/// How a frame begins.
const BEGIN: [u8; 4] = [0xd1, 0x0c, 0xf1, 0x0a];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random, of this file alone.
    pub nonce: u64,
    /// In which boot it is written; moments in it are of that boot's clock.
    pub boot: Boot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    NoJournal,
    Newer { version: u32 },
    DamagedHeader,
}

impl Header {
    pub fn write(self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&self.boot);
        out.extend_from_slice(&crc32fast::hash(&out[begin..]).to_le_bytes());
    }

    pub fn read(bytes: &[u8]) -> Result<Header, Unreadable> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(Unreadable::NoJournal) };
        if !header.starts_with(MAGIC) {
            return Err(Unreadable::NoJournal);
        }
        if crc32fast::hash(&header[..40]).to_le_bytes() != header[40..] {
            return Err(Unreadable::DamagedHeader);
        }
        let version = number(&header[12..16]) as u32;
        if version > VERSION {
            return Err(Unreadable::Newer { version });
        }
        let mut boot = Boot::default();
        boot.copy_from_slice(&header[24..40]);
        Ok(Header { nonce: number(&header[16..24]), boot })
    }
}

/// Little-endian.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Everything before this place in the file was on disk when this was written.
    pub synced_to: u64,
    pub times: Times,
    pub records: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Appends it as it stands at `at` in its file.
    pub fn write(&self, header: Header, at: u64, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&BEGIN);
        out.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.synced_to.to_le_bytes());
        out.extend_from_slice(&self.times.server.as_nanos().to_le_bytes());
        out.extend_from_slice(&self.times.wall.to_le_bytes());
        out.extend_from_slice(self.records);
        let sum = checksum(header, at, &out[begin..]);
        out[begin + 8..begin + 12].copy_from_slice(&sum.to_le_bytes());
    }

    /// The frame that `bytes` begin with, if they do, and its length; `at` is where they are in the file.
    pub fn read(header: Header, at: u64, bytes: &'a [u8]) -> Option<(Frame<'a>, usize)> {
        let rest = bytes.strip_prefix(&BEGIN)?;
        let records = number(rest.get(..4)?) as usize;
        if records > MAX_RECORDS {
            return None;
        }
        let length = FRAME + records;
        let frame = bytes.get(..length)?;
        if u64::from(checksum(header, at, frame)) != number(&frame[8..12]) {
            return None;
        }
        let times = Times { server: Moment::from_nanos(number(&frame[20..28])), wall: number(&frame[28..36]) };
        Some((Frame { synced_to: number(&frame[12..20]), times, records: &frame[FRAME..] }, length))
    }

    /// Whether a frame behind `at` is whole and was written when what is at `at` was on disk already.
    pub fn any_that_knows(header: Header, at: u64, bytes: &[u8]) -> bool {
        (1..bytes.len().saturating_sub(FRAME - 1)).any(|ahead| {
            let there = at + ahead as u64;
            bytes[ahead] == BEGIN[0]
                && Frame::read(header, there, &bytes[ahead..]).is_some_and(|(frame, _)| frame.synced_to > at)
        })
    }
}

/// Of a frame as it is written at `at`, but for the four bytes that hold this.
fn checksum(header: Header, at: u64, frame: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&header.nonce.to_le_bytes());
    sum.update(&at.to_le_bytes());
    sum.update(&frame[..8]);
    sum.update(&frame[12..]);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Header = Header { nonce: 7, boot: [9; 16] };
    const TIMES: Times = Times { server: Moment::from_nanos(11), wall: 13 };

    fn written(at: u64, synced_to: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame { synced_to, times: TIMES, records: b"records" }.write(HEAD, at, &mut bytes);
        bytes
    }

    #[test]
    fn a_header_is_read_back_and_no_other() {
        let mut bytes = Vec::new();
        HEAD.write(&mut bytes);
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(Header::read(&bytes), Ok(HEAD));
        for at in 0..HEADER {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(matches!(Header::read(&flipped), Err(Unreadable::NoJournal | Unreadable::DamagedHeader)));
            }
            assert_eq!(Header::read(&bytes[..at]), Err(Unreadable::NoJournal));
        }
    }

    #[test]
    fn a_newer_version_is_known_as_such() {
        let mut bytes = Vec::new();
        HEAD.write(&mut bytes);
        bytes[12] = 2;
        let sum = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::read(&bytes), Err(Unreadable::Newer { version: 2 }));
    }

    #[test]
    fn a_frame_is_read_back_where_it_stands_and_nowhere_else() {
        let bytes = written(100, 60);
        let (frame, length) = Frame::read(HEAD, 100, &bytes).unwrap();
        assert_eq!((frame.synced_to, frame.times, frame.records, length), (60, TIMES, b"records".as_slice(), 43));
        assert!(Frame::read(HEAD, 101, &bytes).is_none());
        assert!(Frame::read(Header { nonce: 8, ..HEAD }, 100, &bytes).is_none());
        for at in 0..bytes.len() {
            assert!(Frame::read(HEAD, 100, &bytes[..at]).is_none());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            assert!(Frame::read(HEAD, 100, &flipped).is_none());
        }
    }

    #[test]
    fn a_later_frame_is_found_and_asked_what_it_knows() {
        let mut bytes = vec![0xd1; 30];
        bytes.extend(written(130, 100));
        assert!(!Frame::any_that_knows(HEAD, 100, &bytes), "it was written before that was on disk");
        bytes.truncate(30);
        bytes.extend(written(130, 101));
        assert!(Frame::any_that_knows(HEAD, 100, &bytes));
        bytes.pop();
        assert!(!Frame::any_that_knows(HEAD, 100, &bytes));
        assert!(!Frame::any_that_knows(HEAD, 100, &[]));
    }
}
