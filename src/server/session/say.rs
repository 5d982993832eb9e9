//! What a session says: the table's replies and verdicts as lines, and the long report.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Next, Session};
use crate::server::MAX_RESUME_S;
use crate::server::journal::Promise;
use crate::server::shared::Letter;
use crate::server::stats::{self, Report};
use crate::server::table::{No, Reply, Verdict};
use crate::wire::{Answer, Refusal, answer};

impl Session {
    pub(super) fn say(&mut self, answer: Answer<'_>) -> Next {
        answer.write(&mut self.out);
        Next::GoOn
    }

    pub(super) fn say_reply(
        &mut self,
        reply: Reply,
        mailbox: Option<oneshot::Receiver<Letter>>,
        granted: for<'a> fn(&'a str, u64) -> Answer<'a>,
    ) -> Next {
        match (reply, mailbox) {
            (Reply::Granted { stamp, lease_s }, _) => {
                if self.promise.is_some() {
                    self.unsent.push(stamp);
                }
                self.say(granted(stamp.hex().as_str(), lease_s))
            }
            (Reply::Queued { ticket: None }, _) => self.say(Answer::Queued { ticket: None }),
            (Reply::Queued { ticket: Some(ticket) }, _) => {
                self.say(Answer::Queued { ticket: Some(ticket.hex().as_str()) })
            }
            (Reply::Blocked, Some(mailbox)) => Next::Blocked(mailbox),
            (Reply::Blocked, None) => self.say(Answer::Refused(Refusal::Unsaid)),
            (Reply::Timeout, _) => self.say(Answer::Timeout),
            (Reply::No(no), _) => self.say_no(no),
        }
    }

    pub(super) fn say_no(&mut self, no: No) -> Next {
        self.say(Answer::Refused(match no {
            No::MaxLocks => Refusal::MaxLocks,
            No::MaxWaiters => Refusal::MaxWaiters,
            No::LimitMismatch => Refusal::LimitMismatch,
            No::NotEnqueued => Refusal::NotEnqueued,
            No::AlreadyEnqueued => Refusal::AlreadyEnqueued,
            No::LeaseExpired => Refusal::LeaseExpired,
            No::Paused | No::NotHeld => Refusal::Unsaid,
            No::Closed => Refusal::Draining,
        }))
    }

    pub(super) fn answer_verdict(&mut self, verdict: Verdict, promise: Option<Promise>) {
        self.note(promise);
        match verdict {
            Verdict::Granted { stamp, lease_s } => {
                if self.promise.is_some() {
                    self.unsent.push(stamp);
                }
                answer::granted(stamp.hex().as_str(), lease_s).write(&mut self.out);
            }
            Verdict::Timeout => Answer::Timeout.write(&mut self.out),
            Verdict::Closed => Answer::Refused(Refusal::Draining).write(&mut self.out),
            Verdict::Moved => Answer::Refused(Refusal::Unsaid).write(&mut self.out),
        }
    }

    pub(super) fn say_info(&mut self, resume_s: Option<u64>) -> Next {
        let resume_s = match resume_s {
            None => MAX_RESUME_S,
            Some(wish) => {
                let agreed = wish.min(MAX_RESUME_S);
                let conn = self.seat.conn;
                let resume = Duration::from_secs(agreed);
                self.seat.context.shared.with(|table, _| table.allow_resuming(conn, resume));
                self.outlived = agreed > 0;
                agreed
            }
        };
        let auto_release = self.seat.context.auto_release;
        let (grants, draining) = self.seat.context.shared.read(|table, _| (table.grants(), table.is_closed()));
        let version = env!("CARGO_PKG_VERSION");
        let info = format!(
            "{{\"server\":\"dflock\",\"version\":\"{version}\",\"fencing\":true,\
             \"auto_release\":{auto_release},\"idle_cut_s\":0,\"resume_s\":{resume_s},\"grants\":{grants},\
             \"draining\":{draining}}}"
        );
        self.say(Answer::Document(info.as_bytes()))
    }

    pub(super) async fn send_report(&mut self) -> io::Result<()> {
        let connections = self.seat.context.gate.connections();
        answer::begin_document(&mut self.out);
        let out = &mut self.out;
        let mut report = self.seat.context.shared.read(|table, _| Report::begin(table, connections, out));
        loop {
            let piece = self.piece(stats::PIECE);
            let out = &mut self.out;
            if !self.seat.context.shared.read(|table, now| report.go_on(table, now, piece, out)) {
                break;
            }
            if self.out.len() >= piece {
                self.send().await?;
            }
            self.watched = false;
            tokio::task::yield_now().await;
        }
        answer::end_document(&mut self.out);
        Ok(())
    }
}
