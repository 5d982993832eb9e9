//! A client's way to the server: stands for `client::connection`, `client::cluster` (of one member) and
//! `backend::dflockd`.

use std::time::Duration;

use dflock::client::retry::Backoff;
use dflock::clock::Moment;
use dflock::lock::{Kind, Space};
use dflock::server::stamp::Stamp;

use super::env::Env;
use super::net::{Packet, Said, Socket};
use super::{Plant, SECOND};

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A grant that took longer than this, or a tenth of its lease, is confirmed before it is believed.
const FRESH: Duration = Duration::from_millis(500);

/// How often the original must be heard from.
const UNKNOWN_SILENCE: Duration = Duration::from_secs(21);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Unreachable,
    Broken,
    Silent,
}

/// What is wanted, by whom.
#[derive(Clone)]
pub struct Site {
    pub env: Env,
    pub client: usize,
    pub key: u8,
    pub kind: Kind,
    pub connect_retry: Duration,
    /// As other languages' clients: it does not ask what the server can do.
    pub plain: bool,
}

/// What a server says of itself; the original says nothing.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    resume_s: u64,
    is_ours: bool,
}

pub struct Connection {
    env: Env,
    socket: Socket,
    about: About,
    /// What to say first.
    hello: Option<Packet>,
}

pub struct Answered {
    pub connection: Connection,
    pub asked: Moment,
    pub said: Said,
}

pub struct Hold {
    pub site: Site,
    connection: Option<Connection>,
    pub token: Stamp,
    pub lease: Duration,
    pub asked: Moment,
    /// How long the server keeps the lock without a connection.
    resume: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed { asked: Moment },
    Gone,
    Unknown,
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Busy,
    Trouble,
    Refused,
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub until: Moment,
    pub connect_until: Moment,
}

impl Connection {
    pub async fn open(site: &Site, resume_s: Option<u64>, until: Moment) -> Result<Connection, Trouble> {
        let env = &site.env;
        let limit = env.left(until).min(CONNECT_TIMEOUT);
        let socket = env.timeout(limit, Socket::connect(env, site.client)).await.flatten();
        let socket = socket.ok_or(Trouble::Unreachable)?;
        let hello = (!site.plain).then_some(Packet::Info { resume_s });
        Ok(Connection { env: env.clone(), socket, about: About::default(), hello })
    }

    pub async fn exchange(&mut self, packet: Packet, until: Moment) -> Result<Said, Trouble> {
        if let Some(hello) = self.hello.take() {
            self.socket.say(hello);
            self.socket.say(packet);
            let limit = self.env.left(until).min(CONNECT_TIMEOUT);
            let said = self.env.timeout(limit, self.socket.hear()).await.ok_or(Trouble::Silent)?;
            self.note(said.ok_or(Trouble::Broken)?);
        } else {
            self.socket.say(packet);
        }
        let said = self.env.timeout(self.env.left(until), self.socket.hear()).await.ok_or(Trouble::Silent)?;
        said.ok_or(Trouble::Broken)
    }

    fn note(&mut self, said: Said) {
        if let Said::About { resume_s } = said {
            self.about = About { resume_s, is_ours: true };
        }
    }

    async fn agree_on_resuming(&mut self, wish: Duration, until: Moment) -> Result<Duration, Trouble> {
        let said = self
            .exchange(Packet::Info { resume_s: Some(wish.as_secs() + u64::from(wish.subsec_nanos() > 0)) }, until)
            .await?;
        self.note(said);
        Ok(Duration::from_secs(if matches!(said, Said::About { .. }) { self.about.resume_s } else { 0 }))
    }

    /// Returns when the connection is over.
    pub async fn over(&mut self) {
        self.socket.hear().await;
    }

    pub fn duplicate(&self) -> Socket {
        self.socket.duplicate()
    }
}

impl Site {
    /// As `Shard::ask`: an attempt without an answer is never repeated on its connection, which is closed.
    pub async fn ask(
        &self,
        resume_s: Option<u64>,
        packet: impl Fn() -> Packet,
        patience: Patience,
    ) -> Result<Answered, Trouble> {
        let mut backoff = Backoff::default();
        let mut kept = Vec::new();
        loop {
            let trouble = match Connection::open(self, resume_s, patience.until).await {
                Err(trouble) => trouble,
                Ok(mut connection) => {
                    let asked = self.env.now();
                    let resends = self.env.world.plant == Plant::BlindResend;
                    let attempt = Duration::from_nanos(3 * SECOND);
                    let until = if resends { patience.until.min(asked + attempt) } else { patience.until };
                    match connection.exchange(packet(), until).await {
                        Ok(said) => return Ok(Answered { connection, asked, said }),
                        Err(Trouble::Silent) if resends && until < patience.until => {
                            kept.push(connection);
                            continue;
                        }
                        Err(trouble) => trouble,
                    }
                }
            };
            let pause = backoff.next(self.env.world.dice(&[8, self.env.world.now(), self.client as u64]));
            if self.env.now() + pause >= patience.connect_until.min(patience.until) {
                return Err(trouble);
            }
            self.env.sleep(pause).await;
        }
    }

    fn one_try(&self) -> Patience {
        let connect_until = self.env.now() + self.connect_retry;
        Patience { until: connect_until + CONNECT_TIMEOUT, connect_until }
    }

    pub async fn acquire(&self, lease: Duration, wait: Duration) -> Result<Hold, Failure> {
        let begin = self.env.now();
        let wait_until = begin + wait;
        let request = || Packet::Acquire {
            key: self.key,
            kind: self.kind,
            timeout_s: if wait.is_zero() { 0 } else { whole_seconds(self.env.left(wait_until)) },
            lease_s: whole_seconds(lease),
        };
        let until = if wait.is_zero() { begin + CONNECT_TIMEOUT } else { wait_until };
        let patience = Patience { until, connect_until: begin + self.connect_retry };
        let Answered { connection, asked, said } = self.ask(None, request, patience).await.map_err(|trouble| {
            if trouble == Trouble::Silent && !wait.is_zero() { Failure::Busy } else { Failure::Trouble }
        })?;
        match said {
            Said::Granted { stamp } => self.clone().believe(connection, stamp, lease, asked).await,
            Said::Timeout => Err(Failure::Busy),
            _ => Err(Failure::Refused),
        }
    }

    /// Joins the queue; waits for the turn when that is to be.
    pub async fn enqueue(&self, lease: Duration) -> Result<Result<Hold, Connection>, Failure> {
        let begin = self.env.now();
        let until = begin + CONNECT_TIMEOUT.max(self.connect_retry);
        let patience = Patience { until, connect_until: begin + self.connect_retry };
        let lease_s = whole_seconds(lease);
        let packet = || Packet::Enqueue { key: self.key, kind: self.kind, lease_s };
        let answered = self.ask(None, packet, patience).await.map_err(|_| Failure::Trouble)?;
        let Answered { connection, asked, said } = answered;
        match said {
            Said::Acquired { stamp } => self.clone().believe(connection, stamp, lease, asked).await.map(Ok),
            Said::Queued { .. } => Ok(Err(connection)),
            _ => Err(Failure::Refused),
        }
    }

    pub async fn wait(self, mut connection: Connection, lease: Duration) -> Result<Hold, Failure> {
        let packet = Packet::Wait { key: self.key, space: self.kind.space(), timeout_s: 1_000_000 };
        let asked = self.env.now();
        match connection.exchange(packet, Moment::NEVER).await {
            Ok(Said::Granted { stamp }) => self.believe(connection, stamp, lease, asked).await,
            Ok(Said::Timeout) => Err(Failure::Busy),
            Ok(Said::Refused) => Err(Failure::Lost),
            Ok(_) => Err(Failure::Refused),
            Err(_) => Err(Failure::Trouble),
        }
    }

    /// Gives back a lock that nobody keeps any more.
    pub async fn release(&self, token: Stamp) {
        let packet = || Packet::Release { key: self.key, space: self.kind.space(), token };
        let _ = self.ask(None, packet, self.one_try()).await;
    }

    async fn believe(
        self,
        connection: Connection,
        token: Stamp,
        lease: Duration,
        asked: Moment,
    ) -> Result<Hold, Failure> {
        let env = self.env.clone();
        let rash = env.world.plant == Plant::LeaseFromAnswer;
        let asked = if rash { env.now() } else { asked };
        let mut hold = Hold { site: self, connection: Some(connection), token, lease, asked, resume: Duration::ZERO };
        if env.now().since(asked) > FRESH.min(lease / 10) {
            match hold.renew(env.now() + CONNECT_TIMEOUT).await {
                Renewal::Renewed { .. } => {}
                Renewal::Gone => return Err(Failure::Lost),
                Renewal::Unknown => return Err(Failure::Trouble),
            }
        }
        Ok(hold)
    }
}

impl Hold {
    pub fn space(&self) -> Space {
        self.site.kind.space()
    }

    pub fn silence(&self) -> Option<Duration> {
        if self.outlives_connection() {
            return Some(self.resume);
        }
        let ours = self.connection.as_ref().is_some_and(|connection| connection.about.is_ours);
        if ours { None } else { Some(UNKNOWN_SILENCE) }
    }

    pub fn lifeline(&self) -> Option<Socket> {
        self.connection.as_ref().map(Connection::duplicate)
    }

    pub fn link(&self) -> Option<usize> {
        self.connection.as_ref().map(|connection| connection.socket.link)
    }

    pub fn outlives_connection(&self) -> bool {
        !self.resume.is_zero()
    }

    pub async fn secure(&mut self, until: Moment) -> Renewal {
        let asked = self.asked;
        let wish = self.lease.max(Duration::from_secs(1));
        let Some(connection) = self.connection.as_mut() else { return Renewal::Unknown };
        if connection.about.resume_s == 0 {
            return Renewal::Renewed { asked };
        }
        match connection.agree_on_resuming(wish, until).await {
            Ok(agreed) => {
                self.resume = agreed;
                Renewal::Renewed { asked }
            }
            Err(_) => self.give_up_connection(),
        }
    }

    pub async fn renew(&mut self, until: Moment) -> Renewal {
        let (key, space, token) = (self.site.key, self.space(), self.token);
        let Some(connection) = self.connection.as_mut() else { return Renewal::Unknown };
        let asked = self.site.env.now();
        let packet = Packet::Renew { key, space, token, lease_s: whole_seconds(self.lease) };
        match connection.exchange(packet, until).await {
            Ok(Said::Left) => {
                let rash = self.site.env.world.plant == Plant::LeaseFromAnswer;
                self.asked = if rash { self.site.env.now() } else { asked };
                Renewal::Renewed { asked: self.asked }
            }
            Ok(Said::Error | Said::Refused) => Renewal::Gone,
            Ok(_) | Err(_) => self.give_up_connection(),
        }
    }

    pub async fn broken(&mut self) {
        if let Some(connection) = self.connection.as_mut() {
            connection.over().await;
        }
        self.connection = None;
    }

    pub async fn restore(&mut self, until: Moment) -> Renewal {
        self.connection = None;
        let lease_s = whole_seconds(self.lease);
        let (key, space, proof) = (self.site.key, self.space(), self.token);
        let request = || Packet::Resume { key, space, proof, lease_s: Some(lease_s) };
        let mut backoff = Backoff::default();
        let env = self.site.env.clone();
        loop {
            let attempt_until = (env.now() + CONNECT_TIMEOUT).min(until);
            let patience = Patience { until: attempt_until, connect_until: attempt_until };
            match self.site.ask(Some(lease_s), request, patience).await {
                Ok(Answered { connection, asked, said: Said::Left }) => {
                    self.resume = Duration::from_secs(connection.about.resume_s);
                    self.connection = Some(connection);
                    self.asked = if env.world.plant == Plant::LeaseFromAnswer { env.now() } else { asked };
                    return Renewal::Renewed { asked: self.asked };
                }
                Ok(Answered { said: Said::Error, .. }) => return Renewal::Gone,
                Ok(_) | Err(_) => {}
            }
            let pause = backoff.next(env.now().as_nanos());
            if env.now() + pause >= until {
                return Renewal::Unknown;
            }
            env.sleep(pause).await;
        }
    }

    pub async fn give_back(&mut self, until: Moment) {
        let Some(mut connection) = self.connection.take() else { return };
        let packet = Packet::Release { key: self.site.key, space: self.space(), token: self.token };
        let _ = connection.exchange(packet, until).await;
    }

    /// It is out of step: whatever comes on it now answers something else.
    fn give_up_connection(&mut self) -> Renewal {
        self.connection = None;
        Renewal::Unknown
    }
}

pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
