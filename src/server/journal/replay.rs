//! Pure: a whole journal read, to its end or to where it cannot be trusted.
//!
//! A crash may tear what was being written last: that part was promised to nobody, and is cut off. Anything
//! else that does not check out is damage, and a journal with damage is not guessed at: locks would be lost.

use super::downtime::Times;
use super::frame::{Frame, HEADER, Header, Unreadable};
use super::kept::Kept;
use super::record::{self, Record};

#[derive(Debug)]
pub struct Replayed {
    pub header: Header,
    pub kept: Kept,
    /// When the last frame was written.
    pub last: Times,
    /// Where the next frame would go.
    pub end: usize,
    /// Bytes behind the end that are no frame and not just room to write.
    pub torn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Header(Unreadable),
    /// It ends before all is told that it should begin with.
    CutShort {
        at: usize,
    },
    /// Neither a frame nor a torn end.
    Frame {
        at: usize,
    },
    /// A frame that checks out, but says what this version does not understand.
    Records {
        at: usize,
    },
    /// All of it checks out, but two of what is left have the same number.
    NumberTwice,
}

pub fn replay(bytes: &[u8]) -> Result<Replayed, Damage> {
    let header = Header::read(bytes).map_err(Damage::Header)?;
    let mut kept = Kept::default();
    let (mut at, mut last, mut complete) = (HEADER, None, false);
    while let Some((frame, length)) = Frame::read(header, at as u64, &bytes[at..]) {
        let mut records = frame.records;
        while !records.is_empty() {
            match record::read(&mut records).ok_or(Damage::Records { at })? {
                Record::Happened(change) => kept.apply(&change),
                Record::LastNumber(number) => kept.count(number),
                Record::Complete => complete = true,
            }
        }
        last = Some(frame.times);
        at += length;
    }
    let rest = &bytes[at..];
    let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if torn > 0 && Frame::any_that_knows(header, at as u64, rest) {
        return Err(Damage::Frame { at });
    }
    match last {
        Some(_) if complete && !kept.has_each_number_once() => Err(Damage::NumberTwice),
        Some(last) if complete => Ok(Replayed { header, kept, last, end: at, torn }),
        _ => Err(Damage::CutShort { at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::lock::Kind;
    use crate::server::stamp::Stamp;
    use crate::server::table::{Change, End};

    const HEAD: Header = Header { nonce: 0x1234_5678_9abc_def0, boot: [3; 16] };

    /// A journal, and where each of its frames ends together with what is kept by then.
    struct Sample {
        bytes: Vec<u8>,
        ends: Vec<(usize, Vec<u8>)>,
    }

    impl Sample {
        fn new() -> Sample {
            let mut bytes = Vec::new();
            HEAD.write(&mut bytes);
            let mut sample = Sample { bytes, ends: Vec::new() };
            let mut kept = Kept::default();
            kept.apply(&granted(1));
            sample.frame(&kept.to_records(), &kept, 0);
            sample
        }

        fn frame(&mut self, records: &[u8], kept: &Kept, synced_to: usize) {
            let at = self.bytes.len() as u64;
            let times = Times { server: Moment::from_nanos(at), wall: at };
            Frame { synced_to: synced_to as u64, times, records }.write(HEAD, at, &mut self.bytes);
            self.ends.push((self.bytes.len(), kept.to_records()));
        }

        /// Five batches, each on disk before the next.
        fn busy() -> Sample {
            let mut sample = Sample::new();
            let mut kept = replay(&sample.bytes).unwrap().kept;
            let semaphore = Kind::Semaphore { limit: 3 };
            let (key, ticket): (std::sync::Arc<[u8]>, _) = (b"queue".as_slice().into(), Stamp { number: 4, salt: 9 });
            let resume = std::time::Duration::from_secs(7);
            let batches: [&[Change]; 5] = [
                &[granted(2), granted(3)],
                &[Change::Ended { fence: 1, why: End::Released }],
                &[Change::Queued { key, kind: semaphore, ticket, lease_s: 5, resume }],
                &[Change::Renewed { fence: 2, lease_s: 9, until: Moment::from_nanos(99) }, granted(5)],
                &[Change::Left { place: 4 }, granted(6), Change::Ended { fence: 3, why: End::Expired }],
            ];
            for batch in batches {
                let mut records = Vec::new();
                for change in batch {
                    kept.apply(change);
                    record::write(change, &mut records);
                }
                let synced_to = sample.bytes.len();
                sample.frame(&records, &kept, synced_to);
            }
            sample
        }

        fn last(&self) -> &(usize, Vec<u8>) {
            self.ends.last().unwrap()
        }
    }

    fn granted(fence: u64) -> Change {
        let key = format!("key-{fence}").into_bytes().into();
        let (stamp, until) = (Stamp { number: fence, salt: !fence }, Moment::from_nanos(fence * 1000));
        Change::Granted { key, kind: Kind::Lock, stamp, ticket: None, lease_s: 10, until, known: true }
    }

    #[test]
    fn a_whole_journal_is_read_to_its_end() {
        let sample = Sample::busy();
        let mut bytes = sample.bytes.clone();
        for room in [0, 1, 5000] {
            bytes.resize(sample.bytes.len() + room, 0);
            let read = replay(&bytes).unwrap();
            assert_eq!((read.end, read.torn, read.header), (sample.bytes.len(), 0, HEAD));
            assert_eq!(read.kept.to_records(), sample.last().1);
            assert_eq!(read.last.wall, sample.ends[4].0 as u64);
        }
    }

    /// Whether the file ends there or goes on with zeros.
    #[test]
    fn cut_anywhere_it_is_read_to_its_last_whole_frame_or_refused() {
        let sample = Sample::busy();
        for cut in 0..=sample.bytes.len() {
            for room in [0, 3000] {
                let mut bytes = sample.bytes[..cut].to_vec();
                bytes.resize(cut + room, 0);
                // Zeros that were lost are the same zeros.
                let lost = sample.bytes[cut..].iter().take(room).take_while(|byte| **byte == 0).count();
                let cut = cut + lost;
                let whole = sample.ends.iter().rfind(|(end, _)| *end <= cut);
                match (replay(&bytes), whole) {
                    (Ok(read), Some((end, kept))) => {
                        assert_eq!((read.end, &read.kept.to_records()), (*end, kept), "cut at {cut}");
                        assert!(read.torn <= cut - end);
                    }
                    (Err(Damage::Header(_)), None) => assert!(cut < HEADER),
                    (Err(Damage::CutShort { at }), None) => assert!(at == HEADER && cut >= HEADER),
                    (read, whole) => panic!("cut at {cut}: {read:?}, expected {whole:?}"),
                }
            }
        }
    }

    #[test]
    fn any_byte_changed_is_read_up_to_there_or_refused() {
        let sample = Sample::busy();
        let length = sample.bytes.len();
        let last_begins = sample.ends[4].0;
        for at in 0..length {
            for flip in [0x01, 0x80, 0xff, sample.bytes[at]] {
                if flip == 0 {
                    continue;
                }
                let mut bytes = sample.bytes.clone();
                bytes.resize(length + 500, 0);
                bytes[at] ^= flip;
                let good = sample.ends.iter().rfind(|(end, _)| *end <= at);
                match replay(&bytes) {
                    Ok(read) => {
                        assert!(at >= last_begins, "damage at {at} went unnoticed");
                        assert_eq!(Some(&(read.end, read.kept.to_records())), good);
                        assert!(read.torn > 0);
                    }
                    Err(Damage::Header(_)) => assert!(at < HEADER),
                    Err(Damage::CutShort { at: from } | Damage::Frame { at: from }) => {
                        assert_eq!(from, good.map_or(HEADER, |(end, _)| *end), "changed at {at}");
                        assert!(at < last_begins, "a torn end at {at} is no damage");
                    }
                    Err(Damage::Records { .. } | Damage::NumberTwice) => panic!("the checksum was passed at {at}"),
                }
            }
        }
    }

    #[test]
    fn noise_in_the_room_behind_the_end_is_cut_off() {
        let sample = Sample::busy();
        for at in [0, 1, 100, 499] {
            let mut bytes = sample.bytes.clone();
            bytes.resize(sample.bytes.len() + 500, 0);
            bytes[sample.bytes.len() + at] = 0xd1;
            let read = replay(&bytes).unwrap();
            assert_eq!((read.end, read.torn), (sample.bytes.len(), at + 1));
        }
    }

    /// A disk may write a batch in any order: a later part of it may be there, an earlier one not.
    #[test]
    fn a_torn_batch_is_cut_off_though_a_later_part_of_it_is_whole() {
        let mut sample = Sample::busy();
        let kept = replay(&sample.bytes).unwrap().kept;
        let (synced_to, before) = (sample.bytes.len(), sample.last().1.clone());
        let mut records = Vec::new();
        record::write(&granted(7), &mut records);
        sample.frame(&records, &kept, synced_to);
        let second = sample.bytes.len();
        sample.frame(&records, &kept, synced_to);
        // The first part of the batch never reached the disk.
        for lost in [synced_to..second, synced_to..synced_to + 1, second - 1..second] {
            let mut bytes = sample.bytes.clone();
            bytes[lost].fill(0);
            let read = replay(&bytes).unwrap();
            assert_eq!((read.end, read.kept.to_records()), (synced_to, before.clone()));
            assert!(read.torn > 0);
        }
        // A batch after it proves that it was whole once.
        let synced_to = sample.bytes.len();
        sample.frame(&records, &kept, synced_to);
        sample.bytes[second - 1] ^= 1;
        assert_eq!(replay(&sample.bytes).unwrap_err(), Damage::Frame { at: sample.ends[5].0 });
    }

    #[test]
    fn without_its_beginning_it_is_refused() {
        let mut bytes = Vec::new();
        HEAD.write(&mut bytes);
        assert_eq!(replay(&bytes).unwrap_err(), Damage::CutShort { at: HEADER });
        let mut records = Vec::new();
        record::write(&granted(7), &mut records);
        let times = Times { server: Moment::from_nanos(1), wall: 1 };
        Frame { synced_to: 0, times, records: &records }.write(HEAD, HEADER as u64, &mut bytes);
        assert_eq!(replay(&bytes).unwrap_err(), Damage::CutShort { at: bytes.len() });
        for empty in [&[][..], &[0; 5000]] {
            assert_eq!(replay(empty).unwrap_err(), Damage::Header(Unreadable::NoJournal));
        }
    }

    #[test]
    fn a_number_that_was_given_out_twice_is_refused() {
        let mut sample = Sample::busy();
        let kept = replay(&sample.bytes).unwrap().kept;
        let synced_to = sample.bytes.len();
        let (key, ticket): (std::sync::Arc<[u8]>, _) = (b"queue".as_slice().into(), Stamp { number: 6, salt: 9 });
        let resume = std::time::Duration::from_secs(7);
        let mut records = Vec::new();
        // As the fence of a lock that is held.
        record::write(&Change::Queued { key, kind: Kind::Lock, ticket, lease_s: 5, resume }, &mut records);
        sample.frame(&records, &kept, synced_to);
        assert_eq!(replay(&sample.bytes).unwrap_err(), Damage::NumberTwice);
        let (synced_to, mut records) = (sample.bytes.len(), Vec::new());
        record::write(&Change::Left { place: 6 }, &mut records);
        sample.frame(&records, &kept, synced_to);
        assert!(replay(&sample.bytes).is_ok());
    }

    #[test]
    fn a_frame_that_makes_no_sense_is_refused() {
        let mut sample = Sample::busy();
        let kept = replay(&sample.bytes).unwrap().kept;
        let at = sample.bytes.len();
        sample.frame(&[200, 1, 2], &kept, at);
        assert_eq!(replay(&sample.bytes).unwrap_err(), Damage::Records { at });
    }
}
