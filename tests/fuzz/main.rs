//! Whatever comes from outside, byte by byte: no input may make dflock panic, hang, or take memory without limit.
//!
//! A target makes inputs from seeds, and says what must hold for each. `cargo test` plays the same few thousand
//! seeds every time. `DFLOCK_FUZZ=10m` plays new ones, for that long each target:
//!
//! ```sh
//! DFLOCK_FUZZ=10m cargo test --profile fuzz --test fuzz journal -- --nocapture
//! ```
//!
//! `DFLOCK_SEED=S` plays the one of seed S and shows it; with `DFLOCK_FUZZ` it says where to begin. An input that
//! fails is made as small as it goes, and written below `target/tmp/fuzz`. Once its fault is closed it is moved to
//! `tests/fuzz/corpus/TARGET/`, under a name that says what it was: every file there is played before all seeds.

#![allow(unreachable_pub, reason = "a test program has no outside")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failing input tells its story")]

mod choices;
mod harness;
mod memory;
mod mutate;
#[path = "../sim/random.rs"]
mod random;

mod etcd;
mod holder;
mod journal;
mod selftest;
mod session;
mod settings;
mod table;
mod wire;
