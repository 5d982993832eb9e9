//! `dflock stats --watch`: asks again and again; a table that stays in place, or lines.

use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, raise};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::forms::{self, Rates};
use super::{Document, Format};
use crate::clock::{self, Moment};
use crate::error::Failure;
use crate::output::{self, Screen};

/// What each look is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In place on a terminal, as lines elsewhere.
    Table,
    Json,
}

impl Form {
    pub(super) fn of(format: Option<Format>, json: bool) -> Result<Form, Failure> {
        match (format, json) {
            (Some(Format::Json), _) | (None, true) => Ok(Form::Json),
            (Some(Format::Prometheus), _) => Err(Failure::usage("--watch does not write for Prometheus")
                .hint("a scraper asks by itself; leave --watch out, or use --format table or json")),
            (Some(Format::Table) | None, _) => Ok(Form::Table),
        }
    }
}

/// Shows what `look` finds until somebody has seen enough; returns the exit code.
pub(super) async fn run(every: Duration, form: Form, look: impl AsyncFn() -> Document) -> Result<u8, Failure> {
    let mut before = None;
    // Signals are ours only with a screen that has to be put back.
    let mut live = match (form, output::is_answer_seen()) {
        (Form::Table, true) => Live::start()?,
        _ => None,
    };
    loop {
        let asked = clock::now();
        let document = match &mut live {
            None => look().await,
            Some(live) => match live.during(look()).await {
                Ok(document) => document,
                Err(code) => return Ok(code),
            },
        };
        let rates = rates(&document, asked, &mut before);
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(clock::wall_nanos());
        let time = humantime::format_rfc3339_seconds(time).to_string();
        let pause = tokio::time::sleep(every.saturating_sub(clock::now().since(asked)));
        match (&mut live, form) {
            (Some(live), _) => {
                let head = format!("dflock stats   {time}   every {}s   q ends it\n\n", every.as_secs_f64());
                live.show(head + &forms::table_with(&document, &rates));
                if let Err(code) = live.during(pause).await {
                    return Ok(code);
                }
            }
            (None, Form::Json) if !output::more(&output::json_line(&document)?)? => return Ok(0),
            (None, Form::Table) if !output::more(&forms::lines(&document, &rates, &time))? => return Ok(0),
            (None, _) => pause.await,
        }
    }
}

/// Grants a second since the look before.
fn rates(document: &Document, now: Moment, before: &mut Option<(Moment, Vec<Option<u64>>)>) -> Rates {
    let grants: Vec<Option<u64>> = document.servers.iter().map(|row| row.grants).collect();
    let rate = |at: usize| {
        let (then, earlier) = before.as_ref()?;
        let (more, seconds) = (grants[at]?.checked_sub((*earlier.get(at)?)?)?, now.since(*then).as_secs_f64());
        (seconds > 0.0).then(|| more as f64 / seconds)
    };
    let rates = (0..grants.len()).map(rate).collect();
    *before = Some((now, grants));
    rates
}

/// A screen, and whatever may happen while somebody looks at it.
struct Live {
    screen: Screen,
    picture: String,
    interrupt: Stream,
    terminate: Stream,
    hang_up: Stream,
    suspend: Stream,
    resize: Stream,
}

impl Live {
    fn start() -> Result<Option<Live>, Failure> {
        let stream = |kind| signal(kind).map_err(|why| Failure::internal("listen for signals", &why));
        let (interrupt, terminate) = (stream(SignalKind::interrupt())?, stream(SignalKind::terminate())?);
        let (hang_up, resize) = (stream(SignalKind::hangup())?, stream(SignalKind::window_change())?);
        let suspend = stream(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
        let Some(screen) = Screen::open() else { return Ok(None) };
        Ok(Some(Live { screen, picture: String::new(), interrupt, terminate, hang_up, suspend, resize }))
    }

    fn show(&mut self, picture: String) {
        self.screen.show(&picture);
        self.picture = picture;
    }

    /// Goes on with `work` unless somebody has seen enough: then an exit code.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, u8> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                key = self.screen.key() => match key {
                    Some(b'q' | b'Q') | None => return Err(0),
                    Some(_) => {}
                },
                _ = self.interrupt.recv() => return Err(0),
                _ = self.terminate.recv() => return Err(128 + Signal::SIGTERM as u8),
                _ = self.hang_up.recv() => return Err(128 + Signal::SIGHUP as u8),
                _ = self.resize.recv() => self.screen.show(&self.picture),
                _ = self.suspend.recv() => {
                    self.screen.leave();
                    let _ = raise(Signal::SIGSTOP);
                    // Somebody has brought us back.
                    self.screen.enter();
                    self.screen.show(&self.picture);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ServerRow;
    use super::*;

    fn document(grants: Option<u64>) -> Document {
        let mut document = super::super::merge(Vec::new());
        let server = "a:1".to_owned();
        document.servers.push(ServerRow { server, ok: true, connections: Some(1), grants, error: None, message: None });
        document
    }

    #[test]
    fn rates_need_two_looks_at_a_server_that_counts() {
        let begin = Moment::from_nanos(0);
        let mut before = None;
        assert_eq!(rates(&document(Some(10)), begin, &mut before), [None]);
        let two_seconds = begin + Duration::from_secs(2);
        assert_eq!(rates(&document(Some(40)), two_seconds, &mut before), [Some(15.0)]);
        // It was started anew.
        assert_eq!(rates(&document(Some(3)), two_seconds + Duration::from_secs(1), &mut before), [None]);
        assert_eq!(rates(&document(None), two_seconds + Duration::from_secs(2), &mut before), [None]);
    }
}
