//! A connection's place in the table, given up however the connection ends.

use std::sync::Arc;

use crate::server::Context;
use crate::server::table::ConnId;

/// A connection's place in the table.
pub(super) struct Seat {
    pub(super) conn: ConnId,
    pub(super) context: Arc<Context>,
    left: bool,
}

impl Seat {
    pub(super) fn take(context: Arc<Context>) -> Seat {
        Seat { conn: context.shared.connect(), context, left: false }
    }

    /// Lets go of everything the connection had, and of the processor now and then: it may be much.
    pub(super) async fn leave(mut self) {
        while !self.context.shared.disconnect(self.conn) {
            tokio::task::yield_now().await;
        }
        self.left = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Only where the task ended without leaving, as when the server stops.
        while !self.left && !self.context.shared.disconnect(self.conn) {}
    }
}
