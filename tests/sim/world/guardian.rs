//! The guardian: stands for `exec::guard`. A process of its own, that outlives dflock by what has to be done.

use std::time::Duration;

use dflock::clock::Moment;
use dflock::server::stamp::Stamp;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::child::{Group, Happened};
use super::client::Site;
use super::env::Env;
use super::net::Socket;
use super::{MS, Plant};

pub enum Message {
    Group(Group),
    KillAt(Moment),
    Lock(Left, Option<Socket>),
    Farewell,
}

/// A lock to let go of.
#[derive(Clone)]
pub struct Left {
    pub site: Site,
    pub token: Stamp,
}

pub struct Guard {
    tell: mpsc::UnboundedSender<Message>,
}

impl Guard {
    pub fn start(env: &Env, client: usize, gone: mpsc::UnboundedSender<Happened>) -> Guard {
        let world = &env.world;
        let process = world.new_process(env.machine());
        let (tell, told) = mpsc::unbounded_channel();
        let own = Env { world: world.clone(), process };
        world.guardian_starts(client, process, gone);
        world.spawn(process, async move {
            let left = watch(&own, client, told).await;
            for Left { site, token } in left {
                let site = Site { env: own.clone(), ..site };
                site.release(token).await;
            }
        });
        Guard { tell }
    }

    /// If it is gone, that is noticed when it is reaped.
    pub fn say(&self, message: Message) {
        let _ = self.tell.send(message);
    }
}

async fn watch(env: &Env, client: usize, mut told: mpsc::UnboundedReceiver<Message>) -> Vec<Left> {
    let off = env.world.plant == Plant::GuardianOff;
    let mut group: Option<Group> = None;
    let mut kill_at = Moment::NEVER;
    let (mut locks, mut connections) = (Vec::new(), Vec::new());
    loop {
        if env.now() >= kill_at {
            // One that slept with its machine looks at the clock a tenth of a second later at most.
            if env.now().since(kill_at) > Duration::from_millis(5) {
                let late = env.world.dice(&[10, env.world.now()]) % (101 * MS);
                env.sleep(Duration::from_nanos(late)).await;
            }
            if let Some(group) = group.as_ref().filter(|_| !off) {
                env.tell(&format!("guardian {client}"), || "the deadline has passed: kills the group".to_owned());
                group.signal(Signal::SIGKILL);
            }
            kill_at = Moment::NEVER;
        }
        let message = tokio::select! {
            biased;
            message = told.recv() => message,
            () = env.wait_until(kill_at) => continue,
        };
        match message {
            Some(Message::Group(of)) => group = Some(of),
            Some(Message::KillAt(moment)) => kill_at = moment,
            Some(Message::Lock(left, connection)) => {
                locks.push(left);
                connections.push(connection);
            }
            Some(Message::Farewell) => return Vec::new(),
            None => break,
        }
    }
    env.tell(&format!("guardian {client}"), || "dflock is gone without a word".to_owned());
    if let Some(group) = group.filter(|_| !off) {
        while !group.is_gone() {
            group.signal(Signal::SIGKILL);
            env.sleep(Duration::from_millis(1)).await;
        }
    }
    locks
}
