//! The guardian: stands for `exec::guard`, whose `Duty` and `Hearing` decide. A process of its own, that outlives dflock by
//! what has to be done.

use std::cell::RefCell;
use std::time::Duration;

use dflock::clock::Moment;
use dflock::exec::guard::duty::{Duty, Step};
use dflock::exec::guard::hearing::Hearing;
use dflock::server::stamp::Stamp;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::Plant;
use super::child::{Group, Happened};
use super::client::Site;
use super::env::Env;
use super::net::Socket;

/// It is looked at the clock this often, as the machine may have slept.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub enum Message {
    Group(Group),
    KillAt(Moment),
    /// Until when the locks are held for sure.
    HeldUntil(Moment),
    Lock(Left, Option<Socket>),
    Ask,
    Farewell,
}

impl Message {
    fn is_answered(&self) -> bool {
        matches!(self, Message::KillAt(_) | Message::HeldUntil(_) | Message::Ask)
    }
}

/// A lock to let go of.
#[derive(Clone)]
pub struct Left {
    pub site: Site,
    pub token: Stamp,
}

pub struct Guard {
    env: Env,
    process: usize,
    tell: mpsc::UnboundedSender<Message>,
    answers: mpsc::UnboundedReceiver<u64>,
    hearing: RefCell<Hearing>,
}

impl Guard {
    pub fn start(env: &Env, client: usize, gone: mpsc::UnboundedSender<Happened>) -> Guard {
        let world = &env.world;
        let process = world.new_process(env.machine());
        let (tell, told) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let own = Env { world: world.clone(), process };
        world.guardian_starts(client, process, gone);
        world.spawn(process, async move {
            let left = watch(&own, client, told, answer).await;
            for Left { site, token } in left {
                let site = Site { env: own.clone(), ..site };
                site.release(token).await;
            }
        });
        Guard { env: env.clone(), process, tell, answers, hearing: RefCell::default() }
    }

    /// If it is gone, that is noticed when it is reaped.
    pub fn say(&self, message: Message) {
        if message.is_answered() {
            self.hearing.borrow_mut().ordered(self.env.now());
        }
        let _ = self.tell.send(message);
    }

    /// When to attend to it.
    pub fn attend_at(&self) -> Moment {
        self.hearing.borrow().look_at()
    }

    /// Asks, if it has to be asked. `false`: it does not answer.
    pub fn attend(&mut self) -> bool {
        let now = self.env.now();
        while let Ok(heard) = self.answers.try_recv() {
            self.hearing.borrow_mut().answered(now, heard);
        }
        if self.env.world.plant == Plant::SilenceIgnored {
            self.hearing.take();
        }
        let is_starved = self.env.world.starves(self.process);
        if self.hearing.borrow_mut().is_silent(now, || is_starved) {
            return false;
        }
        if self.hearing.borrow().has_to_be_asked(now) {
            self.say(Message::Ask);
        }
        true
    }

    /// Another one knows all.
    pub fn dismiss(self) {
        self.say(Message::Farewell);
        self.env.world.kill(self.process);
    }
}

/// What one knows.
struct Life {
    duty: Duty,
    group: Option<Group>,
    locks: Vec<Left>,
    connections: Vec<Option<Socket>>,
    heard: u64,
}

/// Returns what is to be given back.
async fn watch(
    env: &Env,
    client: usize,
    mut told: mpsc::UnboundedReceiver<Message>,
    answer: mpsc::UnboundedSender<u64>,
) -> Vec<Left> {
    let mut life = Life { duty: Duty::new(), group: None, locks: Vec::new(), connections: Vec::new(), heard: 0 };
    let (mut due, mut answered) = (Moment::NEVER, 0);
    loop {
        // All that was said comes first, and what it cannot hear any more.
        while !life.duty.is_alone() {
            match told.try_recv() {
                Ok(Message::Farewell) => return Vec::new(),
                Ok(message) => life.hear(env.now(), message),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    env.tell(&format!("guardian {client}"), || "dflock is gone without a word".to_owned());
                    life.duty.dflock_is_gone();
                }
            }
        }
        if life.heard > answered {
            answered = life.heard;
            let _ = answer.send(answered);
        }
        let now = env.now();
        if env.world.plant != Plant::LatenessIgnored {
            let refused = Duration::from_nanos(env.world.refused_so_far(env.process));
            life.duty.woke(now, due, Some(refused));
        }
        due = Moment::NEVER;
        match life.duty.step(now) {
            Step::Wait(until) => {
                if life.duty.has_command() {
                    due = until.min(now + LOOK_EVERY);
                }
                // It sleeps with its machine.
                let left = if due == Moment::NEVER { Duration::MAX } else { due.since(now) };
                tokio::select! {
                    biased;
                    message = told.recv(), if !life.duty.is_alone() => match message {
                        Some(Message::Farewell) => return Vec::new(),
                        Some(message) => life.hear(env.now(), message),
                        None => {}
                    },
                    () = env.sleep(left) => {}
                }
            }
            Step::End => {
                env.tell(&format!("guardian {client}"), || "kills the group".to_owned());
                let group = life.group.as_ref().filter(|_| env.world.plant != Plant::GuardianOff);
                if let Some(group) = group {
                    group.signal(Signal::SIGKILL);
                }
                life.duty.attempted(now, group.is_some_and(|group| !group.is_gone()));
            }
            Step::Release => return life.locks,
            Step::Leave => return Vec::new(),
        }
    }
}

impl Life {
    fn hear(&mut self, now: Moment, message: Message) {
        self.heard += u64::from(message.is_answered());
        match message {
            Message::Group(group) => {
                self.group = Some(group);
                self.duty.command_begins();
            }
            Message::KillAt(moment) => self.duty.set_kill_at(moment),
            Message::HeldUntil(moment) => self.duty.set_held_until(now, moment),
            Message::Lock(left, connection) => {
                self.locks.push(left);
                self.connections.push(connection);
            }
            Message::Ask | Message::Farewell => {}
        }
    }
}
