//! A socket file of our own: whom it is open to, and that nobody else's is taken for it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mode_t};
use nix::unistd::{Gid, fchownat, geteuid};

/// Who may connect to a socket file; what is not named is as the system makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketAccess {
    pub mode: Option<u32>,
    pub group: Option<u32>,
}

/// Removed when dropped.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Opens the one that was just bound to whom it shall be open to, and to no others. Whoever else may write to its
    /// directory can put something else in its place at any time: nothing is changed but what was looked at.
    pub(super) fn new(path: &Path, access: SocketAccess) -> io::Result<SocketFile> {
        let pinned = Pinned::new(path)?;
        let about = pinned.about()?;
        // What has a second name may have been there before.
        let is_ours = about.file_type().is_socket() && about.uid() == geteuid().as_raw() && about.nlink() == 1;
        if !is_ours && (access.mode.is_some() || access.group.is_some()) {
            let why = "somebody has put something else in its place: let nobody else write to its directory";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let file = SocketFile { path: path.to_owned(), device: about.dev(), inode: about.ino() };
        if let Some(group) = access.group {
            pinned.give(group)?;
        }
        if let Some(mode) = access.mode {
            pinned.set_mode(mode)?;
        }
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody can connect to it any more; the next server would only find it stale. But it may have been
        // replaced by another server's.
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|about| about.dev() == self.device && about.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A file, whatever has its name later.
#[cfg(target_os = "linux")]
struct Pinned(std::fs::File);

/// Here it is the name: no link is followed from it.
#[cfg(not(target_os = "linux"))]
struct Pinned(PathBuf);

#[cfg(target_os = "linux")]
impl Pinned {
    const MODE_FLAGS: FchmodatFlags = FchmodatFlags::FollowSymlink;
    const OWNER_FLAGS: AtFlags = AtFlags::empty();

    fn new(path: &Path) -> io::Result<Pinned> {
        use nix::fcntl::OFlag;
        use std::os::unix::fs::OpenOptionsExt;

        let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits();
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map(Pinned)
    }

    fn about(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// It leads to the file itself.
    fn name(&self) -> PathBuf {
        use std::os::fd::AsRawFd;

        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(not(target_os = "linux"))]
impl Pinned {
    const MODE_FLAGS: FchmodatFlags = FchmodatFlags::NoFollowSymlink;
    const OWNER_FLAGS: AtFlags = AtFlags::AT_SYMLINK_NOFOLLOW;

    fn new(path: &Path) -> io::Result<Pinned> {
        Ok(Pinned(path.to_owned()))
    }

    fn about(&self) -> io::Result<Metadata> {
        std::fs::symlink_metadata(&self.0)
    }

    fn name(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Pinned {
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmodat(AT_FDCWD, &self.name(), Mode::from_bits_truncate(mode as mode_t), Pinned::MODE_FLAGS)?)
    }

    fn give(&self, group: u32) -> io::Result<()> {
        let given = fchownat(AT_FDCWD, &self.name(), None, Some(Gid::from_raw(group)), Pinned::OWNER_FLAGS);
        given.map_err(|why| {
            let why = io::Error::from(why);
            let text = "of which the server must be a member";
            io::Error::new(why.kind(), format!("it cannot be given to the group {group}, {text}: {why}"))
        })
    }
}
