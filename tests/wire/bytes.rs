//! Bytes as a talk writes them: read from its text, matched with what comes, and shown when they differ.

use std::collections::BTreeMap;

/// A piece of what is sent or expected.
pub(crate) enum Part {
    Bytes(Vec<u8>),
    /// 32 hex digits by their name.
    Token(String),
    /// The same in capitals.
    Upper(String),
    Int,
    Float,
}

/// Tokens and tickets seen so far.
pub(crate) type Tokens = BTreeMap<String, Vec<u8>>;

pub(crate) const TOKEN_LEN: usize = 32;

/// Reads the notation of a talk.
pub(crate) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        let part = match first {
            '\\' => {
                let (byte, used) = escaped(rest)?;
                plain.push(byte);
                rest = &rest[used..];
                continue;
            }
            '$' => {
                let (name, behind) = name(rest);
                rest = behind;
                Part::Token(name)
            }
            '<' => {
                let (inside, behind) = rest.split_once('>').ok_or_else(|| format!("no > behind <{rest}"))?;
                rest = behind;
                special(inside)?
            }
            other => {
                plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Bytes(std::mem::take(&mut plain)));
        }
        parts.push(part);
    }
    if !plain.is_empty() {
        parts.push(Part::Bytes(plain));
    }
    Ok(parts)
}

/// Reads a text without tokens and numbers.
pub(crate) fn parse_plain(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in parse(text)? {
        match part {
            Part::Bytes(more) => bytes.extend(more),
            _ => return Err(format!("only plain bytes may stand here: {text}")),
        }
    }
    Ok(bytes)
}

/// The byte that an escape stands for, and how much of `rest` belongs to it.
fn escaped(rest: &str) -> Result<(u8, usize), String> {
    let hex = |at: usize| rest.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    match rest.bytes().next() {
        Some(b'n') => Ok((b'\n', 1)),
        Some(b'r') => Ok((b'\r', 1)),
        Some(b't') => Ok((b'\t', 1)),
        Some(b'0') => Ok((0, 1)),
        Some(byte @ (b'\\' | b'$' | b'<')) => Ok((byte, 1)),
        Some(b'x') => hex(1).map(|byte| (byte, 3)).ok_or_else(|| format!("no two hex digits behind \\{rest}")),
        _ => Err(format!("unknown escape \\{rest}")),
    }
}

fn name(text: &str) -> (String, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

/// What stands in angle brackets.
fn special(inside: &str) -> Result<Part, String> {
    if let Some((text, times)) = inside.rsplit_once('*') {
        let times: usize = times.parse().map_err(|_not_a_number| format!("not a number of times: <{inside}>"))?;
        return Ok(Part::Bytes(parse_plain(text)?.repeat(times)));
    }
    match inside {
        "int" => Ok(Part::Int),
        "float" => Ok(Part::Float),
        _ => match inside.strip_prefix("upper $") {
            Some(token) => Ok(Part::Upper(token.to_owned())),
            None => Err(format!("unknown: <{inside}>")),
        },
    }
}

/// What is to be sent.
pub(crate) fn fill_in(parts: &[Part], tokens: &Tokens) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(plain) => bytes.extend_from_slice(plain),
            Part::Token(name) => bytes.extend_from_slice(known(tokens, name)?),
            Part::Upper(name) => bytes.extend(known(tokens, name)?.to_ascii_uppercase()),
            Part::Int | Part::Float => return Err("a number to be sent must be said".to_owned()),
        }
    }
    Ok(bytes)
}

pub(crate) fn known<'a>(tokens: &'a Tokens, name: &str) -> Result<&'a [u8], String> {
    tokens.get(name).map(Vec::as_slice).ok_or_else(|| format!("${name} has not been seen yet"))
}

pub(crate) enum Match {
    /// So many bytes are what was expected; these are the tokens known now.
    Whole(usize, Tokens),
    /// So far they are.
    Begun,
    Different,
}

/// Compares what came with what was expected to.
pub(crate) fn compare(expected: &[Part], tokens: &Tokens, received: &[u8]) -> Match {
    let mut tokens = tokens.clone();
    let mut at = 0;
    for part in expected {
        let rest = &received[at..];
        let used = match part {
            Part::Bytes(plain) => prefix(plain, rest),
            Part::Upper(name) => prefix(&tokens.get(name).cloned().unwrap_or_default().to_ascii_uppercase(), rest),
            Part::Int => run(rest, |byte| byte.is_ascii_digit()),
            Part::Float => run(rest, |byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'-' | b'+')),
            Part::Token(name) => match tokens.get(name) {
                Some(token) => prefix(token, rest),
                None => {
                    let used = new_token(rest);
                    if let Ok(used) = used {
                        tokens.insert(name.clone(), rest[..used].to_vec());
                    }
                    used
                }
            },
        };
        match used {
            Ok(used) => at += used,
            Err(stop) => return stop,
        }
    }
    Match::Whole(at, tokens)
}

fn prefix(expected: &[u8], rest: &[u8]) -> Result<usize, Match> {
    match rest.len() < expected.len() {
        false if rest.starts_with(expected) => Ok(expected.len()),
        true if expected.starts_with(rest) => Err(Match::Begun),
        _ => Err(Match::Different),
    }
}

/// A run ends where something else begins.
fn run(rest: &[u8], belongs: impl Fn(u8) -> bool) -> Result<usize, Match> {
    match rest.iter().position(|byte| !belongs(*byte)) {
        None => Err(Match::Begun),
        Some(0) => Err(Match::Different),
        Some(end) => Ok(end),
    }
}

fn new_token(rest: &[u8]) -> Result<usize, Match> {
    let digits = &rest[..rest.len().min(TOKEN_LEN)];
    match digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        false => Err(Match::Different),
        true if digits.len() < TOKEN_LEN => Err(Match::Begun),
        true => Ok(TOKEN_LEN),
    }
}

/// Bytes for people, the long ones shortened.
pub(crate) fn show(bytes: &[u8]) -> String {
    const LONG: usize = 600;
    let mut text = String::new();
    for byte in bytes.iter().take(LONG) {
        match byte {
            b'"' | b'\'' => text.push(char::from(*byte)),
            _ => text.push_str(&byte.escape_ascii().to_string()),
        }
    }
    if bytes.len() > LONG {
        text.push_str(&format!(" ... ({} bytes)", bytes.len()));
    }
    text
}

/// What was expected, for people.
pub(crate) fn show_parts(parts: &[Part], tokens: &Tokens) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Bytes(plain) => text.push_str(&show(plain)),
            Part::Token(name) | Part::Upper(name) => match tokens.get(name) {
                Some(token) => text.push_str(&show(token)),
                None => text.push_str(&format!("${name}")),
            },
            Part::Int => text.push_str("<int>"),
            Part::Float => text.push_str("<float>"),
        }
    }
    text
}
