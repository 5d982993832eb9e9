//! Keeping a lock once it is granted.

pub mod alarm;
pub mod keeper;
pub mod plan;

pub use keeper::{Keeper, News};
pub use plan::Plan;
