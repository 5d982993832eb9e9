//! `dflock release`: give a lock back.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::local;
use super::manner::Manner;
use super::site::{backend_of, site_of};
use super::target::Target;
use crate::error::{Failure, Kind};
use crate::holder::control::{self, Reply, Request, State};
use crate::holder::owner::Owner;
use crate::holder::registry::Registry;
use crate::lock::{Key, Space, Token};
use crate::output;

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

    /// Its token [default: DFLOCK_TOKEN, else that of the one holder of KEY]
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
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

    /// From the argument, or from the environment if that speaks of the same key.
    pub fn token(&self, key: &Key) -> Result<Option<Token>, Failure> {
        if let Some(text) = &self.token {
            return Token::new(text).map(Some).map_err(Failure::usage);
        }
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        if variable("DFLOCK_KEY").is_some_and(|other| other != key.to_string()) {
            return Ok(None);
        }
        let wrong = |why| Failure::usage(format!("DFLOCK_TOKEN: {why}"));
        variable("DFLOCK_TOKEN").map(|text| Token::new(&text)).transpose().map_err(wrong)
    }
}

/// Asks the holder of this user that has this key, and this token if one is given. `None`: there is none.
/// Of several without a token the one is meant that is in the state that suits, or is the calling script's.
pub async fn ask_holder(
    key: &Key,
    space: Space,
    token: Option<&Token>,
    suits: impl Fn(&State) -> bool,
    request: impl Fn(Option<Token>) -> Request,
    within: Option<Duration>,
) -> Result<Option<Reply>, Failure> {
    let mut sockets = Registry::open()?.living(Some((key, space)))?;
    if token.is_none() && sockets.len() > 1 {
        sockets = vec![the_one_meant(key, sockets, suits).await?];
    }
    for socket in sockets {
        match control::ask(&socket, &request(token.cloned()), within).await? {
            None | Some(Reply::NotMine) => {}
            Some(Reply::Failed(failure)) => return Err(failure),
            Some(reply) => return Ok(Some(reply)),
        }
    }
    Ok(None)
}

async fn the_one_meant(key: &Key, sockets: Vec<PathBuf>, suits: impl Fn(&State) -> bool) -> Result<PathBuf, Failure> {
    let count = sockets.len();
    let caller = Owner::of_caller().ok().map(|owner| owner.pid);
    let mut suitable = Vec::new();
    for socket in sockets {
        let reply = control::ask(&socket, &Request::Status, Some(control::PROMPT)).await;
        if let Ok(Some(Reply::Status(status))) = reply
            && suits(&status.state)
        {
            suitable.push((socket, status.owner.is_some() && status.owner == caller));
        }
    }
    if suitable.len() > 1 {
        suitable.retain(|(_, is_callers)| *is_callers);
    }
    match suitable.pop() {
        Some((socket, _)) if suitable.is_empty() => Ok(socket),
        _ => Err(Failure::usage(format!("{count} holders of yours have {key}: which one is meant?"))
            .hint("give the token too; dflock holders lists them")),
    }
}

/// What is given back or renewed is held, or was.
pub fn is_held(state: &State) -> bool {
    match state {
        State::Held | State::InDanger { .. } | State::Lost { .. } => true,
        State::Waiting => false,
    }
}

/// Nobody here has it, and no token says how to ask for it elsewhere.
pub fn not_held(key: &Key) -> Failure {
    let mut failure = Failure::new(Kind::Lost, format!("no holder of yours has {key}"));
    failure.key = Some(key.to_string());
    failure.hint("it was released or lost before, or taken by another user; dflock holders lists yours")
}

impl Release {
    pub fn run(self, limit: Option<u64>) -> Result<u8, Failure> {
        let key = self.which.key()?;
        let token = self.which.token(&key)?;
        let space = if limit.is_some() { Space::Semaphores } else { Space::Locks };
        let server = super::block_on(async {
            let request = |token| Request::Release { token };
            let asked = ask_holder(&key, space, token.as_ref(), is_held, request, Some(control::PROMPT));
            match (asked.await?, token.as_ref()) {
                (Some(Reply::Released { server }), _) => Ok(server),
                (Some(other), _) => Err(Failure::internal("release", &format!("the holder said {other:?}"))),
                (None, None) => Err(not_held(&key)),
                (None, Some(token)) => {
                    let settings = self.target.settings(Vec::new())?;
                    let backend = backend_of(&site_of(&settings, &self.target)?)?;
                    backend
                        .release(&key, space, token)
                        .await
                        .map_err(|failure| local::name_stranger(&settings, failure))?;
                    Ok(backend.server_of(&key).1)
                }
            }
        })?;
        let document = Released { schema: output::SCHEMA, key: key.to_string(), server, limit, released: true };
        self.manner.answer(&document, String::new)?;
        Ok(0)
    }
}
