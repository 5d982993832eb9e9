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
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::error::{Failure, Kind};
use crate::holder::control::{self, Reply, Request, State, Status};
use crate::holder::owner::Owner;
use crate::holder::registry::Registry;
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

/// What the user has to show for a lock.
#[derive(Clone, Debug)]
pub enum Proof {
    Given(Token),
    /// Of the environment: it may be that of an earlier lock.
    Inherited(Token),
    None,
}

impl Proof {
    pub fn token(&self) -> Option<&Token> {
        match self {
            Proof::Given(token) | Proof::Inherited(token) => Some(token),
            Proof::None => None,
        }
    }
}

/// Asks the holder of this user that has this key: by its token, or else the one that is the calling script's
/// own or nobody's. Another script's lock is never touched without its token. `None`: there is none.
pub async fn ask_holder(
    key: &Key,
    space: Space,
    proof: &Proof,
    suits: impl Fn(&Status) -> bool,
    request: impl Fn(Option<Token>) -> Request,
    within: Option<Duration>,
) -> Result<Option<Reply>, Failure> {
    let sockets = Registry::open()?.living(Some((key, space)))?;
    if let Some(token) = proof.token() {
        for socket in &sockets {
            match control::ask(socket, &request(Some(token.clone())), within).await? {
                None | Some(Reply::NotMine) => {}
                Some(Reply::Failed(failure)) => return Err(failure),
                Some(reply) => return Ok(Some(reply)),
            }
        }
        if matches!(proof, Proof::Given(_)) {
            return Ok(None);
        }
    }
    let Some(socket) = the_one_meant(key, sockets, suits).await? else { return Ok(None) };
    match control::ask(&socket, &request(None), within).await? {
        Some(Reply::Failed(failure)) => Err(failure),
        Some(Reply::NotMine) => Ok(None),
        reply => Ok(reply),
    }
}

async fn the_one_meant(
    key: &Key,
    sockets: Vec<PathBuf>,
    suits: impl Fn(&Status) -> bool,
) -> Result<Option<PathBuf>, Failure> {
    let family = Owner::ancestors();
    let mut suitable = Vec::new();
    let mut strangers = None;
    let mut silent = None;
    for socket in sockets {
        let status = match control::ask(&socket, &Request::Status, Some(control::PROMPT)).await {
            Ok(Some(Reply::Status(status))) => status,
            Ok(_) => continue,
            // It must not hide the others.
            Err(failure) => {
                silent = Some(failure);
                continue;
            }
        };
        // The nearer its owner, the likelier it is meant; one without an owner comes last.
        let distance = match status.owner {
            Some(owner) => family.iter().position(|ancestor| *ancestor == owner),
            None => Some(family.len()),
        };
        match distance {
            Some(distance) if suits(&status) => {
                let rank = match status.state {
                    State::Held | State::InDanger { .. } => 0,
                    State::Waiting => 1,
                    State::Lost { .. } => 2,
                };
                suitable.push((rank, distance, socket));
            }
            Some(_) => {}
            None => strangers = status.owner,
        }
    }
    suitable.sort();
    match suitable.as_slice() {
        [] => match (strangers, silent) {
            (None, None) => Ok(None),
            (_, Some(failure)) => Err(failure),
            (Some(owner), None) => {
                let mut failure = Failure::new(
                    Kind::Lost,
                    format!("{key} is not this script's: the holder that has it is tied to process {}", owner.pid),
                );
                failure.key = Some(key.to_string());
                Err(failure.hint("give its token if it is meant; dflock holders lists all"))
            }
        },
        [(rank, distance, _), (other_rank, other_distance, _), ..]
            if rank == other_rank && distance == other_distance =>
        {
            let message =
                format!("{} holders of this script have {key}, and no token says which is meant", suitable.len());
            Err(Failure::usage(message).hint("give the token too; dflock holders lists them"))
        }
        [(_, _, socket), ..] => Ok(Some(socket.clone())),
    }
}

/// What is given back or renewed is held, or was.
pub fn is_held(status: &Status) -> bool {
    !matches!(status.state, State::Waiting)
}

/// Nobody here has it, and no token says how to ask for it elsewhere.
pub fn not_held(key: &Key) -> Failure {
    let mut failure = Failure::new(Kind::Lost, format!("no holder of yours has {key}"));
    failure.key = Some(key.to_string());
    failure.hint("it was released or lost before, or taken by another user; dflock holders lists yours")
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
            let asked = ask_holder(
                &key,
                space,
                &proof,
                |status| is_held(status) || status.two_phase,
                request,
                Some(control::PROMPT),
            );
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
                        .map_err(|failure| autostart::name_stranger(&settings, failure))?;
                    Ok(backend.server_of(&key).1)
                }
            }
        })?;
        let document = Released { schema: output::SCHEMA, key: key.to_string(), server, limit, released: true };
        self.manner.answer(&document, String::new)?;
        Ok(0)
    }
}
