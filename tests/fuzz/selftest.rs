//! A harness that finds nothing proves nothing: faults that were put there must be found, made small and named.

use crate::harness::{Failed, Target, modest, play};
use crate::mutate;
use crate::random::Random;

const SEEDS: u64 = 20_000;

fn make(random: &mut Random) -> Vec<u8> {
    mutate::bytes(random, 100)
}

fn find(check: fn(&[u8])) -> Failed {
    let target = Target { name: "selftest", inputs: SEEDS, make, check, memory: modest };
    let Err(failed) = play(&target, 0, SEEDS, None) else { panic!("the fault was not found") };
    let Err(again) = play(&target, failed.seed, 1, None) else { panic!("the fault was not found again") };
    assert_eq!((again.input, again.why), (failed.input.clone(), failed.why.clone()));
    failed
}

#[test]
fn a_panic_is_found_and_its_input_made_small() {
    let failed = find(|input| assert!(input.windows(2).all(|pair| pair != b"\n{"), "a line begins with a bracket"));
    assert_eq!(failed.input, b"\n{");
    assert!(failed.why.contains("a line begins with a bracket"), "{}", failed.why);
}

#[test]
fn a_panic_in_a_task_is_found() {
    let failed = find(|input| {
        let has_nul = input.contains(&0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // A runtime goes on as if nothing had happened.
        runtime.block_on(async { drop(tokio::spawn(async move { assert!(!has_nul, "a zero") }).await) });
    });
    assert_eq!(failed.input, [0]);
}

#[test]
fn memory_without_limit_is_found() {
    let failed = find(|input| {
        let length = usize::from(*input.first().unwrap_or(&0)) * 4096;
        drop(std::hint::black_box(vec![1_u8; length]));
    });
    assert_eq!(failed.input.len(), 1);
    assert!(failed.why.contains("bytes of memory"), "{}", failed.why);
}
