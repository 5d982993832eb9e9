//! A talk as steps, read from its file.

use std::time::Duration;

use crate::bytes::{self, Part};

/// Whose server is played to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Original,
}

pub(crate) struct Script {
    pub(crate) only_ours: Option<String>,
    pub(crate) flags: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) secret: Option<Vec<u8>>,
    /// With the number of the line.
    pub(crate) steps: Vec<(usize, Step)>,
}

pub(crate) enum Step {
    /// What a connection does or has done to it.
    With(String, Act),
    Until {
        name: String,
        request: Vec<Part>,
        has: Vec<u8>,
    },
    Passed {
        at_least: Duration,
        since: String,
    },
    Grows(String, String),
    Signal(String),
    Exits(i32),
}

pub(crate) enum Act {
    Send(Vec<Part>),
    Receive(Vec<Part>),
    End,
    Silent,
    Open,
    Close,
    Reset,
    HalfClose,
}

impl Script {
    /// Keeps what is meant for `side`.
    pub(crate) fn parse(text: &str, side: Side) -> Result<Script, String> {
        if !text.starts_with("# ") {
            return Err("does not begin by saying what it shows".to_owned());
        }
        let mut script =
            Script { only_ours: None, flags: Vec::new(), environment: Vec::new(), secret: None, steps: Vec::new() };
        let mut explained = false;
        for (at, line) in text.lines().enumerate() {
            let (number, line) = (at + 1, line.trim_end());
            if line.is_empty() || line.starts_with('#') {
                explained = !line.is_empty();
                continue;
            }
            let (for_one, line) = variant(line);
            if for_one.is_some() && !explained {
                return Err(format!("line {number}: no comment above says why the servers differ"));
            }
            explained &= for_one.is_some();
            // What is not for this side must be right all the same.
            let mut aside =
                Script { only_ours: None, flags: Vec::new(), environment: Vec::new(), secret: None, steps: Vec::new() };
            let target = if for_one.is_none_or(|one| one == side) { &mut script } else { &mut aside };
            target.read(number, line).map_err(|why| format!("line {number}: {why}"))?;
        }
        if script.steps.is_empty() && script.only_ours.is_none() {
            return Err("shows nothing".to_owned());
        }
        Ok(script)
    }

    fn read(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').ok_or_else(|| format!("only one word: {line}"))?;
        let step = match word {
            "only" | "serve" | "env" | "secret" if !self.steps.is_empty() => {
                return Err(format!("{word} stands above the first step"));
            }
            "only" => {
                let why = rest.strip_prefix("ours: ").ok_or("the line is: only ours: why")?;
                self.only_ours = Some(why.to_owned());
                return Ok(());
            }
            "serve" => {
                self.flags.extend(rest.split(' ').map(str::to_owned));
                return Ok(());
            }
            "env" => {
                let (name, value) = rest.split_once('=').ok_or("the line is: env NAME=value")?;
                self.environment.push((name.to_owned(), value.to_owned()));
                return Ok(());
            }
            "secret" => {
                self.secret = Some(bytes::parse_plain(rest)?);
                return Ok(());
            }
            "until" => {
                let (asked, has) = rest.rsplit_once(" has ").ok_or("the line is: until a > TEXT has TEXT")?;
                let (name, request) = asked.split_once(" > ").ok_or("the line is: until a > TEXT has TEXT")?;
                Step::Until { name: name.to_owned(), request: bytes::parse(request)?, has: bytes::parse_plain(has)? }
            }
            "passed" => {
                let (time, since) = rest.split_once(" since ").ok_or("the line is: passed 1s since a")?;
                Step::Passed { at_least: duration(time)?, since: since.to_owned() }
            }
            "grows" => {
                let (low, high) = rest.split_once(' ').ok_or("the line is: grows $t $u")?;
                Step::Grows(low.trim_start_matches('$').to_owned(), high.trim_start_matches('$').to_owned())
            }
            "signal" => Step::Signal(rest.to_owned()),
            "exits" => Step::Exits(rest.parse().map_err(|_not_a_number| format!("not a status: {rest}"))?),
            name => Step::With(name.to_owned(), act(rest)?),
        };
        self.steps.push((number, step));
        Ok(())
    }
}

/// Whom a line is for, if not for both.
fn variant(line: &str) -> (Option<Side>, &str) {
    if let Some(line) = line.strip_prefix("ours: ") {
        (Some(Side::Ours), line)
    } else if let Some(line) = line.strip_prefix("original: ") {
        (Some(Side::Original), line)
    } else {
        (None, line)
    }
}

fn act(text: &str) -> Result<Act, String> {
    if let Some(bytes) = text.strip_prefix("> ") {
        return Ok(Act::Send(bytes::parse(bytes)?));
    }
    if let Some(bytes) = text.strip_prefix("< ") {
        return Ok(Act::Receive(bytes::parse(bytes)?));
    }
    match text {
        "eof" => Ok(Act::End),
        "silent" => Ok(Act::Silent),
        "open" => Ok(Act::Open),
        "close" => Ok(Act::Close),
        "reset" => Ok(Act::Reset),
        "half-close" => Ok(Act::HalfClose),
        _ => Err(format!("no connection can do this: {text}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_not_a_number| format!("not a time: {text}"));
    if let Some(millis) = text.strip_suffix("ms") {
        return number(millis).map(Duration::from_millis);
    }
    text.strip_suffix('s')
        .ok_or_else(|| format!("a time ends in s or ms: {text}"))
        .and_then(number)
        .map(Duration::from_secs)
}
