//! Plays a history: clients come, faults happen and heal, and in the end nobody may be left.

mod faults;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dflock::exec::status::{Ending, Status};
use dflock::server::table::Load;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::check::Violation;
use super::child::Happened;
use super::env::Env;
use super::exec::{self, Outcome};
use super::history::{Decision, History, Role, Site, What};
use super::{MS, Plant, SECOND, World, holder, ticket};

/// How long after the last decision everybody must have come to an end.
const PATIENCE: u64 = 400 * SECOND;

/// How long a decision waits for the step that it is to follow.
const LONGEST_STEPS: u64 = SECOND / 5;

/// More events than any history has.
const MOST_STEPS: u64 = 400_000;

/// Somebody who came for a lock.
pub struct Client {
    pub machine: usize,
    pub process: usize,
    guardian: Option<(usize, mpsc::UnboundedSender<Happened>)>,
    /// When its guardian was made to stand still, for the last time.
    held_at: u64,
    pub child: Option<usize>,
    /// What its command is left with after a proved loss.
    pub grace_after_loss: u64,
    pub woke_at: u64,
    /// When its dflock went on after it had been stopped.
    pub thawed_at: u64,
    ended: bool,
    /// A leader's death goes to its group by the system when dflock dies.
    leader: Option<super::child::Group>,
}

/// How a history went.
pub struct Played {
    pub violation: Option<Violation>,
    pub story: Vec<String>,
    pub steps: u64,
}

pub fn play(history: &Rc<History>, plant: Plant, tell: bool) -> Played {
    let world = World::new(history.clone(), plant, tell);
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&world)));
    let mut violation = world.check.borrow().violation.clone();
    if outcome.is_err() && violation.is_none() {
        violation = Some(Violation::NeverEnds { what: "a panic, told above".to_owned() });
    }
    let story = world.story();
    world.dissolve();
    Played { violation, story, steps: outcome.unwrap_or(0) }
}

fn run(world: &Rc<World>) -> u64 {
    let begin = world.now();
    world.start_server();
    let last = world.history.decisions.iter().map(|decision| decision.at_ms).max().unwrap_or(0);
    let clients = world.history.decisions.iter().filter_map(|decision| match decision.what {
        What::Arrive { client, .. } => Some(client + 1),
        _ => None,
    });
    for _ in 0..clients.max().unwrap_or(0) {
        let machine = world.new_machine(0, 0);
        let process = world.new_process(machine);
        world.clients.borrow_mut().push(Client {
            machine,
            process,
            guardian: None,
            held_at: 0,
            child: None,
            grace_after_loss: SECOND,
            woke_at: 0,
            thawed_at: 0,
            ended: true,
            leader: None,
        });
    }
    for (at, decision) in world.history.decisions.iter().enumerate() {
        let steps = decision.steps;
        world.at(begin + decision.at_ms * MS, move |world| {
            world.armed.borrow_mut().push((steps, at));
            // Where little happens, steps take long.
            world.after(LONGEST_STEPS, |world| world.armed.borrow_mut().iter_mut().for_each(|(steps, _)| *steps = 0));
        });
    }
    let end = begin + last * MS;
    let mut steps = 0;
    while world.step() {
        steps += 1;
        world.count_down();
        if steps > MOST_STEPS {
            world.violate(Violation::NeverEnds { what: "more steps than any history has".to_owned() });
            return steps;
        }
        if world.now() <= end || steps % 16 != 0 || !world.armed.borrow().is_empty() {
            continue;
        }
        if world.is_drained() {
            return steps;
        }
        if world.now() > end + PATIENCE {
            break;
        }
    }
    if world.check.borrow().violation.is_none() && !world.is_drained() {
        let busy: Vec<usize> =
            world.clients.borrow().iter().enumerate().filter(|(_, it)| !it.ended).map(|it| it.0).collect();
        let server = world.server.borrow();
        let load = server.running.as_ref().map(|running| running.table.load());
        let what = format!("clients {busy:?} are left, the server has {load:?}");
        drop(server);
        world.violate(Violation::NeverEnds { what });
    }
    steps
}

impl World {
    fn is_drained(&self) -> bool {
        let server = self.server.borrow();
        let empty = server.running.as_ref().is_some_and(|running| running.table.load() == Load::default());
        empty && self.clients.borrow().iter().all(|client| client.ended)
    }

    fn count_down(self: &Rc<World>) {
        let due: Vec<usize> = {
            let mut armed = self.armed.borrow_mut();
            let due = armed.iter().filter(|(steps, _)| *steps == 0).map(|(_, at)| *at).collect();
            armed.retain(|(steps, _)| *steps > 0);
            armed.iter_mut().for_each(|(steps, _)| *steps -= 1);
            due
        };
        due.into_iter().for_each(|at| self.decide(at));
    }
}
