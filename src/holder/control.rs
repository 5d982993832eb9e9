//! What commands and holders say to each other over a Unix socket: one line of JSON each way.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::owner::Owner;
use super::registry::short_path;
use super::{Held, Report};
use crate::error::{Failure, Kind};
use crate::lock::{Key, Kind as LockKind, Token};

/// The longest line.
const MAX_LINE: u64 = 64 * 1024;

/// How long the other side may take for what needs no server.
pub const PROMPT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    Status,
    /// With a token: only if it is the right one.
    Release {
        token: Option<Token>,
    },
    Renew {
        token: Option<Token>,
        lease: Option<Duration>,
    },
    Wait {
        token: Option<Token>,
        timeout: Option<Duration>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    Status(Box<Status>),
    Released {
        server: String,
    },
    Renewed {
        server: String,
        lease: Duration,
    },
    Granted(Report),
    /// The token is another's.
    NotMine,
    Failed(Failure),
}

/// A holder, as `dflock holders` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub key: Key,
    pub kind: LockKind,
    pub server: String,
    pub state: State,
    pub owner: Option<Owner>,
    /// Joined by `enqueue`.
    pub two_phase: bool,
    pub owner_name: Option<String>,
    pub held_for: Option<Duration>,
    /// Until the lease can no longer be proved.
    pub lease_left: Option<Duration>,
    pub max_hold_left: Option<Duration>,
    pub held: Option<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Waiting,
    Held,
    /// Renewing fails at the moment.
    InDanger {
        why: String,
    },
    Lost {
        why: String,
    },
}

/// Asks a holder. `Ok(None)`: it is gone.
pub async fn ask(socket: &Path, request: &Request, within: Option<Duration>) -> Result<Option<Reply>, Failure> {
    let Ok((path, _open)) = short_path(socket) else { return Ok(None) };
    let Ok(mut stream) = UnixStream::connect(path).await else { return Ok(None) };
    let asking = async {
        send(&mut stream, request).await?;
        receive::<Reply>(&mut stream).await
    };
    let reply = match within {
        Some(within) => timeout(within, asking).await,
        None => Ok(asking.await),
    };
    match reply {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => Ok(None),
        Err(_) => Err(Failure::new(Kind::Internal, format!("the holder at {} does not answer", socket.display()))
            .hint("it may be stopped; dflock holders shows its process")),
    }
}

/// Writes one line.
pub async fn send(stream: &mut UnixStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line; `None` at the end.
pub async fn receive<T: for<'a> Deserialize<'a>>(stream: &mut UnixStream) -> std::io::Result<Option<T>> {
    let mut line = String::new();
    let read = BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    if read == 0 { Ok(None) } else { Ok(Some(serde_json::from_str(&line)?)) }
}

/// Whether the other side is this user, or root.
pub fn is_allowed(stream: &UnixStream) -> bool {
    let mine = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == mine || peer.uid() == 0)
}
