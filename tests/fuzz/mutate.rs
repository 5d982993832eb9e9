//! Bytes that are nearly right, and bytes that are not.

use crate::random::Random;

/// Numbers that stand at some border.
const NUMBERS: [u64; 12] = [
    0,
    1,
    255,
    256,
    65_535,
    9_223_372_036,
    9_223_372_037,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 1,
    u64::MAX,
    u32::MAX as u64,
];

/// One of these words.
pub fn one_of<'a, T: ?Sized>(random: &mut Random, words: &[&'a T]) -> &'a T {
    words[random.below(words.len() as u64) as usize]
}

pub fn number(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => *random.pick(&NUMBERS),
        1 => random.below(20),
        2 => random.next() >> random.below(64),
        _ => random.below(10_000),
    }
}

/// Up to, not including, `most` bytes of any kind.
pub fn bytes(random: &mut Random, most: u64) -> Vec<u8> {
    let length = random.below(most);
    // Few kinds of bytes meet each other more often than many.
    let plain = random.chance(50);
    (0..length)
        .map(|_| if plain { *random.pick(b" \n\r\t0a9/:.,-_[]{}\"\\=\xff\0") } else { random.next() as u8 })
        .collect()
}

/// Text as people write it, and as they do not.
pub fn text(random: &mut Random, most: u64, words: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..random.below(most) {
        match random.below(8) {
            0 => text.push(char::from_u32(random.below(0x11_0000) as u32).unwrap_or('\u{a0}')),
            1 => text.push(*random.pick(&[' ', '\t', '\u{a0}', '\n', '\0', '\u{1b}', '\u{202e}', 'é', '٣'])),
            2 => text.push_str(&number(random).to_string()),
            3 => text.push(random.below(128) as u8 as char),
            _ if words.is_empty() => text.push('x'),
            _ => text.push_str(one_of(random, words)),
        }
    }
    text
}

/// Changes something, once or a few times. `words` are bytes that mean something here.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, words: &[&[u8]]) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        let end = (at + 1 + random.below(16) as usize).min(input.len());
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 if at < input.len() => input[at] = *random.pick(b"\0\n\r \xff\x7f\x800"),
            3 if at < input.len() => drop(input.drain(at..end)),
            4 if at < input.len() => {
                let part = input[at..end].to_vec();
                let to = random.below(input.len() as u64 + 1) as usize;
                input.splice(to..to, part);
            }
            5 => drop(input.splice(at..at, bytes(random, 12))),
            6 => input.truncate(at),
            7 if !words.is_empty() => drop(input.splice(at..at, random.pick(words).to_vec())),
            8 => drop(input.splice(at..end.max(at), number(random).to_string().into_bytes())),
            _ => drop(input.splice(at..end.max(at), number(random).to_le_bytes())),
        }
    }
}
