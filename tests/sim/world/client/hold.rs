//! A lock that was taken: stands for `backend::dflockd::Hold`.

use dflock::backend::Terms;
use dflock::error::{Failure, Kind};

use super::*;

/// How long a server that went away right after a grant is waited for, at most.
const AGREE_MOST: Duration = Duration::from_secs(10);

impl Hold {
    pub fn space(&self) -> Space {
        self.site.kind.space()
    }

    pub fn terms(&self) -> Terms {
        Terms {
            asked: self.asked,
            lease: self.lease,
            unheard_limit: self.unheard_limit(),
            outlives_connection: self.outlives_connection(),
        }
    }

    fn unheard_limit(&self) -> Option<Duration> {
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

    pub async fn make_resumable(&mut self, until: Moment) -> Renewal {
        let wish = self.lease.max(Duration::from_secs(1));
        let Some(connection) = self.connection.as_mut() else { return unknown() };
        if connection.about.resume_s == 0 {
            return Renewal::Renewed(self.terms());
        }
        self.is_in_step = false;
        match connection.agree_on_resuming(wish, until).await {
            Ok(agreed) => {
                self.is_in_step = true;
                self.resume = agreed;
                Renewal::Renewed(self.terms())
            }
            Err(_) => {
                let retry = self.site.connect_retry.min(AGREE_MOST);
                match self.restore(self.lease, until.max(self.site.env.now() + retry)).await {
                    renewed @ Renewal::Renewed(_) => renewed,
                    Renewal::Gone | Renewal::Unknown(_) => unknown(),
                }
            }
        }
    }

    pub async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        let packet =
            Packet::Renew { key: self.site.key, space: self.space(), token: self.token, lease_s: whole_seconds(lease) };
        let asked = self.site.env.now();
        match self.exchange(packet, until).await {
            Some(Said::Left) => self.granted_anew(lease, asked),
            Some(Said::Error | Said::Refused) => Renewal::Gone,
            Some(_) => {
                self.is_in_step = false;
                unknown()
            }
            None => unknown(),
        }
    }

    /// If it fails, or is dropped before it is done, the connection is out of step.
    async fn exchange(&mut self, packet: Packet, until: Moment) -> Option<Said> {
        let connection = self.connection.as_mut().filter(|_| self.is_in_step)?;
        self.is_in_step = false;
        let said = connection.exchange(packet, until).await.ok()?;
        self.is_in_step = true;
        Some(said)
    }

    pub async fn broken(&mut self) -> String {
        if let Some(connection) = self.connection.as_mut() {
            connection.over().await;
        }
        self.connection = None;
        "the connection is over".to_owned()
    }

    pub async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        self.connection = None;
        let lease_s = whole_seconds(lease);
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
                    (self.connection, self.is_in_step) = (Some(connection), true);
                    return self.granted_anew(lease, asked);
                }
                Ok(Answered { said: Said::Error, .. }) => return Renewal::Gone,
                Ok(_) | Err(_) => {}
            }
            let pause = backoff.next(env.now().as_nanos());
            if env.now() + pause >= until {
                return unknown();
            }
            env.sleep(pause).await;
        }
    }

    /// On the connection that the lock was taken on, or on another one.
    pub async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        let (site, key, space, token) = (self.site.clone(), self.site.key, self.space(), self.token);
        let packet = || Packet::Release { key, space, token };
        if self.connection.is_some() {
            if self.is_in_step {
                let now = site.env.now();
                let half = now + until.since(now) / 2;
                if self.exchange(packet(), half).await.is_some() {
                    return Ok(());
                }
                // Where a lock ends with its connection, it ends now.
                if self.resume.is_zero() {
                    return Err(no_answer());
                }
            }
            self.connection = None;
        }
        let answered = site.ask(None, packet, Patience { until, connect_until: until }).await;
        answered.map(drop).map_err(|_| no_answer())
    }

    fn granted_anew(&mut self, lease: Duration, asked: Moment) -> Renewal {
        let is_rash = self.site.env.world.plant == Plant::LeaseFromAnswer;
        self.asked = if is_rash { self.site.env.now() } else { asked };
        self.lease = lease;
        Renewal::Renewed(self.terms())
    }
}

fn unknown() -> Renewal {
    Renewal::Unknown("no answer".to_owned())
}

fn no_answer() -> Failure {
    Failure::new(Kind::Unreachable, "no answer")
}
