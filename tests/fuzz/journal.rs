//! A journal, whatever became of its bytes: it is read to where it can be trusted, or refused, and never guessed at.

use std::collections::VecDeque;
use std::time::Duration;

use dflock::clock::Moment;
use dflock::lock::Kind;
use dflock::server::journal::downtime::Times;
use dflock::server::journal::frame::{FRAME, Frame, HEADER, Header, VERSION};
use dflock::server::journal::kept::Kept;
use dflock::server::journal::record::{self, Record};
use dflock::server::journal::replay::{Damage, Replayed, replay};
use dflock::server::stamp::Stamp;
use dflock::server::table::{Change, End, Limits, Turn};

use crate::choices::Choices;
use crate::harness::{Target, fuzz};
use crate::mutate::{self, mutate};
use crate::random::Random;
use crate::table::Play;

const HEAD: Header = Header { nonce: 0x1234_5678_9abc_def0, boot: [3; 16] };

/// What is kept is a few times as large in memory as in the file, and tables grow by doubling.
fn memory(length: usize) -> usize {
    256 * 1024 + 64 * length
}

/// A journal as the server writes it.
struct Written {
    bytes: Vec<u8>,
    frames: Vec<Told>,
}

/// One frame.
struct Told {
    end: usize,
    synced_to: usize,
    /// What is kept by its end, as records, and whether the beginning is complete by then.
    kept: Vec<u8>,
    complete: bool,
}

impl Written {
    /// From what happens to a table. Begun slice by slice while more happens, as the server does.
    fn new(choices: &mut Choices<'_>) -> Written {
        let mut play = Play::new(choices);
        (0..choices.below(30)).for_each(|_| play.step(choices));
        'anew: loop {
            let restarts = play.restarts;
            let mut bytes = Vec::new();
            HEAD.write(&mut bytes);
            let mut written = Written { bytes, frames: Vec::new() };
            let mut told = Kept::default();
            let mut records = Vec::new();
            let mut cursor = Some(play.kept().begin_snapshot(&mut records));
            let mut synced_to = 0;
            play.happened.clear();
            for step in 0.. {
                (0..choices.below(4)).for_each(|_| play.step(choices));
                if play.restarts != restarts {
                    continue 'anew;
                }
                if let Some(from) = cursor {
                    cursor = play.kept().snapshot(from, choices.pick(&[1, 100, 4096]), &mut records);
                }
                for change in play.happened.drain(..) {
                    record::write(&change, &mut records);
                }
                fold(&mut told, &records);
                written.frame(&std::mem::take(&mut records), &told, synced_to, cursor.is_none());
                if cursor.is_none() {
                    assert_eq!(told.to_records(), play.kept().to_records(), "what is written is not what is held");
                    if choices.below(3) > 0 {
                        synced_to = written.bytes.len();
                    }
                }
                if step > 20 || (choices.is_over() && cursor.is_none()) {
                    return written;
                }
            }
        }
    }

    fn frame(&mut self, records: &[u8], kept: &Kept, synced_to: usize, complete: bool) {
        let at = self.bytes.len() as u64;
        let times = Times { server: Moment::from_nanos(at), wall: at };
        Frame { synced_to: synced_to as u64, times, records }.write(HEAD, at, &mut self.bytes);
        self.frames.push(Told { end: self.bytes.len(), synced_to, kept: kept.to_records(), complete });
    }
}

fn fold(kept: &mut Kept, mut records: &[u8]) {
    while !records.is_empty() {
        match record::read(&mut records).expect("a record of ours") {
            Record::Happened(change) => kept.apply(&change),
            Record::LastNumber(number) => kept.count(number),
            Record::Complete => {}
        }
    }
}

fn changes_of(mut records: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some(record) = record::read(&mut records) {
        if let Record::Happened(change) = record {
            changes.push(change);
        }
    }
    changes
}

fn make_choices(random: &mut Random) -> Vec<u8> {
    let length = 20 + random.below(600);
    (0..length).map(|_| random.next() as u8).collect()
}

/// Arbitrary bytes, and journals with something changed in them.
#[test]
fn raw() {
    fuzz(&Target { name: "journal_raw", inputs: 3_000, make, check, memory });

    fn make(random: &mut Random) -> Vec<u8> {
        if random.chance(10) {
            return mutate::bytes(random, 200);
        }
        let mut bytes = Written::new(&mut Choices::new(&make_choices(random))).bytes;
        if random.chance(80) {
            let words: [&[u8]; 4] = [&[0xd1, 0x0c, 0xf1, 0x0a], &[0; 40], b"dflock state", &[0xff; 8]];
            mutate(random, &mut bytes, &words);
        }
        if random.chance(30) {
            bytes.resize(bytes.len() + random.below(5000) as usize, 0);
        }
        bytes
    }

    fn check(input: &[u8]) {
        let Ok(read) = replay(input) else { return };
        let Replayed { end, torn, .. } = read;
        assert!(HEADER + FRAME <= end && end + torn <= input.len());
        // What was read is all that it was read from.
        let again = replay(&input[..end]).expect("its good part is good");
        assert_eq!((again.end, again.torn, again.kept.to_records()), (end, 0, read.kept.to_records()));
        go_on(read, true);
    }
}

/// Journals with one thing done to them, for which it is known what must come of it.
#[test]
fn damaged() {
    fuzz(&Target { name: "journal_damaged", inputs: 3_000, make: make_choices, check, memory: |_| 8 * 1024 * 1024 });

    fn check(input: &[u8]) {
        let mut choices = Choices::new(input);
        let damage = choices.below(5);
        let place = choices.take(2).iter().fold(0, |place, byte| place << 8 | usize::from(*byte));
        let (length, value) = (1 + choices.below(256), choices.below(256) as u8);
        let written = Written::new(&mut choices);
        let mut bytes = written.bytes.clone();
        let at = place % (bytes.len() + 1);
        let end = (at + length).min(bytes.len());
        match damage {
            0 => bytes.truncate(at),
            1 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= value),
            2 => bytes[at..end].fill(0),
            3 => drop(bytes.splice(at..at, vec![value; length])),
            _ => drop(bytes.drain(at..end)),
        }
        bytes.resize(bytes.len() + choices.pick(&[0, 1, 3000]), 0);
        expect(&written, &bytes);
    }

    /// Reads as far as nothing is changed. Whatever was on disk for sure by a later frame must not be missing.
    fn expect(written: &Written, bytes: &[u8]) {
        let same = written.bytes.iter().zip(bytes).take_while(|(ours, theirs)| ours == theirs).count();
        let whole = written.frames.iter().take_while(|frame| frame.end <= same).count();
        let reached = written.frames[..whole].last().map_or(HEADER, |frame| frame.end);
        let mut begin = HEADER;
        let mut proved = false;
        for (number, frame) in written.frames.iter().enumerate() {
            let is_intact = bytes.get(begin..frame.end).is_some_and(|there| there == &written.bytes[begin..frame.end]);
            proved |= number > whole && is_intact && frame.synced_to > reached;
            begin = frame.end;
        }
        let complete = written.frames[..whole].last().is_some_and(|frame| frame.complete);
        match replay(bytes) {
            Err(Damage::Header(_)) => assert!(same < HEADER, "the header is as it was"),
            _ if same < HEADER => panic!("a damaged header was read"),
            Err(Damage::Frame { at }) => assert!(at == reached && proved, "refused at {at} without reason"),
            _ if proved => panic!("what was on disk for sure is missing, and nobody is told"),
            Err(Damage::CutShort { at }) => assert!(at == reached && !complete, "cut short at {at}"),
            Err(Damage::Records { at }) => panic!("records of ours at {at} make no sense"),
            Err(Damage::NumberTwice) => panic!("a number of ours was given out twice"),
            Ok(read) => {
                assert!(complete, "what it begins with is not complete");
                let told = &written.frames[whole - 1];
                assert_eq!((read.end, &read.kept.to_records()), (told.end, &told.kept));
                go_on(read, true);
            }
        }
    }
}

/// Something that may happen, or not: nothing of it belongs together.
fn change(choices: &mut Choices<'_>) -> Change {
    // Few of each, so that things meet.
    let mut number = || 1 + choices.below(24) as u64;
    let (stamp, ticket) = (Stamp { number: number(), salt: number() }, Stamp { number: number(), salt: number() });
    let until = choices.pick(&[Moment::from_nanos(5_000_000_000), Moment::from_nanos(90_000_000_000), Moment::NEVER]);
    let key = choices.pick(&[b"a".as_slice(), b"key-2", &[0xd1, 0x0c, 0xf1, 0x0a, 4, 0, 0, 0], &[b'k'; 256]]).into();
    let kind = choices.pick(&[Kind::Lock, Kind::Semaphore { limit: 2 }, Kind::Semaphore { limit: 3 }]);
    let lease_s = choices.pick(&[1, 10, 9_223_372_036]);
    let resume = Duration::from_millis(choices.pick(&[0, 1500, 300_000]));
    match choices.below(8) {
        0..3 => {
            let ticket = if choices.below(3) == 0 { Some(ticket) } else { None };
            Change::Granted { key, kind, stamp, ticket, lease_s, until, known: choices.below(5) > 0 }
        }
        3 => Change::Renewed { fence: stamp.number, lease_s, until },
        4 => {
            Change::Ended { fence: stamp.number, why: choices.pick(&[End::Released, End::Expired, End::Disconnected]) }
        }
        5 => Change::Queued { key, kind, ticket, lease_s, resume },
        6 => Change::Left { place: ticket.number },
        _ => Change::Resumed { number: ticket.number, lease_s, resume },
    }
}

/// Frames that check out, whatever they say: as somebody with a key to the directory could write them.
#[test]
fn framed() {
    fuzz(&Target { name: "journal_framed", inputs: 8_000, make, check, memory });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut records = Vec::new();
        let choices = make_choices(random);
        let mut choices = Choices::new(&choices);
        for _ in 0..random.below(12) {
            record::write(&change(&mut choices), &mut records);
        }
        if random.chance(20) {
            record::write_last_number(mutate::number(random), &mut records);
        }
        if random.chance(60) {
            mutate(random, &mut records, &[&[1, 1], &[4, 0], &[2], &[0; 8], &[0xff; 8], &[1, 0, 0, 0, 0, 0, 0, 0]]);
        }
        records
    }

    fn check(input: &[u8]) {
        let mut bytes = Vec::new();
        HEAD.write(&mut bytes);
        let times = Times { server: Moment::from_nanos(1), wall: 1 };
        let mut first = Kept::default().to_records();
        first.extend(input);
        Frame { synced_to: 0, times, records: &first }.write(HEAD, HEADER as u64, &mut bytes);
        match replay(&bytes) {
            Ok(read) => {
                assert_eq!((read.end, read.torn), (bytes.len(), 0));
                go_on(read, false);
            }
            Err(Damage::Records { at }) => assert_eq!(at, HEADER),
            Err(Damage::NumberTwice) => {}
            Err(damage) => panic!("a frame that checks out is {damage:?}"),
        }
    }
}

/// A header of any version, checked by its sum.
#[test]
fn headers() {
    fuzz(&Target { name: "journal_header", inputs: 8_000, make, check, memory });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut header = Vec::new();
        HEAD.write(&mut header);
        mutate(random, &mut header, &[b"dflock state", &[1, 0, 0, 0], &[0; 4]]);
        header
    }

    fn check(input: &[u8]) {
        let mut header = input.to_vec();
        if let Some((summed, _)) = header.split_at_checked(HEADER - 4) {
            let sum = crc32fast::hash(summed).to_le_bytes();
            header.truncate(HEADER - 4);
            header.extend(sum);
        }
        match Header::read(&header) {
            Ok(read) => {
                assert_eq!(&header[..12], b"dflock state");
                assert!(u32::from_le_bytes([header[12], header[13], header[14], header[15]]) <= VERSION);
                assert_eq!(read.nonce.to_le_bytes(), header[16..24]);
            }
            Err(_) => assert!(replay(&header).is_err()),
        }
    }
}

/// A server starts with what was read: it writes it down anew, makes a table of it, and serves. What is ours makes
/// a sound table, too.
fn go_on(read: Replayed, is_ours: bool) {
    let mut kept = read.kept;
    let (then, now) = (Moment::from_nanos(6_000_000_000), Moment::from_nanos(1_000_000_000));
    kept.wake(then, now, 77);
    let mut bytes = Vec::new();
    HEAD.write(&mut bytes);
    let records = kept.to_records();
    Frame { synced_to: 0, times: read.last, records: &records }.write(HEAD, HEADER as u64, &mut bytes);
    let again = replay(&bytes).expect("what was written anew is read");
    assert_eq!(again.kept.to_records(), records);
    let changes = changes_of(&records);
    assert_eq!(
        (again.kept.held(), again.kept.queued(), again.kept.bytes()),
        (kept.held(), kept.queued(), kept.bytes())
    );

    let limits = Limits { keys: 8, waiters: 0, idle: Duration::from_secs(60), auto_release: true };
    let mut table = kept.table(limits, now);
    assert_eq!(table.load().held, kept.held(), "a grant was lost");
    assert_eq!(table.load().waiting, kept.queued(), "a place was lost");
    let mut verdicts = VecDeque::new();
    let mut salt = || 5;
    let mut turn = Turn { now, salt: &mut salt, changes: None, verdicts: &mut verdicts };
    if is_ours {
        table.check().expect("the table is sound");
    }
    let conn = table.connect();
    // Everybody comes back, and asks for more; then everything ends.
    for change in changes {
        let (key, kind, proofs) = match &change {
            Change::Granted { key, kind, stamp, ticket, .. } => (key, *kind, [Some(*stamp), *ticket]),
            Change::Queued { key, kind, ticket, .. } => (key, *kind, [None, Some(*ticket)]),
            _ => continue,
        };
        for proof in proofs.into_iter().flatten() {
            let (proof, other) = (proof.hex(), table.connect());
            let proof = proof.as_str().as_bytes();
            let _ = table.resume(&mut turn, other, key, kind.space(), proof, None);
            table.wait(&mut turn, other, key, kind.space(), Duration::from_secs(1));
            table.release(&mut turn, key, kind.space(), proof);
            while !table.disconnect(&mut turn, other) {}
        }
        table.acquire(&mut turn, conn, key, kind, 10, Duration::from_secs(1));
        table.enqueue(&mut turn, conn, key, kind, 10);
    }
    while table.next_due() != Moment::NEVER {
        turn.now = turn.now.max(table.next_due());
        table.run_out(&mut turn);
    }
    while !table.disconnect(&mut turn, conn) {}
    if is_ours {
        table.check().expect("the table is sound to the end");
    }
}
