//! The sockets and lock files of this user's holders: who lives, what is stale.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::places;
use crate::error::Failure;
use crate::lock::{Key, Space};

/// The longest path that a Unix socket can have, everywhere.
const MAX_SOCKET_PATH: usize = 100;

/// Directories that belong to this user alone.
pub struct Registry {
    dirs: Vec<PathBuf>,
}

/// A holder's two files. The lock file is locked for as long as the holder lives.
pub struct Entry {
    pub socket: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Registry {
    /// Of all places that may have holders.
    pub fn open() -> Result<Registry, Failure> {
        Ok(Registry { dirs: places::existing()? })
    }

    /// Makes the files of a new holder of this process.
    pub fn enter(key: &Key, space: Space) -> Result<Entry, Failure> {
        enter(&places::find_or_make()?, key, space)
    }

    /// The sockets of living holders, of this key or of all. What the dead left behind is removed.
    pub fn living(&self, key: Option<(&Key, Space)>) -> Result<Vec<PathBuf>, Failure> {
        let wanted = key.map(|(key, space)| format!("{}-", prefix(key, space)));
        let mut sockets = Vec::new();
        for path in self.files()? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.extension().is_none_or(|ending| ending != "lock")
                || wanted.as_ref().is_some_and(|wanted| !name.starts_with(wanted.as_str()))
                || name == START_LOCK
            {
                continue;
            }
            let socket = path.with_extension("sock");
            match File::open(&path) {
                Ok(lock) if lock.try_lock().is_ok() => {
                    let _ = std::fs::remove_file(&socket);
                    let _ = std::fs::remove_file(&path);
                }
                Ok(_) => sockets.push(socket),
                // It ended while we were looking.
                Err(_) => {}
            }
        }
        sockets.sort();
        Ok(sockets)
    }

    fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut files = Vec::new();
        for dir in &self.dirs {
            let unreadable = |why| cannot("read", dir, &why);
            for entry in std::fs::read_dir(dir).map_err(unreadable)? {
                files.push(entry.map_err(unreadable)?.path());
            }
        }
        Ok(files)
    }
}

fn enter(dir: &Path, key: &Key, space: Space) -> Result<Entry, Failure> {
    let name = format!("{}-{}", prefix(key, space), std::process::id());
    let lock_path = dir.join(format!("{name}.lock"));
    let socket = dir.join(format!("{name}.sock"));
    loop {
        let lock = File::create(&lock_path).map_err(|why| cannot("write", &lock_path, &why))?;
        lock.lock().map_err(|why| cannot("lock", &lock_path, &why))?;
        // Whoever found it unlocked a moment ago has taken it for stale, and removed it.
        if is_same_file(&lock, &lock_path) {
            let _ = std::fs::remove_file(&socket);
            return Ok(Entry { socket, lock_path, _lock: lock });
        }
    }
}

impl Entry {
    pub fn listen(&self) -> Result<UnixListener, Failure> {
        short_path(&self.socket)
            .and_then(|(path, _open)| UnixListener::bind(path))
            .map_err(|why| cannot("listen on", &self.socket, &why))
    }
}

/// A path for `bind` and `connect`, which take only short ones. The file must be open meanwhile.
pub(super) fn short_path(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if socket.as_os_str().len() < MAX_SOCKET_PATH {
        return Ok((socket.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name), Some(dir)))
}

/// What a server's start is taken in turn by, in the same directory.
pub const START_LOCK: &str = "server-start.lock";

impl Drop for Entry {
    fn drop(&mut self) {
        // The lock file last: while it is there and locked, the holder lives.
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Narrows a search down; holders say themselves what they hold.
fn prefix(key: &Key, space: Space) -> String {
    let kind = match space {
        Space::Locks => "lock",
        Space::Semaphores => "sem",
    };
    // FNV-1a: only names a file.
    let hash = key
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{kind}-{hash:016x}")
}

fn is_same_file(open: &File, path: &Path) -> bool {
    match (open.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() == there.ino() && open.dev() == there.dev(),
        _ => false,
    }
}

fn cannot(tried: &str, path: &Path, why: &io::Error) -> Failure {
    Failure::usage(format!("cannot {tried} {} for a holder: {why}", path.display()))
        .hint("DFLOCK_RUNTIME_DIR names the directory to use instead; it needs mode 700 and a little room")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_found_and_the_dead_are_cleared_away() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry { dirs: vec![home.path().to_owned()] };
        let key = Key::new(b"k").unwrap();
        let entry = enter(home.path(), &key, Space::Locks).unwrap();
        assert_eq!(registry.living(None).unwrap(), std::slice::from_ref(&entry.socket));
        assert_eq!(registry.living(Some((&key, Space::Locks))).unwrap().len(), 1);
        assert!(registry.living(Some((&key, Space::Semaphores))).unwrap().is_empty());
        assert!(registry.living(Some((&Key::new(b"other").unwrap(), Space::Locks))).unwrap().is_empty());
        // As a killed process leaves it: files, but no lock.
        let stale = home.path().join("lock-0-1.lock");
        std::fs::write(&stale, "").unwrap();
        assert_eq!(registry.living(None).unwrap().len(), 1);
        assert!(!stale.exists());
        drop(entry);
        assert!(registry.living(None).unwrap().is_empty());
    }

    #[test]
    fn a_socket_may_have_a_long_path() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("long".repeat(30));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join("a.sock");
        let (path, _open) = short_path(&socket).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let (path, _open) = short_path(&socket).unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap();
        assert!(socket.exists());
        drop(listener);
    }
}
