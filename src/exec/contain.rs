//! What holds a command's processes together, besides their group and who descends from whom.

use std::io;
use std::rc::Rc;

use nix::unistd::Pid;

use super::namespace::Namespace;
use crate::cgroup::{Cgroup, CommandCgroup};
use crate::clock;
use crate::error::Failure;
use crate::procfs::Identity;
use crate::sys::{self, Birthplace, Start};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contain {
    /// A cgroup where one can be made, and nothing otherwise.
    Auto,
    Group,
    Cgroup,
    PidNamespace,
}

/// Made before the lock is asked for; with it goes all that was made, and whom the command has left behind is let out.
pub struct Containment {
    /// What stands in the environment of each of the command's processes.
    pub(super) mark: String,
    wall: Wall,
}

enum Wall {
    None,
    /// If nobody can be born there, it is done without: it could be made, but the kernel is old, or somebody filters
    /// system calls.
    CgroupIfPossible(CommandCgroup),
    Cgroup(CommandCgroup),
    Namespace(Namespace),
}

impl Containment {
    /// Fails only if what was asked for by its name cannot be had. `dies_with_us`: as far as the system sees to that.
    pub fn prepare(contain: Contain, dies_with_us: bool) -> Result<Containment, Failure> {
        let number = getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos());
        let wall = match contain {
            Contain::Group => Wall::None,
            Contain::Auto => CommandCgroup::make(number).map_or(Wall::None, Wall::CgroupIfPossible),
            Contain::Cgroup => make_and_try(number).map(Wall::Cgroup).map_err(|why| no_cgroup(&why))?,
            Contain::PidNamespace => {
                Namespace::make(dies_with_us).map(Wall::Namespace).map_err(|why| no_namespace(&why))?
            }
        };
        Ok(Containment { mark: format!("{number:016x}"), wall })
    }

    pub(super) fn cgroup(&self) -> Option<Rc<Cgroup>> {
        match &self.wall {
            Wall::CgroupIfPossible(cgroup) | Wall::Cgroup(cgroup) => Some(cgroup.reached().clone()),
            Wall::None | Wall::Namespace(_) => None,
        }
    }

    pub(super) fn process_one(&self) -> Option<Identity> {
        match &self.wall {
            Wall::Namespace(namespace) => Some(namespace.identity()),
            _ => None,
        }
    }

    /// Where a command begins in it.
    pub(super) fn birthplace(&self) -> Birthplace<'_> {
        match &self.wall {
            Wall::None => Birthplace::Ours,
            Wall::CgroupIfPossible(cgroup) => Birthplace::CgroupOrOurs(cgroup.directory()),
            Wall::Cgroup(cgroup) => Birthplace::Cgroup(cgroup.directory()),
            Wall::Namespace(namespace) => Birthplace::Namespace(&namespace.process_one),
        }
    }

    /// Starts a command in it.
    pub(super) fn start(&self, start: &Start) -> io::Result<Pid> {
        start.run(self.birthplace()).inspect_err(|_| {
            if let Wall::Namespace(namespace) = &self.wall {
                namespace.end();
            }
        })
    }

    /// The command has begun, and nobody waits for us: what crashes have left behind is cleared away.
    pub(super) fn remove_leftovers(&self) {
        if let Wall::CgroupIfPossible(cgroup) | Wall::Cgroup(cgroup) = &self.wall {
            cgroup.remove_leftovers();
        }
    }
}

fn make_and_try(number: u64) -> io::Result<CommandCgroup> {
    let cgroup = CommandCgroup::make(number)?;
    sys::try_birthplace(Birthplace::Cgroup(cgroup.directory()))?;
    Ok(cgroup)
}

fn no_cgroup(why: &io::Error) -> Failure {
    Failure::usage(format!("--contain cgroup: no cgroup can be made for the command: {why}")).hint(
        "that takes Linux 5.7, and root or a cgroup that is yours (systemd-run --user --scope -p Delegate=yes …); \
         --contain auto goes on without",
    )
}

fn no_namespace(why: &io::Error) -> Failure {
    Failure::usage(format!("--contain pidns: no PID namespace with a /proc of its own can be made: {why}")).hint(
        "that takes Linux 5.8, and root or user namespaces that your system allows (not in most containers, nor in a \
         chroot); --contain cgroup holds nearly as much",
    )
}
