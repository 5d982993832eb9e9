//! Watching keys: what happens to them from a certain revision on.

use tonic::Streaming;

use super::cluster::Cluster;
use super::lease::Missed;
use super::messages::{DELETE, NO_PUT, WatchCreateRequest, WatchRequest, WatchResponse};
use super::trouble::Trouble;
use crate::client::cluster::Patience;

pub(super) struct Watch {
    stream: Streaming<WatchResponse>,
}

impl Watch {
    /// Watches for the end of any of the keys, and with `heed_puts` for their being written too, beginning
    /// right after `revision`: nothing that came between is missed.
    pub(super) async fn start(
        cluster: &Cluster,
        keys: &[Vec<u8>],
        revision: i64,
        heed_puts: bool,
        patience: Patience,
    ) -> Result<Watch, Missed> {
        let filters = if heed_puts { Vec::new() } else { vec![NO_PUT] };
        let one = |key: &Vec<u8>| WatchRequest {
            create: Some(WatchCreateRequest {
                key: key.clone(),
                start_revision: revision + 1,
                filters: filters.clone(),
            }),
        };
        let requests: Vec<WatchRequest> = keys.iter().map(one).collect();
        Ok(Watch { stream: cluster.watch(&requests, patience).await? })
    }

    /// Returns when something happened to one of the keys: whether it was its end. An error says why nothing
    /// more will be heard; then the keys must be looked at anew.
    pub(super) async fn next(&mut self) -> Result<bool, Trouble> {
        loop {
            let said = match self.stream.message().await {
                Ok(Some(said)) => said,
                Ok(None) => return Err(Trouble::Broken("the member ended the watch".to_owned())),
                Err(status) => return Err(Trouble::from(&status)),
            };
            if said.canceled {
                return Err(if said.cancel_reason.contains("permission denied") {
                    Trouble::Forbidden
                } else if said.compact_revision > 0 {
                    Trouble::Unable("its history was compacted".to_owned())
                } else {
                    Trouble::Unable(said.cancel_reason)
                });
            }
            if !said.events.is_empty() {
                return Ok(said.events.iter().any(|event| event.kind == DELETE));
            }
        }
    }
}
