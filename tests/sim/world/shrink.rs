//! Makes a failing history shorter for as long as it fails the same way.

use std::mem::discriminant;
use std::rc::Rc;

use super::Plant;
use super::check::Violation;
use super::history::{History, Role, What};
use super::play::play;

/// How many shorter ones are tried.
const TRIES: usize = 1500;

pub fn shrink(history: &Rc<History>, plant: Plant, violation: &Violation) -> Rc<History> {
    let mut best = history.clone();
    let mut tries = 0;
    let mut fails = |candidate: &Rc<History>| {
        tries += 1;
        let played = play(candidate, plant, false);
        tries < TRIES && played.violation.is_some_and(|other| discriminant(&other) == discriminant(violation))
    };
    loop {
        let before = best.decisions.len();
        let mut size = (before / 2).max(1);
        loop {
            let mut at = 0;
            while at < best.decisions.len() {
                let mut shorter = (*best).clone();
                let end = (at + size).min(shorter.decisions.len());
                shorter.decisions.drain(at..end);
                let shorter = Rc::new(shorter);
                if fails(&shorter) {
                    best = shorter;
                } else {
                    at += size;
                }
            }
            if size == 1 {
                break;
            }
            size /= 2;
        }
        if best.decisions.len() == before {
            break;
        }
    }
    for at in 0..best.decisions.len() {
        for simpler in simpler(&best.decisions[at].what) {
            let mut candidate = (*best).clone();
            candidate.decisions[at].what = simpler;
            let candidate = Rc::new(candidate);
            if fails(&candidate) {
                best = candidate;
            }
        }
    }
    best
}

/// The same, with less that is special about it.
fn simpler(what: &What) -> Vec<What> {
    let What::Arrive { client, ppm, role } = what else { return Vec::new() };
    let (client, ppm) = (*client, *ppm);
    let mut all = vec![What::Arrive { client, ppm: 0, role: role.clone() }];
    if let Role::Exec(job) = role {
        let arrive = |job| What::Arrive { client, ppm, role: Role::Exec(job) };
        let mut one_key = job.clone();
        one_key.locks.truncate(1);
        let mut flat = job.clone();
        flat.manners.deep = false;
        let mut obedient = job.clone();
        obedient.manners.obeys_after_ms = Some(0);
        all.extend([arrive(one_key), arrive(flat), arrive(obedient)]);
    }
    all
}
