//! Control groups (version 2), as directories: the one that we are in, and one that a command has for itself.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

pub mod memory;

/// How the cgroup of a command is called: this, and 16 hexadecimal digits.
const PREFIX: &str = "dflock-";

/// Others that a crash has left behind are looked at one by one: as many at a time.
const MOST_LEFTOVERS: usize = 64;

/// Whoever is moved may start somebody meanwhile, who is moved in the next round.
const ROUNDS: usize = 20;

/// How often another one is made in the place of one that somebody took for a leftover.
const ATTEMPTS: usize = 3;

/// A command's own, below the one that we are in. With it goes the directory, and whoever is still there is moved
/// up to where we are.
#[derive(Debug)]
pub struct CommandCgroup {
    reached: Rc<Cgroup>,
    /// Locked, so that nobody takes it for a leftover while it is empty.
    directory: File,
}

/// A cgroup as it can be reached whatever becomes of the place where it is mounted.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: Option<File>,
    events: Option<File>,
    kill: Option<File>,
}

impl Cgroup {
    /// By its directory, or else as it is found now.
    pub fn new(path: PathBuf, directory: Option<OwnedFd>) -> Cgroup {
        let directory = directory.map(File::from).or_else(|| File::open(&path).ok());
        let open = |name: &str, how: OFlag| {
            openat(directory.as_ref()?, name, how | OFlag::O_CLOEXEC, Mode::empty()).ok().map(File::from)
        };
        let (events, kill) = (open("cgroup.events", OFlag::O_RDONLY), open("cgroup.kill", OFlag::O_WRONLY));
        Cgroup { path, directory, events, kill }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands for it, to be handed on.
    pub fn directory(&self) -> Option<OwnedFd> {
        self.directory.as_ref()?.try_clone().ok().map(OwnedFd::from)
    }

    /// Ends whoever is in it or below it, in one moment (Linux 5.14).
    pub fn kill(&self) -> io::Result<()> {
        let mut kill = self.kill.as_ref().ok_or(ErrorKind::NotFound)?;
        kill.write_all(b"1")
    }

    /// Whether anybody lives in it or below it. One that was removed has nobody; of one that cannot be reached nobody
    /// knows.
    pub fn is_populated(&self) -> io::Result<bool> {
        let events = self.events.as_ref().ok_or(ErrorKind::NotFound)?;
        let mut bytes = [0; 256];
        match events.read_at(&mut bytes, 0) {
            Ok(length) => Ok(bytes[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 1")),
            Err(why) if why.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Whoever is in it or below it.
    pub fn members(&self) -> Vec<i32> {
        let directory =
            self.directory.as_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        let found = directory.filter(|directory| directory.join("cgroup.procs").exists());
        members(found.as_deref().unwrap_or(&self.path))
    }

    /// Whether a process is in it or below it, told by the last name of its path.
    pub fn has_member(&self, pid: i32) -> bool {
        let Some(name) = self.path.file_name() else { return false };
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        path_in(&text).is_some_and(|path| path.components().any(|part| part.as_os_str() == name))
    }

    /// Removes it, with all below it, if nobody lives there. One that is gone already is as good.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl CommandCgroup {
    /// In whatever place the file system is mounted and lets us.
    pub fn make(id: u64) -> io::Result<CommandCgroup> {
        let mut problem = io::Error::other("no cgroup file system of version 2 is mounted here");
        for parent in ours()? {
            match make_below(&parent, id) {
                Ok(made) => return Ok(made),
                Err(why) => problem = io::Error::new(why.kind(), format!("{}: {why}", parent.display())),
            }
        }
        Err(problem)
    }

    pub fn reached(&self) -> &Rc<Cgroup> {
        &self.reached
    }

    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Removes what runs have left beside it that could not do so themselves.
    pub fn remove_leftovers(&self) {
        let Some(siblings) = self.reached.path.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return };
        let is_leftover = |path: &PathBuf| is_command_name(path) && *path != self.reached.path;
        for path in siblings.flatten().map(|entry| entry.path()).filter(is_leftover).take(MOST_LEFTOVERS) {
            let Ok(directory) = File::open(&path) else { continue };
            if directory.try_lock().is_ok() && matches!(is_populated(&path), Ok(false)) {
                // It is tried again by whoever comes next.
                let _ = remove(&path);
            }
        }
    }
}

impl Drop for CommandCgroup {
    fn drop(&mut self) {
        if remove(&self.reached.path).is_ok() {
            return;
        }
        let Some(parent) = self.reached.path.parent() else { return };
        for _ in 0..ROUNDS {
            let members = own_members(&self.reached.path);
            if members.is_empty() {
                break;
            }
            for pid in members {
                // It may have ended meanwhile. Whoever cannot be moved stays, and the directory with it.
                let _ = fs::write(parent.join("cgroup.procs"), pid.to_string());
            }
        }
        // If somebody is left, whoever comes after the last one removes it.
        let _ = remove(&self.reached.path);
    }
}

fn make_below(parent: &Path, id: u64) -> io::Result<CommandCgroup> {
    // A guardian is told of it in a message of text.
    if parent.to_str().is_none() {
        return Err(ErrorKind::InvalidFilename.into());
    }
    for attempt in 0..ATTEMPTS {
        let path = parent.join(format!("{PREFIX}{:016x}", id.wrapping_add(attempt as u64)));
        fs::create_dir(&path)?;
        // Until it is locked somebody may take it for a leftover.
        let opened = File::open(&path).ok().filter(|directory| directory.try_lock_shared().is_ok());
        let Some(directory) = opened else { continue };
        let reached = Cgroup::new(path, Some(directory.try_clone()?.into()));
        if reached.is_populated().is_ok() {
            return Ok(CommandCgroup { reached: Rc::new(reached), directory });
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// Whether anybody lives in it or below it. One that was removed has nobody.
fn is_populated(path: &Path) -> io::Result<bool> {
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
        Err(why) if is_gone(&why) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Whoever is in it or below it.
fn members(path: &Path) -> Vec<i32> {
    let mut members = own_members(path);
    for below in directories_in(path) {
        members.extend(self::members(&below));
    }
    members
}

/// Removes it, with all below it, if nobody lives there. One that is gone already is as good.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir(path) {
        // Somebody lives there, or other directories are below.
        Err(why) if why.raw_os_error() == Some(libc::EBUSY) && !is_populated(path)? => {
            directories_in(path).iter().try_for_each(|below| remove(below))?;
            fs::remove_dir(path)
        }
        removed => removed,
    };
    removed.or_else(|why| if is_gone(&why) { Ok(()) } else { Err(why) })
}

/// Moves this process out of the cgroups of all commands that it is in: what serves others too is not to end with
/// one of them.
pub fn leave_commands() -> io::Result<()> {
    let own = own_path()?;
    let Some(inner) = own.ancestors().filter(|path| is_command_name(path)).last() else { return Ok(()) };
    let Some(outer) = inner.parent() else { return Ok(()) };
    let mut left = Err(ErrorKind::NotFound.into());
    for directory in mounted(outer)? {
        left = fs::write(directory.join("cgroup.procs"), "0");
        if left.is_ok() {
            break;
        }
    }
    left
}

fn is_gone(why: &io::Error) -> bool {
    why.kind() == ErrorKind::NotFound || why.raw_os_error() == Some(libc::ENODEV)
}

fn is_command_name(path: &Path) -> bool {
    let id = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
    id.is_some_and(|id| id.len() == 16 && id.bytes().all(|letter| letter.is_ascii_hexdigit()))
}

/// One whom we cannot see has the number 0.
fn own_members(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The directories of the one that we are in.
fn ours() -> io::Result<Vec<PathBuf>> {
    mounted(&own_path()?)
}

fn own_path() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    path_in(&text).ok_or_else(|| io::Error::other("this process is in no cgroup of version 2"))
}

/// Where a cgroup is found, by its path.
fn mounted(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let directories = mounts.lines().filter_map(|line| directory_in(line, path, "cgroup2", ""));
    // A mount may be hidden by a later one.
    Ok(directories.filter(|directory| directory.join("cgroup.procs").exists()).collect())
}

/// What `/proc/PID/cgroup` says of version 2.
fn path_in(text: &str) -> Option<PathBuf> {
    let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?);
    // One outside of the namespace that we are in begins so.
    let is_seen = path.is_absolute() && !path.starts_with("/..");
    is_seen.then(|| path.to_owned())
}

/// The directory of a cgroup, if a line of `/proc/PID/mountinfo` tells of a mount that has it: one of this kind, with
/// this among its options, if that is not empty.
fn directory_in(line: &str, path: &Path, kind: &str, option: &str) -> Option<PathBuf> {
    const ROOT: usize = 3;
    const MOUNT_POINT: usize = 4;
    let (mount, file_system) = line.split_once(" - ")?;
    let mut words = file_system.split(' ');
    let is_it = words.next() == Some(kind)
        && (option.is_empty() || words.nth(1).is_some_and(|options| options.split(',').any(|one| one == option)));
    if !is_it {
        return None;
    }
    let fields: Vec<&str> = mount.split(' ').collect();
    let below = path.strip_prefix(unescaped(fields.get(ROOT)?)).ok()?;
    let directory = Path::new(&unescaped(fields.get(MOUNT_POINT)?)).join(below);
    Some(directory)
}

/// White space and backslashes are written in octal digits there.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.into_iter().fold(text.to_owned(), |text, (escape, letter)| text.replace(escape, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_is_told_from_those_of_version_1() {
        let text = "9:name=systemd:/\n4:memory:/a\n0::/user.slice/x.service\n";
        assert_eq!(path_in(text).unwrap(), Path::new("/user.slice/x.service"));
        assert_eq!(path_in("4:memory:/a\n"), None);
        assert_eq!(path_in("0::/../outside\n"), None);
    }

    #[test]
    fn a_mount_may_have_a_part_of_all_at_any_place() {
        let line = |root: &str, point: &str, kind: &str| {
            format!("41 31 0:38 {root} {point} rw,relatime shared:9 - {kind} cgroup2 rw,nsdelegate")
        };
        let found = |root, point, kind| directory_in(&line(root, point, kind), Path::new("/a/b"), "cgroup2", "");
        assert_eq!(found("/", "/sys/fs/cgroup", "cgroup2").unwrap(), Path::new("/sys/fs/cgroup/a/b"));
        assert_eq!(found("/a", "/with\\040space", "cgroup2").unwrap(), Path::new("/with space/b"));
        assert_eq!(found("/other", "/sys/fs/cgroup", "cgroup2"), None);
        assert_eq!(found("/", "/sys/fs/cgroup/memory", "cgroup"), None);
        assert_eq!(directory_in("nonsense", Path::new("/"), "cgroup2", ""), None);
    }

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_command_name(Path::new("/x/dflock-0123456789abcdef")));
        for other in ["/", "/x/dflock.service", "/x/dflock-1", "/dflock-0123456789abcdeg", "/dflock-0123456789abcdef/x"]
        {
            assert!(!is_command_name(Path::new(other)), "{other}");
        }
    }
}
