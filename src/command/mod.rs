//! The verbs: one file each, with its flags and the few steps it takes.

pub mod about;
pub mod acquire;
mod autostart;
mod busy;
pub mod completions;
pub mod config;
pub mod enqueue;
pub mod exec;
pub mod export;
pub mod guardian;
mod held;
pub mod hold;
pub mod holders;
pub mod man;
pub mod manner;
pub mod meant;
pub mod release;
pub mod renew;
pub mod sem;
pub mod serve;
mod serve_files;
mod site;
pub mod stats;
pub mod status;
pub mod target;
pub mod wait;

use std::future::Future;
use std::os::unix::net::UnixStream;

use crate::error::{Failure, Kind};

/// An event loop opens a few of them without a way to fail.
fn check_descriptors() -> Result<(), Failure> {
    let few: std::io::Result<Vec<_>> = (0..4).map(|_| UnixStream::pair()).collect();
    few.map(drop).map_err(|why| {
        Failure::new(Kind::Internal, format!("cannot set up the event loop: {why}"))
            .hint("the limit of open files is too low: ulimit -n")
    })
}

/// Runs a command's conversation with servers and holders, on this thread alone.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    check_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|why| Failure::new(Kind::Internal, format!("cannot set up the event loop: {why}")))?;
    let result = runtime.block_on(work);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    result
}
