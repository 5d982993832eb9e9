//! `dflock release`: give a lock back.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::autostart;
use super::held::is_held_around_us;
use super::manner::Manner;
use super::meant::{Proof, Sought, ask_holder, not_held, with_proof};
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::error::Failure;
use crate::holder::control::{self, Reply, Request};
use crate::lock::{Key, Space, Token};
use crate::output;
use crate::settings::duration;

/// More than any token has.
const MAX_TOKEN_FILE: u64 = 4096;

/// Give a lock back
///
/// Asks the holder of this user that keeps it. A token of another machine is sent to the server itself.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock release nightly
  dflock release nightly \"$token\"")]
pub struct Release {
    #[command(flatten)]
    pub which: Which,

    #[command(flatten)]
    pub target: Target,

    #[command(flatten)]
    pub manner: Manner,
}

/// A lock that somebody holds: its key and perhaps its token.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Name of the lock
    #[arg(value_name = "KEY")]
    key: OsString,

    /// Its token, or - to read it from stdin [default: DFLOCK_TOKEN, else that of the one holder of KEY]
    #[arg(value_name = "TOKEN")]
    token: Option<String>,

    /// Read the token from this file: an argument can be seen by other users
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Released {
    schema: u32,
    key: String,
    server: String,
    limit: Option<u64>,
    released: bool,
}

impl Which {
    pub fn key(&self) -> Result<Key, Failure> {
        Key::from_argument(&self.key).map_err(Failure::usage)
    }

    fn given_token(&self) -> Result<Option<String>, Failure> {
        let (name, source): (_, &mut dyn Read) = match (&self.token_file, self.token.as_deref()) {
            (Some(path), _) => {
                let file = File::open(path).map_err(|why| unreadable(&path.display(), &why))?;
                (path.display().to_string(), &mut { file })
            }
            (None, Some("-")) => ("stdin".to_owned(), &mut std::io::stdin()),
            (None, token) => return Ok(token.map(str::to_owned)),
        };
        let mut text = String::new();
        source.take(MAX_TOKEN_FILE).read_to_string(&mut text).map_err(|why| unreadable(&name, &why))?;
        Ok(Some(text))
    }

    /// From the argument, or from the environment if that speaks of the same key.
    pub fn token(&self, key: &Key) -> Result<Proof, Failure> {
        if let Some(text) = self.given_token()? {
            return Token::new(text.trim_end_matches(['\r', '\n'])).map(Proof::Given).map_err(Failure::usage);
        }
        if variable("DFLOCK_KEY").is_some_and(|other| other.as_bytes() != key.as_bytes()) {
            return Ok(Proof::None);
        }
        let wrong = |why| Failure::usage(format!("DFLOCK_TOKEN: {why}"));
        let text = variable("DFLOCK_TOKEN").map(|text| text.to_string_lossy().into_owned());
        let token = text.map(|text| Token::new(&text)).transpose().map_err(wrong)?;
        Ok(token.map_or(Proof::None, Proof::Inherited))
    }
}

fn unreadable(source: &dyn std::fmt::Display, why: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read the token from {source}: {why}"))
        .hint("it holds what dflock acquire has printed")
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// For how long the lock of `key` and `token` was granted, if it is the one that the environment tells of: that
/// of the `dflock exec` around us, or of an `acquire --export`.
pub fn lease_of_environment(key: &Key, token: &Token) -> Result<Option<Duration>, Failure> {
    let is_this_lock = variable("DFLOCK_KEY").is_some_and(|of| of.as_bytes() == key.as_bytes())
        && variable("DFLOCK_TOKEN").is_some_and(|of| of.as_bytes() == token.as_str().as_bytes());
    let Some(text) = variable("DFLOCK_LEASE").filter(|_| is_this_lock) else { return Ok(None) };
    // Without it the server might fall back to a lease of its own, which may be shorter.
    let lease = duration::parse_above_zero(&text.to_string_lossy());
    lease.map(Some).map_err(|why| Failure::usage(format!("DFLOCK_LEASE: {why}")).hint("-l names the lease to send"))
}

/// The lock of a `dflock exec` around us would be somebody else's while the command still runs under it. Of a
/// semaphore another slot may be meant, unless it is the very one.
fn refuse_under_its_exec(key: &Key, space: Space, proof: &Proof) -> Result<(), Failure> {
    let of_the_job = variable("DFLOCK_TOKEN");
    let is_its = |token: &Token| of_the_job.as_ref().is_some_and(|its| its.as_bytes() == token.as_str().as_bytes());
    if !is_held_around_us(key) || space == Space::Semaphores && !proof.token().is_some_and(is_its) {
        return Ok(());
    }
    let mut failure = Failure::usage(format!("{key} is held by the dflock exec around this command"))
        .hint("it gives the lock back when its command has ended");
    failure.key = Some(key.to_string());
    Err(failure)
}

impl Release {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let key = self.which.key()?;
        let proof = self.which.token(&key)?;
        let space = if limit.is_some() { Space::Semaphores } else { Space::Locks };
        refuse_under_its_exec(&key, space, &proof)?;
        let server = super::block_on(async {
            let request = |token| Request::Release { token };
            // Of one that was enqueued the place in the queue is given up.
            let asked = ask_holder(&key, space, &proof, Sought::LockOrPlace, request, Some(control::PROMPT));
            match (asked.await?, proof.token()) {
                (Some(Reply::Released { server }), _) => Ok(server),
                (Some(other), _) => Err(Failure::internal("release", &format!("the holder said {other:?}"))),
                (None, None) => Err(not_held(&key)),
                (None, Some(token)) => {
                    let settings = self.target.settings(Vec::new())?;
                    let backend = backend_of(&site_of(&settings)?)?;
                    backend
                        .release(&key, space, token)
                        .await
                        .map_err(|failure| autostart::name_stranger(&settings, with_proof(failure, &proof)))?;
                    Ok(backend.server_of(&key).1)
                }
            }
        })?;
        let document = Released { schema: output::SCHEMA, key: key.to_string(), server, limit, released: true };
        self.manner.answer(&document, String::new)?;
        Ok(0)
    }
}
