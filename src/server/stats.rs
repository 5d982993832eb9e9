//! The answer to `stats`, as JSON in pieces: a long one neither stalls the table nor fills memory.

use std::io::Write;
use std::time::Duration;

use super::table::{Cursor, Row, Table};
use crate::clock::Moment;

/// Bytes that are put together before they are sent.
pub(super) const PIECE: usize = 16 * 1024;

/// Keys that are looked at in one go.
const SLICE: usize = 4096;

pub(super) struct Report {
    cursor: Option<Cursor>,
    /// Groups that are complete.
    groups: usize,
    rows_in_group: usize,
}

const GROUPS: [&str; 4] = ["\"locks\":[", "],\"semaphores\":[", "],\"idle_locks\":[", "],\"idle_semaphores\":["];

impl Report {
    pub(super) fn begin(table: &Table, connections: usize, out: &mut Vec<u8>) -> Report {
        let _ = write!(out, "{{\"connections\":{connections},{}", GROUPS[0]);
        Report { cursor: Some(table.begin_report()), groups: 0, rows_in_group: 0 }
    }

    /// Appends the next piece, of about so many bytes; `false` when the document is complete.
    pub(super) fn go_on(&mut self, table: &Table, now: Moment, piece: usize, out: &mut Vec<u8>) -> bool {
        // Several groups in one go, so that a short report shows one moment.
        for _ in 0..GROUPS.len() {
            if out.len() < piece {
                self.slice(table, now, piece, out);
            }
        }
        self.cursor.is_some()
    }

    fn slice(&mut self, table: &Table, now: Moment, piece: usize, out: &mut Vec<u8>) {
        let Some(cursor) = self.cursor else { return };
        let Report { groups, rows_in_group, .. } = self;
        self.cursor = table.report(cursor, now, SLICE, |row| {
            if let Row::EndOfGroup = row {
                *groups += 1;
                *rows_in_group = 0;
                out.extend_from_slice(GROUPS.get(*groups).unwrap_or(&"]}").as_bytes());
                return true;
            }
            if *rows_in_group > 0 {
                out.push(b',');
            }
            *rows_in_group += 1;
            write_row(row, out);
            out.len() < piece
        });
    }
}

/// Writing to memory cannot fail.
fn write_row(row: Row<'_>, out: &mut Vec<u8>) {
    let key = match row {
        Row::Lock { key, .. } | Row::Semaphore { key, .. } | Row::Idle { key, .. } => key,
        Row::EndOfGroup => return,
    };
    out.extend_from_slice(b"{\"key\":");
    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(key));
    let _ = match row {
        Row::Lock { owner, left, waiting, .. } => {
            write!(out, ",\"owner_conn_id\":{owner},\"lease_expires_in_s\":{},\"waiters\":{waiting}}}", Seconds(left))
        }
        Row::Semaphore { limit, holders, waiting, .. } => {
            write!(out, ",\"limit\":{limit},\"holders\":{holders},\"waiters\":{waiting}}}")
        }
        Row::Idle { idle, .. } => write!(out, ",\"idle_s\":{}}}", Seconds(idle)),
        Row::EndOfGroup => Ok(()),
    };
}

/// Seconds with nine decimals.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{:09}", self.0.as_secs(), self.0.subsec_nanos())
    }
}
