//! The journal: what is promised to anybody is on disk first, and a server that starts again goes on from it.
//!
//! The table tells what happened as `Change`s, in the order in which it did. They are put in a `line`; the
//! `writer`, a thread, takes all that wait, writes them behind the others in one go, and then lets the answers
//! go that follow from them. Nobody holds the table's lock meanwhile. An answer that changed nothing waits
//! for what happened before it: it may follow from that.
//!
//! `record` writes one change down, `frame` puts many under a checksum, `kept` folds them into what is held
//! and queued, `replay` does all that with a whole file, and `downtime` says how much time passed while nobody
//! served. Those are pure.
//!
//! A start reads the file, then begins a new one from what it read, and so does every growth to several times
//! what has to be said. A file is always begun under another name, and given its own when it is on disk.
//!
//! When the disk is full, no lock is given out; room that was made ahead serves renewals and releases. When
//! it fails, what cannot be written is not answered: a client that hears nothing tries again until its lease
//! is in danger, and ends in time; one that heard `error` would take its lock for lost at once.

pub(super) mod dir;
pub mod downtime;
mod file;
mod folder;
pub mod frame;
pub mod kept;
mod line;
pub mod mark;
pub mod record;
pub mod replay;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dir::{Dir, cannot};
use downtime::{Boot, Clocks, Times};
use folder::FileId;
use kept::Kept;
use line::Line;
pub(super) use line::Promise;
pub use mark::Mark;
use writer::Writer;

use super::table::{Change, Limits, Table};
use super::{Event, Report};
use crate::clock;
use crate::error::Failure;
use crate::sys;

/// When what was written is brought to the disk itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before anybody hears of it.
    Always,
    /// At most 50 ms after somebody heard of it.
    Interval,
    /// When the system likes to.
    Never,
}

/// Where and how state is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    pub fsync: Fsync,
    /// The directory is nobody's but this server's: where it was removed, as by a clean-up, it is made again.
    pub is_remade: bool,
    /// Says where it is, to whoever starts the next server and has to find it.
    pub mark: Option<Arc<Mark>>,
}

/// The journal in the server's hands.
pub(super) struct Journal {
    dir: PathBuf,
    id: FileId,
    line: Arc<Line>,
    mark: Option<Arc<Mark>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Reads what there is and goes on from it. `on_accepting` is called when a disk that was full or failed is
/// well again.
pub(super) fn open(
    mut dir: Dir,
    options: &Options,
    limits: Limits,
    report: &Report,
    on_accepting: Box<dyn Fn() + Send>,
) -> Result<(Table, Journal), Failure> {
    let began = clock::server_now();
    sys::ignore_file_size_signal();
    let (path, id) = (dir.path().to_owned(), dir.id());
    let now = clocks();
    let mut kept = Kept::default();
    let mut down = Duration::ZERO;
    let mut read = 0;
    if let Some(bytes) = dir.read()? {
        let replayed = replay::replay(&bytes).map_err(|damage| dir.refuse(damage))?;
        let then = downtime::at_least(replayed.header.boot, replayed.last, now);
        down = then.since(replayed.last.server);
        read = replayed.end;
        dir.has_read_up_to(replayed.end);
        if replayed.torn > 0 {
            let (file, at, bytes) = (dir.journal().display().to_string(), replayed.end, replayed.torn);
            report(Event::StateTorn { file, at, bytes });
        }
        kept = replayed.kept;
        kept.wake(then, now.times.server, now.times.wall);
    } else {
        kept.wake(now.times.server, now.times.server, now.times.wall);
    }
    let table = kept.table(limits, now.times.server);
    let (held, queued) = (kept.held(), kept.queued());
    let line = Arc::new(Line::new());
    let writer = Writer::new(dir, now.boot, options, kept, line.clone(), report.clone(), on_accepting);
    let writer = writer.map_err(|why| cannot(&path, "write to", &why))?;
    let took = clock::server_now().since(began);
    report(Event::StateOpened {
        dir: path.display().to_string(),
        held,
        queued,
        read,
        written: writer.bytes(),
        down,
        took,
    });
    let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run());
    let thread = thread.map_err(|why| Failure::internal("start the thread of the journal", &why))?;
    Ok((table, Journal { dir: path, id, line, mark: options.mark.clone(), writer: Mutex::new(Some(thread)) }))
}

impl Journal {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The address is ours, and from now on something may be held.
    pub(super) fn begin_to_serve(&self) -> Result<(), Failure> {
        self.mark.as_ref().map_or(Ok(()), |mark| mark.begin(&self.dir, self.id))
    }

    /// Nothing is held, and nothing is given out any more.
    pub(super) fn is_needed_no_more(&self) {
        if let Some(mark) = &self.mark {
            mark.finish();
        }
    }

    /// Whether there is room to give out locks.
    pub(super) fn accepts(&self) -> bool {
        self.line.accepts.load(Ordering::Relaxed)
    }

    /// Takes down what happened, in the order in which it did: under the lock of the table.
    pub(super) fn add(&self, changes: &mut Vec<Change>) {
        self.line.add(changes);
    }

    /// For an answer that follows from all that was taken down and, with `more`, from what will be next.
    pub(super) fn promise(&self, more: bool) -> Promise {
        self.line.promise(more)
    }

    /// Whether no answer is on its way any more.
    pub(super) fn is_all_said(&self) -> bool {
        self.line.is_all_said()
    }

    /// Takes down nothing more.
    pub(super) fn stop(&self) {
        self.line.close();
    }

    /// Takes down nothing more, and returns when all is on disk. Whatever happens from now on is as if it had
    /// not: nobody is told.
    pub(super) async fn close(&self) {
        self.stop();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It ends by itself; a disk that does not answer must not keep this runtime from ending.
            while !thread.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

fn clocks() -> Clocks {
    let times = Times { server: clock::server_now(), wall: clock::wall_nanos() };
    Clocks { boot: this_boot(), times }
}

fn this_boot() -> Boot {
    let mut boot = Boot::default();
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    if digits.len() == 2 * boot.len() {
        let value = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        for (byte, pair) in boot.iter_mut().zip(digits.chunks(2)) {
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
    }
    boot
}
