//! A command in its process group: stands for `exec::group` and for what the system does with processes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dflock::exec::status::Ending;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::env::Env;
use super::{MS, World};

/// How a command behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub run_ms: u64,
    /// It ends when it is told to, after so long.
    pub obeys_after_ms: Option<u64>,
    /// It does so with an exit code of its own.
    pub tidy: bool,
    /// It has started another process, which ends only when it is killed.
    pub deep: bool,
}

/// What a dflock hears of those it has started.
#[derive(Clone, Copy, Debug)]
pub enum Happened {
    Ended(Ending),
    GuardianGone,
    /// Somebody tells dflock to end, and means the command.
    Told(Signal),
}

/// A group, as dflock and guardian know it.
#[derive(Clone)]
pub struct Group {
    world: Rc<World>,
    pub child: usize,
    ears: Rc<RefCell<Vec<mpsc::UnboundedSender<Signal>>>>,
}

impl Group {
    pub fn spawn(
        env: &Env,
        client: usize,
        fences: Vec<u64>,
        manners: Manners,
        tell: mpsc::UnboundedSender<Happened>,
    ) -> Group {
        let world = env.world.clone();
        let process = world.new_process(env.machine());
        world.comes_first(process);
        let child = world.child_starts(client, process, fences, manners.deep);
        let group = Group { world: world.clone(), child, ears: Rc::default() };
        let own = Env { world: world.clone(), process };
        let (ear, heard) = mpsc::unbounded_channel();
        group.ears.borrow_mut().push(ear);
        world.spawn(process, lead(own.clone(), child, manners, heard, tell));
        if manners.deep {
            let (ear, heard) = mpsc::unbounded_channel();
            group.ears.borrow_mut().push(ear);
            world.spawn(process, straggle(own, child, heard));
        }
        group
    }

    /// To every process of the group, by dflock or its guardian.
    pub fn signal(&self, signal: Signal) {
        self.world.child_is_told(self.child);
        for ear in self.ears.borrow().iter() {
            // Who has ended hears nothing.
            let _ = ear.send(signal);
        }
    }

    /// To the command alone, by the system or somebody else.
    pub fn kill_leader(&self) {
        if let Some(ear) = self.ears.borrow().first() {
            let _ = ear.send(Signal::SIGKILL);
        }
    }

    pub fn is_gone(&self) -> bool {
        self.world.child_is_gone(self.child)
    }
}

async fn lead(
    env: Env,
    child: usize,
    manners: Manners,
    mut heard: mpsc::UnboundedReceiver<Signal>,
    tell: mpsc::UnboundedSender<Happened>,
) {
    let mut run = env.sleep(Duration::from_millis(manners.run_ms));
    let mut obeys = env.sleep(Duration::MAX);
    let ending = loop {
        tokio::select! {
            biased;
            signal = heard.recv() => match signal {
                Some(Signal::SIGKILL) => {
                    dies(&env, child).await;
                    break Ending::Killed(Signal::SIGKILL);
                }
                Some(_) => {
                    if let Some(millis) = manners.obeys_after_ms {
                        obeys = env.sleep(Duration::from_millis(millis));
                    }
                }
                None => std::future::pending().await,
            },
            () = &mut obeys => {
                break if manners.tidy { Ending::Exited(3) } else { Ending::Killed(Signal::SIGTERM) };
            }
            () = &mut run => break Ending::Exited(7),
        }
    };
    env.world.leader_ended(child, ending);
    let _ = tell.send(Happened::Ended(ending));
}

async fn straggle(env: Env, child: usize, mut heard: mpsc::UnboundedReceiver<Signal>) {
    while heard.recv().await.is_some_and(|signal| signal != Signal::SIGKILL) {}
    dies(&env, child).await;
    env.world.straggler_ended(child);
}

/// Between the signal and the end.
async fn dies(env: &Env, child: usize) {
    let nanos = env.world.dice(&[9, child as u64, env.world.now()]) % (3 * MS);
    env.sleep(Duration::from_nanos(nanos)).await;
}
