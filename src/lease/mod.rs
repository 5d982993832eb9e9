//! Keeping a lock once it is granted.

pub mod keeper;
pub mod keeping;
pub mod lateness;
pub mod plan;
pub mod timer;

pub use keeper::{Keeper, LeaseNews};
pub use plan::Plan;
