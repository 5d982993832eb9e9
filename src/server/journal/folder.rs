//! A directory by its descriptor: what was looked at is what is used, whatever others put in its place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// Device and inode.
pub(super) type FileId = (u64, u64);

pub(super) struct Folder {
    descriptor: File,
    id: FileId,
}

/// Why a directory is not one to keep tokens in, and what to do.
pub(super) struct Unfit {
    pub(super) why: String,
    pub(super) hint: String,
}

impl Folder {
    /// One of ours, closed to others: whoever else may write to it could have us read and write anything.
    pub(super) fn open(path: &Path) -> io::Result<Result<Folder, Unfit>> {
        let mine = geteuid().as_raw();
        let other = |why: String| {
            let hint = "give it a directory of its own, that belongs to the user that the server runs as".to_owned();
            Ok(Err(Unfit { why, hint }))
        };
        let theirs = |uid| other(format!("it belongs to another user (uid {uid})"));
        // A link of ours, or of root for us, is a way of saying where it is; with StateDirectory= systemd makes such.
        let link = fs::symlink_metadata(path)?;
        if link.is_symlink() && link.uid() != mine && link.uid() != 0 {
            return other(format!("it is a link of another user (uid {})", link.uid()));
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let descriptor = match fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
            Err(why) if why.kind() == ErrorKind::NotADirectory => return other("it is not a directory".to_owned()),
            Err(why) if why.kind() == ErrorKind::PermissionDenied => {
                let uid = fs::metadata(path)?.uid();
                return if uid == mine { Err(why) } else { theirs(uid) };
            }
            opened => opened?,
        };
        let about = descriptor.metadata()?;
        if about.uid() != mine {
            return theirs(about.uid());
        }
        if about.permissions().mode() & 0o077 != 0 {
            let why = "others may look into it, and tokens are kept there".to_owned();
            return Ok(Err(Unfit { why, hint: format!("chmod 700 {}", path.display()) }));
        }
        Ok(Ok(Folder { id: id_of(&about), descriptor }))
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Whether this is what the path leads to.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|about| id_of(&about) == self.id)
    }

    /// What has this name; nothing else can have its number as long as it is kept open.
    pub(super) fn find(&self, name: &str) -> Option<FileId> {
        let about = fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some((about.st_dev as u64, about.st_ino as u64))
    }

    /// Opens a file of ours, not through a link, and nothing that is no file.
    pub(super) fn open_file(&self, name: &str, flags: OFlag) -> io::Result<File> {
        // Opening a pipe would wait for whoever is at its other end.
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.descriptor, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("{name} is not a file")));
        }
        if about.uid() != geteuid().as_raw() && about.uid() != 0 {
            let why = format!("{name} belongs to another user (uid {})", about.uid());
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        Ok(file)
    }

    /// A new file, whatever was there.
    pub(super) fn make_file(&self, name: &str) -> io::Result<File> {
        // Not into what is there: it may be a link, or another name of some file.
        match self.remove(name) {
            Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir)?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.descriptor, from, &self.descriptor, to)?)
    }

    /// What has which name is on disk then.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.descriptor.sync_all()
    }
}

pub(super) fn id_of(about: &fs::Metadata) -> FileId {
    (about.dev(), about.ino())
}
