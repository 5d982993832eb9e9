//! The thread that writes: stands for `server::journal::{line, writer, file}`. Group commit, new files begun
//! slice by slice, a failing disk tried again. The bytes are the real ones, and so is the fold.

mod line;
mod pen;

use std::task::{Poll, Waker};
use std::time::Duration;

use dflock::server::journal::downtime::Times;
use dflock::server::journal::frame::{Frame, Header};
use dflock::server::journal::kept::{Cursor, Kept};
use dflock::server::journal::record;
use dflock::server::table::Change;

pub use line::Line;
use pen::{Pen, sync_time};

use super::disk::Failed;
use super::env::Env;
use super::{MS, Plant, World};

/// Small, so that frames, slices and new files are many.
const PIECE: usize = 160;
const SLICE: usize = 20;
const GROWN_LEAST: u64 = 500;
const GROWN_TIMES: u64 = 2;
const STAMP_EVERY: u64 = 10_000 * MS;
const RETRY_FIRST: u64 = 100 * MS;
const RETRY_MOST: u64 = 2_000 * MS;

struct Draft {
    pen: Pen,
    cursor: Cursor,
}

struct Trouble {
    retry_at: u64,
    pause: u64,
}

pub struct Writer {
    env: Env,
    header: Header,
    files: u64,
    kept: Kept,
    folded: u64,
    pen: Option<Pen>,
    draft: Option<Draft>,
    draft_after: u64,
    trouble: Option<Trouble>,
    written_at: u64,
}

impl Writer {
    /// Begins a new file with what is kept.
    pub async fn begin(env: Env, header: Header, kept: Kept) -> Result<Writer, Failed> {
        let written_at = env.world.now();
        let mut writer = Writer {
            env,
            header,
            files: 0,
            kept,
            folded: 0,
            pen: None,
            draft: None,
            draft_after: 0,
            trouble: None,
            written_at,
        };
        writer.begin_anew().await?;
        Ok(writer)
    }

    pub async fn run(mut self) {
        loop {
            let (changes, mark) = self.take().await;
            self.write(changes, mark).await;
            if self.pen.is_none() && self.trouble.as_ref().is_none_or(|trouble| self.now() >= trouble.retry_at) {
                match self.begin_anew().await {
                    Ok(()) => self.keep(self.folded),
                    Err(Failed) => self.fail(),
                }
            }
            if self.pen.is_some() {
                self.look_for_room();
                self.go_on_with_draft().await;
            }
        }
    }

    fn world(&self) -> &std::rc::Rc<World> {
        &self.env.world
    }

    fn now(&self) -> u64 {
        self.world().now()
    }

    fn times(&self) -> Times {
        let server = self.world().server.borrow();
        Times { server: server.clock(self.now()), wall: server.wall + self.now() }
    }

    fn line<T>(&self, with: impl FnOnce(&mut Line) -> T) -> Option<T> {
        self.world().server.borrow_mut().running.as_mut().map(|running| with(&mut running.line))
    }

    /// What happened since, or nothing when something else is to be done first.
    async fn take(&mut self) -> (Vec<Change>, u64) {
        let waiting = std::future::poll_fn(|cx| {
            let taken = self.line(|line| {
                if line.changes.is_empty() {
                    line.writer = Some(cx.waker().clone());
                    return None;
                }
                Some((std::mem::take(&mut line.changes), line.mark))
            });
            taken.flatten().map_or(Poll::Pending, Poll::Ready)
        });
        let until = match (&self.pen, &self.draft, &self.trouble) {
            (Some(_), Some(_), _) => self.now(),
            (_, _, Some(trouble)) => trouble.retry_at,
            (Some(_), ..) if self.kept.held() > 0 => self.written_at + STAMP_EVERY,
            _ => u64::MAX,
        };
        let patience = Duration::from_nanos(until.saturating_sub(self.now()));
        let patience = if until == u64::MAX { Duration::MAX } else { patience };
        let taken = self.env.timeout(patience, waiting).await;
        taken.unwrap_or_else(|| (Vec::new(), self.folded))
    }

    async fn write(&mut self, changes: Vec<Change>, mark: u64) {
        let mut pieces = vec![Vec::new()];
        for change in &changes {
            self.kept.apply(change);
            if pieces.last().is_some_and(|piece| piece.len() >= PIECE) {
                pieces.push(Vec::new());
            }
            if let Some(piece) = pieces.last_mut() {
                record::write(change, piece);
            }
        }
        self.folded = mark;
        let stamp = self.kept.held() > 0 && self.now() - self.written_at >= STAMP_EVERY;
        if !stamp {
            pieces.retain(|piece| !piece.is_empty());
        }
        let times = self.times();
        let misses = self.world().plant == Plant::DraftMissesBatches;
        let Some(pen) = &mut self.pen else { return };
        if !pieces.is_empty() {
            self.written_at = self.env.world.now();
            pieces.iter().for_each(|piece| pen.put(times, piece));
            if let Some(draft) = self.draft.as_mut().filter(|_| !misses) {
                pieces.iter().for_each(|piece| draft.pen.put(times, piece));
            }
            let written = pen.write(&self.env.world);
            if written.is_err() {
                return self.fail();
            }
            self.env.world.disk.borrow_mut().note(pen.file, mark);
            if pen.sync(&self.env).await.is_err() {
                return self.fail();
            }
        }
        if !changes.is_empty() {
            self.keep(mark);
        }
    }

    fn keep(&self, mark: u64) {
        self.line(|line| line.kept = mark);
        self.world().send_what_may_leave(None);
    }

    async fn begin_anew(&mut self) -> Result<(), Failed> {
        self.draft = None;
        let mut draft = self.begin_draft()?;
        while self.write_slice(&mut draft)? {}
        self.publish(draft).await
    }

    fn begin_draft(&mut self) -> Result<Draft, Failed> {
        self.files += 1;
        let header = Header { nonce: super::mix(&[self.header.nonce, self.files]), boot: self.header.boot };
        let file = self.world().disk.borrow_mut().create()?;
        let mut pending = Vec::new();
        header.write(&mut pending);
        let mut pen = Pen { file, header, pending, end: 0, synced: 0 };
        let mut records = Vec::new();
        let cursor = self.kept.begin_snapshot(&mut records);
        pen.put(self.times(), &records);
        Ok(Draft { pen, cursor })
    }

    /// `false` when it is complete.
    fn write_slice(&self, draft: &mut Draft) -> Result<bool, Failed> {
        let mut records = Vec::new();
        let next = self.kept.snapshot(draft.cursor, SLICE, &mut records);
        draft.pen.put(self.times(), &records);
        draft.pen.write(self.world())?;
        if let Some(next) = next {
            draft.cursor = next;
        }
        Ok(next.is_some())
    }

    async fn publish(&mut self, mut draft: Draft) -> Result<(), Failed> {
        draft.pen.sync(&self.env).await?;
        {
            let mut disk = self.env.world.disk.borrow_mut();
            disk.note(draft.pen.file, self.folded);
            disk.rename_to_journal(draft.pen.file)?;
        }
        self.env.world.tell("server", || "the new journal has its name".to_owned());
        if self.world().plant != Plant::NoDirectorySync {
            let pause = sync_time(&self.env);
            self.env.sleep(pause).await;
            let synced = self.world().disk.borrow_mut().sync_directory();
            synced?;
        }
        self.pen = Some(draft.pen);
        self.draft_after = 0;
        Ok(())
    }

    async fn go_on_with_draft(&mut self) {
        let Some(pen) = &self.pen else { return };
        let gone_on = match self.draft.take() {
            None => {
                let grown = GROWN_LEAST.max(self.draft_after).max(GROWN_TIMES * self.kept.bytes() as u64);
                if pen.end < grown {
                    return;
                }
                self.begin_draft().map(|draft| self.draft = Some(draft))
            }
            Some(mut draft) => match self.write_slice(&mut draft) {
                Ok(true) => match draft.pen.sync(&self.env).await {
                    Ok(()) => {
                        self.draft = Some(draft);
                        Ok(())
                    }
                    Err(failed) => Err(failed),
                },
                Ok(false) => match self.publish(draft).await {
                    // Which of the two files has the name is not known any more.
                    Err(Failed) if self.world().plant != Plant::OldFileAfterRename => return self.fail(),
                    published => published,
                },
                Err(failed) => Err(failed),
            },
        };
        if gone_on.is_err() {
            // The old file does as well. If the disk is broken, that shows there too.
            self.draft_after = self.pen.as_ref().map_or(0, |pen| pen.end) + GROWN_LEAST;
        }
    }

    fn look_for_room(&mut self) {
        if self.trouble.take().is_none() {
            return;
        }
        self.env.tell("server", || "the disk is well again".to_owned());
        self.line(|line| line.accepts = true);
        let done = self.world().operate(&mut |table, turn| table.go_on(turn));
        if let Some(((), effects)) = done {
            self.world().follow_up(effects, None);
        }
    }

    fn fail(&mut self) {
        self.pen = None;
        self.draft = None;
        let now = self.now();
        match &mut self.trouble {
            Some(trouble) => {
                trouble.pause = (trouble.pause * 2).min(RETRY_MOST);
                trouble.retry_at = now + trouble.pause;
            }
            None => {
                self.env.tell("server", || "the disk fails: nothing is given out".to_owned());
                self.line(|line| line.accepts = false);
                if let Some(((), effects)) = self.world().operate(&mut |table, _| table.pause()) {
                    self.world().follow_up(effects, None);
                }
                self.world().send_what_may_leave(None);
                self.trouble = Some(Trouble { retry_at: now + RETRY_FIRST, pause: RETRY_FIRST });
            }
        }
    }
}
