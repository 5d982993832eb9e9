//! Where the state of a server is that nobody named a directory for: said at places that stay when that directory, or
//! the home that it is in, goes away.
//!
//! Without it the next server, which finds no such directory, would begin another one with nothing held, while commands
//! run under the locks that the one before gave out. So whoever starts looks here first: it uses the directory that a mark
//! names, and if that cannot be had it does not serve until all that was held has ended.
//!
//! There is a mark only while something is held, it is written before anybody hears of a lock, and it says when the last
//! lease ends.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::dir::JOURNAL;
use super::folder::{FileId, Folder, Unfit};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};

/// How much further than the last lease a mark goes, so that it is not written with every renewal.
const AHEAD: Duration = Duration::from_secs(30);

const ENDING: &str = ".where";

/// No mark is longer.
const MOST: u64 = 16 * 1024;

/// The marks of one default server: the same file in each of some directories.
#[derive(Debug)]
pub struct Mark {
    places: Vec<PathBuf>,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The address is ours, so nobody else has a say.
    is_serving: bool,
    is_over: bool,
    wanted: Wanted,
}

/// What is to be said.
#[derive(Debug, Default)]
enum Wanted {
    /// What another one said: it is not known yet whether anything is held.
    #[default]
    AsItWas,
    Nothing,
    /// Something is held.
    Told(Told),
}

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    dir: PathBuf,
    folder: FileId,
    /// Nothing that was given out by this state lasts longer, on the clock of servers.
    until: Moment,
}

impl Mark {
    /// The name is that of one boot, address and choice of directory. A place that does not exist is made when it is needed.
    pub fn new(places: Vec<PathBuf>, name: &str) -> Mark {
        Mark { places, name: format!("{name}{ENDING}"), state: Mutex::default() }
    }

    /// The directory that the next server has to use, if there is one. It fails where that one cannot be had.
    pub fn find(&self) -> Result<Option<PathBuf>, Failure> {
        Ok(self.look()?.map(|told| told.dir))
    }

    fn look(&self) -> Result<Option<Told>, Failure> {
        let mut found: Option<Told> = None;
        let mut lost = Vec::new();
        for place in self.folders() {
            let Some(told) = self.read(&place)? else { continue };
            match (told.check(), &found) {
                (Err(why), _) => lost.push((told, why)),
                (Ok(()), Some(other)) if other.folder != told.folder => {
                    let why = format!("and what another one gave out in {}", other.dir.display());
                    return Err(self.refuse(&told, &why));
                }
                (Ok(()), _) => found = Some(told),
            }
        }
        // A server that made its directory again has told it to the others only.
        lost.retain(|(told, _)| found.as_ref().is_none_or(|found| found.dir != told.dir));
        match lost.first() {
            Some((told, why)) => Err(self.refuse(told, why)),
            None => Ok(found),
        }
    }

    fn read(&self, (place, folder): &(&PathBuf, Folder)) -> Result<Option<Told>, Failure> {
        let read = || -> io::Result<Option<Told>> {
            let mut text = Vec::new();
            folder.open_file(&self.name, OFlag::O_RDONLY)?.take(MOST).read_to_end(&mut text)?;
            let (told, wall) = Told::parse(&text).ok_or(ErrorKind::InvalidData)?;
            Ok((!told.is_over(wall)).then_some(told))
        };
        match read() {
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(why) => {
                let file = place.join(&self.name);
                let message = format!("cannot read {}, which says where the state is: {why}", file.display());
                Err(Failure::new(Kind::Unreachable, message).hint(self.way_out()))
            }
            read => Ok(read.unwrap_or_default()),
        }
    }

    fn refuse(&self, told: &Told, why: &str) -> Failure {
        let dir = told.dir.display();
        let left = told.until.since(clock::server_now()).as_secs() + 1;
        let message = format!(
            "what the one before it gave out is written down in {dir}, {why}; it may be held for another {left}s"
        );
        let hint = format!("bring that directory back (a home that is not mounted?), or wait; {}", self.way_out());
        Failure::new(Kind::Unreachable, message).hint(hint)
    }

    fn way_out(&self) -> String {
        let files: Vec<String> =
            self.folders().map(|(place, _)| place.join(&self.name).display().to_string()).collect();
        format!("when no command that has a lock runs any more, rm -f {}", files.join(" "))
    }

    /// From now on this server has the address. It may not serve if somebody had it meanwhile who has another state.
    pub(super) fn begin(&self, dir: &Path, folder: FileId) -> Result<(), Failure> {
        let found = self.look()?;
        if let Some(told) = found.filter(|told| told.folder != folder) {
            return Err(self.refuse(&told, &format!("not in {}", dir.display())));
        }
        self.sweep();
        let mut state = self.lock();
        state.is_serving = true;
        self.write_anew(&state);
        Ok(())
    }

    /// Something is held, up to that moment at the latest.
    pub(super) fn keep(&self, dir: &Path, folder: FileId, until: Moment) {
        let mut state = self.lock();
        let is_told = |told: &Told| told.folder == folder && told.until >= until && told.dir == dir;
        if matches!(&state.wanted, Wanted::Told(told) if is_told(told)) {
            return;
        }
        state.wanted = Wanted::Told(Told { dir: dir.to_owned(), folder, until: until + AHEAD });
        self.write_anew(&state);
    }

    /// Nothing is held.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.wanted = Wanted::Nothing;
        self.write_anew(&state);
    }

    /// Nothing is held, and never will be.
    pub(super) fn finish(&self) {
        self.clear();
        self.lock().is_over = true;
    }

    /// A place that cannot be written to is one that nobody finds anything at, as if there were none.
    fn write_anew(&self, state: &State) {
        if !state.is_serving || state.is_over {
            return;
        }
        match &state.wanted {
            Wanted::AsItWas => {}
            Wanted::Nothing => {
                for (_, folder) in self.folders() {
                    // There may be none.
                    let _ = folder.remove(&self.name);
                }
            }
            Wanted::Told(told) => {
                let mut builder = DirBuilder::new();
                builder.mode(0o700);
                for place in &self.places {
                    // Mostly it is there; whose it is is looked at next.
                    let _ = builder.create(place);
                }
                let text = told.text();
                for (_, folder) in self.folders() {
                    // What it said before is true until then.
                    let _ = self.write(&folder, &text);
                }
            }
        }
    }

    /// Removes what servers of other networks and choices, which nobody starts any more, have left.
    fn sweep(&self) {
        for (place, folder) in self.folders() {
            let names = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.file_name());
            for name in names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(ENDING)) {
                let read = |file: io::Result<std::fs::File>| -> Option<(Told, u64)> {
                    let mut text = Vec::new();
                    file.ok()?.take(MOST).read_to_end(&mut text).ok()?;
                    Told::parse(&text)
                };
                let said = read(folder.open_file(&name, OFlag::O_RDONLY));
                if said.is_some_and(|(told, wall)| told.is_over(wall)) {
                    // What stays says nothing.
                    let _ = folder.remove(&name);
                }
            }
        }
    }

    fn write(&self, folder: &Folder, text: &[u8]) -> io::Result<()> {
        let draft = format!("{}.new", self.name);
        let written = folder.make_file(&draft)?.write_all(text).and_then(|()| folder.rename(&draft, &self.name));
        written.inspect_err(|_| drop(folder.remove(&draft)))
    }

    /// Of the places, those that are ours and closed to others: what anybody else says is not listened to.
    fn folders(&self) -> impl Iterator<Item = (&PathBuf, Folder)> {
        self.places.iter().filter_map(|place| Some((place, Folder::open(place).ok()?.ok()?)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Whether the state is where it was.
    fn check(&self) -> Result<(), String> {
        match Folder::open(&self.dir) {
            Err(why) => Err(format!("which cannot be opened: {why}")),
            Ok(Err(Unfit { why, .. })) => Err(format!("which cannot be used: {why}")),
            Ok(Ok(folder)) if folder.id() != self.folder => Err("and another directory is there now".to_owned()),
            Ok(Ok(folder)) if folder.find(JOURNAL).is_none() => Err("and that is empty now".to_owned()),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// A clock that is ahead in another time namespace, or was set, ends nothing before its time.
    fn is_over(&self, wall: u64) -> bool {
        clock::server_now() >= self.until && clock::wall_nanos() >= wall
    }

    fn text(&self) -> Vec<u8> {
        let Told { dir, folder: (device, inode), until } = self;
        let left = u64::try_from(until.since(clock::server_now()).as_nanos()).unwrap_or(u64::MAX);
        let wall = clock::wall_nanos().saturating_add(left);
        let mut text = format!("until {} {wall}\nfolder {device} {inode}\ndir ", until.as_nanos()).into_bytes();
        text.extend_from_slice(dir.as_os_str().as_bytes());
        text.push(b'\n');
        text
    }

    /// With the end by the wall clock.
    fn parse(text: &[u8]) -> Option<(Told, u64)> {
        let mut lines = text.strip_suffix(b"\n")?.splitn(3, |byte| *byte == b'\n');
        let mut numbers = |word: &str| -> Option<(u64, u64)> {
            let line = std::str::from_utf8(lines.next()?).ok()?;
            let (first, second) = line.strip_prefix(word)?.split_once(' ')?;
            Some((first.parse().ok()?, second.parse().ok()?))
        };
        let (until, wall) = numbers("until ")?;
        let folder = numbers("folder ")?;
        let dir = PathBuf::from(std::ffi::OsString::from_vec(lines.next()?.strip_prefix(b"dir ")?.to_vec()));
        Some((Told { dir, folder, until: Moment::from_nanos(until) }, wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Places {
        home: tempfile::TempDir,
    }

    impl Places {
        fn new() -> Places {
            Places { home: tempfile::tempdir().unwrap() }
        }

        fn dir(&self, name: &str) -> PathBuf {
            self.home.path().join(name)
        }

        /// With a journal in it.
        fn state(&self, name: &str) -> (PathBuf, FileId) {
            let dir = self.dir(name);
            DirBuilder::new().mode(0o700).create(&dir).unwrap();
            std::fs::write(dir.join(JOURNAL), "").unwrap();
            let id = Folder::open(&dir).unwrap().ok().unwrap().id();
            (dir, id)
        }

        /// As each server makes it for itself.
        fn mark(&self) -> Mark {
            Mark::new(vec![self.dir("run"), self.dir("tmp"), self.dir("missing/run")], "server")
        }
    }

    fn in_a_minute() -> Moment {
        clock::server_now() + Duration::from_secs(60)
    }

    #[test]
    fn whoever_comes_next_finds_the_state_or_does_not_serve() {
        let places = Places::new();
        let (dir, id) = places.state("state");
        let mark = places.mark();
        mark.keep(&dir, id, in_a_minute());
        assert_eq!(places.mark().find().unwrap(), None, "the address may be another one's");
        mark.begin(&dir, id).unwrap();
        assert_eq!(places.mark().find().unwrap().as_ref(), Some(&dir));
        std::fs::remove_file(places.dir("run/server.where")).unwrap();
        assert_eq!(places.mark().find().unwrap().as_ref(), Some(&dir), "one place is enough");
        std::fs::rename(&dir, places.dir("away")).unwrap();
        let refusal = places.mark().find().unwrap_err();
        assert!(refusal.message.contains("cannot be opened") && refusal.kind == Kind::Unreachable, "{refusal}");
        places.state("state");
        assert!(places.mark().find().unwrap_err().message.contains("another directory"));
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::rename(places.dir("away"), &dir).unwrap();
        assert_eq!(places.mark().find().unwrap().as_ref(), Some(&dir), "it is back");
        mark.clear();
        assert_eq!(places.mark().find().unwrap(), None);
    }

    /// Both have looked before either had the address.
    #[test]
    fn who_gets_the_address_after_another_one_has_served_looks_again() {
        let places = Places::new();
        let ((first_dir, first_id), (second_dir, second_id)) = (places.state("first"), places.state("second"));
        let (first, second) = (places.mark(), places.mark());
        first.begin(&first_dir, first_id).unwrap();
        first.keep(&first_dir, first_id, in_a_minute());
        assert!(second.begin(&second_dir, second_id).unwrap_err().message.contains("not in"));
        places.mark().begin(&first_dir, first_id).unwrap();
        // Who served nobody says nothing.
        second.keep(&second_dir, second_id, in_a_minute());
        assert_eq!(places.mark().find().unwrap(), Some(first_dir));
    }

    #[test]
    fn what_is_over_by_both_clocks_says_nothing_and_half_a_mark_lets_nobody_begin() {
        let places = Places::new();
        let (dir, id) = places.state("run");
        let (now, wall) = (clock::server_now().as_nanos(), clock::wall_nanos());
        let hour = 3_600_000_000_000;
        for (until, wall, is_over) in
            [(now, wall, true), (now + hour, wall, false), (now, wall + hour, false), (now + hour, wall + hour, false)]
        {
            std::fs::write(dir.join("server.where"), format!("until {until} {wall}\nfolder 1 2\ndir /nowhere\n"))
                .unwrap();
            std::fs::copy(dir.join("server.where"), dir.join("other.where")).unwrap();
            assert_eq!(places.mark().find().is_ok(), is_over, "{until} {wall}");
            places.mark().sweep();
            assert_eq!(dir.join("other.where").exists(), !is_over);
        }
        for text in ["", "until 1", "until 1 1\nfolder 1 2\ndir /nowhere"] {
            std::fs::write(dir.join("server.where"), text).unwrap();
            let refusal = places.mark().begin(&dir, id).unwrap_err();
            assert!(refusal.message.contains("cannot read") && refusal.hint.unwrap().contains("rm -f"), "{text}");
        }
    }

    #[test]
    fn any_path_can_be_told() {
        let name = std::ffi::OsString::from_vec(b"/a b\nuntil 1 2\xff\n".to_vec());
        let told = Told { dir: name.into(), folder: (1, u64::MAX), until: in_a_minute() };
        assert_eq!(Told::parse(&told.text()).map(|(told, _)| told), Some(told));
    }
}
