//! The thread that writes: everything that waits goes out in one go, then all who wait for it are told.
//!
//! It keeps a fold of its own of what it wrote. From that it begins a new file when the old one has grown to
//! several times its size: a slice between two batches, so that nobody waits long, while the batches go to
//! both. And when the disk fails it trusts the old file no more: it tries to begin a new one until it can.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dir::Dir;
use super::downtime::{Boot, Times};
use super::file::{PIECE, Pen};
use super::frame::Header;
use super::kept::{Cursor, Kept};
use super::line::{Batch, Line};
use super::mark::Mark;
use super::{Fsync, Options, record};
use crate::clock::{self, Moment};
use crate::server::table::Change;
use crate::server::{Event, Report};

/// With `--fsync interval`: at most this much is lost when the machine dies.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// A new file is begun when the old one is so many times as large as it has to be, and at least so large.
const GROWN_TIMES: u64 = 4;
const GROWN_LEAST: u64 = 4 * 1024 * 1024;

/// While nothing happens to locks that are held, the time is written down this often.
const STAMP_EVERY: Duration = Duration::from_secs(10);

/// While anything is held, this often it is looked whether the next server would find what was written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A mark stays for so long after the last lock, so that one after the other does not write and remove it each time.
const MARKED_FOR: Duration = Duration::from_secs(1);

/// How long until a failing disk is tried again: longer every time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    dir: Dir,
    boot: Boot,
    fsync: Fsync,
    line: Arc<Line>,
    mark: Option<Arc<Mark>>,
    /// No lease that was given out since anything is held ends later.
    ends: Moment,
    /// Nothing is held: the mark goes then.
    unmark_at: Option<Moment>,
    report: Report,
    /// Called when locks may be given out again.
    on_accepting: Box<dyn Fn() + Send>,
    kept: Kept,
    /// `None` after a failure: what it wrote may or may not be on disk.
    pen: Option<Pen>,
    draft: Option<Draft>,
    /// No new file is begun before the old one is this large: the last attempt failed.
    draft_after: u64,
    trouble: Option<Trouble>,
    written_at: Moment,
    looked_at: Moment,
    synced_at: Moment,
}

/// A new file that is being begun.
struct Draft {
    pen: Pen,
    cursor: Cursor,
}

/// The disk is full or failing.
struct Trouble {
    since: Moment,
    retry_at: Moment,
    pause: Duration,
}

impl Writer {
    /// Begins a new file with what is kept. The disk may be full if there is an old one: what is in that is held, and
    /// once there is room it goes on from there.
    pub(super) fn new(
        dir: Dir,
        boot: Boot,
        Options { fsync, mark, .. }: &Options,
        kept: Kept,
        line: Arc<Line>,
        report: Report,
        on_accepting: Box<dyn Fn() + Send>,
    ) -> io::Result<Writer> {
        let now = clock::server_now();
        let mut writer = Writer {
            dir,
            boot,
            fsync: *fsync,
            line,
            mark: mark.clone(),
            ends: kept.ends(),
            unmark_at: Some(now),
            report,
            on_accepting,
            kept,
            pen: None,
            draft: None,
            draft_after: 0,
            trouble: None,
            written_at: now,
            looked_at: now,
            synced_at: now,
        };
        if let Err(why) = writer.begin_anew() {
            if !is_full(&why) || !writer.dir.has_old_journal() {
                return Err(why);
            }
            // The room that it had made for the worst: this is the worst.
            let begun = writer.dir.give_back_room().and_then(|()| writer.begin_anew());
            if let Err(why) = begun {
                writer.fail("write", &why);
            }
        }
        writer.say_where();
        Ok(writer)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pen.as_ref().map_or(0, Pen::len)
    }

    /// Until the line is closed and all of it is written.
    pub(super) fn run(mut self) {
        self.look_for_room();
        let mut mark = 0;
        loop {
            let batch = self.line.take(self.patience());
            mark = mark.max(batch.mark);
            self.write(&batch);
            if self.pen.is_none() && self.is_time_to_retry() {
                match self.begin_anew() {
                    Ok(()) => {
                        self.say_where();
                        self.keep(mark);
                    }
                    Err(why) => self.fail("write", &why),
                }
            }
            if self.pen.is_some() {
                self.look_for_room();
                self.go_on_with_draft();
            }
            if batch.last {
                match self.pen.as_mut().map(Pen::sync) {
                    Some(Ok(())) => return,
                    Some(Err(why)) => self.fail("sync", &why),
                    // There is nothing to wait for but the disk.
                    None => std::thread::park_timeout(self.patience().unwrap_or(RETRY_FIRST)),
                }
            }
        }
    }

    /// How long to wait for something to write before something else is to be done.
    fn patience(&self) -> Option<Duration> {
        let now = clock::server_now();
        let mut next = Moment::NEVER;
        if let Some(trouble) = &self.trouble {
            next = trouble.retry_at;
        }
        if let Some(pen) = &self.pen {
            if self.draft.is_some() {
                return Some(Duration::ZERO);
            }
            if self.fsync == Fsync::Interval && !pen.is_synced() {
                next = next.min(self.synced_at + INTERVAL);
            }
            if self.kept.held() > 0 {
                next = next.min(self.written_at + STAMP_EVERY).min(self.looked_at + LOOK_EVERY);
            }
        }
        if self.mark.is_some()
            && let Some(unmark_at) = self.unmark_at
        {
            next = next.min(unmark_at);
        }
        (next != Moment::NEVER).then(|| next.since(now))
    }

    fn write(&mut self, batch: &Batch) {
        let pieces = self.fold(batch);
        let now = clock::server_now();
        let is_stamp_due = self.kept.held() > 0 && now.since(self.written_at) >= STAMP_EVERY;
        if self.pen.is_some() && (!pieces.is_empty() || is_stamp_due) {
            self.written_at = now;
            let times = times();
            let written = self.put(times, &pieces);
            if let Err(why) = written {
                return self.fail("write", &why);
            }
        }
        if let Err(why) = self.sync_as_asked(now, !pieces.is_empty()) {
            return self.fail("sync", &why);
        }
        let is_look_due = self.kept.held() > 0 && now.since(self.looked_at) >= LOOK_EVERY;
        let is_looked_at = self.pen.is_some() && (is_stamp_due || is_look_due || !batch.changes.is_empty());
        if is_looked_at {
            self.looked_at = now;
            if let Err(why) = self.look_again() {
                // Where it may be made again, that is done before anybody hears of anything.
                let is_made_again = self.dir.is_remade() && self.begin_anew().is_ok();
                if !is_made_again {
                    return self.fail("find", &why);
                }
            }
        }
        self.say_where();
        if is_looked_at {
            self.keep(batch.mark);
        }
    }

    /// Before anybody hears of a lock, whoever starts the next server can know where it is written down.
    fn say_where(&mut self) {
        let Some(mark) = &self.mark else { return };
        if self.kept.held() > 0 {
            self.unmark_at = None;
            // What was not written nobody has.
            if self.pen.is_some() {
                mark.keep(self.dir.path(), self.dir.id(), self.ends);
            }
            return;
        }
        let now = clock::server_now();
        match self.unmark_at {
            None if self.ends > Moment::from_nanos(0) => self.unmark_at = Some(now + MARKED_FOR),
            Some(unmark_at) if now >= unmark_at => {
                mark.clear();
                self.ends = Moment::from_nanos(0);
                self.unmark_at = None;
            }
            _ => {}
        }
    }

    /// Whether the next server will find what was just written, and what was before it.
    fn look_again(&self) -> io::Result<()> {
        if self.dir.is_found() && self.pen.as_ref().is_some_and(Pen::is_as_written) {
            return Ok(());
        }
        Err(self.dir.not_found())
    }

    /// Takes a batch into what is kept, and makes records of it.
    fn fold(&mut self, batch: &Batch) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        for change in &batch.changes {
            self.kept.apply(change);
            if let Change::Granted { until, .. } | Change::Renewed { until, .. } = change {
                self.ends = self.ends.max(*until);
            }
            record::write(change, &mut piece);
            if piece.len() >= PIECE {
                pieces.push(std::mem::take(&mut piece));
            }
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
        pieces
    }

    fn put(&mut self, times: Times, pieces: &[Vec<u8>]) -> io::Result<()> {
        let Some(pen) = &mut self.pen else { return Ok(()) };
        if pieces.is_empty() {
            pen.put(times, &[]);
        }
        pieces.iter().for_each(|piece| pen.put(times, piece));
        if let Some(draft) = &mut self.draft {
            pieces.iter().for_each(|piece| draft.pen.put(times, piece));
        }
        pen.write()
    }

    fn sync_as_asked(&mut self, now: Moment, wrote: bool) -> io::Result<()> {
        let Some(pen) = &mut self.pen else { return Ok(()) };
        let due = match self.fsync {
            Fsync::Always => wrote,
            Fsync::Interval => !pen.is_synced() && now.since(self.synced_at) >= INTERVAL,
            Fsync::Never => false,
        };
        if due {
            pen.sync()?;
            self.synced_at = clock::server_now();
        }
        Ok(())
    }

    fn keep(&self, mark: u64) {
        self.line.kept.send_replace(mark);
    }

    /// A whole new file from what is kept, in the place of the old one.
    fn begin_anew(&mut self) -> io::Result<()> {
        self.draft = None;
        self.dir.come_back()?;
        let begun = self.begin_draft().and_then(|mut draft| {
            while self.write_slice(&mut draft)? {}
            self.publish(draft)
        });
        begun.inspect_err(|_| self.dir.drop_draft())
    }

    fn begin_draft(&self) -> io::Result<Draft> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let header = Header { nonce: u64::from_ne_bytes(nonce), boot: self.boot };
        let mut pen = Pen::new(self.dir.make_draft()?, header);
        let mut records = Vec::new();
        let cursor = self.kept.begin_snapshot(&mut records);
        pen.put(times(), &records);
        Ok(Draft { pen, cursor })
    }

    /// `false` when it is complete.
    fn write_slice(&self, draft: &mut Draft) -> io::Result<bool> {
        let mut records = Vec::new();
        let next = self.kept.snapshot(draft.cursor, PIECE, &mut records);
        draft.pen.put(times(), &records);
        draft.pen.write()?;
        if let Some(next) = next {
            draft.cursor = next;
        }
        Ok(next.is_some())
    }

    fn publish(&mut self, mut draft: Draft) -> io::Result<()> {
        // A full disk is no reason to begin no new file: only locks are not given out then.
        let _ = draft.pen.make_room();
        draft.pen.sync()?;
        let file = draft.pen.file()?;
        self.dir.publish_draft(file)?;
        self.pen = Some(draft.pen);
        self.draft_after = 0;
        self.synced_at = clock::server_now();
        Ok(())
    }

    fn go_on_with_draft(&mut self) {
        let Some(pen) = &self.pen else { return };
        let gone_on = match self.draft.take() {
            None => {
                let grown = GROWN_LEAST.max(self.draft_after).max(GROWN_TIMES * self.kept.bytes() as u64);
                if pen.len() < grown {
                    return;
                }
                self.begin_draft().map(|draft| self.draft = Some(draft))
            }
            Some(mut draft) => match self.write_slice(&mut draft) {
                Ok(true) => {
                    // A little at a time, so that the last of it does not keep everybody waiting.
                    let synced = if self.fsync == Fsync::Always { draft.pen.sync() } else { Ok(()) };
                    synced.map(|()| self.draft = Some(draft))
                }
                Ok(false) => {
                    // Which of the two files has the name is not known any more.
                    return self.publish(draft).unwrap_or_else(|why| self.fail("write", &why));
                }
                Err(why) => Err(why),
            },
        };
        if gone_on.is_err() {
            // The old file does as well. If the disk is full or broken, that shows there too.
            self.dir.drop_draft();
            self.draft_after = self.bytes() + GROWN_LEAST;
        }
    }

    /// Locks are given out only while there is room for all that may follow from that.
    fn look_for_room(&mut self) {
        let Some(pen) = &mut self.pen else { return };
        if !pen.has_room() && (self.trouble.is_none() || self.is_time_to_retry()) {
            let Some(pen) = &mut self.pen else { return };
            if let Err(why) = pen.make_room() {
                return self.be_in_trouble("make room", &why);
            }
        }
        let has_room = self.pen.as_ref().is_some_and(Pen::has_room);
        if has_room && let Some(trouble) = self.trouble.take() {
            let after = clock::server_now().since(trouble.since);
            self.line.accepts.store(true, Ordering::Relaxed);
            (self.report)(Event::StateRecovered { after });
            (self.on_accepting)();
        }
    }

    fn fail(&mut self, what: &'static str, why: &io::Error) {
        self.pen = None;
        if self.draft.take().is_some() {
            self.dir.drop_draft();
        }
        self.be_in_trouble(what, why);
    }

    fn be_in_trouble(&mut self, what: &'static str, why: &io::Error) {
        let now = clock::server_now();
        match &mut self.trouble {
            Some(trouble) => {
                trouble.pause = (trouble.pause * 2).min(RETRY_MOST);
                trouble.retry_at = now + trouble.pause;
            }
            None => {
                self.line.accepts.store(false, Ordering::Relaxed);
                let dir = self.dir.path().display().to_string();
                (self.report)(Event::StateFailing { dir, what, error: why.to_string() });
                self.trouble = Some(Trouble { since: now, retry_at: now + RETRY_FIRST, pause: RETRY_FIRST });
            }
        }
    }

    fn is_time_to_retry(&self) -> bool {
        self.trouble.as_ref().is_none_or(|trouble| clock::server_now() >= trouble.retry_at)
    }
}

fn is_full(why: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

    matches!(why.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn times() -> Times {
    Times { server: clock::server_now(), wall: clock::wall_nanos() }
}
