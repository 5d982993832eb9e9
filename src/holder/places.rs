//! Where a user's files are while the machine is up: those of holders, and of a server that was started by itself.
//!
//! They must be found by whoever is this user: at a login, in cron, in a unit, under `sudo -E`. So the place depends
//! neither on `XDG_RUNTIME_DIR`, which only a login sets, nor on `HOME`, which says what a caller likes: servers whose
//! states were in two places would not know of each other's locks. Nor is it removed when a login ends, as
//! `/run/user/UID` is.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;
use crate::error::{Failure, Kind};

/// Names the one directory to use.
pub const VARIABLE: &str = "DFLOCK_RUNTIME_DIR";

/// What an earlier boot left in a home is removed when it is this old. It may be another machine's, where a home
/// is shared, but nobody uses it then.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// The directory that new files go to: the first that can be had, made if need be. It is this user's alone.
pub fn find_or_make() -> Result<PathBuf, Failure> {
    let mut first = None;
    for place in wanted() {
        match place
            .make()
            .map_err(|why| cannot("make the directory", &place.dir, &why))
            .and_then(|()| check(&place.dir))
        {
            Ok(()) => return Ok(place.dir),
            Err(wrong) if wrong.is_ours => return Err(wrong.failure),
            Err(wrong) => drop(first.get_or_insert(wrong.failure)),
        }
    }
    Err(first.unwrap_or_else(|| Failure::usage("there is no directory for holders").hint(OTHER_DIR)))
}

/// Every directory that may have something of this user.
pub fn existing() -> Result<Vec<PathBuf>, Failure> {
    let mut places: Vec<PathBuf> = wanted().into_iter().map(|place| place.dir).collect();
    if variable(VARIABLE).is_none() {
        places.extend(variable("XDG_RUNTIME_DIR").map(|dir| dir.join("dflock")));
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for dir in places {
        match check(&dir) {
            Ok(()) if seen.insert(dir.clone()) => found.push(dir),
            // Whoever is named must be usable; elsewhere others may have what they like.
            Err(wrong) if wrong.is_ours || (variable(VARIABLE).is_some() && wrong.is_there) => {
                return Err(wrong.failure);
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(found)
}

/// Where every start of this user can look, whatever its home and its variables are; none of them need be there.
pub fn fixed() -> Vec<PathBuf> {
    let mine = nix::unistd::geteuid();
    let root = mine.is_root().then(|| PathBuf::from("/run/dflock"));
    root.into_iter().chain([PathBuf::from(format!("/run/user/{mine}/dflock")), in_tmp()]).collect()
}

/// What the caller says of the place. Who says something else gets another one, and means to.
pub fn choice() -> Option<PathBuf> {
    variable(VARIABLE).or_else(|| if account_home().is_none() { variable("HOME") } else { None })
}

/// A directory that could be used.
struct Place {
    dir: PathBuf,
    /// What must be there already, and be this user's. What is between it and `dir` is made.
    below: Option<PathBuf>,
}

impl Place {
    fn make(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        if let Some(below) = &self.below {
            if !is_own_dir(below) {
                return Err(io::Error::new(ErrorKind::NotFound, format!("{} is not ours", below.display())));
            }
            if !self.dir.is_dir() {
                builder.recursive(true).create(&self.dir)?;
                sweep(&self.dir);
            }
            return Ok(());
        }
        match builder.create(&self.dir) {
            Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }
}

/// The best first.
fn wanted() -> Vec<Place> {
    if let Some(dir) = variable(VARIABLE) {
        return vec![Place { dir, below: None }];
    }
    let mine = nix::unistd::geteuid();
    let mut places = Vec::new();
    if mine.is_root() {
        places.push(Place { dir: PathBuf::from("/run/dflock"), below: None });
    }
    if let Some(home) = home() {
        places.push(Place {
            dir: home.join(".local/state/dflock").join(boot().unwrap_or_else(|| "boot".to_owned())),
            below: Some(home),
        });
    }
    let login = PathBuf::from(format!("/run/user/{mine}"));
    places.push(Place { dir: login.join("dflock"), below: Some(login) });
    places.push(Place { dir: in_tmp(), below: None });
    places
}

fn in_tmp() -> PathBuf {
    PathBuf::from(format!("/tmp/dflock-{}", nix::unistd::geteuid()))
}

/// That of the account, which is the same for all who are this user. `HOME` says what its caller likes, so it is only
/// for those who have no account; under sudo it may be another user's.
fn home() -> Option<PathBuf> {
    account_home().or_else(|| variable("HOME")).filter(|home| is_own_dir(home))
}

fn account_home() -> Option<PathBuf> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir)
}

/// Names this boot of this machine, where it is known: a home may be shared by many, and what ends with a boot must not
/// outlive it.
pub fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let short: String = id.chars().take_while(char::is_ascii_hexdigit).collect();
    (!short.is_empty()).then_some(short)
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_own_dir(dir: &Path) -> bool {
    let mine = nix::unistd::geteuid().as_raw();
    std::fs::metadata(dir).is_ok_and(|about| about.is_dir() && about.uid() == mine)
}

/// Removes what boots long ago left beside `dir`.
fn sweep(dir: &Path) {
    let Some(all) = dir.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return };
    for other in all.flatten().map(|entry| entry.path()).filter(|path| path != dir) {
        if newest(&other, 3).is_some_and(|time| clock::wall_nanos() / 1_000_000_000 > time + FORGET_AFTER.as_secs()) {
            // What cannot be removed stays; nobody looks there.
            let _ = std::fs::remove_dir_all(&other);
        }
    }
}

/// When anything in a directory was changed last.
fn newest(path: &Path, depth: u32) -> Option<u64> {
    let about = std::fs::symlink_metadata(path).ok()?;
    let mut newest_time = u64::try_from(about.mtime()).ok()?;
    if about.is_dir() && depth > 0 {
        for entry in std::fs::read_dir(path).ok()? {
            newest_time = newest_time.max(newest(&entry.ok()?.path(), depth - 1)?);
        }
    }
    Some(newest_time)
}

const OTHER_DIR: &str = "DFLOCK_RUNTIME_DIR names the directory to use instead; it needs mode 700 and a little room";

struct Wrong {
    failure: Failure,
    is_there: bool,
    /// Ours, but not fit for use: nobody else can put that right.
    is_ours: bool,
}

fn check(dir: &Path) -> Result<(), Wrong> {
    // Not through a link: in a directory that all may write to, it could lead anywhere.
    let about = std::fs::symlink_metadata(dir).map_err(|why| cannot("look at the directory", dir, &why))?;
    check_owner(dir, &about, nix::unistd::geteuid().as_raw())
}

fn check_owner(dir: &Path, about: &Metadata, mine: u32) -> Result<(), Wrong> {
    let shown = dir.display();
    let wrong = |what: String, hint: String, is_ours| Wrong {
        failure: Failure::new(Kind::Usage, what).hint(hint),
        is_there: true,
        is_ours,
    };
    if !about.is_dir() {
        return Err(wrong(format!("{shown} should be a directory for holders, and is none"), OTHER_DIR.into(), false));
    }
    if about.uid() != mine {
        let what = format!("{shown} should be this user's directory for holders, and belongs to another");
        return Err(wrong(what, OTHER_DIR.into(), false));
    }
    if about.mode() & 0o077 != 0 {
        let what = format!("others may enter {shown} (mode {:03o}), where holders are", about.mode() & 0o777);
        return Err(wrong(what, format!("chmod 700 {shown}"), true));
    }
    Ok(())
}

fn cannot(tried: &str, path: &Path, why: &io::Error) -> Wrong {
    let failure = Failure::usage(format!("cannot {tried} {} for a holder: {why}", path.display())).hint(OTHER_DIR);
    Wrong { failure, is_there: why.kind() != ErrorKind::NotFound, is_ours: false }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("dflock");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let wrong = check(&dir).err().unwrap();
        assert!(wrong.is_ours && wrong.failure.message.contains("mode 755"));
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        let wrong = check(&dir).err().unwrap();
        assert!(!wrong.is_ours && wrong.failure.message.contains("is none"));
    }

    #[test]
    fn what_boots_long_ago_left_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = |name: &str| home.path().join(name);
        for name in ["this", "last", "old"] {
            std::fs::create_dir_all(dir(name).join("server-1")).unwrap();
            std::fs::write(dir(name).join("server-1/journal"), "").unwrap();
        }
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let make_old = |path: PathBuf| std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        for path in ["last", "last/server-1", "old/server-1/journal", "old/server-1", "old"] {
            make_old(dir(path));
        }
        sweep(&dir("this"));
        assert!(dir("this").exists() && dir("last").exists() && !dir("old").exists());
    }

    #[test]
    fn this_boot_has_a_name() {
        let boot = boot().unwrap();
        assert!(!boot.is_empty() && boot.len() < 20, "{boot}");
    }
}
