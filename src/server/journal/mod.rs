//! The journal: what is promised to anybody is on disk first, and a server that starts again goes on from it.
//!
//! The table tells what happened as `Change`s. `record` writes one down, `frame` puts many under a checksum,
//! `kept` folds them into what is held and queued, `replay` does all that with a whole file, and `downtime`
//! says how much time passed while nobody served. Those are pure.

pub mod downtime;
pub mod frame;
pub mod kept;
pub mod record;
pub mod replay;
