//! `dflock holders`: the holders of this user.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::manner::Manner;
use crate::error::Failure;
use crate::holder::control::{self, Reply, Request, State, Status};
use crate::holder::registry::Registry;
use crate::lock::Kind;
use crate::output::{self, Table};

/// List the holders of this user
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock holders
  dflock holders --json | jq '.holders[].key'")]
pub struct Holders {
    #[command(flatten)]
    manner: Manner,
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
    held_s: Option<f64>,
    lease_s: Option<f64>,
    lease_left_s: Option<f64>,
    max_hold_left_s: Option<f64>,
}

impl Holders {
    pub fn run(self) -> Result<u8, Failure> {
        let sockets = Registry::open()?.living(None)?;
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

fn row(status: Status) -> Row {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let (state, why) = match status.state {
        State::Waiting => ("waiting", None),
        State::Held => ("held", None),
        State::InDanger { why } => ("in_danger", Some(why)),
        State::Lost { why } => ("lost", Some(why)),
    };
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
        fence: status.held.as_ref().and_then(|held| held.fence),
        held_s: seconds(status.held_for),
        lease_s: seconds(status.held.as_ref().map(|held| held.lease)),
        lease_left_s: seconds(status.lease_left),
        max_hold_left_s: seconds(status.max_hold_left),
    }
}

fn as_table(document: &Document) -> String {
    let mut table = Table::new(&["KEY", "STATE", "HELD FOR", "SERVER", "PID", "OWNER"]);
    for row in &document.holders {
        let key = row.limit.map_or(row.key.clone(), |limit| format!("{} (of {limit})", row.key));
        let held = row.held_s.map_or("-".to_owned(), |seconds| format!("{seconds:.0}s"));
        let owner = match (row.owner_pid, &row.owner_name) {
            (None, _) => "none".to_owned(),
            (Some(pid), Some(name)) => format!("{pid} ({name})"),
            (Some(pid), None) => pid.to_string(),
        };
        table.row(vec![key, row.state.to_owned(), held, row.server.clone(), row.pid.to_string(), owner]);
    }
    table.render()
}
