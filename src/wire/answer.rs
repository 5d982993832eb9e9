//! Answers: one line each, written and read without allocation.

use std::io::Write;

use super::{frame, number};

/// What a server says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// `ok`
    Done,
    /// `ok SECONDS`
    Left { seconds: u64 },
    /// `ok TOKEN LEASE`
    Granted { token: &'a str, lease_s: u64 },
    /// `acquired TOKEN LEASE`
    Acquired { token: &'a str, lease_s: u64 },
    /// `queued [TICKET]`
    Queued { ticket: Option<&'a str> },
    /// `ok {json}`
    Document(&'a [u8]),
    /// `timeout`
    Timeout,
    /// `error…`
    Refused(Refusal<'a>),
}

/// The reasons a server gives for a no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// Plain `error`: the original says no more.
    Unsaid,
    Auth,
    MaxLocks,
    MaxWaiters,
    MaxConnections,
    LimitMismatch,
    NotEnqueued,
    AlreadyEnqueued,
    LeaseExpired,
    Draining,
    NotLeader {
        leader: Option<&'a str>,
    },
    /// A later server's word.
    Other(&'a str),
}

/// Which answer a request can have besides `timeout` and a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Done,
    Left,
    Granted,
    /// `acquired …` or `queued …`
    Place,
    Document,
}

const REFUSALS: [(&str, Refusal<'static>); 10] = [
    ("error", Refusal::Unsaid),
    ("error_auth", Refusal::Auth),
    ("error_max_locks", Refusal::MaxLocks),
    ("error_max_waiters", Refusal::MaxWaiters),
    ("error_max_connections", Refusal::MaxConnections),
    ("error_limit_mismatch", Refusal::LimitMismatch),
    ("error_not_enqueued", Refusal::NotEnqueued),
    ("error_already_enqueued", Refusal::AlreadyEnqueued),
    ("error_lease_expired", Refusal::LeaseExpired),
    ("error_draining", Refusal::Draining),
];

impl<'a> Refusal<'a> {
    /// The word of the wire.
    pub fn word(self) -> &'a str {
        match self {
            Refusal::NotLeader { .. } => "error_not_leader",
            Refusal::Other(word) => word,
            known => REFUSALS.iter().find(|(_, refusal)| *refusal == known).map_or("error", |(word, _)| word),
        }
    }

    fn parse(word: &'a str, next: Option<&'a str>) -> Option<Refusal<'a>> {
        if word == "error_not_leader" {
            return Some(Refusal::NotLeader { leader: next });
        }
        let known = REFUSALS.iter().find(|(known, _)| *known == word).map(|(_, refusal)| *refusal);
        known.or_else(|| word.starts_with("error").then_some(Refusal::Other(word)))
    }
}

impl<'a> Answer<'a> {
    /// Appends the line with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Answer::Done => out.extend_from_slice(b"ok\n"),
            Answer::Left { seconds } => put(out, format_args!("ok {seconds}\n")),
            Answer::Granted { token, lease_s } => put(out, format_args!("ok {token} {lease_s}\n")),
            Answer::Acquired { token, lease_s } => put(out, format_args!("acquired {token} {lease_s}\n")),
            Answer::Queued { ticket: None } => out.extend_from_slice(b"queued\n"),
            Answer::Queued { ticket: Some(ticket) } => put(out, format_args!("queued {ticket}\n")),
            Answer::Document(json) => {
                begin_document(out);
                out.extend_from_slice(json);
                end_document(out);
            }
            Answer::Timeout => out.extend_from_slice(b"timeout\n"),
            Answer::Refused(Refusal::NotLeader { leader: Some(leader) }) => {
                put(out, format_args!("error_not_leader {leader}\n"));
            }
            Answer::Refused(refusal) => put(out, format_args!("{}\n", refusal.word())),
        }
    }

    /// Reads one line (its end cut off) as the answer to a request that expects `expect`.
    /// `None`: the server speaks nonsense.
    pub fn parse(line: &'a [u8], expect: Expect) -> Option<Answer<'a>> {
        let line = frame::without_cr(line);
        if let (Expect::Document, Some(json)) = (expect, line.strip_prefix(b"ok ")) {
            return Some(Answer::Document(json));
        }
        let text = std::str::from_utf8(line).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let word = fields.next()?;
        let (first, second) = (fields.next(), fields.next());
        match (word, expect) {
            ("timeout", _) => Some(Answer::Timeout),
            ("ok", Expect::Done) => Some(Answer::Done),
            ("ok", Expect::Left) => number::count(first?).map(|seconds| Answer::Left { seconds }),
            ("ok", Expect::Granted) => {
                number::lease(second?).and_then(|lease_s| Some(Answer::Granted { token: first?, lease_s }))
            }
            ("acquired", Expect::Place) => {
                number::lease(second?).and_then(|lease_s| Some(Answer::Acquired { token: first?, lease_s }))
            }
            ("queued", Expect::Place) => Some(Answer::Queued { ticket: first }),
            _ => Refusal::parse(word, first).map(Answer::Refused),
        }
    }
}

/// The form of a grant in answers to `l` and `w`.
pub fn granted(token: &str, lease_s: u64) -> Answer<'_> {
    Answer::Granted { token, lease_s }
}

/// The form of a grant in answers to `e`.
pub fn acquired(token: &str, lease_s: u64) -> Answer<'_> {
    Answer::Acquired { token, lease_s }
}

/// The JSON of an answer that [`Answer::parse`] found to be a document.
pub fn document_of(mut line: Vec<u8>) -> Vec<u8> {
    line.drain(..b"ok ".len());
    line
}

/// How an answer begins that is a document, and may be long.
pub const DOCUMENT_BEGINS: &[u8] = b"ok ";

/// Begins an answer whose JSON is written in pieces.
pub fn begin_document(out: &mut Vec<u8>) {
    out.extend_from_slice(b"ok ");
}

/// Ends what [`begin_document`] began.
pub fn end_document(out: &mut Vec<u8>) {
    out.push(b'\n');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn what_is_written_is_read_back() {
        let mut all = vec![
            (Answer::Done, Expect::Done),
            (Answer::Left { seconds: 33 }, Expect::Left),
            (Answer::Granted { token: TOKEN, lease_s: 33 }, Expect::Granted),
            (Answer::Acquired { token: TOKEN, lease_s: 33 }, Expect::Place),
            (Answer::Queued { ticket: None }, Expect::Place),
            (Answer::Queued { ticket: Some(TOKEN) }, Expect::Place),
            (Answer::Document(b"{\"a\":1}"), Expect::Document),
            (Answer::Timeout, Expect::Granted),
            (Answer::Refused(Refusal::NotLeader { leader: None }), Expect::Done),
            (Answer::Refused(Refusal::NotLeader { leader: Some("h:1") }), Expect::Left),
            (Answer::Refused(Refusal::Other("error_of_tomorrow")), Expect::Document),
        ];
        all.extend(REFUSALS.iter().map(|(_, refusal)| (Answer::Refused(*refusal), Expect::Granted)));
        for (answer, expect) in all {
            let mut bytes = Vec::new();
            answer.write(&mut bytes);
            let line = bytes.strip_suffix(b"\n").unwrap();
            assert_eq!(Answer::parse(line, expect), Some(answer));
        }
    }

    #[test]
    fn further_fields_are_ignored() {
        let line = format!("ok {TOKEN} 33 17 more\r");
        let granted = Answer::Granted { token: TOKEN, lease_s: 33 };
        assert_eq!(Answer::parse(line.as_bytes(), Expect::Granted), Some(granted));
        assert_eq!(Answer::parse(b"ok 12 99", Expect::Left), Some(Answer::Left { seconds: 12 }));
        assert_eq!(Answer::parse(b"ok anything", Expect::Done), Some(Answer::Done));
    }

    #[test]
    fn nonsense_is_no_answer() {
        for line in [b"".as_slice(), b"HTTP/1.1 400", b"ok", b"ok x", b"ok t x", b"ok t -5", b"\xff\xfe", b"okay"] {
            assert_eq!(Answer::parse(line, Expect::Granted), None, "{line:?}");
        }
        assert_eq!(Answer::parse(b"ok thirty", Expect::Left), None);
    }
}
