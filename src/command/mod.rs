//! The verbs: one file each, with its flags and the few steps it takes.

pub mod serve;
