//! `dflock holders`: the holders of this user.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::manner::Manner;
use super::meant::Sought;
use crate::error::Failure;
use crate::holder::control::{self, Reply, Request, State, Status};
use crate::holder::registry::Registry;
use crate::lock::Kind;
use crate::output::{self, Table};
use crate::settings::duration::{in_words, seconds};

/// How long a holder may take when somebody pressed Tab.
const AT_ONCE: Duration = Duration::from_millis(300);

/// List the holders of this user
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock holders
  dflock holders --json | jq '.holders[].key'")]
pub struct Holders {
    /// Print only the keys, one a line
    #[arg(long, conflicts_with = "json")]
    keys: bool,

    /// Only those that a verb could be about
    #[arg(long = "for", value_name = "VERB", value_enum, hide = true, requires = "keys")]
    verb: Option<About>,

    #[command(flatten)]
    manner: Manner,
}

/// A verb that is about a lock of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum About {
    Release,
    Renew,
    Wait,
    SemRelease,
    SemRenew,
    SemWait,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    holders: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    key: String,
    limit: Option<u64>,
    server: String,
    state: &'static str,
    why: Option<String>,
    pid: u32,
    owner_pid: Option<i32>,
    owner_name: Option<String>,
    fence: Option<u64>,
    fence_text: Option<String>,
    held_s: Option<f64>,
    lease_s: Option<f64>,
    lease_left_s: Option<f64>,
    max_hold_left_s: Option<f64>,
}

impl Holders {
    pub fn run(self) -> Result<u8, Failure> {
        let sockets = Registry::open()?.living(None)?;
        if self.keys {
            let keys = super::block_on(async { Ok(keys(sockets, self.verb).await) })?;
            output::plain(&keys.iter().map(|key| format!("{key}\n")).collect::<String>())?;
            return Ok(0);
        }
        let rows = super::block_on(async {
            let mut rows = Vec::new();
            for socket in sockets {
                // One that is just ending, or stopped, must not hide the others.
                if let Ok(Some(Reply::Status(status))) =
                    control::ask(&socket, &Request::Status, Some(control::PROMPT)).await
                {
                    rows.push(row(*status));
                }
            }
            Ok(rows)
        })?;
        let document = Document { schema: output::SCHEMA, holders: rows };
        self.manner.answer(&document, || as_table(&document))?;
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}

/// The keys of those that answer at once, each once. One that is no plain text could not be typed anyway.
async fn keys(sockets: Vec<PathBuf>, verb: Option<About>) -> Vec<String> {
    let mut asking = JoinSet::new();
    for socket in sockets {
        asking.spawn(async move { control::ask(&socket, &Request::Status, Some(AT_ONCE)).await });
    }
    let mut keys = Vec::new();
    while let Some(answer) = asking.join_next().await {
        if let Ok(Ok(Some(Reply::Status(status)))) = answer
            && verb.is_none_or(|verb| verb.is_about(&status))
            && let Ok(key) = std::str::from_utf8(status.key.as_bytes())
            && !key.contains(char::is_control)
        {
            keys.push(key.to_owned());
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

impl About {
    fn is_about(self, status: &Status) -> bool {
        let is_semaphore = matches!(self, About::SemRelease | About::SemRenew | About::SemWait);
        let suits = match self {
            About::Wait | About::SemWait => Sought::Place.is(status),
            _ => Sought::Lock.is(status),
        };
        suits && is_semaphore == matches!(status.kind, Kind::Semaphore { .. })
    }
}

fn row(status: Status) -> Row {
    let number = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let (state, why) = match status.state {
        State::Waiting => ("waiting", None),
        State::Held => ("held", None),
        State::InDanger { why } => ("in_danger", Some(why)),
        State::Lost { why } => ("lost", Some(why)),
    };
    let fence = status.held.as_ref().and_then(|held| held.fence);
    Row {
        key: status.key.to_string(),
        limit: match status.kind {
            Kind::Lock => None,
            Kind::Semaphore { limit } => Some(limit),
        },
        server: status.server,
        state,
        why,
        pid: status.pid,
        owner_pid: status.owner.map(|owner| owner.pid),
        owner_name: status.owner_name,
        fence,
        fence_text: fence.map(|fence| fence.to_string()),
        held_s: number(status.held_for),
        lease_s: number(status.held.as_ref().map(|held| held.lease)),
        lease_left_s: number(status.lease_left),
        max_hold_left_s: number(status.max_hold_left),
    }
}

fn as_table(document: &Document) -> String {
    let mut table = Table::new(&["KEY", "STATE", "HELD FOR", "SERVER", "PID", "OWNER"]);
    for row in &document.holders {
        let key = row.limit.map_or(row.key.clone(), |limit| format!("{} (of {limit})", row.key));
        let held = row.held_s.map_or("-".to_owned(), |held| in_words(seconds(held.floor())));
        let owner = match (row.owner_pid, &row.owner_name) {
            (None, _) => "none".to_owned(),
            (Some(pid), Some(name)) => format!("{pid} ({name})"),
            (Some(pid), None) => pid.to_string(),
        };
        table.row(vec![key, row.state.to_owned(), held, row.server.clone(), row.pid.to_string(), owner]);
    }
    table.render()
}
