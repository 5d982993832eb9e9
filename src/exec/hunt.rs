//! Ends everybody of a command, those too who run away from that.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::lineage::adopted;
use super::reach::{Reach, is_apart, signal_one};
use crate::clock::{self, Moment};
use crate::procfs::{self, Identity, Process};

/// How long it may take until everybody has stopped, and how long is hunted for those whom nobody sees for long.
const STOP_WITHIN: Duration = Duration::from_millis(100);
const HUNT_FOR: Duration = Duration::from_millis(10);
const NOBODY_NEW_FOR: Duration = Duration::from_millis(1);

const STOP_PAUSE: Duration = Duration::from_micros(100);

/// What is done again and again, since somebody cannot be ended, takes no more than one part of so many and one.
const END_SHARE: u32 = 3;

/// Descriptors have numbers below this.
const DESCRIPTORS: u64 = 1024;

/// How often those who come and go are looked at until nobody has come or gone.
const LOOKS: usize = 3;

impl Reach {
    /// Ends everybody. While one after the other is ended, those who are left could start others whom nobody would see
    /// any more: so all of them are stopped first, until nobody new is found, and nothing is in the middle of a fork. But
    /// to look for them takes only so long, however many processes there are; whoever has to be asked whose it is comes
    /// after that.
    pub(super) fn end(&mut self) {
        let begin = clock::now();
        let is_time_to_look = begin >= self.end_again_at;
        self.signal_group(if is_time_to_look { Signal::SIGSTOP } else { Signal::SIGKILL });
        self.signal_cgroup(Signal::SIGKILL);
        self.end_namespace();
        if !is_time_to_look {
            return;
        }
        self.look_at = Moment::from_nanos(0);
        have_descriptors();
        for is_asked in [false, true] {
            let until = clock::now() + STOP_WITHIN;
            let stopped = self.stop_all(is_asked, until);
            self.signal_group(Signal::SIGKILL);
            for identity in stopped {
                self.lineage.known.insert(identity);
                signal_one(identity, Signal::SIGKILL);
            }
        }
        self.hunt();
        let now = clock::now();
        self.end_again_at = now + now.since(begin) * END_SHARE;
    }

    /// Until nobody new is found, or to a moment. To look once takes its time, which those have who are asked.
    fn stop_all(&self, is_asked: bool, until: Moment) -> HashSet<Identity> {
        let mut stopped: HashSet<Identity> = HashSet::new();
        let known = self.kin.leader.iter().chain(self.kin.adopters()).chain([&self.kin.dflock]);
        let first: HashSet<i32> = known.chain(&self.lineage.known).map(|identity| identity.pid).collect();
        let first: Vec<i32> = first.into_iter().collect();
        while let Ok(all) = procfs::processes_until(&first, if is_asked { Moment::NEVER } else { until }) {
            let mut found = if is_asked { self.find(&all).0 } else { self.find_known(&all) };
            found.retain(|process| stopped.insert(process.identity));
            // Of those who cannot be signalled nobody can say when they start somebody.
            found.retain(|process| signal_one(process.identity, Signal::SIGSTOP));
            if found.is_empty() || clock::now() >= until {
                break;
            }
            for process in found {
                wait_until_at_rest(process.identity.pid, until);
            }
        }
        stopped
    }

    /// Who starts another one and ends, again and again, is hardly ever there when all are looked at. But they are
    /// children of whoever adopts orphans, or theirs, as long as that one is there.
    fn hunt(&self) {
        let begin = clock::now();
        let mut last = begin;
        let reapers = self.kin.reapers.iter().chain([&self.kin.dflock]);
        let mut met: HashSet<i32> = reapers.map(|reaper| reaper.pid).collect();
        let mut next = adopted(&self.kin);
        loop {
            while let Some(pid) = next.pop() {
                if met.insert(pid) {
                    // Before it ends, which makes them dflock's.
                    let below = procfs::children(pid).unwrap_or_default();
                    end_child(pid, &met);
                    next.extend(below);
                    last = clock::now();
                }
            }
            let now = clock::now();
            if now >= begin + HUNT_FOR || now >= last + NOBODY_NEW_FOR || !self.has_adopted() {
                return;
            }
            next = adopted(&self.kin);
        }
    }

    /// Whether whoever adopts orphans has a child that lives and is not our own. Who starts another one and ends, again and again, is
    /// overlooked by whoever looks at one process after the other. But if all children were dead, and nobody has come
    /// or gone since, then nobody is left: a dead one has no children any more.
    pub(super) fn has_adopted(&self) -> bool {
        let mut before = adopted(&self.kin);
        for _ in 0..LOOKS {
            let is_ours = |process: Process| !process.is_dead && !is_apart(process.identity);
            if before.iter().any(|pid| Process::of(*pid).is_some_and(is_ours)) {
                return true;
            }
            let after = adopted(&self.kin);
            if after == before {
                return false;
            }
            before = after;
        }
        true
    }
}

/// To look for processes takes some, and somebody may have taken them from us since we began. Where we may not have
/// them back, the group and the cgroup are ended all the same.
fn have_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < DESCRIPTORS && setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard.max(DESCRIPTORS)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS).max(soft), hard);
    }
}

/// Ends one that was seen below one of these.
fn end_child(pid: i32, parents: &HashSet<i32>) {
    let process = Process::of(pid).filter(|process| !process.is_dead && parents.contains(&process.parent));
    if let Some(process) = process.filter(|process| !is_apart(process.identity)) {
        signal_one(process.identity, Signal::SIGKILL);
    }
}

/// It has been told to stop.
fn wait_until_at_rest(pid: i32, until: Moment) {
    while !procfs::is_at_rest(pid) && clock::now() < until {
        std::thread::sleep(STOP_PAUSE);
    }
}
