//! Pure: who of all processes belongs to a command, though it may have left the group, its session or its parents.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::procfs::{Identity, Process};

/// By what a command's processes are known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kin {
    /// Whose children they are, and become when their own parents end.
    pub(super) dflock: Identity,
    /// What stands in the environment of each, and is handed down to whomever they start.
    pub(super) mark: String,
    /// Children that dflock had before.
    pub(super) spared: Vec<Identity>,
    /// Whoever becomes a child of dflock later is the command's. Not so where those before may leave orphans.
    pub(super) adopts: bool,
    /// Processes of ours that the command is started below then: whoever descends from them is the command's.
    pub(super) reapers: Vec<Identity>,
    /// Whoever is in this cgroup is the command's.
    pub(super) cgroup: Option<PathBuf>,
    /// Process 1 of the command's namespace: whoever descends from it is the command's.
    pub(super) process_one: Option<Identity>,
    /// The command itself, and its group. With its number alone it could be mistaken for a later process.
    pub leader: Option<Identity>,
}

impl Kin {
    /// Those that live. `known` have been seen to belong to it; `is_marked` and `is_apart` look at one process more
    /// closely: whether it carries the mark, and whether it is a guardian or a service of dflock's own, which serves
    /// others too.
    pub(super) fn find(
        &self,
        all: &[Process],
        known: &HashSet<Identity>,
        mut is_marked: impl FnMut(Identity) -> bool,
        mut is_apart: impl FnMut(Identity) -> bool,
    ) -> Vec<Process> {
        let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
        for process in all.iter().filter(|process| !process.is_dead) {
            children.entry(process.parent).or_default().push(process);
        }
        let dflock_lives = all.iter().any(|process| process.identity == self.dflock && !process.is_dead);
        let has_group = self.has_group(all);
        let is_there = |one: &&Identity| all.iter().any(|process| process.identity == **one && !process.is_dead);
        let adopters: Vec<i32> = self.adopters().filter(is_there).map(|one| one.pid).collect();
        let is_root = |process: &Process| {
            let identity = process.identity;
            let is_leader = Some(identity) == self.leader;
            let is_adopted = dflock_lives && self.adopts && process.parent == self.dflock.pid;
            let is_orphan = adopters.contains(&process.parent);
            let is_member = has_group && self.leader.is_some_and(|leader| process.group == leader.pid);
            is_leader || is_member || is_adopted || is_orphan || known.contains(&identity)
        };
        let mut seen: HashSet<Identity> = self.spared.iter().copied().collect();
        seen.insert(self.dflock);
        seen.extend(self.adopters());
        let mut found = Vec::new();
        let living = all.iter().filter(|process| !process.is_dead);
        let (roots, others): (Vec<&Process>, Vec<&Process>) = living.partition(|process| is_root(process));
        let mut next = roots;
        let mut others = others.into_iter();
        loop {
            while let Some(process) = next.pop() {
                // Nobody looks further from one who stands apart: whom it started is its own affair.
                if seen.insert(process.identity) && !is_apart(process.identity) {
                    found.push(*process);
                    next.extend(children.get(&process.identity.pid).into_iter().flatten().copied());
                }
            }
            // The environment is looked at last, and only of those who are not known by anything else.
            match others.find(|process| !seen.contains(&process.identity) && is_marked(process.identity)) {
                Some(process) => next.push(process),
                None => return found,
            }
        }
    }

    /// Those of ours, besides dflock, to whom the command's orphans go.
    pub(super) fn adopters(&self) -> impl Iterator<Item = &Identity> {
        self.process_one.iter().chain(&self.reapers)
    }

    /// As long as anybody of a group lives, its number is nobody else's: so a later process with that number says
    /// that the group is gone.
    pub(super) fn has_group(&self, all: &[Process]) -> bool {
        let Some(leader) = self.leader else { return false };
        all.iter().find(|process| process.identity.pid == leader.pid).is_none_or(|process| process.identity == leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(pid: i32) -> Identity {
        Identity { pid, started: 100 }
    }

    fn process(pid: i32, parent: i32, group: i32) -> Process {
        Process { identity: id(pid), parent, group, is_dead: false }
    }

    fn kin() -> Kin {
        Kin {
            dflock: id(10),
            mark: "m".to_owned(),
            spared: vec![id(11)],
            adopts: true,
            reapers: Vec::new(),
            cgroup: None,
            process_one: None,
            leader: Some(id(20)),
        }
    }

    /// Dflock 10 with its guardian 11, the command 20 and its child 21, and strangers.
    fn all() -> Vec<Process> {
        vec![
            process(1, 0, 1),
            process(10, 1, 10),
            process(11, 10, 11),
            process(20, 10, 20),
            process(21, 20, 20),
            process(90, 1, 90),
        ]
    }

    fn found(kin: &Kin, all: &[Process], known: &[i32], marked: &[i32], apart: &[i32]) -> Vec<i32> {
        let known = known.iter().map(|pid| id(*pid)).collect();
        let is_marked = |identity: Identity| marked.contains(&identity.pid);
        let is_apart = |identity: Identity| apart.contains(&identity.pid);
        let mut pids: Vec<i32> =
            kin.find(all, &known, is_marked, is_apart).iter().map(|process| process.identity.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn the_group_and_nobody_else() {
        assert_eq!(found(&kin(), &all(), &[], &[], &[]), [20, 21]);
    }

    #[test]
    fn who_left_the_group_is_found_by_its_parents() {
        let more = [process(30, 21, 30), process(31, 30, 31)];
        let all = [all(), more.to_vec()].concat();
        assert_eq!(found(&kin(), &all, &[], &[], &[]), [20, 21, 30, 31]);
    }

    #[test]
    fn an_orphan_is_ours_by_adoption_by_its_mark_or_because_it_was_seen() {
        let orphans = |parent| [all(), vec![process(40, parent, 40), process(41, 40, 40)]].concat();
        assert_eq!(found(&kin(), &orphans(10), &[], &[], &[]), [20, 21, 40, 41]);
        // Dflock had children of its own, who may have left it orphans too.
        let careful = Kin { adopts: false, ..kin() };
        assert_eq!(found(&careful, &orphans(10), &[], &[], &[]), [20, 21]);
        assert_eq!(found(&careful, &orphans(10), &[], &[40], &[]), [20, 21, 40, 41]);
        assert_eq!(found(&careful, &orphans(10), &[41], &[], &[]), [20, 21, 41]);
        // Dflock is dead, and all of them are process 1's.
        let mut orphaned = orphans(1);
        orphaned.retain(|process| process.identity.pid != 10);
        assert_eq!(found(&kin(), &orphaned, &[], &[], &[]), [20, 21]);
        assert_eq!(found(&kin(), &orphaned, &[40], &[], &[]), [20, 21, 40, 41]);
    }

    #[test]
    fn orphans_in_a_namespace_belong_to_its_process_1() {
        let kin = Kin { process_one: Some(id(12)), spared: vec![id(11)], ..kin() };
        let all = [all(), vec![process(12, 10, 12), process(40, 12, 40), process(41, 40, 40)]].concat();
        assert_eq!(found(&kin, &all, &[], &[], &[]), [20, 21, 40, 41], "and not itself");
        let other = Kin { process_one: Some(Identity { pid: 12, started: 999 }), adopts: false, ..kin };
        assert_eq!(found(&other, &all, &[], &[], &[]), [20, 21], "its number is somebody else's");
    }

    #[test]
    fn where_dflock_had_children_before_the_commands_orphans_are_its_reapers() {
        let reapers = vec![id(12), id(13)];
        let kin = Kin { adopts: false, spared: vec![id(11), id(14)], reapers, ..kin() };
        let mut all = all();
        all.retain(|process| process.identity.pid != 20);
        let more = [process(12, 10, 12), process(13, 12, 13), process(20, 13, 20), process(40, 13, 40)];
        all.extend(more);
        // One of dflock's children before, and an orphan of it.
        all.extend([process(14, 10, 10), process(50, 10, 50)]);
        assert_eq!(found(&kin, &all, &[], &[], &[]), [20, 21, 40], "and not themselves");
        // The lower one was killed, and all of them are the upper one's.
        all.retain(|process| process.identity.pid != 13);
        all.iter_mut().filter(|process| process.parent == 13).for_each(|process| process.parent = 12);
        assert_eq!(found(&kin, &all, &[], &[], &[]), [20, 21, 40]);
        // Dflock and the upper one were killed.
        all.retain(|process| ![10, 12].contains(&process.identity.pid));
        all.iter_mut().filter(|process| process.parent == 12).for_each(|process| process.parent = 13);
        all.push(process(13, 1, 13));
        assert_eq!(found(&kin, &all, &[], &[], &[]), [20, 21, 40]);
    }

    #[test]
    fn numbers_that_were_given_anew_fool_nobody() {
        let mut all = all();
        // The command and its group are gone, and both numbers are somebody else's.
        all.retain(|process| process.group != 20);
        let later = |pid, group| Process { identity: Identity { pid, started: 999 }, parent: 1, group, is_dead: false };
        all.extend([later(20, 20), later(21, 20), later(40, 40)]);
        assert!(found(&kin(), &all, &[40], &[], &[]).is_empty());
        all.retain(|process| process.identity.pid != 10);
        all.push(later(10, 10));
        all.push(Process { parent: 10, ..process(50, 10, 50) });
        assert!(found(&kin(), &all, &[], &[], &[]).is_empty(), "a child of another process with dflock's number");
    }

    #[test]
    fn guardians_services_the_spared_and_the_dead_are_left_out() {
        let mut all = [all(), vec![process(30, 20, 30), process(31, 30, 31), process(12, 11, 12)]].concat();
        assert_eq!(found(&kin(), &all, &[], &[11, 30], &[30]), [20, 21]);
        all[4].is_dead = true;
        assert_eq!(found(&kin(), &all, &[], &[], &[30]), [20]);
    }
}
