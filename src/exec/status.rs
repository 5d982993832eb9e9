//! How the command ended, and so how we end.

use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exited(u8),
    Killed(Signal),
}

/// How `dflock exec` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As the command did.
    Child(Ending),
    /// The lock was lost while the command ran.
    Lost,
    /// The command ran longer than it might.
    RuntimeOver,
}
