//! `dflock wait`: wait for the turn of an earlier `enqueue`.

use clap::Args;

use super::acquire::{Patience, Taken};
use super::manner::Manner;
use super::meant::{Proof, Sought, ask_holder, not_held};
use super::release::Which;
use super::target::Target;
use crate::error::Failure;
use crate::holder::control::{Reply, Request};
use crate::lock::Space;

/// Wait for the turn of an earlier `enqueue`
///
/// Prints the token. If the wait limit passes, or the wait is interrupted, the place in the queue is given up.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock wait deploy
  dflock wait deploy --timeout 5m")]
pub struct WaitFor {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    wait: Patience,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

impl WaitFor {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let key = self.which.key()?;
        // A place that is waited for has no token yet; what the environment has is an earlier lock's.
        let proof = match self.which.token(&key)? {
            Proof::Inherited(_) => Proof::None,
            proof => proof,
        };
        let space = if limit.is_some() { Space::Semaphores } else { Space::Locks };
        let timeout = self.target.settings(self.wait.flags())?.timeout;
        let report = super::block_on(async {
            let request = |token| Request::Wait { token, timeout };
            match ask_holder(&key, space, &proof, Sought::Place, request, None).await? {
                Some(Reply::Granted(report)) => Ok(report),
                Some(other) => Err(Failure::internal("wait", &format!("the holder said {other:?}"))),
                None => Err(not_held(&key)),
            }
        })?;
        self.manner.answer(&Taken::new(&key, limit, &report, None), || {
            format!("{}\n", report.grant.as_ref().map(|held| held.token.as_str()).unwrap_or_default())
        })?;
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}
