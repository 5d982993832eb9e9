//! The bytes of the protocol: where a request ends, what it asks for, what an answer says, what a number is.

use dflock::lock::{Key, Kind, Space, Token};
use dflock::wire::answer::{Answer, Expect, Refusal};
use dflock::wire::{Frame, MAX_LINE, MAX_SECONDS, MAX_SECRET, Request, frame, next_frame, number};

use crate::harness::{Target, fuzz, modest};
use crate::mutate::{self, mutate};
use crate::random::Random;

const COMMANDS: [&[u8]; 18] = [
    b"auth",
    b"l",
    b"r",
    b"n",
    b"e",
    b"w",
    b"sl",
    b"se",
    b"sr",
    b"sn",
    b"sw",
    b"stats",
    b"ping",
    b"info",
    b"stable-ref",
    b"resume",
    b"sresume",
    b"zz",
];

const WORDS: [&[u8]; 14] = [
    b" HTTP/1.1\n",
    b"x y\nHost: z\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"auth\n_\n",
    b"l\nk\n0\n",
    b" ",
    b"\t",
    b"\xc2\xa0",
    b"+",
    b"-",
    b"_",
    b"resume 5",
];

const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// Three lines that are nearly a request.
pub fn request(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(&COMMANDS).to_vec();
    bytes.extend(ending(random));
    match random.below(6) {
        0 => bytes.extend(std::iter::repeat_n(b'k', (MAX_LINE - 2 + random.below(4) as usize).min(MAX_LINE + 1))),
        1 => bytes.extend(mutate::bytes(random, 10)),
        _ => bytes.extend(*random.pick(&[b"k".as_slice(), b"key-2", b"\xff", b"a b", b""])),
    }
    bytes.extend(ending(random));
    for _ in 0..random.below(4) {
        match random.below(8) {
            0 => bytes.extend(TOKEN.bytes()),
            1 => bytes.extend(*random.pick(&[b"resume".as_slice(), b"_", b"+5", b"-1", b"007", b"1.5"])),
            2 => bytes.extend(std::iter::repeat_n(b's', random.below(600) as usize)),
            _ => bytes.extend(mutate::number(random).to_string().bytes()),
        }
        bytes.extend(*random.pick(&[b" ".as_slice(), b" ", b"", b"\t", b"\xe2\x80\x83"]));
    }
    bytes.extend(ending(random));
    if random.chance(20) {
        mutate(random, &mut bytes, &WORDS);
    }
    bytes
}

fn ending(random: &mut Random) -> &'static [u8] {
    mutate::one_of(random, &[b"\n".as_slice(), b"\n", b"\n", b"\r\n", b"\r\r\n"])
}

#[test]
fn frames() {
    fuzz(&Target { name: "frame", inputs: 20_000, make: make_frames, check: check_frames, memory: modest });
}

fn make_frames(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0..4 => mutate::bytes(random, 100),
        4 => {
            // Around the longest secret and the longest line.
            let command = *random.pick(&[b"auth\n_\n".as_slice(), b"auth\r\n_\n", b"auth \n_\n", b"l\nk\n"]);
            let length = *random.pick(&[MAX_LINE, MAX_SECRET]) + random.below(4) as usize - 2;
            let mut bytes = [command, &vec![b's'; length]].concat();
            bytes.extend(*random.pick(&[b"\n".as_slice(), b"\r\n", b""]));
            bytes
        }
        _ => {
            let mut bytes = request(random);
            (0..random.below(3)).for_each(|_| bytes.extend(request(random)));
            bytes
        }
    }
}

/// What a frame is, in as few words as can be.
fn frame_of(input: &[u8]) -> Frame<'_> {
    let mut lines = Vec::new();
    let mut used = 0;
    while lines.len() < 3 {
        let limit = if lines.len() == 2 && lines[0] == b"auth" { MAX_SECRET } else { MAX_LINE };
        let rest = &input[used..];
        match rest.split(|byte| *byte == b'\n').next() {
            Some(line) if line.len() > limit => return Frame::TooLong,
            Some(line) if line.len() == rest.len() => return Frame::Partial { lines: lines.len() },
            Some(line) => {
                used += line.len() + 1;
                let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
                lines.push(&line[..end]);
                let (number, line) = (lines.len(), &line[..end]);
                let speaks_http = line.escape_ascii().to_string().contains(" HTTP/");
                let names_host = line.to_ascii_lowercase().starts_with(b"host:") && lines[0].contains(&b' ');
                if (number < 3 && speaks_http) || (number == 2 && names_host) {
                    return Frame::Http;
                }
            }
            None => unreachable!("there is always a line"),
        }
    }
    Frame::Whole { lines: [lines[0], lines[1], lines[2]], used }
}

fn check_frames(input: &[u8]) {
    let found = next_frame(input);
    assert_eq!(found, frame_of(input));
    // What was decided stays so, however few bytes were there then.
    let cuts = [input.len() / 3, input.len() / 2, input.len().saturating_sub(1)];
    for cut in cuts {
        match next_frame(&input[..cut]) {
            Frame::Partial { lines } => {
                if let Frame::Partial { lines: later } = found {
                    assert!(lines <= later, "fewer lines of more bytes");
                }
            }
            decided => assert_eq!(decided, found, "cut at {cut}"),
        }
    }
}

#[test]
fn requests() {
    fuzz(&Target { name: "request", inputs: 20_000, make: request, check: check_request, memory: modest });
}

fn check_request(input: &[u8]) {
    let Frame::Whole { lines, .. } = next_frame(input) else { return };
    let Ok(request) = Request::parse(lines) else { return };
    for seconds in seconds_of(&request) {
        assert!(seconds <= MAX_SECONDS, "{request:?}");
    }
    let (key, proof) = key_and_proof(&request);
    assert!(key.is_none_or(|key| !key.is_empty() && !key.iter().any(|byte| b" \t\r\n".contains(byte))), "{key:?}");
    assert!(proof.is_none_or(|proof| !proof.is_empty() && !proof.contains(&b' ')), "{proof:?}");
    // Written down, it is asked for again.
    let mut written = Vec::new();
    request.write(&mut written);
    let Frame::Whole { lines, used } = next_frame(&written) else { panic!("{request:?} is written as no request") };
    assert_eq!((Request::parse(lines), used), (Ok(request), written.len()));
}

/// All leases and timeouts; a lease is never 0.
fn seconds_of(request: &Request<'_>) -> Vec<u64> {
    let (timeout, lease) = match *request {
        Request::Acquire { timeout_s, lease_s, .. } => (Some(timeout_s), lease_s),
        Request::Renew { lease_s, .. } | Request::Enqueue { lease_s, .. } | Request::Resume { lease_s, .. } => {
            (None, lease_s)
        }
        Request::Wait { timeout_s, .. } => (Some(timeout_s), None),
        Request::Info { resume_s } => (resume_s, None),
        _ => (None, None),
    };
    assert_ne!(lease, Some(0), "{request:?}");
    timeout.into_iter().chain(lease).collect()
}

fn key_and_proof<'a>(request: &Request<'a>) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    match *request {
        Request::Acquire { key, .. } | Request::Enqueue { key, .. } | Request::Wait { key, .. } => (Some(key), None),
        Request::Release { key, token, .. } | Request::Renew { key, token, .. } => (Some(key), Some(token)),
        Request::Resume { key, proof, .. } => (Some(key), Some(proof)),
        _ => (None, None),
    }
}

/// A request that any client may write in its own way is understood as it was meant.
#[test]
fn meant_requests() {
    fuzz(&Target { name: "meant", inputs: 10_000, make: |random| mutate::bytes(random, 40), check, memory: modest });

    fn check(input: &[u8]) {
        let mut choices = crate::choices::Choices::new(input);
        let numbers = [0, 1, 7, MAX_SECONDS - 1, MAX_SECONDS];
        let space = *[Space::Locks, Space::Semaphores].get(choices.below(2)).unwrap();
        let limit = choices.pick(&[1, 2, i64::MAX as u64]);
        let kind = if space == Space::Locks { Kind::Lock } else { Kind::Semaphore { limit } };
        let timeout_s = choices.pick(&numbers);
        let lease_s = choices.pick(&[None, Some(1), Some(MAX_SECONDS)]);
        let key = choices.pick(&[b"k".as_slice(), b"\xff\0\x1b", "é\u{a0}".as_bytes()]);
        let token = TOKEN.as_bytes();
        let (name, meant, numbers) = match choices.below(6) {
            0 => ("l", Request::Acquire { key, kind, timeout_s, lease_s }, vec![Some(timeout_s), limit_of(kind)]),
            1 => ("e", Request::Enqueue { key, kind, lease_s }, vec![limit_of(kind)]),
            2 => ("w", Request::Wait { key, space, timeout_s }, vec![Some(timeout_s)]),
            3 => ("r", Request::Release { key, space, token }, vec![]),
            4 => ("n", Request::Renew { key, space, token, lease_s }, vec![]),
            _ => ("resume", Request::Resume { key, space, proof: token, lease_s }, vec![]),
        };
        let mut argument = String::new();
        let mut field = |text: String| {
            argument.push_str(choices.pick(&["", " ", "\t\u{a0}"]));
            argument.push_str(&text);
            argument.push_str(choices.pick(&[" ", "\u{2003} "]));
        };
        if matches!(name, "r" | "n" | "resume") {
            field(TOKEN.to_owned());
        }
        let lease = if matches!(name, "r" | "w") { None } else { lease_s };
        for (at, number) in numbers.into_iter().flatten().chain(lease).enumerate() {
            let sign = if (at + input.len()).is_multiple_of(2) { "+" } else { "" };
            field(format!("{sign}{}{number}", "0".repeat(input.len() % 5)));
        }
        let prefix = if space == Space::Semaphores { "s" } else { "" };
        let command = format!("{prefix}{name}");
        assert_eq!(Request::parse([command.as_bytes(), key, argument.as_bytes()]), Ok(meant), "{argument:?}");
    }

    fn limit_of(kind: Kind) -> Option<u64> {
        match kind {
            Kind::Lock => None,
            Kind::Semaphore { limit } => Some(limit),
        }
    }
}

#[test]
fn answers() {
    fuzz(&Target { name: "answer", inputs: 20_000, make: make_answer, check: check_answer, memory: modest });
}

fn make_answer(random: &mut Random) -> Vec<u8> {
    let words: [&[u8]; 12] = [
        b"ok",
        b"acquired",
        b"queued",
        b"timeout",
        b"error",
        b"error_auth",
        b"error_not_leader",
        b"error_max_locks",
        b"error_of_tomorrow",
        b"okay",
        b"{\"server\":\"dflock\",\"resume_s\":5}",
        b"HTTP/1.1 400",
    ];
    let mut bytes = random.pick(&words).to_vec();
    for _ in 0..random.below(4) {
        bytes.extend(*random.pick(&[b" ".as_slice(), b"  ", b"\t"]));
        match random.below(4) {
            0 => bytes.extend(TOKEN.bytes()),
            1 => bytes.extend(*random.pick(&words)),
            2 => bytes.extend(mutate::bytes(random, 6)),
            _ => bytes.extend(mutate::number(random).to_string().bytes()),
        }
    }
    if random.chance(30) {
        mutate(random, &mut bytes, &words);
    }
    bytes.retain(|byte| *byte != b'\n');
    bytes
}

fn check_answer(line: &[u8]) {
    for expect in [Expect::Done, Expect::Left, Expect::Granted, Expect::Place, Expect::Document] {
        let Some(answer) = Answer::parse(line, expect) else { continue };
        let fits = match answer {
            Answer::Done => expect == Expect::Done,
            Answer::Left { .. } => expect == Expect::Left,
            Answer::Granted { lease_s, .. } => expect == Expect::Granted && (1..=MAX_SECONDS).contains(&lease_s),
            Answer::Acquired { lease_s, .. } => expect == Expect::Place && (1..=MAX_SECONDS).contains(&lease_s),
            Answer::Queued { .. } => expect == Expect::Place,
            Answer::Document(json) => expect == Expect::Document && json.len() < line.len(),
            Answer::Timeout | Answer::Refused(_) => true,
        };
        assert!(fits, "{answer:?} to a request that expects {expect:?}");
        let is_refused = frame::without_cr(line).trim_ascii_start().starts_with(b"error");
        assert_eq!(matches!(answer, Answer::Refused(_)), is_refused, "{answer:?}");
        let mut written = Vec::new();
        answer.write(&mut written);
        assert_eq!(written.pop(), Some(b'\n'));
        // A document is any text: the end of a line may be cut off it again.
        if !matches!(answer, Answer::Document(_)) {
            assert!(!written.contains(&b'\n'), "an answer of two lines");
        }
        assert_eq!(Answer::parse(&written, expect), Some(answer));
        if let Answer::Refused(Refusal::Other(word)) = answer {
            assert!(word.starts_with("error_") || word.len() > 5, "{word} is no word of tomorrow");
        }
    }
}

#[test]
fn numbers() {
    fuzz(&Target { name: "number", inputs: 20_000, make, check, memory: modest });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut text = mutate::number(random).to_string().into_bytes();
        if random.chance(40) {
            text.insert(0, *random.pick(b"+-0"));
        }
        if random.chance(50) {
            mutate(random, &mut text, &[b"+", b"-", b"00", "٣".as_bytes(), b"_", b".", b"e3"]);
        }
        text
    }

    fn check(input: &[u8]) {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        let significant = digits.trim_start_matches('0');
        // Longer ones have more than 63 bits, whatever they are.
        let value = match (is_number, significant) {
            (false, _) => None,
            (true, "") => Some(0),
            (true, digits) if digits.len() > 20 => None,
            (true, digits) => digits.parse::<i128>().ok().filter(|value| *value <= i128::from(i64::MAX)),
        };
        let value = value.map(|value| if text.starts_with('-') { -value } else { value });
        let value = value.and_then(|value| u64::try_from(value).ok());
        assert_eq!(number::count(text), value);
        assert_eq!(number::seconds(text), value.filter(|value| *value <= MAX_SECONDS));
        assert_eq!(number::lease(text), value.filter(|value| (1..=MAX_SECONDS).contains(value)));
        assert_eq!(number::limit(text), value.filter(|value| *value > 0));
    }
}

#[test]
fn keys_and_tokens() {
    fuzz(&Target { name: "key", inputs: 10_000, make, check, memory: modest });

    fn make(random: &mut Random) -> Vec<u8> {
        let length = *random.pick(&[1, 2, 3, 10, 199, 200, 201, 255, 256, 257]);
        let mut key: Vec<u8> = (0..length).map(|_| *random.pick(b"abc/-_.:0")).collect();
        if random.chance(60) {
            let words: [&[u8]; 6] = [b" ", b"\0", "\u{a0}".as_bytes(), "\u{2028}".as_bytes(), b"\xff", b"\x1b[2J"];
            mutate(random, &mut key, &words);
        }
        key
    }

    /// Whatever is taken for a key is one request's key, unchanged; and no other way leads to one.
    fn check(input: &[u8]) {
        let is_white = |text: &str| text.chars().any(|letter| letter.is_whitespace() || letter == '\0');
        let fits = (1..=256).contains(&input.len())
            && !is_white(&String::from_utf8_lossy(input))
            && !input.iter().any(|byte| byte.is_ascii_whitespace());
        let key = Key::new(input);
        assert_eq!(key.is_ok(), fits, "{key:?}");
        let json = serde_json::to_string(input).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&json).is_ok(), fits, "a key from JSON");
        if let Ok(key) = key {
            assert_eq!(key.as_bytes(), input);
            let request = Request::Enqueue { key: input, kind: Kind::Lock, lease_s: None };
            let mut written = Vec::new();
            request.write(&mut written);
            let Frame::Whole { lines, .. } = next_frame(&written) else { panic!("no request") };
            assert_eq!(Request::parse(lines), Ok(request));
            assert_eq!(serde_json::from_str::<Key>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        }
        if let Ok(text) = std::str::from_utf8(input) {
            let fits = (1..=200).contains(&text.len()) && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
            assert_eq!(Token::new(text).is_ok(), fits);
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(serde_json::from_str::<Token>(&json).is_ok(), fits, "a token from JSON");
        }
    }
}
