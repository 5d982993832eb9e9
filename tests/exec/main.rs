//! `dflock exec` as its users meet it: real commands, real signals, real servers.

#[path = "../house/mod.rs"]
mod house;
#[allow(unreachable_pub, reason = "shared with another test program")]
#[path = "../sim/random.rs"]
mod random;

mod codes;
mod loss;
mod manners;
mod trials;
mod trials_checker;
mod trials_faults;
mod trials_figures;
mod trials_fleet;
