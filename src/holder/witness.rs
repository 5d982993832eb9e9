//! What a holder says to a process beside it that tells the owner of the end of a lock, should the holder be killed
//! or stopped and so not be able to.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use crate::clock::Moment;
use crate::lease::keeper::Lifeline;
use crate::lock::Token;

/// Waits for the witness's answer, for a moment.
pub type Telling<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

/// The holder's end of it. While there is one, it tells the owner of every end of the lock that the owner did not
/// ask for, so that nobody is told twice.
pub trait Witness {
    /// Whom to tell, by a descriptor that stands for this process alone, and by which signal.
    fn watch_for(&mut self, owner: OwnedFd, signal: i32) -> io::Result<()>;
    /// The lock was granted. Should the holder die, its connection stays open with the witness until the owner knows.
    fn held(&mut self, token: &Token, connection: Option<OwnedFd>) -> io::Result<()>;
    /// It was taken over on another connection.
    fn reconnected(&mut self, token: &Token, connection: Lifeline);
    /// Until when the owner may rely on the lock.
    fn held_until(&mut self, moment: Moment);
    /// The owner is to be told now. Returns whether somebody will: if not, nobody but the holder does.
    fn tell<'a>(&'a mut self) -> Telling<'a>;
    /// When to attend to it, if it did not end or stop before.
    fn attend_at(&self) -> Moment;
    /// One that is gone, or does not hear, is replaced.
    fn attend(&mut self);
    /// All is well.
    fn farewell(self: Box<Self>);
}
