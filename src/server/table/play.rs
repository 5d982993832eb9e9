//! A table driven by hand, for tests.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ConnId, Kind, Limits, Moment, No, OldGrant, OldPlace, Reply, Resumed, Space, Stamp, Table, Turn, Verdict};

pub(super) const LIMITS: Limits = Limits { keys: 100, waiters: 0, idle: Duration::from_secs(60), auto_release: true };

pub(super) fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

pub(super) fn stamp(number: u64) -> Stamp {
    Stamp { number, salt: number + 1 }
}

/// Drives a table by hand.
pub(super) struct Play {
    pub(super) table: Table,
    pub(super) now: Moment,
    pub(super) verdicts: VecDeque<(ConnId, Verdict)>,
}

impl Play {
    pub(super) fn of(limits: Limits, grants: Vec<OldGrant>, places: Vec<OldPlace>) -> Play {
        let table = Table::restored(limits, 1000, at(1), grants.into_iter(), places.into_iter());
        Play { table, now: at(1), verdicts: VecDeque::new() }
    }

    pub(super) fn turn<T>(&mut self, operation: impl FnOnce(&mut Table, &mut Turn<'_>) -> T) -> T {
        let Play { table, now, verdicts } = self;
        let mut salt = 77;
        let mut salt = || {
            salt += 1;
            salt
        };
        operation(table, &mut Turn { now: *now, salt: &mut salt, changes: None, verdicts })
    }

    pub(super) fn acquire(&mut self, conn: ConnId, key: &str, kind: Kind) -> Reply {
        self.turn(|table, turn| table.acquire(turn, conn, key.as_bytes(), kind, 10, Duration::ZERO))
    }

    pub(super) fn resume(&mut self, conn: ConnId, key: &str, proof: Stamp) -> Result<Resumed, No> {
        let proof = proof.hex();
        self.turn(|table, turn| table.resume(turn, conn, key.as_bytes(), Space::Locks, proof.as_str().as_bytes(), None))
    }

    pub(super) fn renew(&mut self, conn: ConnId, key: &str, proof: Stamp, lease_s: Option<u64>) -> Option<u64> {
        let proof = proof.hex();
        self.turn(|table, turn| {
            table.renew(turn, conn, key.as_bytes(), Space::Locks, proof.as_str().as_bytes(), lease_s)
        })
    }

    /// A connection that may be away for so many seconds.
    pub(super) fn connect(&mut self, resume_s: u64) -> ConnId {
        let conn = self.table.connect();
        self.table.allow_resuming(conn, Duration::from_secs(resume_s));
        conn
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        while !self.turn(|table, turn| table.disconnect(turn, conn)) {}
    }

    /// Lets time pass to the second `seconds`.
    pub(super) fn wait_until(&mut self, seconds: u64) {
        self.now = at(seconds);
        self.turn(|table, turn| table.run_out(turn));
    }
}
