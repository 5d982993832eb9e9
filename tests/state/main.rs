//! A server that can die: what it keeps in its state directory, and what becomes of it there.
#![allow(unreachable_pub, reason = "a test program has no outside; pub says what a module offers the others")]
#![allow(clippy::print_stderr, reason = "what was measured, and what could not be tried here")]

#[path = "../house/mod.rs"]
mod house;
#[allow(dead_code, reason = "shared with another test program")]
#[path = "../sim/random.rs"]
mod random;

mod crash;
mod damage;
mod disk;
mod downtime;
mod kept;
mod refuse;
mod replaced;
mod ride;
mod upgrade;
mod waiters;
