//! `dflock renew`: extend a lease.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::autostart;
use super::held::is_held_around_us;
use super::manner::Manner;
use super::meant::{Sought, ask_holder, not_held, with_proof};
use super::release::{Which, lease_of_environment};
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::error::Failure;
use crate::holder::control::{self, Reply, Request};
use crate::lock::{Key, Space, Token};
use crate::output;
use crate::settings::duration;

/// Extend the lease of a lock
///
/// Prints the seconds remaining. Holders renew by themselves: this is for another lease, for a token of
/// another machine, and to make sure that a lock is still held.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock renew nightly --lease 5m
  dflock renew nightly || exit  # still ours?")]
pub struct Renew {
    #[command(flatten)]
    which: Which,

    /// New lease [default: as before, as far as it is known; else the server's]
    #[arg(short, long, value_name = "DUR", value_parser = duration::parse_lease)]
    lease: Option<Duration>,

    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

#[derive(Serialize)]
struct Renewed {
    schema: u32,
    key: String,
    server: String,
    limit: Option<u64>,
    remaining_s: f64,
}

impl Renew {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let key = self.which.key()?;
        let proof = self.which.token(&key)?;
        let space = if limit.is_some() { Space::Semaphores } else { Space::Locks };
        let (server, remaining_s) = super::block_on(async {
            let request = |token| Request::Renew { token, lease: self.lease };
            let asked = ask_holder(&key, space, &proof, Sought::Lock, request, Some(control::PROMPT));
            match (asked.await?, proof.token()) {
                (Some(Reply::Renewed { server, lease }), _) => Ok((server, lease.as_secs_f64())),
                (Some(other), _) => Err(Failure::internal("renew", &format!("the holder said {other:?}"))),
                (None, None) => Err(not_held(&key)),
                (None, Some(token)) => {
                    let lease = self.lease_to_send(&key, token)?;
                    let settings = self.target.settings(Vec::new())?;
                    let backend = backend_of(&site_of(&settings)?)?;
                    let seconds = backend
                        .renew(&key, space, token, lease)
                        .await
                        .map_err(|failure| autostart::name_stranger(&settings, with_proof(failure, &proof)))?;
                    Ok((backend.server_of(&key).1, seconds as f64))
                }
            }
        })?;
        let document = Renewed { schema: output::SCHEMA, key: key.to_string(), server, limit, remaining_s };
        self.manner.answer(&document, || format!("{remaining_s}\n"))?;
        Ok(0)
    }

    /// A renewal never shortens a lease that somebody counts on. So the lease of the lock is sent where it is
    /// known; and the `dflock exec` around us, which would not hear of a shorter one, is not deceived.
    fn lease_to_send(&self, key: &Key, token: &Token) -> Result<Option<Duration>, Failure> {
        let known = lease_of_environment(key, token)?;
        // Of an outer one only the key is known.
        if let Some(wish) = self.lease
            && known.is_none_or(|known| wish < known)
            && is_held_around_us(key)
        {
            let its = known.map_or("its lease".to_owned(), |known| format!("its lease of {}s", known.as_secs_f64()));
            let message = format!("the dflock exec around this command relies on {its} for {key}");
            let mut failure = Failure::usage(message).hint("a shorter one would end the lock while the command runs");
            failure.key = Some(key.to_string());
            return Err(failure);
        }
        Ok(self.lease.or(known))
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}
