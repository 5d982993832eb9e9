//! `dflock exec`: stands for `exec::run` and its loop. `exec::policy` decides.

use std::time::Duration;

use dflock::backend::Renewal;
use dflock::clock::Moment;
use dflock::exec::leases::{Times, next_news, soonest};
use dflock::exec::policy::{Action, Event, Lease, Policy, Rules};
use dflock::exec::status::{Ending, Status};
use dflock::lease::keeper::{Keeper, RELEASE_WITHIN};
use dflock::lock::Kind;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::Plant;
use super::check::Violation;
use super::child::{Group, Happened, Manners};
use super::client::{Failure, Hold, Site};
use super::env::Env;
use super::guardian::{Guard, Left, Message};
use super::keeper;

const AGREE_WITHIN: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct Job {
    pub locks: Vec<(u8, Kind)>,
    pub lease_ms: u64,
    pub wait_ms: u64,
    pub connect_retry_ms: u64,
    pub kill_after_ms: u64,
    pub kill_after_given: bool,
    pub max_runtime_ms: Option<u64>,
    pub manners: Manners,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ran(Status),
    NotObtained(Failure),
    TooLate,
}

pub async fn run(env: Env, client: usize, job: Job) -> Outcome {
    let (tell, told) = mpsc::unbounded_channel();
    let guard = Guard::start(&env, client, tell.clone());
    let taken = match take_all(&env, client, &job, &guard).await {
        Ok(taken) => taken,
        Err(failure) => {
            guard.say(Message::Farewell);
            return Outcome::NotObtained(failure);
        }
    };
    let (keepers, left): (Vec<Keeper>, Vec<Left>) = taken.into_iter().unzip();
    let fences = left.iter().map(|left| left.token.number).collect();
    let grace = Duration::from_millis(job.kill_after_ms);
    let Times { term_at, dead_at, ends_at } = soonest(&keepers);
    if env.now() >= term_at {
        give_back(keepers).await;
        guard.say(Message::Farewell);
        return Outcome::TooLate;
    }
    let group = Group::spawn(&env, client, fences, job.manners, tell.clone());
    env.world.leads(client, group.clone());
    // The command's process says this by itself, before it becomes the command.
    guard.say(Message::HeldUntil(ends_at));
    guard.say(Message::Group(group.clone()));
    let rules = Rules {
        kill_after: grace,
        kill_after_given: job.kill_after_given,
        warn_on_lost: false,
        max_runtime: job.max_runtime_ms.map(Duration::from_millis),
    };
    let policy = Policy::new(env.now(), term_at, dead_at, rules);
    guard.say(Message::KillAt(policy.guard_at()));
    let (sweeping, due) = (false, env.now());
    let mut run = Run { env, client, keepers, guard, left, group, policy, due, sweeping, leader: false, tell, told };
    let status = run.watch().await;
    let Run { keepers, guard, .. } = run;
    give_back(keepers).await;
    guard.say(Message::Farewell);
    Outcome::Ran(status)
}

async fn take_all(env: &Env, client: usize, job: &Job, guard: &Guard) -> Result<Vec<(Keeper, Left)>, Failure> {
    let begin = env.now();
    let mut order = job.locks.clone();
    order.sort_by_key(|(key, _)| *key);
    let mut taken: Vec<(Keeper, Left)> = Vec::new();
    for (key, kind) in order {
        let connect_retry = Duration::from_millis(job.connect_retry_ms);
        let site = Site { env: env.clone(), client, key, kind, connect_retry, plain: false };
        let whole = Duration::from_millis(job.wait_ms);
        let wait = whole.saturating_sub(env.now().since(begin));
        let acquired = tokio::select! {
            biased;
            () = lost_while_waiting(&mut taken) => Err(Failure::Lost),
            acquired = site.acquire(Duration::from_millis(job.lease_ms), wait) => acquired,
        };
        let failure = match acquired {
            Err(failure) => failure,
            Ok(mut hold) => {
                let left = left_of(&hold);
                guard.say(Message::Lock(left.clone(), hold.lifeline()));
                if matches!(hold.make_resumable(env.now() + AGREE_WITHIN).await, Renewal::Renewed(_)) {
                    taken.push((keeper::start(hold, Duration::from_millis(job.kill_after_ms)), left));
                    continue;
                }
                let _ = hold.give_back(env.now() + RELEASE_WITHIN).await;
                Failure::Trouble
            }
        };
        give_back(taken.into_iter().map(|(keeper, _)| keeper).collect()).await;
        return Err(failure);
    }
    Ok(taken)
}

/// Returns when a lock that was taken is lost before all are.
async fn lost_while_waiting(taken: &mut [(Keeper, Left)]) {
    let mut keepers: Vec<&mut Keeper> = taken.iter_mut().map(|(keeper, _)| keeper).collect();
    while !matches!(next_news(&mut keepers).await.last(), Some(Lease::Lost { .. })) {}
}

fn left_of(hold: &Hold) -> Left {
    Left { site: hold.site.clone(), token: hold.token }
}

async fn give_back(keepers: Vec<Keeper>) {
    for keeper in keepers {
        // Whether the server heard of it, the checks see.
        let _ = keeper.release().await;
    }
}

struct Run {
    env: Env,
    client: usize,
    keepers: Vec<Keeper>,
    guard: Guard,
    left: Vec<Left>,
    group: Group,
    policy: Policy,
    due: Moment,
    sweeping: bool,
    /// The command itself has ended.
    leader: bool,
    tell: mpsc::UnboundedSender<Happened>,
    told: mpsc::UnboundedReceiver<Happened>,
}

impl Run {
    async fn watch(&mut self) -> Status {
        let mut events = Vec::new();
        let (mut moment, mut turns) = (Moment::from_nanos(0), 0);
        loop {
            // A loop that never waits lets nobody else of its process act: its keeper does not renew.
            turns = if self.env.now() == moment { turns + 1 } else { 0 };
            moment = self.env.now();
            if turns > 1000 {
                let what = format!("client {} spins", self.client);
                self.env.world.violate(Violation::NeverEnds { what });
                std::future::pending::<()>().await;
            }
            for event in std::mem::take(&mut events) {
                let (actions, due) = self.policy.next(self.env.now(), event);
                self.due = due;
                for action in actions {
                    if let Some(status) = self.act(action) {
                        return status;
                    }
                }
            }
            let early = self.env.world.plant == Plant::ReleaseBeforeGroupGone;
            if early && self.leader && self.sweeping {
                return Status::Lost;
            }
            let sweep_at = if self.sweeping { self.env.now() + SWEEP_EVERY } else { Moment::NEVER };
            let Run { env, keepers, told, .. } = self;
            let mut happened = None;
            tokio::select! {
                biased;
                () = env.wait_until(self.due.min(sweep_at).min(self.guard.attend_at())) => events.push(Event::Due),
                what = told.recv() => happened = what,
                news = next_news(keepers) => {
                    self.guard.say(Message::HeldUntil(soonest(&self.keepers).ends_at));
                    events.extend(news.into_iter().map(Event::Lease));
                }
            }
            if self.env.now() >= self.guard.attend_at() && !self.guard.attend() {
                self.env.tell(&format!("client {}", self.client), || "replaces a silent guardian".to_owned());
                self.replace_guardian();
            }
            match happened {
                Some(Happened::Ended(ending)) => {
                    self.leader = true;
                    let by_itself = self.env.world.plant == Plant::DeathTakenForAnEnd;
                    let ending = if by_itself { Ending::Exited(7) } else { ending };
                    events.push(Event::Ended { ending, is_last: self.group.is_gone() });
                }
                Some(Happened::Told(signal)) => events.push(Event::Signal(signal)),
                Some(Happened::GuardianGone) => self.replace_guardian(),
                None => {}
            }
            if self.sweeping && self.leader && self.group.is_gone() {
                events.push(Event::GroupGone);
            }
        }
    }

    fn replace_guardian(&mut self) {
        let successor = Guard::start(&self.env, self.client, self.tell.clone());
        successor.say(Message::Group(self.group.clone()));
        successor.say(Message::HeldUntil(soonest(&self.keepers).ends_at));
        successor.say(Message::KillAt(self.policy.guard_at()));
        self.left.iter().for_each(|left| successor.say(Message::Lock(left.clone(), None)));
        std::mem::replace(&mut self.guard, successor).dismiss();
    }

    fn act(&mut self, action: Action) -> Option<Status> {
        match action {
            Action::Pass(signal) => self.group.signal(signal),
            Action::Stop => {
                self.env.tell(&format!("client {}", self.client), || "tells the command to end".to_owned());
                self.group.signal(Signal::SIGTERM);
                self.sweeping = true;
            }
            Action::Kill => {
                self.env.tell(&format!("client {}", self.client), || "kills the command's group".to_owned());
                self.group.signal(Signal::SIGKILL);
            }
            Action::Guard(moment) => self.guard.say(Message::KillAt(moment)),
            Action::Suspend | Action::Resume | Action::Say(_) => {}
            Action::Leave(status) => return Some(status),
        }
        None
    }
}
