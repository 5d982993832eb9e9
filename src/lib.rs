//! dflock: `flock(1)` for a fleet. The map of the house.
//!
//! Data flows one way, from the user down to the bytes; a module names only what stands below it:
//!
//! ```text
//! main ─► cli ─► command ─┬─► exec ───┐
//!                         ├─► holder ─┴─► lease ─► backend ─► client ─┬─► wire ─► lock
//!                         ├─► server ─────────────────────────────────┤
//!                         └─► output, settings                        └─► net
//!             everyone may use: error, clock, sys, procfs, cgroup (which use nobody)
//! ```
//!
//! | floor | what lives there |
//! | --- | --- |
//! | `cli`, `command` | the verbs: one file each, its flags and the few steps it takes |
//! | `settings` | what the user set, from wherever it may come |
//! | `output` | every byte that reaches stdout or stderr |
//! | `exec` | a child process under a lease: guardian, policy, group, terminal |
//! | `holder` | a background process that keeps a lock between two commands |
//! | `lease` | when to renew and when to stop believing; what to do about whatever comes; the loop that does it |
//! | `backend` | where locks are kept: the promise that every lock service makes |
//! | `client` | the native protocol: one connection, shards, clusters, retry |
//! | `server` | the lock server: connections, and the table that decides |
//! | `net` | addresses, dialling, listening, streams (TCP, TLS, Unix) |
//! | `wire` | the bytes of the protocol, both ways, without I/O |
//! | `lock` | the nouns: key, token, kind, grant |
//!
//! What is never done:
//!
//! 1. Only `main` leaves the process; only `output` prints; only `exec::group` and `exec::guard` signal a
//!    command; only `lease::keeper` renews; only `net::tls` reads keys; only `sys` is unsafe.
//! 2. `wire`, `lock`, `lease::{plan, keeping}`, `exec::policy`, `client::retry`, `server::table`, what a journal says
//!    (`server::journal`, but for its files) and where etcd's keys are (`backend::etcd::layout`) touch no
//!    clock, socket, file, environment or randomness. What they need is an argument.
//! 3. Nothing waits without a deadline; nothing from outside is stored without a limit.
//! 4. A lease that cannot be proved is held for lost: the child is gone *before* the server could have given
//!    the lock away.
//! 5. A token is never logged and never put in an argument list; its type's `Debug` says `redacted`.
//! 6. The child's arguments, environment and descriptors are those the user gave.

pub mod backend;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod error;
pub mod exec;
pub mod holder;
pub mod lease;
pub mod lock;
pub mod net;
pub mod output;
pub mod procfs;
pub mod server;
pub mod settings;
pub mod sys;
pub mod wire;
