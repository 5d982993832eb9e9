//! The log of a server: one line an event, for people or for machines.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::{escape, say};
use crate::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Writes one event.
pub fn line(format: Format, level: &str, event: &str, message: &str, fields: &[(&'static str, String)]) {
    say(&render(format, clock::wall_nanos(), level, event, message, fields));
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

fn quote(value: &str) -> String {
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
