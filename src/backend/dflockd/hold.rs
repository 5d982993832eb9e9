//! One lock that was taken: renewed, taken over on another connection, given back.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::site::{Site, in_words};
use super::whole_seconds;
use crate::backend::{Renewal, Terms};
use crate::client::cluster::{Answered, Patience};
use crate::client::connection::{Connection, No, Said};
use crate::client::retry::Backoff;
use crate::client::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lock::{Grant, Token};
use crate::wire::Request;
use crate::wire::answer::Expect;

/// For how long a server of unknown kind keeps the lock of a silent client, for sure: the original cuts its
/// connection after 23 s, and releases its locks. It is heard of three times as often.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(21);

/// How long a server that went away right after a grant is waited for, at most, whatever --connect-retry says: nobody
/// can be told meanwhile.
const AGREE_MOST: Duration = Duration::from_secs(10);

/// A grant that took longer than this, or a tenth of its lease, is confirmed before it is believed.
const FRESH: Duration = Duration::from_millis(500);

const NO_CONNECTION: &str = "no connection";

pub struct Hold {
    pub(super) site: Site,
    pub(super) connection: Option<Connection>,
    /// Nothing is asked on the connection that was not answered: whatever came now would answer something else.
    /// One that is out of step is of no use but to keep a lock that the server ties to it.
    pub(super) is_in_step: bool,
    pub(super) grant: Grant,
    /// How long the server keeps the lock without a connection.
    pub(super) resume: Duration,
}

/// Why a grant that was long in coming is not believed.
pub(super) enum Unconfirmed {
    /// It is not ours any more.
    Gone,
    Unknown(Trouble),
}

impl Hold {
    /// A grant that came at once is believed; one that was long in coming is confirmed by a renewal first. If the
    /// connection breaks meanwhile, the server may keep the lock for its token; or it is gone.
    pub(super) async fn believed(
        site: Site,
        connection: Connection,
        token: Token,
        lease_s: u64,
        wish: Option<Duration>,
        asked: Moment,
    ) -> Result<Hold, Unconfirmed> {
        let granted = Duration::from_secs(lease_s);
        let lease = wish.map_or(granted, |wish| wish.min(granted));
        let fence = if connection.about.fencing { fence_of(&token) } else { None };
        let server = connection.address.to_string();
        let grant = Grant { token, fence, lease, asked, server };
        let mut hold = Hold { site, connection: Some(connection), is_in_step: true, grant, resume: Duration::ZERO };
        let took = clock::now().since(asked);
        if took > FRESH.min(lease / 10) {
            let until = clock::now() + hold.site.access.connect_timeout;
            match hold.renew(lease, until).await {
                Renewal::Renewed(_) => {}
                Renewal::Gone => return Err(Unconfirmed::Gone),
                Renewal::Unknown(why) => {
                    let retry = hold.site.access.connect_retry.min(AGREE_MOST);
                    match hold.restore(lease, clock::now() + retry).await {
                        Renewal::Renewed(_) => {}
                        Renewal::Gone => return Err(Unconfirmed::Gone),
                        Renewal::Unknown(_) => return Err(Unconfirmed::Unknown(Trouble::Broken(why))),
                    }
                }
            }
        }
        Ok(hold)
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    pub fn terms(&self) -> Terms {
        Terms {
            asked: self.grant.asked,
            lease: self.grant.lease,
            unheard_limit: self.unheard_limit(),
            outlives_connection: self.outlives_connection(),
        }
    }

    /// A server that frees what a broken connection held may find ours broken when we do not hear of it.
    fn unheard_limit(&self) -> Option<Duration> {
        if self.outlives_connection() {
            return Some(self.resume);
        }
        match self.connection.as_ref().and_then(|connection| connection.about.idle_cut_s) {
            Some(0) => None,
            Some(cut) => Some(Duration::from_secs(cut)),
            None => Some(UNKNOWN_LIMIT),
        }
    }

    pub fn lifeline(&self) -> Option<OwnedFd> {
        self.connection.as_ref().and_then(Connection::duplicate)
    }

    fn outlives_connection(&self) -> bool {
        !self.resume.is_zero()
    }

    /// The server may keep the lock for as long as the lease; if it offers that, it is agreed on.
    pub async fn make_resumable(&mut self, until: Moment) -> Renewal {
        let wish_s = whole_seconds(self.grant.lease).max(1);
        let Some(connection) = self.connection.as_mut() else { return Renewal::Unknown(NO_CONNECTION.to_owned()) };
        if connection.about.resume_s == 0 {
            return Renewal::Renewed(self.terms());
        }
        self.is_in_step = false;
        match connection.agree_on_resuming(wish_s, until).await {
            Ok(agreed) => {
                self.is_in_step = true;
                self.resume = agreed;
                Renewal::Renewed(self.terms())
            }
            Err(trouble) => {
                // One that was killed just now may be back with all that it held.
                let retry = self.site.access.connect_retry.min(AGREE_MOST);
                match self.restore(self.grant.lease, until.max(clock::now() + retry)).await {
                    renewed @ Renewal::Renewed(_) => renewed,
                    Renewal::Gone | Renewal::Unknown(_) => Renewal::Unknown(trouble.to_string()),
                }
            }
        }
    }

    pub async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        let (key, token) = (self.site.key.clone(), self.grant.token.clone());
        let request = Request::Renew {
            key: key.as_bytes(),
            space: self.site.kind.space(),
            token: token.as_str().as_bytes(),
            lease_s: Some(whole_seconds(lease)),
        };
        let asked = clock::now();
        match self.exchange(request, Expect::Left, until).await {
            Ok(Said::Left(seconds)) => self.granted_anew(lease, seconds, asked),
            Ok(Said::Refused(No::Unsaid | No::LeaseExpired)) => Renewal::Gone,
            Ok(said) => {
                self.is_in_step = false;
                Renewal::Unknown(Trouble::Nonsense(format!("{} to a renewal", in_words(&said))).to_string())
            }
            Err(trouble) => Renewal::Unknown(trouble.to_string()),
        }
    }

    /// If it fails, or is dropped before it is done, the connection is out of step.
    async fn exchange(&mut self, request: Request<'_>, expect: Expect, until: Moment) -> Result<Said, Trouble> {
        let Some(connection) = self.connection.as_mut().filter(|_| self.is_in_step) else {
            return Err(Trouble::Broken(NO_CONNECTION.to_owned()));
        };
        self.is_in_step = false;
        let said = connection.exchange(request, expect, until).await?;
        self.is_in_step = true;
        Ok(said)
    }

    pub async fn broken(&mut self) -> String {
        let trouble = match self.connection.as_mut() {
            Some(connection) => connection.over().await,
            None => Trouble::Broken(NO_CONNECTION.to_owned()),
        };
        self.connection = None;
        trouble.to_string()
    }

    /// Tries members in turn, with backoff, until `until`.
    pub async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        self.connection = None;
        let (key, token) = (self.site.key.clone(), self.grant.token.clone());
        let request = || Request::Resume {
            key: key.as_bytes(),
            space: self.site.kind.space(),
            proof: token.as_str().as_bytes(),
            lease_s: Some(whole_seconds(lease)),
        };
        // Agreed on before the lock is taken over: a connection that breaks at once must not free it.
        // Nobody is told of a server that is started for it: a message may block, and a command is waiting for us.
        let resume_s = Some(whole_seconds(lease));
        let access = Access { resume_s, starts_silently: true, ..self.site.access.clone() };
        let mut backoff = Backoff::default();
        loop {
            // Each attempt has its own short limit: a server that is frozen now may be replaced in a moment.
            let attempt_until = (clock::now() + self.site.access.connect_timeout).min(until);
            let patience = Patience { until: attempt_until, retry: Duration::MAX, outlasts_drain: false };
            let trouble = match self.site.shard.ask(&access, request, Expect::Left, patience).await {
                Ok(Answered { connection, asked, said: Said::Left(seconds) }) => {
                    self.resume = Duration::from_secs(connection.about.resume_s);
                    (self.connection, self.is_in_step) = (Some(connection), true);
                    return self.granted_anew(lease, seconds, asked);
                }
                Ok(Answered { said: Said::Refused(No::Unsaid), .. }) => return Renewal::Gone,
                Ok(Answered { said, .. }) => format!("{} is no answer to a resume", in_words(&said)),
                Err((trouble, _)) => trouble.to_string(),
            };
            let pause = backoff.next(clock::now().as_nanos());
            if clock::now() + pause >= until {
                return Renewal::Unknown(trouble);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// On the connection that the lock was taken on, or on another one: its token is enough.
    pub async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        let (site, token) = (self.site.clone(), self.grant.token.clone());
        let requests = AtomicU32::new(0);
        let request = || {
            requests.fetch_add(1, Ordering::Relaxed);
            Request::Release { key: site.key.as_bytes(), space: site.kind.space(), token: token.as_str().as_bytes() }
        };
        if let Some(server) = self.connection.as_ref().map(|connection| connection.address.clone()) {
            if self.is_in_step {
                let now = clock::now();
                let half = now + until.since(now) / 2;
                match self.exchange(request(), Expect::Done, half).await {
                    Ok(said) => return site.released(&said, &server),
                    // Where a lock ends with its connection, it ends now.
                    Err(trouble) if self.resume.is_zero() => return Err(site.trouble("release", trouble, &server)),
                    Err(_) => {}
                }
            }
            self.connection = None;
        }
        let patience = Patience { until, retry: Duration::MAX, outlasts_drain: false };
        let access = Access { starts_silently: true, ..site.access.clone() };
        match site.shard.ask(&access, request, Expect::Done, patience).await {
            // A request before, of which no answer came, was carried out.
            Ok(Answered { said: Said::Refused(No::Unsaid), .. }) if requests.load(Ordering::Relaxed) > 1 => Ok(()),
            Ok(Answered { connection, said, .. }) => site.released(&said, &connection.address),
            Err((trouble, member)) => Err(site.trouble("release", trouble, &member)),
        }
    }

    /// The server may cut a lease: what it answers is believed if it is less than what was asked for.
    fn granted_anew(&mut self, wish: Duration, seconds: u64, asked: Moment) -> Renewal {
        self.grant.asked = asked;
        self.grant.lease = wish.min(Duration::from_secs(seconds));
        Renewal::Renewed(self.terms())
    }
}

/// Of a server that gives fences, the first half of its tokens.
fn fence_of(token: &Token) -> Option<u64> {
    let text = token.as_str();
    (text.len() == 32).then(|| u64::from_str_radix(text.get(..16)?, 16).ok()).flatten()
}
