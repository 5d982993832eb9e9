//! Pure: reads the document of `stats` as it comes, and keeps the rows that are wanted. What is kept has a limit, as has
//! each row; what is sent need not have one. No server of this protocol lists everybody who holds or waits: such a list in
//! a few bytes would be many times as large in memory.

use serde::Deserialize;

use super::Stats;
use crate::client::connection::Pieces;

/// The most bytes of rows: those of a million locks or so.
const MOST: usize = 128 * 1024 * 1024;

/// The most bytes of one row, which is a key and a few numbers.
const MOST_OF_A_ROW: usize = 16 * 1024;

/// The members that are lists of rows.
const LISTS: [&str; 4] = ["locks", "semaphores", "idle_locks", "idle_semaphores"];

pub(super) struct Rows<Wanted> {
    /// Of a row's key.
    wanted: Wanted,
    stats: Stats,
    kept: usize,
    most: usize,
    scanner: Scanner,
}

/// How far the document has come. It is one object; of its members, numbers and the lists of rows are of use.
#[derive(Default)]
struct Scanner {
    depth: u32,
    is_over: bool,
    in_text: bool,
    is_escaped: bool,
    /// The member of the document that is being read.
    member: String,
    /// Whether what is inside of that member is of use.
    is_of_use: bool,
    /// The name, number or row that is being read.
    current: Vec<u8>,
}

impl<Wanted: Fn(&str) -> bool> Rows<Wanted> {
    pub(super) fn new(wanted: Wanted) -> Rows<Wanted> {
        Rows { wanted, stats: Stats::default(), kept: 0, most: MOST, scanner: Scanner::default() }
    }

    /// Everything, once it has been read.
    pub(super) fn finish(self) -> Result<Stats, String> {
        if self.scanner.is_over { Ok(self.stats) } else { Err("its stats end too soon".to_owned()) }
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        let scanner = &mut self.scanner;
        if scanner.is_over {
            return if byte.is_ascii_whitespace() {
                Ok(())
            } else {
                Err("more behind the end of its stats".to_owned())
            };
        }
        if scanner.in_text {
            scanner.in_text = scanner.is_escaped || byte != b'"';
            scanner.is_escaped = !scanner.is_escaped && byte == b'\\';
            return self.push(byte);
        }
        match (byte, scanner.depth) {
            (b'{' | b'[', 0) => scanner.depth = 1,
            (_, 0) if !byte.is_ascii_whitespace() => return Err("its stats are no object".to_owned()),
            (_, 0) => {}
            (b'{' | b'[', 1) => {
                scanner.depth = 2;
                scanner.is_of_use = byte == b'[' && LISTS.contains(&scanner.member.as_str());
                scanner.current.clear();
            }
            (b'{' | b'[', _) => {
                scanner.depth += 1;
                return self.push(byte);
            }
            (b'}' | b']', 1) => {
                self.number()?;
                self.scanner.is_over = true;
            }
            (b'}' | b']', 2) => {
                self.row()?;
                self.scanner.depth = 1;
                self.scanner.member.clear();
            }
            (b'}' | b']', _) => {
                scanner.depth -= 1;
                return self.push(byte);
            }
            (b':', 1) => {
                scanner.member = read(&scanner.current)?;
                scanner.current.clear();
            }
            (b',', 1) => self.number()?,
            (b',', 2) => self.row()?,
            _ => {
                scanner.in_text = byte == b'"';
                return self.push(byte);
            }
        }
        Ok(())
    }

    fn push(&mut self, byte: u8) -> Result<(), String> {
        let Scanner { depth, is_of_use, current, .. } = &mut self.scanner;
        if *depth > 1 && !*is_of_use {
            return Ok(());
        }
        if self.kept + current.len() >= self.most {
            let mib = self.most / 1024 / 1024;
            return Err(format!("more than {mib} MiB of rows; --key-prefix asks for fewer"));
        }
        if current.len() >= MOST_OF_A_ROW {
            return Err(format!("a row of more than {} KiB", MOST_OF_A_ROW / 1024));
        }
        current.push(byte);
        Ok(())
    }

    /// The end of a member that is no list.
    fn number(&mut self) -> Result<(), String> {
        let Scanner { member, current, .. } = &mut self.scanner;
        if member == "connections" {
            self.stats.connections = read(current)?;
        } else if LISTS.contains(&member.as_str()) && !current.is_empty() {
            return Err(format!("its {member} are no list"));
        }
        member.clear();
        current.clear();
        Ok(())
    }

    /// The end of a row, or of none.
    fn row(&mut self) -> Result<(), String> {
        let Scanner { member, current, .. } = &mut self.scanner;
        let (wanted, stats) = (&self.wanted, &mut self.stats);
        let mut is_kept = false;
        if current.iter().any(|byte| !byte.is_ascii_whitespace()) {
            match member.as_str() {
                "locks" => {
                    is_kept = keep(current, &mut stats.locks, |row| {
                        row.claims = None;
                        wanted(&row.key)
                    })?;
                }
                "semaphores" => {
                    is_kept = keep(current, &mut stats.semaphores, |row| {
                        row.claims = None;
                        wanted(&row.key)
                    })?;
                }
                "idle_locks" => is_kept = keep(current, &mut stats.idle_locks, |row| wanted(&row.key))?,
                "idle_semaphores" => is_kept = keep(current, &mut stats.idle_semaphores, |row| wanted(&row.key))?,
                _ => {}
            }
        }
        if is_kept {
            // A row costs more than its bytes, and some cost nothing else.
            self.kept += current.len() + 128;
        }
        current.clear();
        Ok(())
    }
}

impl<Wanted: Fn(&str) -> bool + Send> Pieces for Rows<Wanted> {
    fn begin(&mut self) {
        self.stats = Stats::default();
        self.kept = 0;
        self.scanner = Scanner::default();
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        piece.iter().try_for_each(|byte| self.step(*byte))
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|why| why.to_string())
}

fn keep<'a, Row: Deserialize<'a>>(
    json: &'a [u8],
    rows: &mut Vec<Row>,
    is_wanted: impl Fn(&mut Row) -> bool,
) -> Result<bool, String> {
    let mut row = read(json)?;
    let is_wanted = is_wanted(&mut row);
    if is_wanted {
        rows.push(row);
    }
    Ok(is_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"connections":7,"locks":[{"key":"a","owner_conn_id":2,"lease_expires_in_s":5.5,
        "waiters":3,"claims":[{"state":"held"},{"state":"waiting","position":1}]},{"key":"b\"]},{[","waiters":0}],
        "cluster":{"voters":["x","y"],"role":"leader"},"semaphores":[],"signal_channels":[1,[2]],
        "idle_locks":[{"key":"c","idle_s":0.1}], "idle_semaphores" : [ ] }"#;

    fn all(text: &[u8], wanted: impl Fn(&str) -> bool + Send, most: usize, piece: usize) -> Result<Stats, String> {
        let mut rows = Rows { most, ..Rows::new(wanted) };
        rows.begin();
        text.chunks(piece).try_for_each(|piece| rows.take(piece))?;
        rows.finish()
    }

    #[test]
    fn reads_what_serde_reads_however_it_comes() {
        let mut whole: Stats = serde_json::from_str(DOCUMENT).unwrap();
        whole.locks.iter_mut().for_each(|row| row.claims = None);
        for piece in [1, 2, 3, 7, 1000] {
            let stats = all(DOCUMENT.as_bytes(), |_| true, MOST, piece).unwrap();
            assert_eq!(serde_json::to_value(stats).unwrap(), serde_json::to_value(&whole).unwrap(), "{piece}");
        }
    }

    #[test]
    fn keeps_what_is_wanted_and_no_more_than_it_may() {
        let stats = all(DOCUMENT.as_bytes(), |key| key.starts_with('b'), MOST, 5).unwrap();
        assert_eq!((stats.locks.len(), stats.idle_locks.len()), (1, 0));
        assert_eq!(stats.locks[0].key, "b\"]},{[");
        let row = r#"{"key":"0123456789"},"#;
        let many = format!("{{\"locks\":[{}{}]}}", row.repeat(1000), row.trim_end_matches(','));
        assert!(all(many.as_bytes(), |_| true, 4096, 64).unwrap_err().contains("--key-prefix"));
        assert_eq!(all(many.as_bytes(), |key| key == "x", 4096, 64).unwrap().locks.len(), 0);
        let long = format!("{{\"locks\":[{{\"key\":\"{}", "x".repeat(5000));
        assert!(all(long.as_bytes(), |key| key == "x", 4096, 64).is_err());
        let skipped = format!("{{\"other\":[\"{}\"],\"connections\":3}}", "x".repeat(5000));
        assert_eq!(all(skipped.as_bytes(), |_| true, 4096, 64).unwrap().connections, 3);
    }

    #[test]
    fn a_row_takes_no_more_than_a_row_needs() {
        let listing = |times| format!("{{\"locks\":[{{\"key\":\"k\",\"claims\":[{}{{}}]}}]}}", "{},".repeat(times));
        let stats = all(listing(1000).as_bytes(), |_| true, MOST, 1000).unwrap();
        assert!(stats.locks.len() == 1 && stats.locks[0].claims.is_none());
        assert!(all(listing(10_000).as_bytes(), |_| true, MOST, 1000).unwrap_err().contains("16 KiB"));
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "",
            "7",
            "{",
            "{\"locks\":[",
            "{\"locks\":[{}}",
            "{} {}",
            "{\"locks\":[7]}",
            "{\"locks\":7}",
            "{\"connections\":x}",
        ] {
            assert!(all(text.as_bytes(), |_| true, MOST, 3).is_err(), "{text}");
        }
    }
}
