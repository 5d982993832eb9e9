//! The native protocol: dflockd, and our own server.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Ask, Renewal, Stats, Status, Wait};
use crate::client::cluster::{Answered, Patience, Shard};
use crate::client::connection::{Connection, No, Said};
use crate::client::retry::Backoff;
use crate::client::shards::shard_of;
use crate::client::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind as Wrong};
use crate::lock::{Grant, Key, Kind, Space, Token};
use crate::net::Address;
use crate::wire::answer::Expect;
use crate::wire::{MAX_SECONDS, Request};

/// How often a connection to a server of unknown kind must be heard of: the original cuts one that is silent
/// for 23 s, and releases its locks.
const UNKNOWN_RHYTHM: Duration = Duration::from_secs(7);

/// A grant that took longer than this, or a tenth of its lease, is confirmed before it is believed.
const FRESH: Duration = Duration::from_millis(500);

/// How long stats may take: those of many locks are many megabytes.
const STATS_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Servers {
    shards: Vec<Shard>,
    /// The shard of every key, if one was picked by hand.
    picked: Option<usize>,
    access: Access,
}

/// What one lock needs of its servers.
#[derive(Clone)]
struct Site {
    shard: Shard,
    access: Access,
    key: Key,
    kind: Kind,
}

pub struct Hold {
    site: Site,
    connection: Option<Connection>,
    grant: Grant,
    /// How long the server keeps the lock without a connection.
    resume: Duration,
}

pub struct Place {
    site: Site,
    connection: Connection,
    lease: Option<Duration>,
}

pub enum Joined {
    Held(Hold),
    Queued(Place),
}

impl Servers {
    pub fn new(shards: Vec<Shard>, picked: Option<usize>, access: Access) -> Servers {
        Servers { shards, picked, access }
    }

    pub fn server_of(&self, key: &Key) -> (usize, String) {
        let at = self.picked.unwrap_or_else(|| shard_of(key.as_bytes(), self.shards.len()));
        (at, self.shards[at].to_string())
    }

    fn site(&self, key: &Key, kind: Kind) -> Site {
        let (at, _) = self.server_of(key);
        Site { shard: self.shards[at].clone(), access: self.access.clone(), key: key.clone(), kind }
    }

    pub async fn acquire(&self, ask: &Ask) -> Result<Hold, Failure> {
        let site = self.site(&ask.key, ask.kind);
        let begin = clock::now();
        let wait_until = match ask.wait {
            Wait::For(time) => begin + time,
            Wait::Forever => Moment::NEVER,
        };
        // The server is asked for whole seconds; the exact end is ours.
        let request = || {
            let timeout_s = whole_seconds(wait_until.since(clock::now())).min(MAX_SECONDS);
            let timeout_s = if ask.wait == Wait::For(Duration::ZERO) { 0 } else { timeout_s };
            Request::Acquire {
                key: ask.key.as_bytes(),
                kind: ask.kind,
                timeout_s,
                lease_s: ask.lease.map(whole_seconds),
            }
        };
        let no_wait = ask.wait == Wait::For(Duration::ZERO);
        let until = if no_wait { begin + self.access.connect_timeout } else { wait_until };
        let patience = Patience { until, connect_until: begin + self.access.connect_retry };
        let Answered { connection, asked, said } =
            match site.shard.ask(&self.access, request, Expect::Granted, patience).await {
                Ok(answered) => answered,
                // The greeting was answered, so the server lives: it is the lock that is not free.
                Err((Trouble::Silent, member)) if !no_wait => {
                    return Err(site.busy(&member));
                }
                Err((trouble, member)) => return Err(site.trouble("take", trouble, &member)),
            };
        let server = connection.address.clone();
        match said {
            Said::Granted { token, lease_s } => site.believe(connection, token, lease_s, ask.lease, asked).await,
            Said::Timeout => Err(site.busy(&server)),
            Said::Refused(no) => Err(site.refused("take", &no, &server)),
            said => Err(site.nonsense("take", &said, &server)),
        }
    }

    pub async fn enqueue(&self, ask: &Ask) -> Result<Joined, Failure> {
        let site = self.site(&ask.key, ask.kind);
        let begin = clock::now();
        let request =
            || Request::Enqueue { key: ask.key.as_bytes(), kind: ask.kind, lease_s: ask.lease.map(whole_seconds) };
        let until = begin + self.access.connect_timeout.max(self.access.connect_retry);
        let patience = Patience { until, connect_until: begin + self.access.connect_retry };
        let answered = site.shard.ask(&self.access, request, Expect::Place, patience).await;
        let Answered { connection, asked, said } =
            answered.map_err(|(trouble, member)| site.trouble("queue for", trouble, &member))?;
        let server = connection.address.clone();
        match said {
            Said::Acquired { token, lease_s } => {
                site.believe(connection, token, lease_s, ask.lease, asked).await.map(Joined::Held)
            }
            Said::Queued { .. } => Ok(Joined::Queued(Place { site, connection, lease: ask.lease })),
            Said::Refused(no) => Err(site.refused("queue for", &no, &server)),
            said => Err(site.nonsense("take", &said, &server)),
        }
    }

    pub async fn release(&self, key: &Key, space: Space, token: &Token) -> Result<(), Failure> {
        let site = self.site(key, kind_of(space));
        let request = || Request::Release { key: key.as_bytes(), space, token: token.as_str().as_bytes() };
        let answered = site.shard.ask(&self.access, request, Expect::Done, self.one_try()).await;
        let Answered { connection, said, .. } =
            answered.map_err(|(trouble, member)| site.trouble("release", trouble, &member))?;
        site.released(&said, &connection.address)
    }

    pub async fn renew(&self, key: &Key, space: Space, token: &Token, lease: Option<Duration>) -> Result<u64, Failure> {
        let site = self.site(key, kind_of(space));
        let lease_s = lease.map(whole_seconds);
        let request = || Request::Renew { key: key.as_bytes(), space, token: token.as_str().as_bytes(), lease_s };
        let answered = site.shard.ask(&self.access, request, Expect::Left, self.one_try()).await;
        let Answered { connection, said, .. } =
            answered.map_err(|(trouble, member)| site.trouble("renew", trouble, &member))?;
        match said {
            Said::Left(seconds) => Ok(seconds),
            Said::Refused(No::Unsaid) => Err(site.lost("renew", &connection.address)),
            Said::Refused(no) => Err(site.refused("renew", &no, &connection.address)),
            said => Err(site.nonsense("renew", &said, &connection.address)),
        }
    }

    fn one_try(&self) -> Patience {
        let now = clock::now();
        let connect_until = now + self.access.connect_retry;
        Patience { until: connect_until + self.access.connect_timeout, connect_until }
    }

    /// Narrowed here: the protocol has no way to ask for some keys only.
    pub async fn stats(&self, start: &[u8]) -> Vec<(String, Result<Stats, Failure>)> {
        let mut asking = tokio::task::JoinSet::new();
        for (at, shard) in self.shards.iter().enumerate() {
            if self.picked.is_none_or(|picked| picked == at) {
                let (shard, access) = (shard.clone(), self.access.clone());
                asking.spawn(async move { (at, shard.to_string(), stats_of(&shard, &access, "get stats").await) });
            }
        }
        let mut all = asking.join_all().await;
        all.sort_by_key(|(at, ..)| *at);
        let narrow = |mut stats: Stats| {
            stats.narrow(&String::from_utf8_lossy(start));
            stats
        };
        all.into_iter().map(|(_, server, stats)| (server, stats.map(narrow))).collect()
    }

    pub async fn status(&self, key: &Key) -> Result<Status, Failure> {
        let (at, server) = self.server_of(key);
        let name = key.to_string();
        let stats = stats_of(&self.shards[at], &self.access, &format!("look up {name}")).await;
        let stats = stats.map_err(|mut failure| {
            failure.key = Some(name.clone());
            failure
        })?;
        Ok(Status {
            server,
            lock: stats.locks.into_iter().find(|row| row.key == name),
            semaphore: stats.semaphores.into_iter().find(|row| row.key == name),
        })
    }
}

async fn stats_of(shard: &Shard, access: &Access, tried: &str) -> Result<Stats, Failure> {
    let now = clock::now();
    let connect_until = now + access.connect_retry;
    let patience = Patience { until: connect_until + STATS_TIMEOUT, connect_until };
    let answered = shard.ask(access, || Request::Stats, Expect::Document, patience).await;
    let Answered { connection, said, .. } =
        answered.map_err(|(trouble, member)| trouble.into_failure(tried, &member))?;
    let nonsense = |why: &str| Trouble::Nonsense(why.to_owned()).into_failure(tried, &connection.address);
    match said {
        Said::Document(json) => serde_json::from_slice(&json).map_err(|why| nonsense(&why.to_string())),
        said => Err(nonsense(in_words(&said))),
    }
}

impl Site {
    /// A grant that came at once is believed; one that was long in coming is confirmed by a renewal first.
    async fn believe(
        self,
        connection: Connection,
        token: Token,
        lease_s: u64,
        wish: Option<Duration>,
        asked: Moment,
    ) -> Result<Hold, Failure> {
        let granted = Duration::from_secs(lease_s);
        let lease = wish.map_or(granted, |wish| wish.min(granted));
        let fence = if connection.about.fencing { fence_of(&token) } else { None };
        let server = connection.address.to_string();
        let address = connection.address.clone();
        let grant = Grant { token, fence, lease, asked, server };
        let mut hold = Hold { site: self, connection: Some(connection), grant, resume: Duration::ZERO };
        let took = clock::now().since(asked);
        if took > FRESH.min(lease / 10) {
            let until = clock::now() + hold.site.access.connect_timeout;
            match hold.renew(lease, until).await {
                Renewal::Renewed { .. } => {}
                Renewal::Gone => return Err(hold.site.lost("confirm", &address)),
                Renewal::Unknown(why) => {
                    return Err(hold.site.trouble("confirm", Trouble::Broken(why), &address));
                }
            }
        }
        Ok(hold)
    }

    fn named(&self, mut failure: Failure, server: &Address) -> Failure {
        failure.key = Some(self.key.to_string());
        failure.server = Some(server.to_string());
        failure
    }

    fn trouble(&self, verb: &str, trouble: Trouble, server: &Address) -> Failure {
        let failure = trouble.into_failure(&format!("{verb} {}", self.key), server);
        self.named(failure, server)
    }

    fn busy(&self, server: &Address) -> Failure {
        let what = match self.kind {
            Kind::Lock => "is held by somebody else",
            Kind::Semaphore { .. } => "has no free slot",
        };
        let failure = Failure::new(Wrong::Busy, format!("{} {what} (on {server})", self.key));
        self.named(failure.hint("-w DUR waits longer, dflock status KEY shows more"), server)
    }

    fn lost(&self, verb: &str, server: &Address) -> Failure {
        let message = format!("cannot {verb} {}: it is not held with this token any more (on {server})", self.key);
        self.named(
            Failure::new(Wrong::Lost, message).hint("its lease may have ended, or it was released before"),
            server,
        )
    }

    fn refused(&self, verb: &str, no: &No, server: &Address) -> Failure {
        let key = &self.key;
        let (why, hint) = match no {
            No::MaxLocks => ("the server has as many keys as it may (--max-locks)", "try again later"),
            No::MaxWaiters => ("as many wait for it already as may (--max-waiters)", "try again later"),
            No::LimitMismatch => (
                "it is in use as a semaphore with another limit",
                "all users of a semaphore must name the same --limit",
            ),
            No::AlreadyEnqueued => ("this connection is in its queue already", "wait for it"),
            No::NotEnqueued => ("this connection is not in its queue", "enqueue first"),
            No::LeaseExpired => ("it was granted, and its lease ended before it was taken up", "try again"),
            No::NotLeader(_) => (
                "the server is a member of a cluster and does not lead it",
                "name all members: --servers dflockd://a:6388,b:6388,c:6388",
            ),
            No::Unsaid => ("the server says error, and no more", "it may be stopping, or older than it should be"),
            No::Other(_) => ("the server refuses", "its log may say more"),
        };
        let said = if let No::Other(word) = no { format!(" with {word:?}") } else { String::new() };
        let failure = Failure::new(Wrong::Refused, format!("cannot {verb} {key} on {server}: {why}{said}"));
        self.named(failure.hint(hint), server)
    }

    fn nonsense(&self, verb: &str, said: &Said, server: &Address) -> Failure {
        self.trouble(verb, Trouble::Nonsense(format!("{} is no answer to that", in_words(said))), server)
    }

    fn released(&self, said: &Said, server: &Address) -> Result<(), Failure> {
        match said {
            Said::Done => Ok(()),
            Said::Refused(No::Unsaid) => Err(self.lost("release", server)),
            Said::Refused(no) => Err(self.refused("release", no, server)),
            said => Err(self.nonsense("release", said, server)),
        }
    }
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
                self.site.believe(self.connection, token, lease_s, self.lease, asked).await
            }
            Said::Timeout => Err(self.site.busy(&server)),
            Said::Refused(No::NotEnqueued | No::LeaseExpired) => Err(self.site.lost("wait for", &server)),
            Said::Refused(no) => Err(self.site.refused("wait for", &no, &server)),
            said => Err(self.site.nonsense("wait for", &said, &server)),
        }
    }
}

impl Hold {
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Three times within what the server allows a silent connection.
    pub fn rhythm(&self) -> Option<Duration> {
        match self.connection.as_ref().and_then(|connection| connection.about.idle_cut_s) {
            Some(0) => None,
            Some(cut) => Some(Duration::from_secs(cut) / 3),
            None => Some(UNKNOWN_RHYTHM),
        }
    }

    pub fn lifeline(&self) -> Option<OwnedFd> {
        self.connection.as_ref().and_then(Connection::duplicate)
    }

    pub fn outlives_connection(&self) -> bool {
        !self.resume.is_zero()
    }

    /// The server may keep the lock for as long as the lease; if it offers that, it is agreed on.
    pub async fn secure(&mut self, until: Moment) -> Renewal {
        let asked = self.grant.asked;
        let Some(connection) = self.connection.as_mut() else { return Renewal::Unknown("no connection".to_owned()) };
        if connection.about.resume_s == 0 {
            return Renewal::Renewed { asked };
        }
        match connection.agree_on_resuming(self.grant.lease.max(Duration::from_secs(1)), until).await {
            Ok(agreed) => {
                self.resume = agreed;
                Renewal::Renewed { asked }
            }
            Err(trouble) => self.give_up_connection(&trouble),
        }
    }

    pub async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        let Some(connection) = self.connection.as_mut() else { return Renewal::Unknown("no connection".to_owned()) };
        let (key, token) = (self.site.key.clone(), self.grant.token.clone());
        let request = Request::Renew {
            key: key.as_bytes(),
            space: self.site.kind.space(),
            token: token.as_str().as_bytes(),
            lease_s: Some(whole_seconds(lease)),
        };
        let asked = clock::now();
        let said = connection.exchange(request, Expect::Left, until).await;
        self.judge(said, lease, asked)
    }

    pub async fn broken(&mut self) -> String {
        let trouble = match self.connection.as_mut() {
            Some(connection) => connection.over().await,
            None => Trouble::Broken("no connection".to_owned()),
        };
        self.connection = None;
        trouble.to_string()
    }

    /// Tries members in turn, with backoff, until `until`.
    pub async fn restore(&mut self, until: Moment) -> Renewal {
        self.connection = None;
        let lease = self.grant.lease;
        let (key, token) = (self.site.key.clone(), self.grant.token.clone());
        let request = || Request::Resume {
            key: key.as_bytes(),
            space: self.site.kind.space(),
            proof: token.as_str().as_bytes(),
            lease_s: Some(whole_seconds(lease)),
        };
        // Agreed on before the lock is taken over: a connection that breaks at once must not free it.
        let access = Access { resume_s: Some(whole_seconds(lease)), ..self.site.access.clone() };
        let mut backoff = Backoff::default();
        loop {
            // Each attempt has its own short limit: a server that is frozen now may be replaced in a moment.
            let attempt_until = (clock::now() + self.site.access.connect_timeout).min(until);
            let patience = Patience { until: attempt_until, connect_until: attempt_until };
            let trouble = match self.site.shard.ask(&access, request, Expect::Left, patience).await {
                Ok(Answered { connection, asked, said: Said::Left(_) }) => {
                    self.resume = Duration::from_secs(connection.about.resume_s);
                    self.connection = Some(connection);
                    self.grant.asked = asked;
                    return Renewal::Renewed { asked };
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

    pub async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        let unknown = |site: &Site, trouble, server: &Address| site.trouble("release", trouble, server);
        let Some(mut connection) = self.connection.take() else {
            let server = &self.site.shard.members[0];
            return Err(unknown(&self.site, Trouble::Broken("no connection".to_owned()), server));
        };
        let request = Request::Release {
            key: self.site.key.as_bytes(),
            space: self.site.kind.space(),
            token: self.grant.token.as_str().as_bytes(),
        };
        let said = connection.exchange(request, Expect::Done, until).await;
        let said = said.map_err(|trouble| unknown(&self.site, trouble, &connection.address))?;
        self.site.released(&said, &connection.address)
    }

    fn judge(&mut self, said: Result<Said, Trouble>, lease: Duration, asked: Moment) -> Renewal {
        match said {
            Ok(Said::Left(_)) => {
                self.grant.asked = asked;
                self.grant.lease = lease;
                Renewal::Renewed { asked }
            }
            Ok(Said::Refused(No::Unsaid | No::LeaseExpired)) => Renewal::Gone,
            Ok(said) => self.give_up_connection(&Trouble::Nonsense(format!("{} to a renewal", in_words(&said)))),
            Err(trouble) => self.give_up_connection(&trouble),
        }
    }

    /// It is out of step: whatever comes on it now answers something else.
    fn give_up_connection(&mut self, trouble: &Trouble) -> Renewal {
        self.connection = None;
        Renewal::Unknown(trouble.to_string())
    }
}

/// The word that an answer begins with; what follows may be a token.
fn in_words(said: &Said) -> &'static str {
    match said {
        Said::Done | Said::Left(_) | Said::Granted { .. } | Said::Document(_) => "\"ok\"",
        Said::Acquired { .. } => "\"acquired\"",
        Said::Queued { .. } => "\"queued\"",
        Said::Timeout => "\"timeout\"",
        Said::Refused(_) => "\"error\"",
    }
}

/// Of a server that gives fences, the first half of its tokens.
fn fence_of(token: &Token) -> Option<u64> {
    let text = token.as_str();
    (text.len() == 32).then(|| u64::from_str_radix(text.get(..16)?, 16).ok()).flatten()
}

fn kind_of(space: Space) -> Kind {
    match space {
        Space::Locks => Kind::Lock,
        Space::Semaphores => Kind::Semaphore { limit: 1 },
    }
}

/// Rounded up: the wire has no fractions.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).min(MAX_SECONDS)
}
