//! What real runs have shown, decided by a checker that is tested itself.

#![allow(unreachable_pub, reason = "a test program has no outside")]

#[path = "../house/mod.rs"]
mod house;
#[allow(dead_code, reason = "shared with another test program")]
#[path = "../sim/random.rs"]
mod random;

mod checker;
mod planted;
mod real;
