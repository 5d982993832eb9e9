//! A client's way to the server: stands for `client::connection`, `client::cluster` (of one member) and
//! `backend::dflockd`.

mod hold;

use std::time::Duration;

use dflock::backend::Renewal;
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

/// For how long the original keeps the lock of a silent client, for sure.
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
    /// Nothing is asked on the connection that was not answered.
    is_in_step: bool,
    pub token: Stamp,
    pub lease: Duration,
    pub asked: Moment,
    /// How long the server keeps the lock without a connection.
    resume: Duration,
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
        let (connection, is_in_step, resume) = (Some(connection), true, Duration::ZERO);
        let mut hold = Hold { site: self, connection, is_in_step, token, lease, asked, resume };
        if env.now().since(asked) > FRESH.min(lease / 10) {
            match hold.renew(lease, env.now() + CONNECT_TIMEOUT).await {
                Renewal::Renewed(_) => {}
                Renewal::Gone => return Err(Failure::Lost),
                Renewal::Unknown(_) => return Err(Failure::Trouble),
            }
        }
        Ok(hold)
    }
}

pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
