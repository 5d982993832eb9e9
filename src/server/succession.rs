//! A server that follows another one: its directory and its address are waited for, as that one leaves.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::journal::dir::{Dir, NotOpened};
use super::{Event, Report};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::net::Listener;
use crate::net::socket_file::SocketAccess;

/// How long one that keeps its state may take to leave. It takes milliseconds, unless its disk is slow.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Succession {
    until: Moment,
    report: Report,
    told: bool,
}

impl Succession {
    pub(super) fn new(report: Report) -> Succession {
        Succession { until: clock::server_now() + LEAVES_WITHIN, report, told: false }
    }

    pub(super) async fn dir(&mut self, path: &Path, is_remade: bool) -> Result<Dir, Failure> {
        loop {
            match Dir::open(path, is_remade) {
                Ok(dir) => return Ok(dir),
                Err(NotOpened::InUse(_)) if self.has_time() => {
                    self.wait(&format!("--state-dir {}", path.display())).await;
                }
                Err(NotOpened::InUse(failure) | NotOpened::Failed(failure)) => return Err(failure),
            }
        }
    }

    pub(super) async fn listeners(&mut self, host: &str, port: u16, access: SocketAccess) -> io::Result<Vec<Listener>> {
        loop {
            match Listener::bind(host, port, access).await {
                Err(why) if why.kind() == io::ErrorKind::AddrInUse && self.has_time() => {
                    self.wait(&format!("{host} port {port}")).await;
                }
                bound => return bound,
            }
        }
    }

    fn has_time(&self) -> bool {
        clock::server_now() < self.until
    }

    async fn wait(&mut self, place: &str) {
        if !std::mem::replace(&mut self.told, true) {
            let up_to = self.until.since(clock::server_now());
            (self.report)(Event::Waiting { place: place.to_owned(), up_to });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
