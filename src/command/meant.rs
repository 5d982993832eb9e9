//! Which holder `release`, `renew` and `wait` mean: never that of somebody else's lock.

use std::path::PathBuf;
use std::time::Duration;

use super::held::is_held_around_us;
use crate::error::{Failure, Kind};
use crate::holder::control::{self, Reply, Request, State, Status};
use crate::holder::owner::Owner;
use crate::holder::registry::Registry;
use crate::lock::{Key, Space, Token};
use crate::procfs;

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

/// What a verb is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// What is held, or was.
    Lock,
    /// That, or the place that was taken by `enqueue`.
    LockOrPlace,
    /// A place, whether its turn has come or not.
    Place,
}

impl Sought {
    pub fn is(self, status: &Status) -> bool {
        match self {
            Sought::Lock => !matches!(status.state, State::Waiting),
            Sought::LockOrPlace => !matches!(status.state, State::Waiting) || status.two_phase,
            Sought::Place => status.two_phase,
        }
    }
}

/// Asks the holder of this user that has this key: by its token, or else the one that is tied to the calling script or
/// to whoever called that, the nearest first. `None`: there is none.
pub async fn ask_holder(
    key: &Key,
    space: Space,
    proof: &Proof,
    sought: Sought,
    request: impl Fn(Option<Token>) -> Request,
    within: Option<Duration>,
) -> Result<Option<Reply>, Failure> {
    let sockets = Registry::open()?.living(Some((key, space)))?;
    let mut family = Owner::ancestors();
    if let Some(token) = proof.token() {
        for socket in &sockets {
            match control::ask(socket, &request(Some(token.clone())), within).await? {
                None | Some(Reply::NotMine) => {}
                Some(Reply::Failed(failure)) => return Err(failure),
                Some(reply) => return Ok(Some(reply)),
            }
        }
        // One lock is not made up for by another, unless its token was there before the script that calls.
        match Owner::of_caller() {
            Ok(script) if is_of_earlier(&script, key, proof) => family.retain(|ancestor| *ancestor == script),
            _ => return Ok(None),
        }
    }
    match the_one_meant(key, &sockets, &family, sought).await {
        Ok(Some(socket)) => match control::ask(&socket, &request(None), within).await? {
            Some(Reply::Failed(failure)) => Err(failure),
            Some(Reply::NotMine) => Ok(None),
            reply => Ok(reply),
        },
        // The server is asked for the one whose token there is.
        Err(failure) if failure.kind == Kind::Lost && proof.token().is_some() => Ok(None),
        other => other.map(|_| None),
    }
}

/// Whether a token was in the environment that the script began with: then it is of a lock that somebody took before it,
/// and says nothing of what the script takes itself. Inside `dflock exec` it is that of the lock that counts.
fn is_of_earlier(script: &Owner, key: &Key, proof: &Proof) -> bool {
    let Proof::Inherited(token) = proof else { return false };
    let at_first = procfs::variable(script.pid, "DFLOCK_TOKEN");
    at_first.is_some_and(|at_first| at_first == token.as_str().as_bytes()) && !is_held_around_us(key)
}

/// Whose lock it may be is seen by its owner. One without an owner may be anybody's: that of a place in the queue, which
/// has no token yet, is told to whoever waits for it.
async fn the_one_meant(
    key: &Key,
    sockets: &[PathBuf],
    family: &[Owner],
    sought: Sought,
) -> Result<Option<PathBuf>, Failure> {
    let mut suitable = Vec::new();
    let mut of_others = None;
    for socket in sockets {
        let status = match control::ask(socket, &Request::Status, Some(control::PROMPT)).await {
            Ok(Some(Reply::Status(status))) => status,
            Ok(_) => continue,
            // It must not hide the others.
            Err(failure) => {
                of_others = Some(failure);
                continue;
            }
        };
        let distance = match status.owner {
            Some(owner) => family.iter().position(|ancestor| *ancestor == owner),
            None => (sought == Sought::Place).then_some(family.len()),
        };
        match distance {
            Some(distance) if sought.is(&status) => suitable.push((distance, rank(&status.state), socket)),
            Some(_) => {}
            None => drop(of_others.get_or_insert_with(|| somebody_elses(key, &status))),
        }
    }
    suitable.sort();
    match (suitable.as_slice(), of_others) {
        ([], None) => Ok(None),
        ([], Some(failure)) => Err(failure),
        ([(distance, rank, _), (other_distance, other_rank, _), ..], _)
            if distance == other_distance && rank == other_rank =>
        {
            let message =
                format!("{} holders of this script have {key}, and no token says which is meant", suitable.len());
            Err(Failure::usage(message).hint("give the token too; dflock holders lists them"))
        }
        ([(_, _, socket), ..], _) => Ok(Some((*socket).clone())),
    }
}

/// Of several of one script, the likeliest first.
fn rank(state: &State) -> u8 {
    match state {
        State::Held | State::InDanger { .. } => 0,
        State::Waiting => 1,
        State::Lost { .. } => 2,
    }
}

fn somebody_elses(key: &Key, status: &Status) -> Failure {
    let (whose, to_do) = match status.owner {
        Some(owner) => (
            format!("{key} is not this script's: the holder that has it is tied to process {}", owner.pid),
            "give its token if it is meant; dflock holders lists all".to_owned(),
        ),
        None => (
            format!("{key} may be anybody's: the holder that has it is tied to no process"),
            format!("give its token if it is yours; kill {} would end the holder and free the lock", status.pid),
        ),
    };
    let mut failure = Failure::new(Kind::Lost, whose);
    failure.key = Some(key.to_string());
    failure.hint(to_do)
}

/// Nobody here has it, and no token says how to ask for it elsewhere.
pub fn not_held(key: &Key) -> Failure {
    let mut failure = Failure::new(Kind::Lost, format!("no holder of yours has {key}"));
    failure.key = Some(key.to_string());
    failure.hint("it was released or lost before, or taken by another user; dflock holders lists yours")
}

/// Whoever gave no token is told which one was taken.
pub fn with_proof(failure: Failure, proof: &Proof) -> Failure {
    match proof {
        Proof::Inherited(_) if failure.kind == Kind::Lost => {
            failure.hint("this is the lock of DFLOCK_TOKEN; unset it, or give a token, if another one is meant")
        }
        _ => failure,
    }
}
