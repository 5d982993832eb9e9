//! What `/proc` tells of processes. Where there is no such thing, nobody is found.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod asking;

use asking::Question;

use crate::clock::{self, Moment};
use crate::sys;

/// How long a single question may take. One that cannot be answered is given up long before.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A process, told from a later one with the same number by when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// In clock ticks since boot.
    pub started: u64,
}

/// What `/proc/PID/stat` tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub identity: Identity,
    pub parent: i32,
    pub group: i32,
    /// Nothing of it runs: it is a name that waits for being read.
    pub is_dead: bool,
}

/// Where these stand in `/proc/PID/stat`, counted from the field behind the name.
const STATE: usize = 0;
const PARENT: usize = 1;
const GROUP: usize = 2;
const FLAGS: usize = 6;
const THREADS: usize = 17;
const STARTED: usize = 19;

/// Among the flags: it was forked, and has not executed a program of its own.
const IS_FORK: u64 = 0x40;

impl Identity {
    /// Of whoever has this number now; if nobody has, of nobody who will.
    pub fn now(pid: i32) -> Identity {
        Process::of(pid).map_or(Identity { pid, started: 0 }, |process| process.identity)
    }
}

impl Process {
    /// `None` if there is no such process.
    pub fn of(pid: i32) -> Option<Process> {
        if is_ours() { Process::read(pid) } else { None }
    }

    fn read(pid: i32) -> Option<Process> {
        parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Of this program.
    pub fn ours() -> Option<Process> {
        Process::of(nix::unistd::getpid().as_raw())
    }
}

/// A name may hold anything, brackets and line ends too, and is cut at so many bytes, in the middle of a letter.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let tail = str::from_utf8(stat.rsplit(|byte| *byte == b')').next()?).ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().take(STARTED + 1).collect();
    let number = |field: usize| fields.get(field).and_then(|text| text.parse::<i32>().ok());
    // One whose first thread has ended looks dead while its other threads run.
    let is_dead = matches!(*fields.get(STATE)?, "Z" | "X") && number(THREADS).is_none_or(|threads| threads <= 1);
    let started = fields.get(STARTED)?.parse().ok()?;
    Some(Process { identity: Identity { pid, started }, parent: number(PARENT)?, group: number(GROUP)?, is_dead })
}

/// One of another namespace has other numbers.
fn is_ours() -> bool {
    let us = fs::read_link("/proc/self");
    us.is_ok_and(|us| us.to_str() == Some(nix::unistd::getpid().to_string().as_str()))
}

/// All processes that can be seen, one after the other: those that begin meanwhile may be missing.
pub fn processes() -> io::Result<Vec<Process>> {
    processes_until(&[], Moment::NEVER)
}

/// These first, and then as many as are read before a moment.
pub fn processes_until(first: &[i32], until: Moment) -> io::Result<Vec<Process>> {
    if !is_ours() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let are_first: HashSet<i32> = first.iter().copied().collect();
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    let others = names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| !are_first.contains(pid));
    let others = others.take_while(|_| until == Moment::NEVER || clock::now() < until);
    let found: Vec<Process> = first.iter().copied().chain(others).filter_map(Process::read).collect();
    // An empty one is another file system, or none.
    if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
}

/// The children of a process; all its threads may have some.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => text,
            // A thread that has ended meanwhile had none, or its process has them.
            Err(why) if why.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(why) => return Err(why),
        };
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(children)
}

/// Whether it may show to us ourselves alone (`hidepid`).
pub fn hides_processes() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut options = mounts.lines().filter_map(|line| line.split_once(" - proc ")).map(|(_, options)| options);
    options.any(|options| options.contains("hidepid="))
}

/// Whether no thread of a process runs: each is stopped, or has ended. One that is gone is at rest, too.
pub fn is_at_rest(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let state = |text: String| text.rsplit_once(')').and_then(|(_, fields)| fields.trim_start().chars().next());
    threads.map(|thread| fs::read(thread.path().join("stat")).unwrap_or_default()).all(|stat| {
        state(String::from_utf8_lossy(&stat).into_owned()).is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}

/// Whether a process wants a processor: it does not stand still, though it may do so for long. One that waits for a disk
/// looks as one in a freezer does.
pub fn is_busy(pid: i32) -> bool {
    let stat = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).unwrap_or_default()).into_owned();
    wants_to_run(&stat)
}

fn wants_to_run(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, tail)| tail.trim_start().starts_with('R'))
}

/// Whether a process was forked and has not executed a program of its own.
pub fn is_fork(pid: i32) -> bool {
    let stat = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).unwrap_or_default()).into_owned();
    let flags = stat.rsplit_once(')').and_then(|(_, tail)| tail.split_whitespace().nth(FLAGS)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & IS_FORK != 0)
}

/// What a process is called: its name, and its command line with NULs between the words.
pub fn names(pid: i32) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    name.pop_if(|last| *last == b'\n');
    Some((name, ask_one(pid, "cmdline")?))
}

/// Which file a process runs, by device and inode. `None` if it is not ours to see.
pub fn program(pid: i32) -> Option<(u64, u64)> {
    sys::known_file_identity(&std::ffi::CString::new(format!("/proc/{pid}/exe")).ok()?)
}

/// Whether a debugger holds a process.
pub fn is_traced(pid: i32) -> bool {
    let status = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).unwrap_or_default()).into_owned();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

/// The environment that a process was started with, a NUL after each variable. `None` if it is not ours to see, or the
/// process does not let us.
fn environment(pid: i32) -> Option<Vec<u8>> {
    ask_one(pid, "environ")
}

fn ask_one(pid: i32, file: &'static str) -> Option<Vec<u8>> {
    let identity = Identity::now(pid);
    let question: Question = Arc::new(move |pid| fs::read(format!("/proc/{pid}/{file}")).ok());
    asking::ask([identity], &question, clock::now() + ANSWER_WITHIN).said.remove(&identity)
}

/// A variable of the environment that a process was started with. `None` as above, or if it has none.
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    value_in(&environment(pid)?, name)
}

/// The same of a process that is being [asked](asking::ask). Of others' it is not ours to see, but for root.
pub fn variable_as_told(pid: i32, name: &str) -> Option<Vec<u8>> {
    use std::os::unix::fs::MetadataExt;

    let us = nix::unistd::geteuid();
    if !us.is_root() && fs::metadata(format!("/proc/{pid}")).ok()?.uid() != us.as_raw() {
        return None;
    }
    value_in(&fs::read(format!("/proc/{pid}/environ")).ok()?, name)
}

fn value_in(environment: &[u8], name: &str) -> Option<Vec<u8>> {
    let value = |entry: &[u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
    environment.split(|byte| *byte == 0).find_map(value)
}

/// For how long the first thread of a process has been refused a processor that it could have used. A time in which it
/// was stopped, or slept with the machine, is not part of that.
pub struct Refusals {
    /// Open, because whoever asks has little time. `None` where the system does not tell.
    file: Option<fs::File>,
}

impl Refusals {
    /// Of this process.
    pub fn ours() -> Refusals {
        Refusals { file: fs::File::open("/proc/self/schedstat").ok() }
    }

    pub fn so_far(&self) -> Option<Duration> {
        let mut bytes = [0; 64];
        let length = self.file.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?;
        text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        let tail = "S 12 34 56 34816 34 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4711 123 456";
        let expected = Process { identity: Identity { pid: 9, started: 4711 }, parent: 12, group: 34, is_dead: false };
        for name in ["sh", "a) S 1 1 (b", "\n"] {
            assert_eq!(parse(9, format!("9 ({name}) {tail}").as_bytes()), Some(expected), "{name}");
        }
        // Neither for a disk or frozen, stopped, in the hands of a debugger, nor dead.
        let wanting = ['S', 'R', 'D', 'T', 't', 'Z', 'X', 'I']
            .into_iter()
            .filter(|state| wants_to_run(&format!("9 (a) R) {state} 1")));
        assert_eq!(wanting.collect::<String>(), "R");
        assert_eq!(parse(9, b"9 (sh"), None);
        assert_eq!(parse(9, b""), None);
    }

    /// As the system cuts it: after fifteen bytes, here in the middle of a letter.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_name_that_is_no_text_hides_nobody() {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("Datensicherung\u{fc}.x");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = Process::of(pid);
        let all = processes().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some_and(|found| all.contains(&found)), "{found:?}");
    }

    #[test]
    fn a_dead_first_thread_is_not_a_dead_process() {
        let stat = |state: &str, threads: u8| format!("9 (x) {state} 1 9 9 0 9 0 1 2 3 4 5 6 7 8 20 0 {threads} 0 7");
        let is_dead = |state, threads| parse(9, stat(state, threads).as_bytes()).unwrap().is_dead;
        assert!(is_dead("Z", 1) && is_dead("X", 0));
        assert!(!is_dead("Z", 2) && !is_dead("T", 1));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn we_are_found_as_who_we_are() {
        let ours = Process::ours().unwrap();
        assert!(!ours.is_dead);
        assert_eq!(ours.parent, nix::unistd::getppid().as_raw());
        assert!(processes().unwrap().contains(&ours));
    }
}
