//! A lock that was taken: stands for `backend::dflockd::Hold`.

use super::*;

impl Hold {
    pub fn space(&self) -> Space {
        self.site.kind.space()
    }

    pub fn unheard_limit(&self) -> Option<Duration> {
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
