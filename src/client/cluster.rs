//! Members of one shard: the one that leads is asked, and only those that were configured are ever asked.

use std::fmt;
use std::time::Duration;

use super::connection::{Connection, No, Pieces, Said};
use super::retry::Backoff;
use super::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::net::Address;
use crate::wire::Request;
use crate::wire::answer::Expect;

/// One server, or the members of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub members: Vec<Address>,
}

/// How long to go on trying.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When no answer is of use any more.
    pub until: Moment,
    /// How long a server that cannot be reached is tried again, from when that was first seen.
    pub retry: Duration,
    /// Whether a server that is stopping is waited for: until it has another one in its place.
    pub outlasts_drain: bool,
}

/// A request that was answered.
pub struct Answered {
    pub connection: Connection,
    /// When the request left.
    pub asked: Moment,
    pub said: Said,
}

impl Shard {
    /// Makes one request on a connection of its own. An attempt without an answer is never repeated on its
    /// connection: that is closed, so the server lets go of what it may have granted.
    pub async fn ask<'a>(
        &self,
        access: &Access,
        request: impl Fn() -> Request<'a>,
        expect: Expect,
        patience: Patience,
    ) -> Result<Answered, (Trouble, Address)> {
        self.ask_any(access, &request, expect, None, patience).await
    }

    /// The same for a document that is too long to be kept whole.
    pub async fn ask_in_pieces<'a>(
        &self,
        access: &Access,
        request: impl Fn() -> Request<'a>,
        pieces: &mut dyn Pieces,
        patience: Patience,
    ) -> Result<Answered, (Trouble, Address)> {
        self.ask_any(access, &request, Expect::Document, Some(pieces), patience).await
    }

    async fn ask_any<'a>(
        &self,
        access: &Access,
        request: &impl Fn() -> Request<'a>,
        expect: Expect,
        mut pieces: Option<&mut dyn Pieces>,
        patience: Patience,
    ) -> Result<Answered, (Trouble, Address)> {
        let mut backoff = Backoff::default();
        let mut failing_since = None;
        let mut has_started = false;
        // A server of our own that leaves at this moment is nobody's failure: another one takes its place.
        let is_ours = access.starter.is_some();
        let outlasts_drain = patience.outlasts_drain || is_ours;
        let retry = if is_ours { patience.retry.max(access.connect_timeout) } else { patience.retry };
        let name = (self.members.len() > 1).then(|| format!("{:016x}{:016x}", random(), random()));
        // Each member has its share of the time, so that one that is frozen does not hide the others.
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let access = &Access { connect_timeout: access.connect_timeout / members, ..access.clone() };
        let mut at = 0;
        loop {
            let mut someone_answers = false;
            let mut last = None;
            // One round of the members, or of those that they say lead.
            for _ in 0..self.members.len() {
                let member = &self.members[at];
                let following = (at + 1) % self.members.len();
                let connecting = Connection::open(member, access, name.as_deref().map(str::as_bytes), patience.until);
                let asking = async {
                    let mut connection = connecting.await?;
                    let asked = clock::now();
                    let said = match &mut pieces {
                        None => connection.exchange(request(), expect, patience.until).await?,
                        Some(pieces) => connection.exchange_in_pieces(request(), patience.until, *pieces).await?,
                    };
                    Ok::<_, Trouble>(Answered { connection, asked, said })
                };
                match asking.await {
                    Ok(Answered { said: Said::Refused(No::NotLeader(leader)), .. }) if self.members.len() > 1 => {
                        someone_answers = true;
                        at = leader.and_then(|leader| self.find(&leader)).filter(|to| *to != at).unwrap_or(following);
                        last = Some((Trouble::NoLeader, member));
                    }
                    Ok(answered) => return Ok(answered),
                    Err(trouble) if !trouble.passes() => return Err((trouble, member.clone())),
                    Err(trouble) => {
                        someone_answers |= matches!(trouble, Trouble::Draining) && outlasts_drain;
                        last = Some((trouble, member));
                        at = following;
                    }
                }
            }
            let Some((trouble, member)) = last else { return Err((Trouble::NoLeader, self.members[at].clone())) };
            if let (Some(starter), true) = (&access.starter, trouble.is_of_nobody()) {
                let started = starter(patience.until, !access.starts_silently).await;
                started.map_err(|why| (Trouble::NotStarted(Box::new(why)), member.clone()))?;
                // One that was started a moment ago and is gone already is given time, as any other.
                if !std::mem::replace(&mut has_started, true) {
                    continue;
                }
            }
            let now = clock::now();
            let until = if someone_answers {
                failing_since = None;
                patience.until
            } else {
                (*failing_since.get_or_insert(now) + retry).min(patience.until)
            };
            let pause = backoff.next(random());
            if now + pause >= until {
                return Err((trouble, member.clone()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The member that goes by this name. A server must not send us to addresses that nobody configured.
    fn find(&self, leader: &str) -> Option<usize> {
        self.members.iter().position(|member| member.to_string() == leader)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, member) in self.members.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{member}")?;
        }
        Ok(())
    }
}

/// Only spreads attempts and names connections; no secret is made of it.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos())
}
