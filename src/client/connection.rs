//! One authenticated connection: a request out, its answer in, by a deadline.
//!
//! `auth` and `info` travel in one write with the first request, so they cost no round trip. After an
//! exchange that failed, or whose future was dropped, the connection is out of step: drop it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Access, Trouble};
use crate::clock::{self, Moment};
use crate::lock::Token;
use crate::net::dial::explain_alert;
use crate::net::{Address, Stream, dial};
use crate::wire::Request;
use crate::wire::answer::{self, Answer, Expect, Refusal};

/// The longest answer that is kept whole.
const MAX_ANSWER: usize = 4 * 1024;

/// How much of a longer one is read at once.
const PIECE: usize = 64 * 1024;

/// A pause this long ends every wait in practice, and overflows no clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a server says of itself; a server that knows no `info` is like the original.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct About {
    pub server: String,
    pub version: String,
    pub fencing: bool,
    pub auto_release: Option<bool>,
    pub idle_cut_s: Option<u64>,
    pub resume_s: u64,
    /// How often it has granted anything.
    pub grants: Option<u64>,
}

/// An answer, kept.
#[derive(Debug)]
pub enum Said {
    Done,
    Left(u64),
    Granted { token: Token, lease_s: u64 },
    Acquired { token: Token, lease_s: u64 },
    Queued { ticket: Option<Token> },
    Document(Vec<u8>),
    Timeout,
    Refused(No),
}

/// A refusal that is about the lock, not about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    Unsaid,
    MaxLocks,
    MaxWaiters,
    LimitMismatch,
    NotEnqueued,
    AlreadyEnqueued,
    LeaseExpired,
    NotLeader(Option<String>),
    Other(String),
}

/// Takes a long document as it comes.
pub trait Pieces: Send {
    /// Another one begins.
    fn begin(&mut self);
    /// Says why it cannot go on.
    fn take(&mut self, piece: &[u8]) -> Result<(), String>;
}

pub struct Connection {
    stream: Stream,
    pub address: Address,
    pub about: About,
    /// Answers that come before that of the first request.
    greetings: Vec<Greeting>,
    /// Every server answers them at once, so silence there is not a busy lock.
    greeting_limit: Duration,
    /// What to say first.
    hello: Vec<u8>,
    input: Vec<u8>,
    heard: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Auth,
    About,
    StableRef,
}

impl Connection {
    /// Connects; nothing is said until the first exchange.
    pub async fn open(
        address: &Address,
        access: &Access,
        stable_ref: Option<&[u8]>,
        until: Moment,
    ) -> Result<Connection, Trouble> {
        if access.secret.is_some() && access.tls.is_none() && !address.is_local() && !access.allow_plaintext_secret {
            return Err(Trouble::SecretInTheOpen);
        }
        let limit = left(until).min(access.connect_timeout);
        let stream = dial(address, access.tls.as_ref(), limit).await?;
        if access.is_unnamed
            && let Some(user) = stream.peer_user().filter(|user| !is_trusted(*user))
        {
            return Err(Trouble::Stranger { user });
        }
        let mut greetings = Vec::new();
        let mut hello = Vec::new();
        if let Some(secret) = &access.secret {
            Request::Auth { secret }.write(&mut hello);
            greetings.push(Greeting::Auth);
        }
        Request::Info { resume_s: access.resume_s }.write(&mut hello);
        greetings.push(Greeting::About);
        if let Some(name) = stable_ref {
            Request::StableRef { name }.write(&mut hello);
            greetings.push(Greeting::StableRef);
        }
        Ok(Connection {
            stream,
            address: address.clone(),
            about: About::default(),
            greetings,
            greeting_limit: access.connect_timeout,
            hello,
            input: Vec::new(),
            heard: false,
        })
    }

    /// Sends a request and waits for its answer.
    pub async fn exchange(&mut self, request: Request<'_>, expect: Expect, until: Moment) -> Result<Said, Trouble> {
        self.speak(request, until).await?;
        let listening = async {
            let line = self.line().await?;
            self.understand(line, expect)
        };
        timeout(left(until), listening).await.unwrap_or(Err(Trouble::Silent))
    }

    /// The same for a document that is too long to be kept whole.
    pub async fn exchange_in_pieces(
        &mut self,
        request: Request<'_>,
        until: Moment,
        pieces: &mut dyn Pieces,
    ) -> Result<Said, Trouble> {
        self.speak(request, until).await?;
        pieces.begin();
        let listening = async {
            while self.input.len() < answer::DOCUMENT_BEGINS.len() && !self.input.contains(&b'\n') {
                self.read_some(MAX_ANSWER).await?;
            }
            if !self.input.starts_with(answer::DOCUMENT_BEGINS) {
                let line = self.line().await?;
                return self.understand(line, Expect::Document);
            }
            self.input.drain(..answer::DOCUMENT_BEGINS.len());
            loop {
                let end = self.input.iter().position(|byte| *byte == b'\n');
                pieces.take(&self.input[..end.unwrap_or(self.input.len())]).map_err(Trouble::Nonsense)?;
                match end {
                    Some(end) => drop(self.input.drain(..=end)),
                    None => self.input.clear(),
                }
                if end.is_some() {
                    self.heard = true;
                    return Ok(Said::Document(Vec::new()));
                }
                self.read_some(PIECE).await?;
            }
        };
        timeout(left(until), listening).await.unwrap_or(Err(Trouble::Silent))
    }

    /// From the next request on, the server is asked to keep what this connection has when it breaks. The wish
    /// travels with that request.
    pub fn ask_for_resuming(&mut self, wish_s: u64) {
        Request::Info { resume_s: Some(wish_s) }.write(&mut self.hello);
        self.greetings.push(Greeting::About);
    }

    async fn speak(&mut self, request: Request<'_>, until: Moment) -> Result<(), Trouble> {
        self.nothing_unasked().await?;
        let mut bytes = std::mem::take(&mut self.hello);
        request.write(&mut bytes);
        let greetings = std::mem::take(&mut self.greetings);
        let greeting_limit = if greetings.is_empty() { LONGEST } else { self.greeting_limit };
        let speaking = async {
            self.stream.write_all(&bytes).await.map_err(broken)?;
            self.stream.flush().await.map_err(broken)?;
            for greeting in greetings {
                self.greet(greeting).await?;
            }
            Ok(())
        };
        let silence = if greeting_limit == LONGEST { Trouble::Silent } else { Trouble::Mute };
        timeout(left(until).min(greeting_limit), speaking).await.unwrap_or(Err(silence))
    }

    /// What came before it was asked for answers nothing: a renewal that is believed for it could be of a lock
    /// that was given away since.
    async fn nothing_unasked(&mut self) -> Result<(), Trouble> {
        if self.input.is_empty() {
            match self.stream.unread(MAX_ANSWER).await {
                Ok(None) => return Ok(()),
                Ok(Some(bytes)) if bytes.is_empty() => return Err(self.ended()),
                Ok(Some(bytes)) => self.input = bytes,
                Err(why) => return Err(broken(why)),
            }
        }
        // A server may say that it has no room, or that it cuts a connection, before it closes it.
        let line = self.input.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Err(match Answer::parse(line, Expect::Done) {
            Some(Answer::Refused(Refusal::MaxConnections)) => Trouble::Full,
            Some(Answer::Refused(Refusal::Draining)) => Trouble::Draining,
            Some(Answer::Refused(_)) if self.heard => Trouble::Broken("the server cut it".to_owned()),
            _ if self.heard => Trouble::Broken("it answered before it was asked".to_owned()),
            _ => Trouble::Nonsense(format!("it spoke first: {}", show(&self.input))),
        })
    }

    /// Agrees on how long the server keeps this connection's locks when it breaks.
    pub async fn agree_on_resuming(&mut self, wish_s: u64, until: Moment) -> Result<Duration, Trouble> {
        let request = Request::Info { resume_s: Some(wish_s) };
        match self.exchange(request, Expect::Document, until).await? {
            Said::Document(json) => {
                self.about = read_about(&json);
                Ok(Duration::from_secs(self.about.resume_s))
            }
            _ => Ok(Duration::ZERO),
        }
    }

    /// Another descriptor of the same connection: it is open until both are closed.
    pub fn duplicate(&self) -> Option<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned().ok()
    }

    /// Returns when the connection is over, as far as that can be seen while nothing is asked.
    pub async fn over(&mut self) -> Trouble {
        match self.stream.read(&mut [0; 256]).await {
            Ok(0) => Trouble::Broken("the server closed it".to_owned()),
            // Nothing was asked, so this is the `error` that comes before an idle connection is cut.
            Ok(_) => Trouble::Broken("the server cut it".to_owned()),
            Err(why) => broken(why),
        }
    }

    async fn greet(&mut self, greeting: Greeting) -> Result<(), Trouble> {
        let line = self.line().await?;
        let expect = if greeting == Greeting::About { Expect::Document } else { Expect::Done };
        match (greeting, self.understand(line, expect)) {
            (Greeting::About, Ok(Said::Document(json))) => self.about = read_about(&json),
            // Servers that know nothing of each other would each grant the same lock.
            (Greeting::StableRef, Ok(Said::Refused(No::Unsaid))) => return Err(Trouble::NoCluster),
            // The server asks for no secret, or knows no `info`: both are fine.
            (_, Ok(Said::Done | Said::Refused(No::Unsaid | No::Other(_)))) => {}
            (Greeting::Auth, Err(Trouble::SecretNeeded)) => return Err(Trouble::WrongSecret),
            (_, Err(trouble)) => return Err(trouble),
            (_, Ok(_)) => return Err(Trouble::Nonsense("no answer to a greeting".to_owned())),
        }
        Ok(())
    }

    /// One line without its end, however it comes.
    async fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.input[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.input.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.pop();
                self.heard = true;
                return Ok(line);
            }
            searched = self.input.len();
            if searched >= MAX_ANSWER {
                return Err(Trouble::Nonsense(format!("an answer of more than {MAX_ANSWER} bytes")));
            }
            self.read_some(MAX_ANSWER - searched).await?;
        }
    }

    /// Reads what is there, at most `most` bytes of it.
    async fn read_some(&mut self, most: usize) -> Result<(), Trouble> {
        let had = self.input.len();
        self.input.reserve(most);
        let read = (&mut self.stream).take(most as u64).read_buf(&mut self.input).await;
        match read {
            Ok(0) if had == 0 => Err(self.ended()),
            Ok(0) => Err(Trouble::Nonsense(format!("half an answer: {}", show(&self.input)))),
            Ok(_) => Ok(()),
            Err(why) => Err(broken(why)),
        }
    }

    fn ended(&self) -> Trouble {
        Trouble::Broken(if self.heard { "closed by the server" } else { "closed without a word" }.to_owned())
    }

    fn understand(&self, line: Vec<u8>, expect: Expect) -> Result<Said, Trouble> {
        let answer = Answer::parse(&line, expect).ok_or_else(|| Trouble::Nonsense(show(&line)))?;
        let token = |text: &str| Token::new(text).map_err(|_| Trouble::Nonsense("a token that is none".to_owned()));
        Ok(match answer {
            Answer::Done => Said::Done,
            Answer::Left { seconds } => Said::Left(seconds),
            Answer::Granted { token: text, lease_s } => Said::Granted { token: token(text)?, lease_s },
            Answer::Acquired { token: text, lease_s } => Said::Acquired { token: token(text)?, lease_s },
            Answer::Queued { ticket } => Said::Queued { ticket: ticket.map(token).transpose()? },
            Answer::Document(_) => Said::Document(answer::document_of(line)),
            Answer::Timeout => Said::Timeout,
            Answer::Refused(refusal) => Said::Refused(match refusal {
                Refusal::Auth => return Err(Trouble::SecretNeeded),
                Refusal::MaxConnections => return Err(Trouble::Full),
                Refusal::Draining => return Err(Trouble::Draining),
                Refusal::Unsaid => No::Unsaid,
                Refusal::MaxLocks => No::MaxLocks,
                Refusal::MaxWaiters => No::MaxWaiters,
                Refusal::LimitMismatch => No::LimitMismatch,
                Refusal::NotEnqueued => No::NotEnqueued,
                Refusal::AlreadyEnqueued => No::AlreadyEnqueued,
                Refusal::LeaseExpired => No::LeaseExpired,
                Refusal::NotLeader { leader } => No::NotLeader(leader.map(str::to_owned)),
                Refusal::Other(word) => No::Other(word.to_owned()),
            }),
        })
    }
}

/// Root, an account of the system, which only root can make, or ourselves.
fn is_trusted(user: u32) -> bool {
    const FIRST_ORDINARY: u32 = 1000;
    user < FIRST_ORDINARY || user == nix::unistd::geteuid().as_raw()
}

fn broken(why: io::Error) -> Trouble {
    match explain_alert(&why) {
        Some(alert) => Trouble::Dial(alert),
        None => Trouble::Broken(why.to_string()),
    }
}

fn read_about(json: &[u8]) -> About {
    serde_json::from_slice(json).unwrap_or_default()
}

fn left(until: Moment) -> Duration {
    until.since(clock::now()).min(LONGEST)
}

/// The beginning of something that should not be there, without what may be a token in it.
fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let is_secret = |word: &str| word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = text.split(' ').map(|word| if is_secret(word) { "(redacted)" } else { word }).collect();
    let shown: String = words.join(" ").chars().take(60).collect();
    format!("{shown:?}")
}
