//! What an etcd says, and how keys look there.

use dflock::backend::etcd::layout::{About, Layout, Proof, end_of};
use dflock::backend::etcd::messages::{
    AuthenticateResponse, KeyValue, LeaseGrantResponse, LeaseTimeToLiveResponse, RangeResponse, ResponseHeader,
    ResponseOp, TxnResponse, WatchResponse,
};
use dflock::lock::{Key, Space, Token};
use prost::Message;

use crate::choices::Choices;
use crate::harness::{Target, fuzz, modest};
use crate::mutate::{self, mutate};
use crate::random::Random;

#[test]
fn messages() {
    // A list has room for what may come, and many small things are larger here than on their way.
    let memory = |length| 64 * 1024 + 512 * length;
    fuzz(&Target { name: "etcd_message", inputs: 10_000, make, check, memory });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut bytes = match random.below(5) {
            0 => mutate::bytes(random, 60),
            1 => WatchResponse { canceled: true, cancel_reason: "compacted".to_owned(), ..WatchResponse::default() }
                .encode_to_vec(),
            2 => {
                let ttl = mutate::number(random).cast_signed();
                LeaseTimeToLiveResponse { header: header(random), ttl, granted_ttl: ttl }.encode_to_vec()
            }
            _ => {
                let responses =
                    (0..random.below(4)).map(|_| ResponseOp { range: Some(range(random)), ..ResponseOp::default() });
                let responses = responses.collect();
                TxnResponse { header: header(random), succeeded: true, responses }.encode_to_vec()
            }
        };
        if random.chance(70) {
            // Tags with lengths: a list in a list in a list.
            let words: [&[u8]; 7] =
                [b"\x12\0", b"\x0a\0", b"\x1a\x02\x0a\0", b"\x0b", b"\xff\xff\xff\xff\x0f", b"\x5a\0", b"\x08\x80"];
            mutate(random, &mut bytes, &words);
        }
        bytes
    }

    fn check(input: &[u8]) {
        round::<TxnResponse>(input);
        round::<RangeResponse>(input);
        round::<WatchResponse>(input);
        round::<LeaseGrantResponse>(input);
        round::<LeaseTimeToLiveResponse>(input);
        round::<AuthenticateResponse>(input);
    }

    /// Written down, it is read again.
    fn round<T: Message + Default + PartialEq + std::fmt::Debug>(input: &[u8]) {
        if let Ok(message) = T::decode(input) {
            let again = T::decode(message.encode_to_vec().as_slice());
            assert!(again.is_ok_and(|again| again == message), "{message:?} is read as something else");
        }
    }

    fn header(random: &mut Random) -> Option<ResponseHeader> {
        let number = mutate::number(random);
        Some(ResponseHeader { cluster_id: number, revision: number.cast_signed(), raft_term: number })
    }

    fn range(random: &mut Random) -> RangeResponse {
        let one = |random: &mut Random| KeyValue {
            key: mutate::bytes(random, 20),
            create_revision: mutate::number(random).cast_signed(),
            value: mutate::bytes(random, 20),
            lease: mutate::number(random).cast_signed(),
        };
        let kvs = (0..random.below(4)).map(|_| one(random)).collect();
        RangeResponse { header: None, kvs, more: random.chance(50), count: 7 }
    }
}

/// As etcd itself writes a list, fields included that are none of ours.
#[test]
fn fields() {
    fuzz(&Target {
        name: "etcd_fields",
        inputs: 10_000,
        make: |random| mutate::bytes(random, 60),
        check,
        memory: modest,
    });

    fn check(input: &[u8]) {
        let mut choices = Choices::new(input);
        let mut number = || choices.pick(&[0, 1, 127, 128, i64::MAX as u64, u64::MAX]);
        let header = [field(1, number()), field(2, 77), field(3, number()), field(4, number())].concat();
        let (created, lease, count) = (number(), number(), number());
        let (key, value) = (choices.take(5), choices.take(9));
        let kv =
            [bytes(1, key), field(2, created), field(3, 8), field(4, 9), bytes(5, value), field(6, lease)].concat();
        let list =
            [bytes(1, &header), bytes(2, &kv), field(3, 1), bytes(2, &kv), field(4, count), bytes(99, b"?")].concat();
        let read = RangeResponse::decode(list.as_slice()).expect("a list");
        let mut choices = Choices::new(input);
        let mut number = || choices.pick(&[0, 1, 127, 128, i64::MAX as u64, u64::MAX]);
        let (cluster_id, revision, raft_term) = (number(), number().cast_signed(), number());
        assert_eq!(read.header, Some(ResponseHeader { cluster_id, revision, raft_term }));
        let (create_revision, lease) = (created.cast_signed(), lease.cast_signed());
        let kv = KeyValue { key: key.to_vec(), create_revision, value: value.to_vec(), lease };
        assert_eq!((read.kvs, read.more, read.count), (vec![kv.clone(), kv], true, count.cast_signed()));
    }

    fn field(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    fn bytes(number: u64, bytes: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
}

const NAMES: [&[u8]; 13] =
    [b"a", b"/", b"%", b"%2F", b"%25", b"2F", b"lock", b"dflock-semaphores", b"dflock/", b"\xff", b"1", b"f", b"p/"];

fn name(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut name = Vec::new();
    for _ in 0..=choices.below(4) {
        name.extend(choices.pick(&NAMES));
    }
    name
}

/// No two locks share a key, and every key leads back to its lock.
#[test]
fn layout() {
    fuzz(&Target {
        name: "etcd_layout",
        inputs: 20_000,
        make: |random| mutate::bytes(random, 40),
        check,
        memory: modest,
    });

    fn check(input: &[u8]) {
        let mut choices = Choices::new(input);
        let prefix = choices.pick(&[None, Some("p/"), Some("p"), Some("dflock/lock/"), Some("")]);
        let layout = Layout::new(prefix.map(str::to_owned));
        let mut all = Vec::new();
        for _ in 0..2 {
            let space = choices.pick(&[Space::Locks, Space::Semaphores]);
            let name = name(&mut choices);
            let Ok(key) = Key::new(&name) else { continue };
            let Ok(queue) = layout.queue(&key, space) else { continue };
            let lease = choices.pick(&[1, 0xf, 0x694d_7a1b_0000_0001, i64::MAX]);
            let mine = queue.key(lease);
            assert!(mine.starts_with(queue.folder()) && mine < end_of(queue.folder()));
            assert_eq!(layout.name_of(space, &mine).as_deref(), Some(name.as_slice()));
            for cut in 0..=name.len() {
                assert!(
                    mine.starts_with(&layout.narrowed(space, &name[..cut])),
                    "{:?}",
                    mine.escape_ascii().to_string()
                );
            }
            all.push((space, name, queue, mine));
        }
        if let [(space, name, _, mine), (other_space, other_name, other, _)] = &all[..]
            && (space, name) != (other_space, other_name)
        {
            let inside = mine.as_slice() >= other.folder() && *mine < end_of(other.folder());
            assert!(!inside, "a key of {} is in the range of {}", name.escape_ascii(), other_name.escape_ascii());
        }
        // Somebody else's key.
        let foreign = [prefix.unwrap_or("dflock/lock/").as_bytes(), choices.take(usize::MAX)].concat();
        for space in [Space::Locks, Space::Semaphores] {
            let Some(name) = layout.name_of(space, &foreign) else { continue };
            let queue = Key::new(&name).ok().and_then(|key| layout.queue(&key, space).ok());
            assert!(queue.is_none_or(|queue| foreign.starts_with(queue.folder())), "{}", foreign.escape_ascii());
        }
    }
}

/// Tokens, and what stands in keys.
#[test]
fn tokens_and_values() {
    fuzz(&Target { name: "etcd_token", inputs: 20_000, make, check, memory: |length| 64 * 1024 + 256 * length });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut bytes = match random.below(3) {
            0 => format!("{:016x}{:016x}", mutate::number(random), mutate::number(random)).into_bytes(),
            1 => br#"{"limit":3,"host":"h","pid":1,"holds":true}"#.to_vec(),
            _ => vec![*random.pick(b"{[0f+-"); random.below(40) as usize],
        };
        if random.chance(60) {
            mutate(
                random,
                &mut bytes,
                &[b"0", b"f", b"+", b"-", b"{", b"\"limit\":-1", b"[[", b"null", b"1e999", b"\xff"],
            );
        }
        bytes
    }

    fn check(input: &[u8]) {
        let about = About::read(input);
        assert_eq!(About::read(&about.write()), about);
        let Ok(token) = std::str::from_utf8(input).map_err(|_| ()).and_then(|text| Token::new(text).map_err(|_| ()))
        else {
            return;
        };
        if let Some(proof) = Proof::of(&token) {
            assert!(proof.created > 0 && proof.lease > 0);
            let again = proof.token().expect("a token");
            assert_eq!(again.as_str(), token.as_str().to_ascii_lowercase());
            assert_eq!(Proof::of(&again), Some(proof));
        }
    }
}
