//! `dflock exec` as its users meet it: real commands, real signals, real servers.

#[path = "../house/mod.rs"]
mod house;

mod codes;
mod loss;
mod manners;
