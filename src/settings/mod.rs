//! What the user set, from wherever it may come.

pub mod duration;
pub mod secret;
