//! The native protocol: dflockd, and our own server.

mod hold;
mod place;
mod rows;
mod site;

use std::time::Duration;

pub use hold::Hold;
pub use place::Place;
use place::{GivenUp, Wish};
use rows::Rows;
use site::{Site, in_words};

use super::{Ask, Inherited, Renewal, Stats, Status, Wait};
use crate::client::cluster::{Answered, Patience, Shard};
use crate::client::connection::{No, Said};
use crate::client::shards::shard_of;
use crate::client::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::lock::{Grant, Key, Kind, Space, Token};
use crate::wire::answer::Expect;
use crate::wire::{MAX_SECONDS, Request};

/// How long stats may take: those of many locks are many megabytes.
const STATS_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Servers {
    shards: Vec<Shard>,
    /// The shard of every key, if one was picked by hand.
    picked: Option<usize>,
    access: Access,
    given_up: GivenUp,
}

pub enum Joined {
    Held(Hold),
    Queued(Place),
}

impl Servers {
    pub fn new(shards: Vec<Shard>, picked: Option<usize>, access: Access) -> Servers {
        Servers { shards, picked, access, given_up: GivenUp::default() }
    }

    pub fn server_of(&self, key: &Key) -> (usize, String) {
        let at = self.picked.unwrap_or_else(|| shard_of(key.as_bytes(), self.shards.len()));
        (at, self.shards[at].to_string())
    }

    fn site(&self, key: &Key, kind: Kind) -> Site {
        let (at, _) = self.server_of(key);
        Site { shard: self.shards[at].clone(), access: self.access.clone(), key: key.clone(), kind }
    }

    fn wish(&self, ask: &Ask) -> Wish {
        let until = match ask.wait {
            Wait::For(time) => clock::now() + time,
            Wait::Forever => Moment::NEVER,
        };
        Wish {
            site: self.site(&ask.key, ask.kind),
            lease: ask.lease,
            until,
            at_once: ask.wait == Wait::For(Duration::ZERO),
            given_up: self.given_up.clone(),
        }
    }

    pub async fn acquire(&self, ask: &Ask) -> Result<Hold, Failure> {
        self.wish(ask).acquire().await
    }

    pub async fn enqueue(&self, ask: &Ask) -> Result<Joined, Failure> {
        self.wish(ask).enqueue().await
    }

    /// Leaves the places of waits that were given up.
    pub async fn tidy(&self, until: Moment) {
        self.given_up.leave_all(until).await;
    }

    pub async fn take_over(&self, key: &Key, kind: Kind, left: Inherited) -> Result<Hold, Failure> {
        let site = self.site(key, kind);
        let member = site.shard.members[0].clone();
        let Inherited { token, fence, lease } = left;
        let grant = Grant { token, fence, lease, asked: clock::now(), server: member.to_string() };
        let mut hold = Hold { site, connection: None, is_in_step: false, grant, resume: Duration::ZERO };
        match hold.restore(lease, clock::now() + self.access.connect_timeout).await {
            Renewal::Renewed(_) => Ok(hold),
            Renewal::Gone => Err(hold.site.lost("take over", &member)),
            Renewal::Unknown(why) => Err(hold.site.trouble("take over", Trouble::Broken(why), &member)),
        }
    }

    pub async fn release(&self, key: &Key, space: Space, token: &Token) -> Result<(), Failure> {
        let site = self.site(key, kind_of(space));
        let request = || Request::Release { key: key.as_bytes(), space, token: token.as_str().as_bytes() };
        let answered = site.shard.ask(&self.access_to_what_is_there(), request, Expect::Done, self.one_try()).await;
        let Answered { connection, said, .. } =
            answered.map_err(|(trouble, member)| site.trouble("release", trouble, &member))?;
        site.released(&said, &connection.address)
    }

    pub async fn renew(&self, key: &Key, space: Space, token: &Token, lease: Option<Duration>) -> Result<u64, Failure> {
        let site = self.site(key, kind_of(space));
        let lease_s = lease.map(whole_seconds);
        let request = || Request::Renew { key: key.as_bytes(), space, token: token.as_str().as_bytes(), lease_s };
        let access = self.access_to_what_is_there();
        let answered = site.shard.ask(&access, request, Expect::Left, self.one_try()).await;
        let Answered { connection, said, .. } =
            answered.map_err(|(trouble, member)| site.trouble("renew", trouble, &member))?;
        match said {
            Said::Left(seconds) => Ok(seconds),
            Said::Refused(No::Unsaid) => Err(site.lost("renew", &connection.address)),
            Said::Refused(no) => Err(site.refused("renew", &no, &connection.address)),
            said => Err(site.nonsense("renew", &said, &connection.address)),
        }
    }

    /// A server that has to be started knows of nothing that could be asked for.
    fn access_to_what_is_there(&self) -> Access {
        Access { starter: None, ..self.access.clone() }
    }

    fn one_try(&self) -> Patience {
        let retry = self.access.connect_retry;
        Patience { until: clock::now() + retry + self.access.connect_timeout, retry, outlasts_drain: false }
    }

    /// Narrowed here: the protocol has no way to ask for some keys only.
    pub async fn stats(&self, start: &[u8]) -> Vec<(String, Result<Stats, Failure>)> {
        let start = String::from_utf8_lossy(start).into_owned();
        let mut asking = tokio::task::JoinSet::new();
        for (at, shard) in self.shards.iter().enumerate() {
            if self.picked.is_none_or(|picked| picked == at) {
                let (shard, access, start) = (shard.clone(), self.access_to_what_is_there(), start.clone());
                asking.spawn(async move {
                    let stats = stats_of(&shard, &access, "get stats", |key| key.starts_with(&start)).await;
                    (at, shard.to_string(), stats)
                });
            }
        }
        let mut all = asking.join_all().await;
        all.sort_by_key(|(at, ..)| *at);
        all.into_iter().map(|(_, server, stats)| (server, stats)).collect()
    }

    pub async fn status(&self, key: &Key) -> Result<Status, Failure> {
        let (at, server) = self.server_of(key);
        let name = key.to_string();
        let tried = format!("look up {name}");
        let access = self.access_to_what_is_there();
        let stats = stats_of(&self.shards[at], &access, &tried, |key| key == name).await;
        let stats = stats.map_err(|mut failure| {
            failure.key = Some(name.clone());
            failure
        })?;
        Ok(Status { server, lock: stats.locks.into_iter().next(), semaphore: stats.semaphores.into_iter().next() })
    }
}

/// What a server holds of the keys that are wanted.
async fn stats_of(
    shard: &Shard,
    access: &Access,
    tried: &str,
    wanted: impl Fn(&str) -> bool + Send,
) -> Result<Stats, Failure> {
    let begin = clock::now();
    let patience = Patience {
        until: begin + access.connect_retry + STATS_TIMEOUT,
        retry: access.connect_retry,
        outlasts_drain: false,
    };
    let mut rows = Rows::new(wanted);
    let answered = shard.ask_in_pieces(access, || Request::Stats, &mut rows, patience).await;
    let Answered { connection, said, .. } =
        answered.map_err(|(trouble, member)| trouble.into_failure(tried, &member))?;
    let nonsense = |why: String| Trouble::Nonsense(why).into_failure(tried, &connection.address);
    match said {
        Said::Document(_) => {
            let stats = rows.finish().map_err(nonsense)?;
            Ok(Stats { grants: connection.about.grants, ..stats })
        }
        said => Err(nonsense(in_words(&said).to_owned())),
    }
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
