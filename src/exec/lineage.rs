//! Remembers who descends from a command, for the time when their parents are not there any more to tell.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::kin::Kin;
use super::reach::is_apart;
use crate::clock::{self, Moment};
use crate::procfs::{self, Identity, Process};

/// How often it is looked, and where processor time is short.
const EVERY: Duration = Duration::from_millis(100);
const EVERY_AT_LEAST: Duration = Duration::from_secs(1);

/// One part of so many of the time is spent on it. Who has many descendants would be looked at too seldom by that; but
/// more than the larger part is never spent.
const SHARE: u32 = 100;
const LARGEST_SHARE: u32 = 20;
const SELDOM: Duration = Duration::from_secs(5);

pub(super) struct Lineage {
    /// Seen to descend from the command, whatever has become of their parents since.
    pub(super) known: HashSet<Identity>,
    look_at: Moment,
}

impl Lineage {
    pub(super) fn new() -> Lineage {
        Lineage { known: HashSet::new(), look_at: Moment::from_nanos(0) }
    }

    /// Looks around, if it is time for that, but not beyond a moment. Returns when to do it next.
    pub(super) fn look(&mut self, kin: &Kin, not_after: Moment, is_awake: bool) -> Moment {
        let begin = clock::now();
        if begin < self.look_at {
            return self.look_at;
        }
        let mut next = self.roots(kin);
        let numbers: HashMap<i32, Identity> = self.known.iter().map(|known| (known.pid, *known)).collect();
        let adopters: Vec<i32> = kin.adopters().filter(|one| is_there(one)).map(|one| one.pid).collect();
        let mut seen = HashMap::new();
        let mut visited = HashSet::new();
        while let Some(pid) = next.pop() {
            if clock::now() >= not_after {
                // Of those who were not looked at nobody is forgotten.
                numbers.into_iter().for_each(|(pid, identity)| _ = seen.entry(pid).or_insert(identity));
                break;
            }
            if !visited.insert(pid) {
                continue;
            }
            let Some(process) = Process::of(pid) else { continue };
            let identity = process.identity;
            let is_new = !self.known.contains(&identity);
            // A number that we knew may be somebody else's by now, who is a child of none of ours.
            let is_child = process.parent == kin.dflock.pid
                || adopters.contains(&process.parent)
                || seen.contains_key(&process.parent);
            let is_stranger = is_new && numbers.contains_key(&pid) && !is_child;
            if process.is_dead || is_stranger || is_new && is_apart(identity) {
                continue;
            }
            seen.insert(pid, identity);
            next.extend(procfs::children(pid).unwrap_or_default());
        }
        self.known = seen.into_values().collect();
        let now = clock::now();
        let cost = now.since(begin);
        let least = if is_awake { EVERY } else { EVERY_AT_LEAST };
        self.look_at = now + (cost * SHARE).min(SELDOM).max(least).max(cost * LARGEST_SHARE);
        self.look_at
    }

    /// Where to begin.
    fn roots(&self, kin: &Kin) -> Vec<i32> {
        let mut roots: Vec<i32> = self.known.iter().map(|known| known.pid).collect();
        roots.extend(kin.leader.filter(|leader| leader.started == 0 || is_there(leader)).map(|leader| leader.pid));
        roots.extend(adopted(kin));
        let process_one = kin.process_one.filter(is_there);
        roots.extend(process_one.into_iter().flat_map(|one| procfs::children(one.pid).unwrap_or_default()));
        roots
    }
}

/// The children of those who adopt the command's orphans, as far as they live, that are not our own: the command, and
/// its orphans.
pub(super) fn adopted(kin: &Kin) -> Vec<i32> {
    let adopters = kin.adopts.then_some(&kin.dflock).into_iter().chain(&kin.reapers).filter(|one| is_there(one));
    let mut children: Vec<i32> =
        adopters.flat_map(|adopter| procfs::children(adopter.pid).unwrap_or_default()).collect();
    children.retain(|pid| !kin.spared.iter().chain(kin.adopters()).any(|ours| ours.pid == *pid && is_there(ours)));
    children
}

fn is_there(one: &Identity) -> bool {
    Process::of(one.pid).is_some_and(|process| process.identity == *one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn to_look_is_bounded_and_forgets_nobody_who_lives() {
        let ours = Process::ours().unwrap().identity;
        let gone = Identity { started: ours.started + 1, ..ours };
        let kin = Kin {
            dflock: gone,
            mark: "m".to_owned(),
            spared: Vec::new(),
            adopts: true,
            reapers: Vec::new(),
            cgroup: None,
            process_one: None,
            leader: None,
        };
        let mut lineage = Lineage::new();
        lineage.known.insert(ours);
        let no_time = Moment::from_nanos(0);
        let again = lineage.look(&kin, no_time, true);
        assert_eq!(lineage.known, HashSet::from([ours]));
        assert!(again.since(clock::now()) <= SELDOM);
        assert_eq!(lineage.look(&kin, no_time, true), again, "not before that");
        lineage.look_at = no_time;
        lineage.look(&kin, Moment::NEVER, true);
        assert!(lineage.known.contains(&ours), "it was looked at, and lives");
        // One that is gone, whose number another process has.
        lineage = Lineage { known: HashSet::from([gone]), look_at: no_time };
        lineage.look(&kin, Moment::NEVER, true);
        assert!(!lineage.known.contains(&gone));
    }
}
