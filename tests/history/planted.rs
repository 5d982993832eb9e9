//! The checker itself: it passes what is in order, and finds whatever was planted.

use crate::checker::{Fault, Tenure, check, read};
use crate::random::Random;

fn found(text: &str) -> Vec<Fault> {
    check(&read(text).expect("lines"))
}

const CLEAN: &str = "\
a k 1 - asked 5
a k 1 7 began 10
a k 1 7 alive 15
b k 1 - asked 11
b k 1 - queued 12
c k 1 - asked 13
a k 1 7 ended 20
b k 1 8 began 21
b k 1 8 ended 30
c k 1 9 began 31
c k 1 9 ended 40
p pool 2 3 began 10
q pool 2 4 began 11
p pool 2 3 ended 20
r pool 2 5 began 21
q pool 2 4 ended 30
r pool 2 5 ended 40
";

#[test]
fn what_is_in_order_passes() {
    assert_eq!(found(CLEAN), []);
    assert_eq!(found(""), []);
    // Keys do not matter to each other, and a request that came to nothing matters to nobody.
    assert_eq!(found("a k 1 9 began 1\na k 1 9 ended 9\nb l 1 2 began 2\nc k 1 - asked 0\nc k 1 - queued 0\n"), []);
}

#[test]
fn two_at_once_are_found() {
    let overlap = |at, who: &[&str]| {
        let who = who.iter().map(|who| (*who).to_owned()).collect();
        [Fault::Overlap { key: "k".to_owned(), at, who }]
    };
    assert_eq!(found("a k 1 1 began 1\na k 1 1 alive 9\nb k 1 2 began 8\nb k 1 2 ended 20\n"), overlap(8, &["a", "b"]));
    // The last sign of life of one that was killed counts.
    assert_eq!(found("a k 1 1 began 1\nb k 1 2 began 5\nb k 1 2 ended 9\na k 1 1 alive 5\n"), overlap(5, &["a", "b"]));
    let three =
        "a k 2 1 began 1\nb k 2 2 began 2\nc k 2 3 began 3\na k 2 1 ended 9\nb k 2 2 ended 9\nc k 2 3 ended 9\n";
    assert_eq!(found(three), overlap(3, &["a", "b", "c"]));
}

#[test]
fn fences_that_do_not_grow_are_found() {
    let who = ["a".to_owned(), "b".to_owned()];
    let text = "a k 1 5 began 1\na k 1 5 ended 2\nb k 1 4 began 3\nb k 1 4 ended 4\n";
    assert_eq!(found(text), [Fault::FenceOrder { key: "k".to_owned(), who: who.clone() }]);
    let text = "a k 1 5 began 1\na k 1 5 ended 2\nb k 1 5 began 3\nb k 1 5 ended 4\n";
    assert_eq!(found(text), [Fault::SameFence { key: "k".to_owned(), fence: 5, who }]);
    assert_eq!(read("a k 1 5 began 1\na k 1 6 alive 2\n"), Err(Fault::TwoFences { who: "a".to_owned() }));
}

#[test]
fn one_who_is_served_out_of_turn_is_found() {
    let text =
        "a k 1 - queued 1\nb k 1 - asked 2\nb k 1 4 began 3\nb k 1 4 ended 4\na k 1 5 began 5\na k 1 5 ended 6\n";
    let who = ["a".to_owned(), "b".to_owned()];
    assert_eq!(found(text), [Fault::OutOfTurn { key: "k".to_owned(), who: who.clone() }]);
    // Without fences, the beginnings tell.
    let text = text.replace(" 4 ", " - ").replace(" 5 ", " - ").replace("- - ended 6", "- ended 6");
    let text = text.replace("b k 1 - ended -", "b k 1 - ended 4").replace("a k 1 - began -", "a k 1 - began 5");
    assert_eq!(found(&text), [Fault::OutOfTurn { key: "k".to_owned(), who }], "{text}");
    // Asked before the other one was seen in the queue: nobody knows who came first.
    assert_eq!(found("a k 1 - queued 2\nb k 1 - asked 1\nb k 1 4 began 3\na k 1 5 began 5\n"), []);
}

#[test]
fn what_is_no_line_is_told() {
    for bad in ["a", "a k 1 2 began", "a k x 2 began 1", "a k 1 2 slept 1", "a k 1 2 began 1 1", "a k 1 y began 1"] {
        assert!(matches!(read(bad), Err(Fault::NotALine { .. })), "{bad}");
    }
}

/// A run in which everything is in order.
fn clean(random: &mut Random) -> Vec<Tenure> {
    let mut all = Vec::new();
    for (key, limit) in [("k", 1), ("l", 1), ("pool", 3)] {
        let mut slots = vec![100u64; limit];
        let (mut fence, mut asked, mut last_began) = (10, 1, 0);
        for number in 0..4 + random.below(8) {
            fence += 1 + random.below(3);
            asked += 1 + random.below(30);
            let queued = random.chance(50).then(|| asked + 1 + random.below(20));
            // Whoever is next takes the slot that is free first.
            let slot = (0..limit).min_by_key(|slot| slots[*slot]).unwrap_or(0);
            let began = slots[slot].max(asked).max(last_began) + 1 + random.below(20);
            last_began = began;
            let ended = began + 5 + random.below(60);
            slots[slot] = ended;
            let who = format!("{key}{number}");
            let (key, ran) = (key.to_owned(), Some((began, ended)));
            let limit = limit as u64;
            all.push(Tenure { who, key, limit, fence: Some(fence), asked: Some(asked), queued, ran });
        }
    }
    all
}

#[test]
fn one_change_to_a_run_in_order_is_found() {
    let mut kinds = [0; 4];
    for seed in 0..4000 {
        let random = &mut Random::new(seed);
        let mut all = clean(random);
        assert_eq!(check(&all), [], "seed {seed}");
        let at = random.below(all.len() as u64 - 1) as usize;
        let next = at + 1;
        if all[at].key != all[next].key {
            continue;
        }
        let kind = random.below(4) as usize;
        let fits: fn(&Fault) -> bool = match kind {
            // It runs on until the next one of a lock has begun.
            0 if all[at].limit == 1 => {
                let (began, _) = all[at].ran.expect("it ran");
                let (other, _) = all[next].ran.expect("it ran");
                all[at].ran = Some((began, other));
                |fault| matches!(fault, Fault::Overlap { .. })
            }
            1 => {
                all[next].fence = all[at].fence;
                |fault| matches!(fault, Fault::SameFence { .. })
            }
            2 if all[at].limit == 1 => {
                let (first, second) = (all[at].fence, all[next].fence);
                (all[at].fence, all[next].fence) = (second, first);
                |fault| matches!(fault, Fault::FenceOrder { .. })
            }
            // It was in the queue before the one that was served before it had asked.
            3 => {
                all[next].queued = all[at].asked.map(|asked| asked - 1);
                |fault| matches!(fault, Fault::OutOfTurn { .. })
            }
            _ => continue,
        };
        kinds[kind] += 1;
        let found = check(&all);
        assert!(found.iter().any(fits), "seed {seed}, change {kind}: {found:?}");
    }
    assert!(kinds.iter().all(|count| *count > 100), "{kinds:?}");
}
