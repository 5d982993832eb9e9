//! A place in a queue, on the connection that joined it.

use std::time::Duration;

use super::hold::Hold;
use super::site::Site;
use crate::client::connection::{Connection, No, Said};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::wire::answer::Expect;
use crate::wire::{MAX_SECONDS, Request};

pub struct Place {
    pub(super) site: Site,
    pub(super) connection: Connection,
    pub(super) lease: Option<Duration>,
}

impl Place {
    pub fn server(&self) -> String {
        self.connection.address.to_string()
    }

    pub async fn wait(mut self) -> Result<Hold, Failure> {
        let key = self.site.key.clone();
        let request = Request::Wait { key: key.as_bytes(), space: self.site.kind.space(), timeout_s: MAX_SECONDS };
        let asked = clock::now();
        let server = self.connection.address.clone();
        let said = self.connection.exchange(request, Expect::Granted, Moment::NEVER).await;
        match said.map_err(|trouble| self.site.trouble("wait for", trouble, &server))? {
            Said::Granted { token, lease_s } => {
                Hold::believed(self.site, self.connection, token, lease_s, self.lease, asked).await
            }
            Said::Timeout => Err(self.site.busy(&server)),
            Said::Refused(No::NotEnqueued | No::LeaseExpired) => Err(self.site.lost("wait for", &server)),
            Said::Refused(no) => Err(self.site.refused("wait for", &no, &server)),
            said => Err(self.site.nonsense("wait for", &said, &server)),
        }
    }
}
