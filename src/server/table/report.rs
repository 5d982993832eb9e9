//! What the table holds, read in slices so that a long report stalls nobody.

use std::time::Duration;

use super::{ConnId, Kind, Moment, Stage, Table};

/// How far a report has come. Keys made after it began are left out, so none is met twice in a group.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    group: Group,
    next: usize,
    born_by: u64,
}

/// The groups of a report, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Locks,
    Semaphores,
    IdleLocks,
    IdleSemaphores,
}

/// One key of a report.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// `owner` is 0 when nobody, or nobody connected, holds it.
    Lock {
        key: &'a [u8],
        owner: u64,
        left: Duration,
        waiting: u64,
    },
    Semaphore {
        key: &'a [u8],
        limit: u64,
        holders: u64,
        waiting: u64,
    },
    Idle {
        key: &'a [u8],
        idle: Duration,
    },
    /// The group is complete; the next one follows.
    EndOfGroup,
}

impl Table {
    pub fn begin_report(&self) -> Cursor {
        Cursor { group: Group::Locks, next: 0, born_by: self.last_number }
    }

    /// Reads on for at most `keys` keys or until `tell` says stop; `None` when the report is complete.
    pub fn report(
        &self,
        mut cursor: Cursor,
        now: Moment,
        keys: usize,
        mut tell: impl FnMut(Row<'_>) -> bool,
    ) -> Option<Cursor> {
        for _ in 0..keys {
            if cursor.next >= self.keys.capacity() {
                tell(Row::EndOfGroup);
                cursor.group = cursor.group.next()?;
                cursor.next = 0;
                continue;
            }
            let slot = cursor.next;
            cursor.next += 1;
            if let Some(row) = self.row(cursor, slot, now)
                && !tell(row)
            {
                break;
            }
        }
        Some(cursor)
    }

    fn row(&self, cursor: Cursor, slot: usize, now: Moment) -> Option<Row<'_>> {
        let key = self.keys.get(slot).filter(|key| key.born <= cursor.born_by)?;
        let group = match (key.kind, key.holders + key.waiting) {
            (Kind::Lock, 0) => Group::IdleLocks,
            (Kind::Lock, _) => Group::Locks,
            (Kind::Semaphore { .. }, 0) => Group::IdleSemaphores,
            (Kind::Semaphore { .. }, _) => Group::Semaphores,
        };
        if group != cursor.group {
            return None;
        }
        Some(match (key.kind, group) {
            (_, Group::IdleLocks | Group::IdleSemaphores) => {
                Row::Idle { key: &key.name, idle: now.since(key.idle_since) }
            }
            (Kind::Semaphore { limit }, _) => {
                Row::Semaphore { key: &key.name, limit, holders: key.holders, waiting: key.waiting }
            }
            (Kind::Lock, _) => {
                let holder = if key.holders > 0 { self.claims.get(key.newest as usize) } else { None };
                debug_assert!(holder.is_none_or(|claim| matches!(claim.stage, Stage::Held | Stage::Unclaimed)));
                let owner = holder.map_or(0, |claim| self.number_of(claim.conn));
                let left = holder.map_or(Duration::ZERO, |claim| claim.until.since(now));
                Row::Lock { key: &key.name, owner, left, waiting: key.waiting }
            }
        })
    }

    fn number_of(&self, conn: ConnId) -> u64 {
        self.conns.get(conn.index()).map_or(0, |conn| conn.number)
    }
}

impl Group {
    fn next(self) -> Option<Group> {
        match self {
            Group::Locks => Some(Group::Semaphores),
            Group::Semaphores => Some(Group::IdleLocks),
            Group::IdleLocks => Some(Group::IdleSemaphores),
            Group::IdleSemaphores => None,
        }
    }
}
