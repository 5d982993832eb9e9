//! Homes: each fixture has a directory of its own, and whoever was started with it as `HOME` is ended with it.
//!
//! All homes of a test program are in one place. A small shell waits for the end of the program, however it comes, then
//! ends whoever is left there, and clears the place away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Its input ends with us. Nobody else has the other end, and a signal to our group does not reach it.
const CARETAKER: &str = r#"
trap '' HUP INT TERM
read -r _
for _ in 1 2 3 4 5; do
    left=$(grep -lzs "^HOME=$1/" /proc/[0-9]*/environ)
    [ -n "$left" ] || break
    for one in $left; do
        one=${one%/environ}
        kill -KILL "${one#/proc/}"
    done
done
rm -rf --one-file-system "$1"
"#;

pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Home {
        super::hear_signals();
        Home { dir: tempfile::tempdir_in(estate()).expect("a home") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Default for Home {
    fn default() -> Home {
        Home::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in dwellers(self.path()) {
            // It may end by itself at this moment.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// The processes that were started with this home, or with one below it.
pub fn dwellers(home: &Path) -> Vec<u32> {
    let mine = format!("HOME={}", home.display());
    let lives_here = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .any(|variable| variable.strip_prefix(mine.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..])))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(lives_here).collect()
}

/// Where the homes of this program are.
pub fn estate() -> &'static Path {
    static ESTATE: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _) = ESTATE.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("house-").tempdir().expect("a place for homes").keep();
        // Some tests run programs as somebody else, who must get to a home of theirs.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).expect("mode 711");
        let mut caretaker = Command::new("sh");
        caretaker.args(["-c", CARETAKER, "caretaker"]).arg(&path);
        caretaker.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        caretaker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        (path, caretaker.spawn().expect("sh starts"))
    });
    path
}
