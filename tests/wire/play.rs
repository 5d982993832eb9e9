//! Plays a talk, step by step, and tells how far it came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bytes::{self, Tokens, show};
use crate::connection::{CEILING, Connection};
use crate::house;
use crate::peer::Peer;
use crate::script::{Act, Script, Step};

/// `Err` says where and how it went wrong.
pub(crate) fn play(script: &Script) -> Result<(), String> {
    let peer = Peer::start(script);
    let mut talk = Talk { peer, open: BTreeMap::new(), over: BTreeSet::new(), tokens: Tokens::new(), said: Vec::new() };
    for (line, step) in &script.steps {
        talk.step(step).map_err(|how| format!("line {line}: {how}\n{}", talk.so_far()))?;
    }
    for name in talk.open.keys().cloned().collect::<Vec<_>>() {
        talk.silent(&name).map_err(|how| format!("at the end: {how}\n{}", talk.so_far()))?;
    }
    Ok(())
}

struct Talk {
    peer: Peer,
    open: BTreeMap<String, Connection>,
    /// Names of connections that the talk closed.
    over: BTreeSet<String>,
    tokens: Tokens,
    said: Vec<String>,
}

impl Talk {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::With(name, act) => self.act(name, act),
            Step::Until { name, request, has } => {
                let request = bytes::fill_in(request, &self.tokens)?;
                self.until(name, &request, has)
            }
            Step::Passed { at_least, since } => {
                let passed = self.connection(since)?.sent_at.elapsed();
                if passed < *at_least {
                    return Err(format!("only {passed:?} passed since {since} sent something"));
                }
                Ok(())
            }
            Step::Grows(low, high) => {
                let (low, high) = (bytes::known(&self.tokens, low)?, bytes::known(&self.tokens, high)?);
                if low >= high {
                    return Err(format!("{} does not grow to {}", show(low), show(high)));
                }
                Ok(())
            }
            Step::Signal(name) => {
                self.said.push(format!("signal {name}"));
                self.peer.signal(name);
                Ok(())
            }
            Step::Exits(code) => {
                let status = self.peer.wait();
                if status.code() != Some(*code) {
                    return Err(format!("the server ended otherwise: {status}"));
                }
                Ok(())
            }
        }
    }

    fn act(&mut self, name: &str, act: &Act) -> Result<(), String> {
        match act {
            Act::Open => self.connection(name).map(|_| ()),
            Act::Send(parts) => {
                let bytes = bytes::fill_in(parts, &self.tokens)?;
                self.said.push(format!("{name} > {}", show(&bytes)));
                self.connection(name)?.send(&bytes)
            }
            Act::Receive(parts) => {
                let tokens = self.tokens.clone();
                let connection = self.connection(name)?;
                let (received, tokens) = connection.receive(parts, &tokens)?;
                self.tokens = tokens;
                self.said.push(format!("{name} < {}", show(&received)));
                Ok(())
            }
            Act::End => {
                self.connection(name)?.end()?;
                self.said.push(format!("{name} eof"));
                Ok(())
            }
            Act::Silent => self.silent(name),
            Act::HalfClose => {
                self.said.push(format!("{name} half-close"));
                self.connection(name)?.half_close()
            }
            Act::Close | Act::Reset => {
                let connection = self.open.remove(name).ok_or_else(|| format!("{name} is not open"))?;
                self.over.insert(name.to_owned());
                if matches!(act, Act::Reset) {
                    self.said.push(format!("{name} reset"));
                    return connection.reset();
                }
                self.said.push(format!("{name} close"));
                Ok(())
            }
        }
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        if self.over.contains(name) {
            return Err(format!("{name} is closed already"));
        }
        if !self.open.contains_key(name) {
            self.open.insert(name.to_owned(), Connection::open(&self.peer.address)?);
        }
        self.open.get_mut(name).ok_or_else(|| format!("{name} is not open"))
    }

    /// Nothing has come, neither bytes nor the end, unless the end was looked at.
    fn silent(&mut self, name: &str) -> Result<(), String> {
        self.connection(name)?.silent().map_err(|how| format!("{name} {how}"))
    }

    fn until(&mut self, name: &str, request: &[u8], has: &[u8]) -> Result<(), String> {
        let begin = house::now();
        loop {
            let connection = self.connection(name)?;
            connection.send(request)?;
            let answer = connection.line()?;
            if answer.windows(has.len()).any(|window| window == has) {
                self.said.push(format!("{name} > {}\n{name} < {}", show(request), show(&answer)));
                return Ok(());
            }
            if begin.elapsed() > CEILING {
                return Err(format!("{CEILING:?} long no answer had {}; the last was\n  {}", show(has), show(&answer)));
            }
            // Asking again at once would take the processor from what is waited for.
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn so_far(&self) -> String {
        format!("so far:\n  {}", self.said.join("\n").replace('\n', "\n  "))
    }
}
