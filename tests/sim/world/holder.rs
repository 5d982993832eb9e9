//! Holders and other languages' clients: stands for `holder::run`, and for whoever relies on a lock without a
//! command under it.

use std::time::Duration;

use dflock::backend::Renewal;
use dflock::lease::LeaseNews;
use dflock::lock::Kind;

use super::client::{Failure, Site};
use super::env::Env;
use super::exec::Outcome;
use super::keeper;

const AGREE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct Holding {
    pub lock: (u8, Kind),
    pub lease_ms: u64,
    pub wait_ms: u64,
    pub hold_ms: u64,
    pub connect_retry_ms: u64,
    pub two_phase: bool,
    /// Without resuming: a broken connection is a lost lock.
    pub plain: bool,
}

pub async fn run(env: Env, client: usize, job: Holding) -> Outcome {
    let (key, kind) = job.lock;
    let connect_retry = Duration::from_millis(job.connect_retry_ms);
    let site = Site { env: env.clone(), client, key, kind, connect_retry, plain: job.plain };
    let (lease, wait) = (Duration::from_millis(job.lease_ms), Duration::from_millis(job.wait_ms));
    let hold = if job.two_phase {
        match site.enqueue(lease).await {
            Err(failure) => Err(failure),
            Ok(Ok(hold)) => Ok(hold),
            // Some wait at once, others do something else first.
            Ok(Err(place)) => {
                env.sleep(Duration::from_millis(job.hold_ms / 3)).await;
                env.timeout(wait, site.wait(place, lease)).await.unwrap_or(Err(Failure::Busy))
            }
        }
    } else {
        site.acquire(lease, wait).await
    };
    let mut hold = match hold {
        Ok(hold) => hold,
        Err(failure) => return Outcome::NotObtained(failure),
    };
    if !matches!(hold.make_resumable(env.now() + AGREE_WITHIN).await, Renewal::Renewed(_)) {
        return Outcome::NotObtained(Failure::Trouble);
    }
    let mut keeper = keeper::start(hold, Duration::ZERO);
    let lost = async {
        while !matches!(*keeper.news.borrow(), LeaseNews::Lost { .. }) && keeper.news.changed().await.is_ok() {}
    };
    let lost = env.timeout(Duration::from_millis(job.hold_ms), lost).await.is_some();
    // Whether the server heard of it, the checks see.
    let _ = keeper.release().await;
    if lost { Outcome::NotObtained(Failure::Lost) } else { Outcome::TooLate }
}
