//! What holds a command's processes together, besides their group and who descends from whom.

use std::io;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::cgroup::CommandCgroup;
use crate::clock;
use crate::error::Failure;
use crate::sys::{self, Birthplace, Start};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contain {
    /// A cgroup where one can be made, and nothing otherwise.
    Auto,
    Group,
    Cgroup,
}

/// Made before the lock is asked for; with it goes all that was made, and whom the command has left behind is let out.
pub struct Containment {
    /// What stands in the environment of each of the command's processes.
    pub(super) mark: String,
    cgroup: Option<CommandCgroup>,
    /// Without it the command is not to begin.
    is_demanded: bool,
}

impl Containment {
    /// Fails only if what was asked for by its name cannot be had.
    pub fn prepare(contain: Contain) -> Result<Containment, Failure> {
        let number = getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos());
        let cgroup = match contain {
            Contain::Group => None,
            Contain::Auto => CommandCgroup::make(number).ok(),
            Contain::Cgroup => Some(make_and_try(number).map_err(|why| no_cgroup(&why))?),
        };
        Ok(Containment { mark: format!("{number:016x}"), cgroup, is_demanded: contain == Contain::Cgroup })
    }

    pub(super) fn cgroup(&self) -> Option<PathBuf> {
        self.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned())
    }

    /// Starts a command in it.
    pub(super) fn start(&self, start: &Start) -> io::Result<Pid> {
        start.run(match self.cgroup.as_ref().map(CommandCgroup::directory) {
            None => Birthplace::Ours,
            Some(directory) if self.is_demanded => Birthplace::Cgroup(directory),
            // It could be made, but nobody may be born there: an old kernel, or somebody filters system calls.
            Some(directory) => Birthplace::CgroupOrOurs(directory),
        })
    }

    /// The command has begun, and nobody waits for us: what crashes have left behind is cleared away.
    pub(super) fn remove_leftovers(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove_leftovers();
        }
    }
}

fn make_and_try(number: u64) -> io::Result<CommandCgroup> {
    let cgroup = CommandCgroup::make(number)?;
    sys::try_birthplace(cgroup.directory())?;
    Ok(cgroup)
}

fn no_cgroup(why: &io::Error) -> Failure {
    Failure::usage(format!("--contain cgroup: no cgroup can be made for the command: {why}")).hint(
        "that takes Linux 5.7, and root or a cgroup that is yours (systemd-run --user --scope -p Delegate=yes …); \
         --contain auto goes on without",
    )
}
