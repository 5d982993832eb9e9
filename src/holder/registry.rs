//! Where the sockets and lock files of this user's holders are; who lives, what is stale.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind};
use crate::lock::{Key, Space};

/// The longest path that a Unix socket can have, everywhere.
const MAX_SOCKET_PATH: usize = 100;

/// A directory that belongs to this user alone.
pub struct Registry {
    dir: PathBuf,
}

/// A holder's two files. The lock file is locked for as long as the holder lives.
pub struct Entry {
    pub socket: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Registry {
    /// Finds the directory, and makes it if need be.
    pub fn open() -> Result<Registry, Failure> {
        let mine = nix::unistd::geteuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        // Under sudo it may be another user's, in a container it may not exist.
        let runtime =
            runtime.filter(|dir| std::fs::metadata(dir).is_ok_and(|about| about.is_dir() && about.uid() == mine));
        let dir = match runtime {
            Some(dir) if dir.as_os_str().len() < MAX_SOCKET_PATH - 40 => dir.join("dflock"),
            _ => PathBuf::from(format!("/tmp/dflock-{mine}")),
        };
        Registry::at(dir, mine)
    }

    fn at(dir: PathBuf, mine: u32) -> Result<Registry, Failure> {
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
            Err(why) => return Err(cannot("make the directory", &dir, &why)),
        }
        // Not through a link: in a directory that all may write to, it could lead anywhere.
        let about = std::fs::symlink_metadata(&dir).map_err(|why| cannot("look at the directory", &dir, &why))?;
        check(&dir, &about, mine)?;
        Ok(Registry { dir })
    }

    /// Makes the files of a new holder of this process.
    pub fn enter(&self, key: &Key, space: Space) -> Result<Entry, Failure> {
        let name = format!("{}-{}", prefix(key, space), std::process::id());
        let lock_path = self.dir.join(format!("{name}.lock"));
        let socket = self.dir.join(format!("{name}.sock"));
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

    /// The sockets of living holders, of this key or of all. What the dead left behind is removed.
    pub fn living(&self, key: Option<(&Key, Space)>) -> Result<Vec<PathBuf>, Failure> {
        let wanted = key.map(|(key, space)| format!("{}-", prefix(key, space)));
        let mut sockets = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|why| cannot("read", &self.dir, &why))? {
            let path = entry.map_err(|why| cannot("read", &self.dir, &why))?.path();
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

    /// Held by whoever starts a server at the moment.
    pub fn start_lock(&self) -> Result<File, Failure> {
        let path = self.dir.join(START_LOCK);
        File::create(&path).map_err(|why| cannot("write", &path, &why))
    }
}

const START_LOCK: &str = "server-start.lock";

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

fn check(dir: &Path, about: &Metadata, mine: u32) -> Result<(), Failure> {
    let shown = dir.display();
    let wrong = |what: String| {
        Failure::new(Kind::Usage, what).hint("set XDG_RUNTIME_DIR to a directory of your own with mode 700")
    };
    if !about.is_dir() {
        return Err(wrong(format!("{shown} should be a directory for holders, and is none")));
    }
    if about.uid() != mine {
        return Err(wrong(format!("{shown} should be this user's directory for holders, and belongs to another")));
    }
    if about.mode() & 0o077 != 0 {
        return Err(wrong(format!("others may enter {shown} (mode {:03o}), where holders are", about.mode() & 0o777))
            .hint(format!("chmod 700 {shown}")));
    }
    Ok(())
}

fn cannot(tried: &str, path: &Path, why: &io::Error) -> Failure {
    Failure::usage(format!("cannot {tried} {} for a holder: {why}", path.display()))
        .hint("XDG_RUNTIME_DIR names the directory to use instead; it needs mode 700 and a little room")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn registry(home: &tempfile::TempDir) -> Result<Registry, Failure> {
        Registry::at(home.path().join("dflock"), nix::unistd::geteuid().as_raw())
    }

    #[test]
    fn the_living_are_found_and_the_dead_are_cleared_away() {
        let home = tempfile::tempdir().unwrap();
        let registry = registry(&home).unwrap();
        let key = Key::new(b"k").unwrap();
        let entry = registry.enter(&key, Space::Locks).unwrap();
        assert_eq!(registry.living(None).unwrap(), std::slice::from_ref(&entry.socket));
        assert_eq!(registry.living(Some((&key, Space::Locks))).unwrap().len(), 1);
        assert!(registry.living(Some((&key, Space::Semaphores))).unwrap().is_empty());
        assert!(registry.living(Some((&Key::new(b"other").unwrap(), Space::Locks))).unwrap().is_empty());
        // As a killed process leaves it: files, but no lock.
        let stale = home.path().join("dflock/lock-0-1.lock");
        std::fs::write(&stale, "").unwrap();
        assert_eq!(registry.living(None).unwrap().len(), 1);
        assert!(!stale.exists());
        drop(entry);
        assert!(registry.living(None).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("dflock");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(registry(&home).err().unwrap().message.contains("mode 755"));
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert!(registry(&home).err().unwrap().message.contains("is none"));
    }
}
