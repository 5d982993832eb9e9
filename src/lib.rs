//! dflock: `flock(1)` for a fleet. The map of the house.
//!
//! Data flows one way, from the user down to the bytes; a module names only what stands below it:
//!
//! ```text
//! main ─► cli ─► command ─┬─► server ─┬─► wire ─► lock
//!                         │           └─► net
//!                         └─► output, settings
//!             everyone may use: error, clock (which use nobody)
//! ```
//!
//! | floor | what lives there |
//! | --- | --- |
//! | `cli`, `command` | the verbs: one file each, its flags and the few steps it takes |
//! | `settings` | what the user set, from wherever it may come |
//! | `output` | every byte that reaches stdout or stderr |
//! | `server` | the lock server: connections, and the table that decides |
//! | `net` | addresses, streams (TCP, TLS, Unix), listeners |
//! | `wire` | the bytes of the protocol, both ways, without I/O |
//! | `lock` | the nouns: kinds of locks |
//!
//! What is never done:
//!
//! 1. Only `main` leaves the process; only `output` prints; only `net::tls` reads keys.
//! 2. `wire`, `lock` and `server::table` touch no clock, socket, file, environment or randomness.
//!    What they need is an argument.
//! 3. Nothing waits without a deadline; nothing from outside is stored without a limit.
//! 4. A token is never logged; its type's `Debug` says `redacted`.

pub mod backend;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod error;
pub mod holder;
pub mod lease;
pub mod lock;
pub mod net;
pub mod output;
pub mod server;
pub mod settings;
pub mod sys;
pub mod wire;
