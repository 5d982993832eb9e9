//! Commands that run, and until when each may.

use super::*;

impl World {
    pub(super) fn is_waking(&self, process: usize) -> bool {
        let clients = self.clients.borrow();
        let machine = self.processes.borrow()[process].machine;
        clients.iter().any(|client| client.machine == machine && self.now() < client.woke_at + WAKING)
    }

    /// A machine woke: what it slept through ends soon.
    pub fn woke(self: &Rc<World>, machine: usize) {
        self.after(WAKING, move |world| {
            let count = world.check.borrow().children.len();
            for child in 0..count {
                let Child { client, process, ref fences, .. } = world.check.borrow().children[child];
                let fences = fences.clone();
                let there = world.processes.borrow()[process].machine == machine && !world.is_frozen(process);
                if !there || !world.check.borrow().children[child].lives() {
                    continue;
                }
                for fence in fences {
                    let check = world.check.borrow();
                    let over = check.grants.get(&fence).filter(|grant| !grant.live && !grant.freed_by_break);
                    let why = over.and_then(|grant| grant.ended);
                    drop(check);
                    if let Some(why) = why {
                        world.violate(Violation::ChildPastLease { client, fence, why });
                    }
                }
            }
        });
    }

    pub(super) fn children_of(&self, fence: u64) -> Vec<usize> {
        let check = self.check.borrow();
        let all = check.children.iter().enumerate();
        all.filter(|(_, child)| child.lives() && child.fences.contains(&fence)).map(|(at, _)| at).collect()
    }

    /// By when a command whose lock a break freed must have ended.
    pub(super) fn look_at_bound(self: &Rc<World>, fence: u64) {
        let now = self.now();
        for child in self.children_of(fence) {
            let check = self.check.borrow();
            let Some(belief) = check.beliefs.get(&fence) else { return };
            let Child { client, process, .. } = check.children[child];
            if self.starves(process) {
                // Who wakes late sets out so much sooner: what counts is the end of the lease.
                continue;
            }
            let of_client = |clients: &Vec<Client>| {
                clients.get(client).map_or((SECOND, 0), |client| (client.grace_after_loss, client.thawed_at))
            };
            let (grace, thawed_at) = of_client(&self.clients.borrow());
            // One that was stopped meanwhile acts as soon as it goes on.
            let told = belief.told_at.map_or(u64::MAX, |at| (at + grace).max(thawed_at));
            let bound = belief.until.min(told).saturating_add(SLACK);
            let (stopped, until) = (self.is_frozen(belief.process), belief.until.saturating_add(SLACK));
            drop(check);
            if self.is_frozen(process) || self.is_waking(process) {
                self.after(WAKING, move |world| world.look_at_bound(fence));
            } else if now < bound {
                self.at(bound, move |world| world.look_at_bound(fence));
            } else if stopped && now < until {
                // Only the guardian can act.
                self.at(until, move |world| world.look_at_bound(fence));
            } else {
                self.violate(Violation::ChildPastBound { client, fence });
            }
        }
    }

    pub fn child_starts(&self, client: usize, process: usize, fences: Vec<u64>, deep: bool) -> usize {
        self.tell(&format!("client {client}"), || format!("starts its command, under {fences:?}"));
        let mut broke = None;
        let child = {
            let mut check = self.check.borrow_mut();
            for fence in &fences {
                let grant = check.grants.get(fence);
                if !grant.is_some_and(|grant| grant.live || grant.freed_by_break) {
                    let why = grant.and_then(|grant| grant.ended).unwrap_or(Why::Expired);
                    broke = Some(Violation::ChildPastLease { client, fence: *fence, why });
                }
            }
            let (told, by_itself) = (false, false);
            check.children.push(Child { client, process, fences, leader: true, straggler: deep, told, by_itself });
            check.children.len() - 1
        };
        if let Some(client) = self.clients.borrow_mut().get_mut(client) {
            client.child = Some(child);
        }
        if let Some(violation) = broke {
            self.violate(violation);
        }
        child
    }

    pub fn child_is_told(&self, child: usize) {
        self.check.borrow_mut().children[child].told = true;
    }

    pub fn leader_ended(&self, child: usize, ending: Ending) {
        let mut check = self.check.borrow_mut();
        let child = &mut check.children[child];
        child.leader = false;
        child.by_itself = !child.told && matches!(ending, Ending::Exited(_));
        let client = child.client;
        drop(check);
        self.tell(&format!("command {client}"), || format!("ended: {ending:?}"));
    }

    pub fn straggler_ended(&self, child: usize) {
        self.check.borrow_mut().children[child].straggler = false;
    }

    /// Nobody is left of its group.
    pub fn child_is_gone(&self, child: usize) -> bool {
        let check = self.check.borrow();
        !check.children[child].leader && !check.children[child].straggler
    }
}
