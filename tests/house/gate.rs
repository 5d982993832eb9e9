//! A place in a script where it waits until the test lets it go on.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::wait_for;

/// In the script, `read -r _ < PATH` waits here.
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    pub fn at(path: PathBuf) -> Gate {
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        Gate { path }
    }

    /// Lets one through, as soon as it is here. Opening a pipe in the ordinary way would wait for ever for a script that
    /// was killed on its way.
    #[track_caller]
    pub fn open(&self) {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut pipe =
            wait_for(&format!("a script that waits at {}", self.path.display()), || options.open(&self.path).ok());
        pipe.write_all(b"\n").expect("it is let through");
    }
}
