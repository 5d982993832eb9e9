//! The log of a server: one line an event, for people or for machines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::{escape, say};
use crate::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// How many lines may wait to be written.
const QUEUE: usize = 1024;

/// How long the last lines may take when the server ends.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// Written by a thread of its own: a log that nobody reads must not hold up whoever writes to it.
#[derive(Clone)]
pub struct Log {
    format: Format,
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(String),
    /// Everything before is written.
    Finish(SyncSender<()>),
}

impl Log {
    pub fn start(format: Format) -> Log {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let missing = dropped.clone();
        std::thread::spawn(move || {
            for message in lines {
                match message {
                    Message::Line(line) => say(&line),
                    Message::Finish(done) => drop(done.send(())),
                }
                let missed = missing.swap(0, Ordering::Relaxed);
                if missed > 0 {
                    let fields = [("count", missed.to_string())];
                    let message = "lines left out: the log is read too slowly";
                    say(&render(format, clock::wall_nanos(), "warn", "log_dropped", message, &fields));
                }
            }
        });
        Log { format, queue, dropped }
    }

    /// Writes one event, or counts it if too many wait.
    pub fn line(&self, level: &str, event: &str, message: &str, fields: &[(&'static str, String)]) {
        let line = render(self.format, clock::wall_nanos(), level, event, message, fields);
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a moment for what is still to be written.
    pub fn finish(&self) {
        let (done, finished) = sync_channel(1);
        if self.queue.try_send(Message::Finish(done)).is_ok() {
            let _ = finished.recv_timeout(FINISH_WITHIN);
        }
    }
}

fn render(
    format: Format,
    wall_nanos: u64,
    level: &str,
    event: &str,
    message: &str,
    fields: &[(&'static str, String)],
) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(wall_nanos);
    let time = humantime::format_rfc3339_millis(time).to_string();
    match format {
        Format::Text => {
            let mut line = format!("{time} {level:<4} {message}");
            for (name, value) in fields {
                line.push_str(&format!(" {name}={}", quote(value)));
            }
            line.push('\n');
            line
        }
        Format::Json => {
            let mut object = Map::new();
            for (name, value) in [("time", time.as_str()), ("level", level), ("event", event), ("message", message)] {
                object.insert(name.to_owned(), Value::from(value));
            }
            for (name, value) in fields {
                let value = value.parse::<u64>().map_or_else(|_| Value::from(value.as_str()), Value::from);
                object.insert((*name).to_owned(), value);
            }
            format!("{}\n", Value::Object(object))
        }
    }
}

pub(super) fn quote(value: &str) -> String {
    if value.contains([' ', '"', '=']) { format!("{value:?}") } else { escape(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_in_both_forms() {
        let fields =
            [("address", "127.0.0.1:6388".to_owned()), ("held", "3".to_owned()), ("why", "a b\x07".to_owned())];
        let text = render(Format::Text, 1_700_000_000_123_000_000, "info", "listening", "listening", &fields);
        assert_eq!(text, "2023-11-14T22:13:20.123Z info listening address=127.0.0.1:6388 held=3 why=\"a b\\u{7}\"\n");
        let json = render(Format::Json, 1_700_000_000_123_000_000, "info", "listening", "listening", &fields);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["held"], 3);
        assert_eq!(value["event"], "listening");
        assert_eq!(value["time"], "2023-11-14T22:13:20.123Z");
    }
}
