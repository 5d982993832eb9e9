//! Thousands of histories, each of a seed; a failing one is told in its shortest form.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Plan;
use crate::world::Plant;
use crate::world::check::Violation;
use crate::world::history::{History, What};
use crate::world::play::play;
use crate::world::shrink::shrink;

/// How many histories are played when nobody asks for more.
const HISTORIES: u64 = 3000;

#[test]
fn no_history_breaks_a_promise() {
    let Plan { seeds, tell } = Plan::from_environment(HISTORIES);
    if tell {
        let history = Rc::new(History::of(seeds.start));
        let played = play(&history, Plant::Nothing, true);
        played.story.iter().for_each(|line| println!("{line}"));
        println!("{} steps", played.steps);
    }
    let next = AtomicU64::new(seeds.start);
    let (failed, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = play(&Rc::new(History::of(seed)), Plant::Nothing, false);
                    steps.fetch_add(played.steps, Ordering::Relaxed);
                    if let Some(violation) = played.violation
                        && !failed.swap(true, Ordering::Relaxed)
                    {
                        tell_shortest(seed, &violation);
                    }
                }
            });
        }
    });
    let played = next.load(Ordering::Relaxed).min(seeds.end) - seeds.start;
    println!("{played} histories, {} events", steps.load(Ordering::Relaxed));
    assert!(!failed.load(Ordering::Relaxed), "a promise was broken; its story is above");
}

fn tell_shortest(seed: u64, violation: &Violation) {
    let history = Rc::new(History::of(seed));
    let shortest = shrink(&history, Plant::Nothing, violation);
    let played = play(&shortest, Plant::Nothing, true);
    eprintln!("seed {seed}: {violation}");
    eprintln!("its shortest story ({} of {} decisions):", shortest.decisions.len(), history.decisions.len());
    played.story.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("DFLOCK_SEED={seed} cargo test --test sim no_history_breaks_a_promise -- --nocapture");
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..20 {
        let tell = || play(&Rc::new(History::of(seed)), Plant::Nothing, true).story;
        assert_eq!(tell(), tell(), "seed {seed}");
    }
}

#[test]
fn a_failing_history_shrinks_and_still_fails() {
    let (seed, found) = first_failure(Plant::MarginRemoved, 2000).expect("the plant is found");
    let history = Rc::new(History::of(seed));
    let shortest = shrink(&history, Plant::MarginRemoved, &found);
    assert!(shortest.decisions.len() <= history.decisions.len());
    assert!(shortest.decisions.iter().any(|decision| matches!(decision.what, What::Arrive { .. })));
    let played = play(&shortest, Plant::MarginRemoved, true);
    assert!(played.violation.is_some() && played.story.len() > 3, "{:#?}", played.story);
}

/// The first seed below `seeds` that finds anything.
pub(crate) fn first_failure(plant: Plant, seeds: u64) -> Option<(u64, Violation)> {
    (0..seeds).find_map(|seed| play(&Rc::new(History::of(seed)), plant, false).violation.map(|found| (seed, found)))
}
