//! Requests: three lines to a typed request and back, without allocation.

use std::io::Write;

use super::number;
use crate::lock::{Kind, Space};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Auth {
        secret: &'a [u8],
    },
    Acquire {
        key: &'a [u8],
        kind: Kind,
        timeout_s: u64,
        lease_s: Option<u64>,
    },
    Release {
        key: &'a [u8],
        space: Space,
        token: &'a [u8],
    },
    Renew {
        key: &'a [u8],
        space: Space,
        token: &'a [u8],
        lease_s: Option<u64>,
    },
    Enqueue {
        key: &'a [u8],
        kind: Kind,
        lease_s: Option<u64>,
    },
    Wait {
        key: &'a [u8],
        space: Space,
        timeout_s: u64,
    },
    /// Take over a lock or a queue place that a broken connection left behind.
    Resume {
        key: &'a [u8],
        space: Space,
        proof: &'a [u8],
        lease_s: Option<u64>,
    },
    /// A name under which a cluster finds this client again on another connection.
    StableRef {
        name: &'a [u8],
    },
    Stats,
    Ping,
    /// What the server is; with seconds, also a wish that this connection's locks outlive it by them.
    Info {
        resume_s: Option<u64>,
    },
}

/// A request that breaks a rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Request<'a> {
    pub fn parse([command, key, argument]: [&'a [u8]; 3]) -> Result<Request<'a>, Malformed> {
        let request = match command {
            b"auth" => Request::Auth { secret: super::trim(argument) },
            b"stats" => Request::Stats,
            b"ping" => Request::Ping,
            b"stable-ref" => Request::StableRef { name: key },
            b"info" => Request::Info { resume_s: parse_info(argument)? },
            b"l" => {
                let (timeout, lease) = one_or_two(argument)?;
                Request::Acquire { key, kind: Kind::Lock, timeout_s: seconds(timeout)?, lease_s: lease_of(lease)? }
            }
            b"sl" => {
                let mut fields = fields(argument)?;
                let timeout_s = seconds(fields.next().ok_or(Malformed)?)?;
                let limit = number::limit(fields.next().ok_or(Malformed)?).ok_or(Malformed)?;
                let lease_s = last(fields)?;
                Request::Acquire { key, kind: Kind::Semaphore { limit }, timeout_s, lease_s }
            }
            b"e" => Request::Enqueue { key, kind: Kind::Lock, lease_s: last(fields(argument)?)? },
            b"se" => {
                let (limit, lease) = one_or_two(argument)?;
                let limit = number::limit(limit).ok_or(Malformed)?;
                Request::Enqueue { key, kind: Kind::Semaphore { limit }, lease_s: lease_of(lease)? }
            }
            b"r" | b"sr" => Request::Release { key, space: space_of(command), token: only(argument)?.as_bytes() },
            b"n" | b"sn" => {
                let (token, lease) = one_or_two(argument)?;
                Request::Renew { key, space: space_of(command), token: token.as_bytes(), lease_s: lease_of(lease)? }
            }
            b"w" | b"sw" => Request::Wait { key, space: space_of(command), timeout_s: seconds(only(argument)?)? },
            b"resume" | b"sresume" => {
                let (proof, lease) = one_or_two(argument)?;
                Request::Resume { key, space: space_of(command), proof: proof.as_bytes(), lease_s: lease_of(lease)? }
            }
            _ => return Err(Malformed),
        };
        match request.key() {
            Some(key) if !is_key(key) => Err(Malformed),
            _ => Ok(request),
        }
    }

    fn key(&self) -> Option<&'a [u8]> {
        match self {
            Request::Acquire { key, .. }
            | Request::Release { key, .. }
            | Request::Renew { key, .. }
            | Request::Enqueue { key, .. }
            | Request::Wait { key, .. }
            | Request::Resume { key, .. } => Some(key),
            Request::Auth { .. }
            | Request::StableRef { .. }
            | Request::Stats
            | Request::Ping
            | Request::Info { .. } => None,
        }
    }

    /// Appends the three lines. The caller has checked key, token and secret: no line ends in them.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Request::Auth { secret } => lines(out, b"auth", b"_", |out| out.extend_from_slice(secret)),
            Request::StableRef { name } => lines(out, b"stable-ref", name, |_| ()),
            Request::Stats => lines(out, b"stats", b"_", |out| out.push(b'_')),
            Request::Ping => lines(out, b"ping", b"_", |out| out.push(b'_')),
            Request::Info { resume_s: None } => lines(out, b"info", b"_", |out| out.push(b'_')),
            Request::Info { resume_s: Some(seconds) } => {
                lines(out, b"info", b"_", |out| put(out, format_args!("resume {seconds}")));
            }
            Request::Acquire { key, kind: Kind::Lock, timeout_s, lease_s } => {
                lines(out, b"l", key, |out| {
                    put(out, format_args!("{timeout_s}"));
                    put_lease(out, lease_s);
                });
            }
            Request::Acquire { key, kind: Kind::Semaphore { limit }, timeout_s, lease_s } => {
                lines(out, b"sl", key, |out| {
                    put(out, format_args!("{timeout_s} {limit}"));
                    put_lease(out, lease_s);
                });
            }
            Request::Enqueue { key, kind: Kind::Lock, lease_s } => {
                lines(out, b"e", key, |out| {
                    if let Some(lease_s) = lease_s {
                        put(out, format_args!("{lease_s}"));
                    }
                });
            }
            Request::Enqueue { key, kind: Kind::Semaphore { limit }, lease_s } => {
                lines(out, b"se", key, |out| {
                    put(out, format_args!("{limit}"));
                    put_lease(out, lease_s);
                });
            }
            Request::Release { key, space, token } => {
                lines(out, pick(space, b"r", b"sr"), key, |out| out.extend_from_slice(token));
            }
            Request::Renew { key, space, token, lease_s } => {
                lines(out, pick(space, b"n", b"sn"), key, |out| {
                    out.extend_from_slice(token);
                    put_lease(out, lease_s);
                });
            }
            Request::Wait { key, space, timeout_s } => {
                lines(out, pick(space, b"w", b"sw"), key, |out| put(out, format_args!("{timeout_s}")));
            }
            Request::Resume { key, space, proof, lease_s } => {
                lines(out, pick(space, b"resume", b"sresume"), key, |out| {
                    out.extend_from_slice(proof);
                    put_lease(out, lease_s);
                });
            }
        }
    }
}

fn is_key(key: &[u8]) -> bool {
    !key.is_empty() && !key.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

fn space_of(command: &[u8]) -> Space {
    if command[0] == b's' { Space::Semaphores } else { Space::Locks }
}

fn pick(space: Space, locks: &'static [u8], semaphores: &'static [u8]) -> &'static [u8] {
    match space {
        Space::Locks => locks,
        Space::Semaphores => semaphores,
    }
}

fn fields(argument: &[u8]) -> Result<std::str::SplitWhitespace<'_>, Malformed> {
    // What is not UTF-8 can be neither a number nor a token.
    let text = std::str::from_utf8(argument).map_err(|_not_utf8| Malformed)?;
    Ok(text.split_whitespace())
}

fn only(argument: &[u8]) -> Result<&str, Malformed> {
    let mut fields = fields(argument)?;
    match (fields.next(), fields.next()) {
        (Some(field), None) => Ok(field),
        _ => Err(Malformed),
    }
}

fn one_or_two(argument: &[u8]) -> Result<(&str, Option<&str>), Malformed> {
    let mut fields = fields(argument)?;
    match (fields.next(), fields.next(), fields.next()) {
        (Some(first), second, None) => Ok((first, second)),
        _ => Err(Malformed),
    }
}

/// A lease, if one is left, and nothing behind it.
fn last(mut fields: std::str::SplitWhitespace<'_>) -> Result<Option<u64>, Malformed> {
    let lease = lease_of(fields.next())?;
    if fields.next().is_some() { Err(Malformed) } else { Ok(lease) }
}

fn lease_of(field: Option<&str>) -> Result<Option<u64>, Malformed> {
    field.map(|text| number::lease(text).ok_or(Malformed)).transpose()
}

fn seconds(field: &str) -> Result<u64, Malformed> {
    number::seconds(field).ok_or(Malformed)
}

fn parse_info(argument: &[u8]) -> Result<Option<u64>, Malformed> {
    let mut fields = fields(argument)?;
    match (fields.next(), fields.next(), fields.next()) {
        (None | Some("_"), None, None) => Ok(None),
        (Some("resume"), Some(text), None) => seconds(text).map(Some),
        _ => Err(Malformed),
    }
}

fn lines(out: &mut Vec<u8>, command: &[u8], key: &[u8], argument: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(command);
    out.push(b'\n');
    out.extend_from_slice(key);
    out.push(b'\n');
    argument(out);
    out.push(b'\n');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

fn put_lease(out: &mut Vec<u8>, lease_s: Option<u64>) {
    if let Some(lease_s) = lease_s {
        put(out, format_args!(" {lease_s}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, next_frame};
    use super::*;

    const TOKEN: &[u8] = b"00112233445566778899aabbccddeeff";

    #[test]
    fn what_is_written_is_read_back() {
        let key = b"job".as_slice();
        let pool = Kind::Semaphore { limit: 3 };
        let mut all = vec![
            Request::Auth { secret: b"s3 cret" },
            Request::StableRef { name: b"0123" },
            Request::Stats,
            Request::Ping,
            Request::Info { resume_s: None },
            Request::Info { resume_s: Some(30) },
        ];
        for lease_s in [None, Some(7)] {
            for kind in [Kind::Lock, pool] {
                all.push(Request::Acquire { key, kind, timeout_s: 10, lease_s });
                all.push(Request::Enqueue { key, kind, lease_s });
            }
            for space in [Space::Locks, Space::Semaphores] {
                all.push(Request::Release { key, space, token: TOKEN });
                all.push(Request::Renew { key, space, token: TOKEN, lease_s });
                all.push(Request::Wait { key, space, timeout_s: 0 });
                all.push(Request::Resume { key, space, proof: TOKEN, lease_s });
            }
        }
        for request in all {
            let mut bytes = Vec::new();
            request.write(&mut bytes);
            let Frame::Whole { lines, used } = next_frame(&bytes) else { panic!("not a whole request: {request:?}") };
            assert_eq!(used, bytes.len());
            assert_eq!(Request::parse(lines), Ok(request));
        }
    }

    #[test]
    fn white_space_of_any_kind_parts_the_argument() {
        let parsed = Request::parse([b"l", b"k", "  1\u{a0}\t5 ".as_bytes()]);
        assert_eq!(parsed, Ok(Request::Acquire { key: b"k", kind: Kind::Lock, timeout_s: 1, lease_s: Some(5) }));
    }

    #[test]
    fn refuses_what_breaks_a_rule() {
        let bad: [[&[u8]; 3]; 20] = [
            [b"L", b"k", b"1"],
            [b"l ", b"k", b"1"],
            [b"", b"k", b"1"],
            [b"l", b"", b"1"],
            [b"l", b"a b", b"1"],
            [b"l", b"a\tb", b"1"],
            [b"l", b"a\rb", b"1"],
            [b"l", b"k", b""],
            [b"l", b"k", b"-1"],
            [b"l", b"k", b"1 0"],
            [b"l", b"k", b"1 2 3"],
            [b"l", b"k", b"9223372037"],
            [b"l", b"k", b"\xff"],
            [b"sl", b"k", b"1"],
            [b"sl", b"k", b"1 0"],
            [b"e", b"k", b"1 2"],
            [b"r", b"k", b""],
            [b"n", b"k", b"token 0"],
            [b"w", b"k", b""],
            [b"info", b"_", b"resume"],
        ];
        for lines in bad {
            assert_eq!(Request::parse(lines), Err(Malformed), "{lines:?}");
        }
    }

    #[test]
    fn keys_may_hold_any_other_byte() {
        for key in [b"\0".as_slice(), b"\x1b[31m", b"\xff\xfe", "\u{a0}".as_bytes(), b"\x0b"] {
            assert!(Request::parse([b"l", key, b"1"]).is_ok(), "{key:?}");
        }
    }
}
