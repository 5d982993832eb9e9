//! Plays a history: clients come, faults happen and heal, and in the end nobody may be left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dflock::exec::status::{Ending, Status};
use dflock::server::table::Load;
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

    fn decide(self: &Rc<World>, at: usize) {
        let Decision { what, .. } = self.history.decisions[at].clone();
        self.tell("*", || format!("{what:?}"));
        match what {
            What::Arrive { client, ppm, role } => self.arrive_client(client, ppm, role),
            What::Cut { client } => self.cut(client, false),
            What::HalfOpen { client } => self.cut(client, true),
            What::Swallow { client, for_ms } => self.swallow(client, self.now() + for_ms * MS),
            What::Slow { client, by_ms, for_ms } => self.slow_down(client, by_ms * MS, self.now() + for_ms * MS),
            What::Freeze { client, for_ms } => self.freeze(client, for_ms),
            What::KillDflock { client } => self.kill_dflock(client),
            What::KillGuardian { client } => self.kill_guardian(client),
            What::KillCommand { client } => {
                if let Some(Client { leader: Some(group), .. }) = self.clients.borrow().get(client) {
                    group.kill_leader();
                }
            }
            What::Sleep { client, for_ms } => self.suspend(client, for_ms),
            What::KillServer { down_ms } => self.fell_server(down_ms, false),
            What::CutPower { down_ms } => self.fell_server(down_ms, true),
            What::BreakDisk { for_ms } => {
                self.disk.borrow_mut().broken = true;
                self.after(for_ms * MS, |world| world.disk.borrow_mut().broken = false);
            }
            What::BreakDirectory { for_ms } => {
                self.disk.borrow_mut().directory_broken = true;
                self.after(for_ms * MS, |world| world.disk.borrow_mut().directory_broken = false);
            }
            What::SlowDisk { by_ms, for_ms } => {
                self.disk.borrow_mut().slow_by = by_ms * MS;
                self.after(for_ms * MS, |world| world.disk.borrow_mut().slow_by = 0);
            }
            What::SetWall { by_ms } => {
                let mut server = self.server.borrow_mut();
                server.wall = server.wall.saturating_add_signed(by_ms * MS as i64);
            }
        }
    }

    fn fell_server(self: &Rc<World>, down_ms: u64, power: bool) {
        if self.server.borrow().down {
            return;
        }
        self.server.borrow_mut().down = true;
        self.crash(power);
        self.after(down_ms * MS, |world| {
            world.server.borrow_mut().down = false;
            world.start_server();
        });
    }

    fn arrive_client(self: &Rc<World>, client: usize, ppm: i64, role: Role) {
        let (machine, process) = {
            let mut clients = self.clients.borrow_mut();
            clients[client].ended = false;
            if let Role::Exec(job) = &role {
                let millis = if job.kill_after_given { job.kill_after_ms } else { job.kill_after_ms.min(1_000) };
                clients[client].grace_after_loss = millis * MS;
            }
            (clients[client].machine, clients[client].process)
        };
        self.set_clock(machine, ppm, self.dice(&[11, client as u64]) % (1_000_000 * SECOND));
        let env = Env { world: self.clone(), process };
        self.spawn(process, async move {
            let lease_ms = if let Role::Exec(job) = &role { job.lease_ms } else { 0 };
            let outcome = match role {
                Role::Exec(job) => exec::run(env.clone(), client, job).await,
                Role::Holder(job) => holder::run(env.clone(), client, job).await,
                // The original's places have no tickets.
                Role::Ticket(_) if env.world.history.site == Site::Original => Outcome::TooLate,
                Role::Ticket(job) => ticket::run(env.clone(), client, job).await,
            };
            let world = env.world.clone();
            world.tell(&format!("client {client}"), || format!("ends: {outcome:?}"));
            let ran_to_its_end = matches!(
                outcome,
                Outcome::Ran(Status::Child(Ending::Exited(7)) | Status::RuntimeOver) | Outcome::NotObtained(_)
            );
            if lease_ms >= 10_000 && world.history.has_only_upgrades() && !ran_to_its_end {
                world.violate(Violation::Disturbed { client });
            }
            drop(env);
            // Its end closes whatever it had open.
            world.after(0, move |world| {
                world.kill(process);
                world.clients.borrow_mut()[client].ended = true;
            });
        });
    }

    fn can_be_harmed(&self, client: usize) -> bool {
        let clients = self.clients.borrow();
        let Some(Client { ended: false, process, guardian, .. }) = clients.get(client) else { return false };
        // Without its guardian nobody could act for it.
        let guarded = guardian.as_ref().is_none_or(|(process, _)| !self.is_dead(*process));
        guarded && !self.is_dead(*process)
    }

    fn freeze(self: &Rc<World>, client: usize, for_ms: u64) {
        if !self.can_be_harmed(client) {
            return;
        }
        let process = self.clients.borrow()[client].process;
        self.stop(process);
        self.after(for_ms * MS, move |world| {
            world.tell(&format!("client {client}"), || "goes on".to_owned());
            world.clients.borrow_mut()[client].thawed_at = world.now();
            world.go_on(process);
        });
    }

    fn kill_dflock(self: &Rc<World>, client: usize) {
        if !self.can_be_harmed(client) {
            return;
        }
        let (process, leader) = {
            let mut clients = self.clients.borrow_mut();
            clients[client].ended = true;
            (clients[client].process, clients[client].leader.take())
        };
        self.kill(process);
        // PR_SET_PDEATHSIG. Whoever else is in the group is the guardian's.
        if let Some(leader) = leader {
            self.child_is_told(leader.child);
            leader.kill_leader();
        }
    }

    fn kill_guardian(self: &Rc<World>, client: usize) {
        let clients = self.clients.borrow();
        let Some(Client { guardian: Some((guardian, gone)), process, .. }) = clients.get(client) else { return };
        // A stopped dflock could not start another one, and is harmed already.
        if self.is_frozen(*process) || self.is_dead(*process) || self.is_dead(*guardian) {
            return;
        }
        let (guardian, gone) = (*guardian, gone.clone());
        drop(clients);
        self.kill(guardian);
        let _ = gone.send(Happened::GuardianGone);
    }

    fn suspend(self: &Rc<World>, client: usize, for_ms: u64) {
        let Some(machine) = self.clients.borrow().get(client).map(|client| client.machine) else { return };
        if self.is_asleep(machine) {
            return;
        }
        self.put_to_sleep(machine);
        self.swallow(client, self.now() + for_ms * MS);
        self.after(for_ms * MS, move |world| {
            world.clients.borrow_mut()[client].woke_at = world.now();
            world.wake_up(machine);
            world.woke(machine);
        });
    }

    pub fn guardian_starts(&self, client: usize, process: usize, gone: mpsc::UnboundedSender<Happened>) {
        if let Some(client) = self.clients.borrow_mut().get_mut(client) {
            client.guardian = Some((process, gone));
        }
    }

    pub fn leads(&self, client: usize, group: super::child::Group) {
        if let Some(client) = self.clients.borrow_mut().get_mut(client) {
            client.leader = Some(group);
        }
    }
}
