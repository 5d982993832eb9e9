//! The directory of a server's state: whose it is, who uses it, and what it is told when it cannot be read.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::folder::{FileId, Folder, Unfit, id_of};
use super::frame::{Unreadable, VERSION};
use super::replay::Damage;
use crate::error::{Failure, Kind};

const LOCK: &str = "lock";
pub(super) const JOURNAL: &str = "journal";

/// Where a new journal is begun, until it takes the place of the other.
const DRAFT: &str = "journal.new";

/// A directory that no other server uses, for as long as this lives.
pub(in crate::server) struct Dir {
    path: PathBuf,
    is_remade: bool,
    folder: Folder,
    lock: OpenFile,
    /// The one that was published last.
    journal: Option<OpenFile>,
    /// Where the one ends that was there before.
    old_end: Option<u64>,
}

/// A file that is kept open, so that no later one has its number.
struct OpenFile {
    _file: File,
    id: FileId,
}

impl OpenFile {
    fn new(file: File) -> io::Result<OpenFile> {
        let id = id_of(&file.metadata()?);
        Ok(OpenFile { _file: file, id })
    }

    /// Whether this is what has that name there.
    fn is_in(&self, folder: &Folder, name: &str) -> bool {
        folder.find(name) == Some(self.id)
    }
}

/// Why a directory cannot be used.
pub(in crate::server) enum NotOpened {
    /// Another server does, at this moment.
    InUse(Failure),
    Failed(Failure),
}

impl From<Failure> for NotOpened {
    fn from(failure: Failure) -> NotOpened {
        NotOpened::Failed(failure)
    }
}

impl Dir {
    /// Makes it if it is not there. Tokens are in it, so it must be closed to others.
    pub(in crate::server) fn open(path: &Path, is_remade: bool) -> Result<Dir, NotOpened> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|why| cannot(path, "make", &why))?;
        let folder = Folder::open(path).map_err(|why| cannot(path, "look at", &why))?;
        let folder = folder.map_err(|Unfit { why, hint }| {
            Failure::usage(format!("cannot use --state-dir {}: {why}", path.display())).hint(hint)
        })?;
        let lock = take_lock(&folder, path)?;
        Ok(Dir { path: path.to_owned(), is_remade, folder, lock, journal: None, old_end: None })
    }

    /// Whether the directory of this name is the one that was opened, and its lock is ours.
    fn is_there(&self) -> bool {
        self.folder.is_at(&self.path) && self.lock.is_in(&self.folder, LOCK)
    }

    fn has_own_journal(&self, folder: &Folder) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.is_in(folder, JOURNAL))
    }

    /// Whether the next server would find what is written: the lock and the journal are where it looks.
    pub(super) fn is_found(&self) -> bool {
        self.is_there() && self.has_own_journal(&self.folder)
    }

    pub(super) fn is_remade(&self) -> bool {
        self.is_remade
    }

    /// After the directory was removed or replaced.
    pub(super) fn come_back(&mut self) -> io::Result<()> {
        if !self.is_there() {
            if self.is_remade {
                self.remake()?;
            }
            let folder = self.find_anew()?;
            // Its files may have come with it, the lock as we have it among them.
            if !self.lock.is_in(&folder, LOCK) {
                self.lock = take_lock(&folder, &self.path).map_err(|not_opened| {
                    let (NotOpened::InUse(failure) | NotOpened::Failed(failure)) = not_opened;
                    gone(&failure.message)
                })?;
            }
            self.folder = folder;
        }
        Ok(())
    }

    /// A directory is used again when it is back, or when there is an empty one, made by somebody who meant to. What
    /// is in any other may be all that is known of somebody's locks.
    fn find_anew(&self) -> io::Result<Folder> {
        let folder = match Folder::open(&self.path) {
            Err(_) => return Err(gone("put it back, or make an empty one (mkdir -m 700)")),
            Ok(Err(unfit)) => return Err(gone(&format!("of what is there now, {}", unfit.why))),
            Ok(Ok(folder)) => folder,
        };
        // With a journal of ours only the lock was removed.
        if folder.find(JOURNAL).is_some() && !self.has_own_journal(&folder) {
            return Err(gone("what is there now has another journal; put the right one back, or empty this one"));
        }
        Ok(folder)
    }

    /// Not in what others may have put in the place of the directory above, where they could put another one later.
    fn remake(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        match self.path.parent().map(Folder::open).transpose()? {
            Some(Err(unfit)) => Err(gone(&format!("of the directory above, {}", unfit.why))),
            _ => Ok(()),
        }
    }

    /// What is to be said of one that is not found.
    pub(super) fn not_found(&self) -> io::Error {
        let why = if self.is_there() { None } else { self.find_anew().err() };
        why.unwrap_or_else(|| gone("what is held is written down anew"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which directory it is that has this name.
    pub(super) fn id(&self) -> FileId {
        self.folder.id()
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// An empty file for a new journal.
    pub(super) fn make_draft(&self) -> io::Result<File> {
        self.folder.make_file(DRAFT)
    }

    /// All of the journal; `None` if there is none yet.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, Failure> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            self.folder.open_file(JOURNAL, OFlag::O_RDONLY)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => Err(cannot(&self.path, "read the journal in", &why)),
        }
    }

    /// Half a draft only takes room.
    pub(super) fn drop_draft(&self) {
        if self.is_there() {
            // There may be none.
            let _ = self.folder.remove(DRAFT);
        }
    }

    pub(super) fn has_read_up_to(&mut self, end: usize) {
        self.old_end = Some(end as u64);
    }

    pub(super) fn has_old_journal(&self) -> bool {
        self.old_end.is_some()
    }

    /// Gives the room behind the end of the old journal back to the disk.
    pub(super) fn give_back_room(&self) -> io::Result<()> {
        let journal = self.folder.open_file(JOURNAL, OFlag::O_WRONLY)?;
        if let Some(end) = self.old_end {
            journal.set_len(end)?;
        }
        journal.sync_all()
    }

    /// Gives the draft, which is in this file, the name of the journal, for good.
    pub(super) fn publish_draft(&mut self, file: File) -> io::Result<()> {
        let draft = OpenFile::new(file)?;
        if !self.is_there() || !draft.is_in(&self.folder, DRAFT) {
            return Err(self.not_found());
        }
        self.folder.rename(DRAFT, JOURNAL)?;
        self.journal = Some(draft);
        self.folder.sync()
    }

    pub(super) fn refuse(&self, damage: Damage) -> Failure {
        let file = self.journal().display().to_string();
        let moved = "restore it from a copy; or, once every lease that it knew has ended, move it away and start with nothing held";
        let (why, hint) = match damage {
            Damage::Header(Unreadable::Newer { version }) => (
                format!("it was written by a newer dflock (format {version}; this one reads up to {VERSION})"),
                "start that version, or a later one".to_owned(),
            ),
            Damage::Header(Unreadable::NoJournal) => {
                ("it is no journal of dflock, or damaged at byte 0".to_owned(), moved.to_owned())
            }
            Damage::Header(Unreadable::DamagedHeader) => ("it is damaged at byte 0".to_owned(), moved.to_owned()),
            Damage::CutShort { at } => {
                (format!("it is damaged at byte {at}: what it begins with is not complete"), moved.to_owned())
            }
            Damage::NumberTwice => ("two locks or places in it have the same number".to_owned(), moved.to_owned()),
            Damage::Frame { at } | Damage::Records { at } => (
                format!("it is damaged at byte {at}, and goes on behind it"),
                format!(
                    "restore it from a copy; or keep a copy, and once every lease given out since the damage has \
                     ended, forget what follows it: truncate -s {at} {file}"
                ),
            ),
        };
        Failure::new(Kind::Internal, format!("cannot read the journal {file}: {why}")).hint(hint)
    }
}

fn gone(why: &str) -> io::Error {
    io::Error::other(format!("the directory or its journal was removed or replaced: {why}"))
}

/// Locks a directory for this server alone.
fn take_lock(folder: &Folder, path: &Path) -> Result<OpenFile, NotOpened> {
    let opened = folder.open_file(LOCK, OFlag::O_RDWR | OFlag::O_CREAT);
    let mut lock = opened.map_err(|why| cannot(path, "write to", &why))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(pid) => format!(" (pid {pid})"),
                Err(_) => String::new(),
            };
            let message = format!("cannot use --state-dir {}: another server uses it{holder}", path.display());
            let hint = "stop that one first, or give this one a directory of its own";
            return Err(NotOpened::InUse(Failure::usage(message).hint(hint)));
        }
        Err(TryLockError::Error(why)) => return Err(cannot(path, "lock", &why).into()),
    }
    // Only a help to whoever meets the lock: a full disk is no reason not to start.
    let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(OpenFile::new(lock).map_err(|why| cannot(path, "look at", &why))?)
}

pub(super) fn cannot(path: &Path, what: &str, why: &io::Error) -> Failure {
    let failure = Failure::usage(format!("cannot {what} --state-dir {}: {why}", path.display()));
    match why.kind() {
        ErrorKind::PermissionDenied => failure.hint("it must belong to the user that the server runs as"),
        ErrorKind::ReadOnlyFilesystem => failure.hint("name a directory on a file system that can be written"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => failure.hint("make room on that disk, and start again"),
        _ => failure,
    }
}
