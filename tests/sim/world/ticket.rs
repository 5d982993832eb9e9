//! A client that keeps its place in the queue over broken connections and restarts, by its ticket.

use std::time::Duration;

use dflock::clock::Moment;
use dflock::lock::Kind;
use dflock::server::stamp::Stamp;

use super::client::{Connection, Failure, Patience, Site};
use super::env::Env;
use super::exec::Outcome;
use super::net::{Packet, Said};

#[derive(Clone, Copy, Debug)]
pub struct Queuing {
    pub lock: (u8, Kind),
    pub lease_s: u64,
    pub resume_s: u64,
    /// How long it relies on the lock, once it has it; less than its lease.
    pub hold_ms: u64,
    pub wait_ms: u64,
}

pub async fn run(env: Env, client: usize, job: Queuing) -> Outcome {
    let wait_until = env.now() + Duration::from_millis(job.wait_ms);
    match queue(&env, client, job, wait_until).await {
        Some((token, asked, mut connection)) => {
            // Counted from before the request that started the lease. As nothing is renewed, its connection may have
            // broken since then without its knowing.
            let lease = Duration::from_secs(job.lease_s.min(job.resume_s));
            let dead_at = asked + lease - (lease / 10).max(Duration::from_millis(500));
            let (key, kind) = job.lock;
            env.believes(client, (key, kind.space(), token.number), dead_at, true);
            let until = dead_at.min(env.now() + Duration::from_millis(job.hold_ms));
            env.wait_until(until).await;
            env.world.gives_back(token.number);
            let packet = Packet::Release { key, space: kind.space(), token };
            let _ = connection.exchange(packet, env.now() + Duration::from_secs(2)).await;
            Outcome::TooLate
        }
        None => Outcome::NotObtained(Failure::Busy),
    }
}

/// Until it is granted, refused, or too long.
async fn queue(env: &Env, client: usize, job: Queuing, until: Moment) -> Option<(Stamp, Moment, Connection)> {
    let (key, kind) = job.lock;
    let space = kind.space();
    let site = Site { env: env.clone(), client, key, kind, connect_retry: Duration::ZERO, plain: false };
    let mut ticket: Option<Stamp> = None;
    loop {
        let packet = || match ticket {
            None => Packet::Enqueue { key, kind, lease_s: job.lease_s },
            Some(proof) => Packet::Resume { key, space, proof, lease_s: None },
        };
        let attempt = (env.now() + Duration::from_secs(5)).min(until);
        let patience = Patience { until: attempt, connect_until: attempt };
        let answered = site.ask(Some(job.resume_s), packet, patience).await;
        if let Ok(answered) = answered {
            let mut connection = answered.connection;
            match answered.said {
                Said::Acquired { stamp } => return Some((stamp, answered.asked, connection)),
                Said::Queued { ticket: Some(own) } => {
                    ticket = Some(own);
                    let timeout_s = env.left(until).as_secs() + 1;
                    let asked = env.now();
                    let packet = Packet::Wait { key, space, timeout_s };
                    match connection.exchange(packet, until).await {
                        // The lease began with the grant, which may be long ago: it is renewed first.
                        Ok(Said::Granted { stamp }) => {
                            let fresh = env.now().since(asked) < Duration::from_millis(200);
                            return confirmed(env, job, stamp, asked, connection, fresh).await;
                        }
                        Ok(_) => return None,
                        Err(_) => {}
                    }
                }
                _ => return None,
            }
        }
        if env.now() >= until {
            return None;
        }
        env.sleep(Duration::from_millis(100)).await;
    }
}

async fn confirmed(
    env: &Env,
    job: Queuing,
    token: Stamp,
    asked: Moment,
    mut connection: Connection,
    fresh: bool,
) -> Option<(Stamp, Moment, Connection)> {
    if fresh {
        return Some((token, asked, connection));
    }
    let (key, kind) = job.lock;
    let asked = env.now();
    let packet = Packet::Renew { key, space: kind.space(), token, lease_s: job.lease_s };
    let said = connection.exchange(packet, env.now() + Duration::from_secs(5)).await;
    matches!(said, Ok(Said::Left)).then_some((token, asked, connection))
}
