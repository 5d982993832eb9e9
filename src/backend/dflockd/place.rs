//! The way to a lock: asked for, queued for, waited for, over as many connections as that takes.
//!
//! A server that offers resuming keeps a queue place whose connection broke, for whoever has its ticket. So a
//! wait outlives a hiccup of the network, and a server that is killed or replaced. Elsewhere a place ends with
//! its connection, and another one is taken at the end of the queue.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::hold::{Hold, Unconfirmed};
use super::site::Site;
use super::whole_seconds;
use crate::client::cluster::{Answered, Patience};
use crate::client::connection::{Connection, No, Said};
use crate::client::retry::Backoff;
use crate::client::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lock::Token;
use crate::net::Address;
use crate::wire::answer::Expect;
use crate::wire::{MAX_SECONDS, Request};

/// How much longer than we try to come back a place is kept for us: the server may see the break before we do.
const KEPT_LONGER: Duration = Duration::from_secs(5);

/// A lock that somebody wants.
pub(super) struct Wish {
    pub(super) site: Site,
    pub(super) lease: Option<Duration>,
    /// How long it is waited for.
    pub(super) until: Moment,
    /// Now or never.
    pub(super) at_once: bool,
    pub(super) given_up: GivenUp,
}

/// A place in a queue that was joined without waiting.
pub struct Place {
    wish: Wish,
    place: InQueue,
}

/// Where a wish is queued: on this connection, or on another one by its ticket.
struct InQueue {
    connection: Connection,
    ticket: Option<Ticket>,
}

/// Proves a place. If it is dropped while the place may exist, that is to be given up: see [`GivenUp::leave_all`].
struct Ticket {
    token: Token,
    site: Site,
    /// `None` once there is no such place any more.
    given_up: Option<GivenUp>,
}

/// Places that nobody waits in any more, while their servers still keep them.
#[derive(Clone, Default)]
pub(super) struct GivenUp(Arc<Mutex<Vec<(Site, Token)>>>);

/// Why a place did not lead to the lock.
enum Missed {
    /// There is no such place any more; another one can be asked for.
    Place(Trouble, Address),
    For(Failure),
}

impl Wish {
    pub(super) async fn acquire(&self) -> Result<Hold, Failure> {
        let mut backoff = Backoff::default();
        loop {
            let missed = match self.ask().await {
                Ok(Err(connection)) => self.queue(connection).await,
                Ok(Ok(hold)) => Ok(hold),
                Err(missed) => Err(missed),
            };
            let (trouble, address) = match missed {
                Ok(hold) => return Ok(hold),
                Err(Missed::For(failure)) => return Err(failure),
                Err(Missed::Place(trouble, address)) => (trouble, address),
            };
            let pause = backoff.next(clock::now().as_nanos());
            if self.site.access.connect_retry.is_zero() || clock::now() + pause >= self.until {
                return Err(self.site.trouble("take", trouble, &address));
            }
            tokio::time::sleep(pause).await;
        }
    }

    pub(super) async fn enqueue(self) -> Result<super::Joined, Failure> {
        let request = || self.enqueue_request();
        let access = Access { resume_s: Some(self.keep_place_s()), ..self.site.access.clone() };
        let limit = clock::now() + access.connect_timeout.max(access.connect_retry);
        let patience =
            Patience { until: self.until.max(limit), retry: access.connect_retry, outlasts_drain: !self.at_once };
        let answered = self.site.shard.ask(&access, request, Expect::Place, patience).await;
        let Answered { connection, asked, said } =
            answered.map_err(|(trouble, member)| self.site.trouble("queue for", trouble, &member))?;
        match self.joined(connection, asked, said).await {
            Ok(Ok(hold)) => Ok(super::Joined::Held(hold)),
            Ok(Err(place)) => Ok(super::Joined::Queued(Place { wish: self, place })),
            Err(Missed::For(failure)) => Err(failure),
            Err(Missed::Place(trouble, address)) => Err(self.site.trouble("queue for", trouble, &address)),
        }
    }

    /// Takes the lock if it is free; otherwise there is at least a connection. Nothing is kept for us yet: if the
    /// answer is lost, the server lets go.
    async fn ask(&self) -> Result<Result<Hold, Connection>, Missed> {
        let site = &self.site;
        let request = || Request::Acquire {
            key: site.key.as_bytes(),
            kind: site.kind,
            timeout_s: 0,
            lease_s: self.lease.map(whole_seconds),
        };
        let until = if self.at_once { clock::now() + site.access.connect_timeout } else { self.until };
        let patience = Patience { until, retry: site.access.connect_retry, outlasts_drain: !self.at_once };
        let answered = site.shard.ask(&site.access, request, Expect::Granted, patience).await;
        let Answered { connection, asked, said } = match answered {
            Ok(answered) => answered,
            // The greeting was answered, so the server lives: the lock is to be had too late.
            Err((Trouble::Silent, member)) if !self.at_once => return Err(Missed::For(site.busy(&member))),
            Err((trouble, member)) => return Err(Missed::For(site.trouble("take", trouble, &member))),
        };
        let server = connection.address.clone();
        match said {
            Said::Granted { token, lease_s } => self.believed(connection, token, lease_s, asked).await.map(Ok),
            Said::Timeout if self.at_once => Err(Missed::For(site.busy(&server))),
            Said::Timeout => Ok(Err(connection)),
            Said::Refused(No::Unsaid) if is_ours(&connection) => Err(self.paused("take", &server)),
            Said::Refused(no) => Err(Missed::For(site.refused("take", &no, &server))),
            said => Err(Missed::For(site.nonsense("take", &said, &server))),
        }
    }

    /// Joins the queue, and waits in it.
    async fn queue(&self, mut connection: Connection) -> Result<Hold, Missed> {
        if connection.about.resume_s == 0 || self.site.access.connect_retry.is_zero() {
            return self.wait_on(connection).await;
        }
        connection.ask_for_resuming(self.keep_place_s());
        let asked = clock::now();
        let said = connection.exchange(self.enqueue_request(), Expect::Place, self.until).await;
        let said = said.map_err(|trouble| self.missed(trouble, &connection.address))?;
        match self.joined(connection, asked, said).await? {
            Ok(hold) => Ok(hold),
            Err(place) => self.wait_for_turn(place).await,
        }
    }

    /// Waits on this connection, which the place ends with.
    async fn wait_on(&self, mut connection: Connection) -> Result<Hold, Missed> {
        let request = Request::Acquire {
            key: self.site.key.as_bytes(),
            kind: self.site.kind,
            timeout_s: self.seconds_left(),
            lease_s: self.lease.map(whole_seconds),
        };
        let asked = clock::now();
        let said = connection.exchange(request, Expect::Granted, self.until).await;
        self.answered(&mut None, connection, asked, said).await
    }

    /// What came of joining: the lock, or a place.
    async fn joined(&self, connection: Connection, asked: Moment, said: Said) -> Result<Result<Hold, InQueue>, Missed> {
        let server = connection.address.clone();
        match said {
            Said::Acquired { token, lease_s } => self.believed(connection, token, lease_s, asked).await.map(Ok),
            Said::Queued { ticket } => Ok(Err(InQueue { connection, ticket: ticket.map(|token| self.ticket(token)) })),
            Said::Refused(No::Unsaid) if is_ours(&connection) => Err(self.paused("queue for", &server)),
            Said::Refused(no) => Err(Missed::For(self.site.refused("queue for", &no, &server))),
            said => Err(Missed::For(self.site.nonsense("queue for", &said, &server))),
        }
    }

    async fn wait_for_turn(&self, mut place: InQueue) -> Result<Hold, Missed> {
        loop {
            let InQueue { mut connection, mut ticket } = place;
            let (key, space) = (self.site.key.clone(), self.site.kind.space());
            let request = Request::Wait { key: key.as_bytes(), space, timeout_s: self.seconds_left() };
            let address = connection.address.clone();
            let asked = clock::now();
            let said = connection.exchange(request, Expect::Granted, self.until).await;
            let trouble = match self.answered(&mut ticket, connection, asked, said).await {
                Err(Missed::Place(trouble, _)) => trouble,
                done => return done,
            };
            // Only a place with a ticket outlives its connection.
            let Some(ticket) = ticket else { return Err(Missed::Place(trouble, address)) };
            place = match self.come_back(ticket, trouble, &address).await? {
                Ok(hold) => return Ok(hold),
                Err(place) => place,
            };
        }
    }

    /// What came of waiting.
    async fn answered(
        &self,
        ticket: &mut Option<Ticket>,
        connection: Connection,
        asked: Moment,
        said: Result<Said, Trouble>,
    ) -> Result<Hold, Missed> {
        let server = connection.address.clone();
        match said {
            Ok(Said::Granted { token, lease_s }) => {
                // Until it is believed the ticket leads to it, for whoever has to give it back.
                let believed = self.believed(connection, token, lease_s, asked).await;
                if !matches!(believed, Err(Missed::For(_))) {
                    close_any(ticket);
                }
                believed
            }
            Ok(Said::Timeout) => {
                close_any(ticket);
                Err(Missed::For(self.site.busy(&server)))
            }
            Ok(Said::Refused(No::NotEnqueued | No::LeaseExpired)) => {
                close_any(ticket);
                Err(Missed::Place(Trouble::Broken("the place in the queue is gone".to_owned()), server))
            }
            // So the original sends its waiters away when it stops.
            Ok(Said::Refused(No::Unsaid)) => Err(Missed::Place(Trouble::Draining, server)),
            Ok(Said::Refused(no)) => Err(Missed::For(self.site.refused("wait for", &no, &server))),
            Ok(said) => Err(Missed::For(self.site.nonsense("wait for", &said, &server))),
            Err(trouble) => Err(self.missed(trouble, &server)),
        }
    }

    /// Takes the place over on another connection: it has its old order there. Or it was its turn meanwhile.
    async fn come_back(
        &self,
        ticket: Ticket,
        trouble: Trouble,
        address: &Address,
    ) -> Result<Result<Hold, InQueue>, Missed> {
        let site = &self.site;
        let access = Access { resume_s: Some(self.keep_place_s()), ..site.access.clone() };
        let request = || Request::Resume {
            key: site.key.as_bytes(),
            space: site.kind.space(),
            proof: ticket.token.as_str().as_bytes(),
            lease_s: self.lease.map(whole_seconds),
        };
        let patience = Patience { until: self.until, retry: access.connect_retry, outlasts_drain: true };
        let answered = site.shard.ask(&access, request, Expect::Place, patience).await;
        let Answered { connection, asked, said } = match answered {
            Ok(answered) => answered,
            Err((trouble, member)) => {
                return Err(match self.missed(trouble, &member) {
                    Missed::Place(trouble, member) => Missed::For(site.trouble("wait for", trouble, &member)),
                    failed @ Missed::For(_) => failed,
                });
            }
        };
        match said {
            Said::Queued { .. } => Ok(Err(InQueue { connection, ticket: Some(ticket) })),
            Said::Acquired { token, lease_s } => {
                let believed = self.believed(connection, token, lease_s, asked).await;
                if !matches!(believed, Err(Missed::For(_))) {
                    ticket.close();
                }
                believed.map(Ok)
            }
            // A server that forgot it, or another one: nobody keeps it.
            Said::Refused(No::Unsaid) => {
                ticket.close();
                Err(Missed::Place(trouble, address.clone()))
            }
            Said::Refused(no) => Err(Missed::For(site.refused("wait for", &no, &connection.address))),
            said => Err(Missed::For(site.nonsense("wait for", &said, &connection.address))),
        }
    }

    async fn believed(
        &self,
        connection: Connection,
        token: Token,
        lease_s: u64,
        asked: Moment,
    ) -> Result<Hold, Missed> {
        let server = connection.address.clone();
        let believed = Hold::believed(self.site.clone(), connection, token, lease_s, self.lease, asked).await;
        believed.map_err(|unconfirmed| match unconfirmed {
            // We were stopped for as long as its lease, or the server went away. Nobody relied on it, so it is asked for anew.
            Unconfirmed::Gone if clock::now() >= self.until && !self.at_once => Missed::For(self.site.busy(&server)),
            Unconfirmed::Gone => {
                Missed::Place(Trouble::Broken("the lock was gone before it was ours".to_owned()), server)
            }
            Unconfirmed::Unknown(trouble) => Missed::For(self.site.trouble("confirm", trouble, &server)),
        })
    }

    /// No answer: because the time is over, because the connection is, or for good.
    fn missed(&self, trouble: Trouble, server: &Address) -> Missed {
        match trouble {
            Trouble::Silent | Trouble::Mute if clock::now() >= self.until => Missed::For(self.site.busy(server)),
            trouble if trouble.passes() => Missed::Place(trouble, server.clone()),
            trouble => Missed::For(self.site.trouble("wait for", trouble, server)),
        }
    }

    /// It has refused nothing: whoever waits asks again, and has nothing to lose.
    fn paused(&self, verb: &str, server: &Address) -> Missed {
        if self.at_once {
            return Missed::For(self.site.trouble(verb, Trouble::Paused, server));
        }
        Missed::Place(Trouble::Paused, server.clone())
    }

    fn enqueue_request(&self) -> Request<'_> {
        let Site { key, kind, .. } = &self.site;
        Request::Enqueue { key: key.as_bytes(), kind: *kind, lease_s: self.lease.map(whole_seconds) }
    }

    /// The server is asked for whole seconds; the exact end is ours.
    fn seconds_left(&self) -> u64 {
        whole_seconds(self.until.since(clock::now())).min(MAX_SECONDS)
    }

    fn keep_place_s(&self) -> u64 {
        whole_seconds(self.site.access.connect_retry.saturating_add(KEPT_LONGER))
    }

    fn ticket(&self, token: Token) -> Ticket {
        Ticket { token, site: self.site.clone(), given_up: Some(self.given_up.clone()) }
    }
}

impl Place {
    pub fn server(&self) -> String {
        self.place.connection.address.to_string()
    }

    /// However long it takes. If nobody keeps the place any more, another one is taken at the end of the queue.
    pub async fn wait(self) -> Result<Hold, Failure> {
        let Place { wish, place } = self;
        let wish = Wish { until: Moment::NEVER, at_once: false, ..wish };
        match wish.wait_for_turn(place).await {
            Ok(hold) => Ok(hold),
            Err(Missed::For(failure)) => Err(failure),
            Err(Missed::Place(trouble, address)) if wish.site.access.connect_retry.is_zero() => {
                Err(wish.site.trouble("wait for", trouble, &address))
            }
            Err(Missed::Place(..)) => wish.acquire().await,
        }
    }
}

/// Whether it is one of ours, which says no more than `error` to a well-formed request for a lock as long as it cannot write
/// down what it gives out.
fn is_ours(connection: &Connection) -> bool {
    connection.about.server == "dflock"
}

/// The place that this ticket was for is no more.
fn close_any(ticket: &mut Option<Ticket>) {
    if let Some(ticket) = ticket.take() {
        ticket.close();
    }
}

impl Ticket {
    /// It leads to nothing any more, or somebody else sees to what it leads to.
    fn close(mut self) {
        self.given_up = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(given_up) = self.given_up.take() {
            given_up.lock().push((self.site.clone(), self.token.clone()));
        }
    }
}

impl GivenUp {
    /// Frees what is still kept for us; what was granted meanwhile is given back.
    pub(super) async fn leave_all(&self, until: Moment) {
        let all = std::mem::take(&mut *self.lock());
        for (site, ticket) in all {
            // What cannot be freed now is kept for a while, and then for nobody.
            let _ = leave(&site, &ticket, until).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Site, Token)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the place over on a connection that nothing is kept for, and leaves it there.
async fn leave(site: &Site, ticket: &Token, until: Moment) -> Result<(), Trouble> {
    let (key, space) = (site.key.as_bytes(), site.kind.space());
    let access = Access { resume_s: None, starter: None, ..site.access.clone() };
    let patience = Patience { until, retry: Duration::ZERO, outlasts_drain: false };
    let request = || Request::Resume { key, space, proof: ticket.as_str().as_bytes(), lease_s: None };
    let answered = site.shard.ask(&access, request, Expect::Place, patience).await;
    let Answered { mut connection, said, .. } = answered.map_err(|(trouble, _)| trouble)?;
    let token = match said {
        Said::Acquired { token, .. } => token,
        Said::Queued { .. } => {
            let request = Request::Wait { key, space, timeout_s: 0 };
            match connection.exchange(request, Expect::Granted, until).await? {
                Said::Granted { token, .. } => token,
                _ => return Ok(()),
            }
        }
        _ => return Ok(()),
    };
    let request = Request::Release { key, space, token: token.as_str().as_bytes() };
    connection.exchange(request, Expect::Done, until).await.map(drop)
}
