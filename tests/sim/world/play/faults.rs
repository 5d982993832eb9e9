//! What is decided happens here: who comes, and what goes wrong and heals again.

use super::*;

/// Between the end of what a server holds that drains, and its own; and so long until the next one is there.
const DRAINED_MS: u64 = 20;

/// How long it takes at most until a guardian that stands still is replaced.
const NOTICED: u64 = 4 * SECOND;

impl World {
    pub(super) fn decide(self: &Rc<World>, at: usize) {
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
            What::HoldGuardian { client, for_ms } => self.hold_guardian(client, for_ms),
            What::KillCommand { client } => {
                if let Some(Client { leader: Some(group), .. }) = self.clients.borrow().get(client) {
                    group.kill_leader();
                }
            }
            What::Tell { client } => self.tell_to_end(client),
            What::Sleep { client, for_ms } => self.suspend(client, for_ms),
            What::Starve { client, most_ms } => self.starve(self.clients.borrow()[client].machine, most_ms * MS),
            What::KillServer { down_ms } => self.fell_server(down_ms, false),
            What::FreezeServer { for_ms } => self.freeze_server(for_ms),
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
            What::DrainServer => self.drain_server(),
            What::SetWall { by_ms } => {
                let mut server = self.server.borrow_mut();
                server.wall = server.wall.saturating_add_signed(by_ms * MS as i64);
                drop(server);
                if by_ms < 0 {
                    self.clock_is_lost();
                }
            }
        }
    }

    fn drain_server(self: &Rc<World>) {
        let incarnation = self.server.borrow().incarnation;
        self.when_it_goes_on(None, move |world| {
            if world.server.borrow().incarnation != incarnation {
                return;
            }
            if world.plant == Plant::DoorClosedWhileDraining {
                return world.serve_beside_the_old_one();
            }
            if let Some(((), effects)) = world.operate(&mut |table, turn| table.close(turn)) {
                world.tell("server", || "drains".to_owned());
                world.follow_up(effects, None);
                world.leave_when_free(incarnation);
            }
        });
    }

    fn leave_when_free(self: &Rc<World>, incarnation: u64) {
        let held = {
            let server = self.server.borrow();
            let Some(running) = server.running.as_ref().filter(|_| server.incarnation == incarnation) else { return };
            running.table.load().held
        };
        if held == 0 {
            return self.fell_server(DRAINED_MS, false);
        }
        self.after(DRAINED_MS * MS, move |world| {
            world.when_it_goes_on(None, move |world| world.leave_when_free(incarnation));
        });
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

    fn freeze_server(self: &Rc<World>, for_ms: u64) {
        let mut server = self.server.borrow_mut();
        if server.running.is_none() || server.frozen.is_some() {
            return;
        }
        server.frozen = Some(Vec::new());
        let (process, incarnation) = (server.process, server.incarnation);
        drop(server);
        self.stop(process);
        self.after(for_ms * MS, move |world| {
            if world.server.borrow().incarnation == incarnation {
                world.thaw_server();
            }
        });
    }

    fn arrive_client(self: &Rc<World>, client: usize, ppm: i64, role: Role) {
        let (machine, process) = {
            let mut clients = self.clients.borrow_mut();
            clients[client].ended = false;
            if let Role::Exec(job) = &role {
                let millis = if job.kill_after_given { job.kill_after_ms } else { job.kill_after_ms.min(1_000) };
                // It counts them on its own clock, which may be slow.
                let slow = millis * MS / 900_000 * ppm.min(0).unsigned_abs();
                clients[client].grace_after_loss = millis * MS + slow;
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
        let Some(Client { ended: false, process, guardian, held_at, thawed_at, woke_at, .. }) = clients.get(client)
        else {
            return false;
        };
        // Without its guardian nobody could act for it. One that stands still is noticed, by who runs.
        let since = held_at.max(thawed_at).max(woke_at);
        let is_noticed = self.now() >= since + NOTICED && !self.starves(*process) && !self.is_frozen(*process);
        let guards = |guardian| !self.is_dead(guardian) && (!self.is_stopped(guardian) || is_noticed);
        guardian.as_ref().is_none_or(|(guardian, _)| guards(*guardian)) && !self.is_dead(*process)
    }

    fn hold_guardian(self: &Rc<World>, client: usize, for_ms: u64) {
        let guardian = {
            let mut clients = self.clients.borrow_mut();
            let Some(Client { guardian: Some((guardian, _)), process, held_at, leader: Some(_), .. }) =
                clients.get_mut(client)
            else {
                return;
            };
            if self.is_frozen(*process) || self.is_dead(*process) || self.is_dead(*guardian) {
                return;
            }
            *held_at = self.now();
            *guardian
        };
        self.stop(guardian);
        self.after(for_ms * MS, move |world| world.go_on(guardian));
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

    /// Before there is a command, this would end the waiting.
    fn tell_to_end(&self, client: usize) {
        if let Some(Client { leader: Some(_), guardian: Some((_, heard)), .. }) = self.clients.borrow().get(client) {
            // One that has ended does not hear it.
            let _ = heard.send(Happened::Told(Signal::SIGTERM));
        }
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

    pub fn leads(&self, client: usize, group: super::super::child::Group) {
        if let Some(client) = self.clients.borrow_mut().get_mut(client) {
            client.leader = Some(group);
        }
    }
}
