//! Many `dflock exec`s on one key, each writing who it is and the time; and a look at the processes they are.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::trials_checker::Line;
use crate::house::clean::{House, Running};
use crate::house::tools::NOBODY;

/// Writes a line every few milliseconds, with neither a fork nor a sleep: nobody ever writes to the pipe.
/// While the file `stay` is there, it does not end. `$1` is its name, `$2` how many lines, `$3` its manners.
const JOB: &str = r#"
exec 9<> pace
left=$2 told=
write() {
    while [ "$left" -gt 0 ] || { [ -e stay ] && [ -z "$told" ]; }; do
        echo "$1 ${DFLOCK_FENCE:-0} $EPOCHREALTIME" >> log
        read -r -t 0.003 -u 9
        left=$((left - 1))
    done
}
case $3 in *stubborn) trap '' TERM ;; esac
case $3 in
    deep-slow) ( trap 'told=1 left=60' TERM; write "$1" ) & wait ;;
    away) setsid bash job "$1" "$2" obeys & wait ;;
    deep*) ( ( ( write "$1" ) & wait ) & wait ) & wait ;;
    *) write "$1" ;;
esac
exit 0
"#;

/// What a child does when it is told to end, and how many it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    Obeys,
    Stubborn,
    Deep,
    DeepStubborn,
    /// Its first process ends at once, the others only after a while.
    DeepSlow,
    /// It leaves its group and its session.
    Away,
    /// It is root's, and dflock somebody's who cannot signal it.
    Root,
}

/// Those that can be anywhere.
pub(crate) const MANNERS: [Manners; 6] =
    [Manners::Obeys, Manners::Stubborn, Manners::Deep, Manners::DeepStubborn, Manners::DeepSlow, Manners::Away];

impl Manners {
    fn word(self) -> &'static str {
        match self {
            Manners::Obeys => "obeys",
            Manners::Stubborn => "stubborn",
            Manners::Deep => "deep",
            Manners::DeepStubborn => "deep-stubborn",
            Manners::DeepSlow => "deep-slow",
            Manners::Away => "away",
            Manners::Root => "obeys",
        }
    }
}

/// Makes a house ready for jobs.
pub(crate) fn furnish(house: &House) {
    std::fs::write(house.path("job"), JOB).expect("the job is written");
    nix::unistd::mkfifo(&house.path("pace"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe to wait at");
    File::create(house.path("log")).expect("the log");
}

/// Starts `dflock exec` on the key `k` of one server.
pub(crate) fn start(house: &House, server: &str, name: &str, lines: u64, manners: Manners, flags: &[&str]) -> Running {
    Running::start(&mut command(house, server, name, lines, manners, flags))
}

pub(crate) fn command(
    house: &House,
    server: &str,
    name: &str,
    lines: u64,
    manners: Manners,
    flags: &[&str],
) -> Command {
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", server).env("TRIAL", name);
    command.args(["exec", "-w", "forever", "--connect-retry", "10s"]).args(flags);
    command.args(["k", "--"]);
    if manners == Manners::Root {
        command.uid(NOBODY).gid(NOBODY).args(["./become-root", "--reuid=0"]);
    }
    command.args(["bash", "job", name, &lines.to_string(), manners.word()]);
    command
}

/// A pipe that is full and that nobody reads: its two ends.
pub(crate) fn stuck_pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let set = |flags| fcntl(&write, FcntlArg::F_SETFL(flags)).expect("the pipe's flags");
    set(OFlag::O_NONBLOCK);
    while nix::unistd::write(&write, &[0; 4096]).is_ok() {}
    set(OFlag::empty());
    (read, write)
}

/// Jobs stay until this is dropped.
pub(crate) struct Stay(std::path::PathBuf);

impl Stay {
    pub(crate) fn in_house(house: &House) -> Stay {
        let path = house.path("stay");
        File::create(&path).expect("the sign is given");
        Stay(path)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Reads a log as it grows.
pub(crate) struct Tail {
    file: File,
    half: String,
    pub(crate) lines: Vec<Line>,
}

impl Tail {
    pub(crate) fn of(house: &House) -> Tail {
        Tail { file: File::open(house.path("log")).expect("the log"), half: String::new(), lines: Vec::new() }
    }

    pub(crate) fn read(&mut self) {
        let mut text = std::mem::take(&mut self.half);
        self.file.read_to_string(&mut text).expect("the log is text");
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        for line in text[..whole].lines() {
            self.lines.push(Line::parse(line).unwrap_or_else(|| panic!("not a line: {line:?}")));
        }
        self.half = text.split_off(whole);
    }

    pub(crate) fn last(&self) -> Option<&str> {
        self.lines.last().map(|line| line.name.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dflock,
    Guardian,
    Job,
}

/// A living process of a trial.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) group: i32,
    pub(crate) run: String,
    pub(crate) role: Role,
}

/// All of a house, or only those of one run.
pub(crate) fn processes(house: &House, run: Option<&str>) -> Vec<Process> {
    let home = format!("HOME={}", house.home.path().display());
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let found = all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let environ = std::fs::read(entry.path().join("environ")).ok()?;
        let environ = String::from_utf8_lossy(&environ);
        let find = |what: &str| environ.split('\0').find_map(|word| word.strip_prefix(what));
        let name = find("TRIAL=")?;
        if !environ.split('\0').any(|word| word == home) {
            return None;
        }
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let role = match comm.trim_end() {
            "guardian" => Role::Guardian,
            _ if find("DFLOCK_TOKEN=").is_some() => Role::Job,
            _ => Role::Dflock,
        };
        Some(Process { pid, group: living_group(&entry.path())?, run: name.to_owned(), role })
    });
    found.filter(|process| run.is_none_or(|run| process.run == run)).collect()
}

/// The process group of whoever is more than a name.
fn living_group(process: &Path) -> Option<i32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") { None } else { fields.get(2)?.parse().ok() }
}

/// Whether anybody of a group lives.
pub(crate) fn group_lives(group: i32) -> bool {
    if kill(Pid::from_raw(-group), None).is_err() {
        return false;
    }
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    all.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .any(|entry| living_group(&entry.path()) == Some(group))
}

/// To a process of ours, which may have ended by itself at this moment; a negative number is a group.
pub(crate) fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether a child of ours, which nobody has waited for, is more than a name.
pub(crate) fn has_life(pid: u32) -> bool {
    living_group(Path::new(&format!("/proc/{pid}"))).is_some()
}
