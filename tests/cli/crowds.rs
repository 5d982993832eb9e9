//! Many scripts at once for one lock or a few slots: never more inside than may be, and all get their turn.

use crate::house::clean::{House, Running};

/// Starts scripts at once that note when they enter and leave; says how many were inside together at most.
fn crowd(house: &House, count: usize, take: &str, give_back: &str) -> usize {
    let text = format!(
        "{take} >/dev/null || {{ echo failed $? >>log; exit 1; }}
        echo enter $$ >>log
        sleep 0.05
        echo leave $$ >>log
        {give_back} || echo not released $? >>log"
    );
    let shells = ["sh", "bash"];
    let running: Vec<Running> = (0..count).map(|at| house.start_script(shells[at % 2], &text)).collect();
    for script in running {
        let said = script.finish();
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", house.read("log"));
    }
    let log = house.read("log");
    let (mut inside, mut most, mut entered) = (0_usize, 0, 0);
    for line in log.lines() {
        match line.split_once(' ') {
            Some(("enter", _)) => (inside, entered) = (inside + 1, entered + 1),
            Some(("leave", _)) => inside -= 1,
            _ => panic!("{log}"),
        }
        most = most.max(inside);
    }
    assert_eq!(entered, count, "{log}");
    assert!(house.holder_pids().is_empty());
    most
}

#[test]
fn ten_scripts_share_one_lock() {
    let house = House::new();
    assert_eq!(crowd(&house, 10, "dflock acquire job -w 60", "dflock release job"), 1);
    assert!(!house.is_held("job"));
}

#[test]
fn ten_scripts_share_three_slots() {
    let house = House::new();
    let most = crowd(&house, 10, "dflock sem acquire s --limit 3 -w 60", "dflock sem release s --limit 3");
    assert!((2..=3).contains(&most), "{most} at once");
    assert!(!house.is_held("s"));
}

#[test]
fn ten_scripts_that_only_end_share_one_lock() {
    let house = House::new();
    assert_eq!(crowd_that_ends(&house), 1);
    house.wait_until_free("job");
}

/// Nobody releases: each lock ends with its script, the last line of which is written inside.
fn crowd_that_ends(house: &House) -> usize {
    let text = "dflock acquire job -w 60 >/dev/null || exit; echo enter $$ >>log; sleep 0.02; echo leave $$ >>log";
    let running: Vec<Running> = (0..10).map(|_| house.start_script("sh", text)).collect();
    running.into_iter().for_each(|script| assert_eq!(script.finish().code, 0));
    let (mut inside, mut most) = (0_usize, 0);
    for line in house.read("log").lines() {
        inside = if line.starts_with("enter") { inside + 1 } else { inside - 1 };
        most = most.max(inside);
    }
    most
}

#[test]
fn the_slots_of_one_script_are_told_apart_by_tokens() {
    let house = House::new();
    let said = house.script(
        "sh",
        "a=$(dflock sem acquire s --limit 2) && b=$(dflock sem acquire s --limit 2) || exit
        dflock sem acquire s --limit 2 -qn; echo $?
        dflock sem release s --limit 2; echo $?
        dflock sem renew s $a --limit 2 -l 40
        dflock sem release s $a --limit 2; echo $?
        dflock sem release s --limit 2; echo $?
        dflock sem release s $b --limit 2; echo $?
        dflock status s",
    );
    let expected = ["75", "125", "40", "0", "0", "79", &format!("s: free, on {}", house.servers)].join("\n");
    assert_eq!(said.ok(), expected, "{said:?}");
    assert!(said.err.contains("2 holders of this script have s"), "{said:?}");
}

#[test]
fn a_semaphore_with_another_limit_is_refused() {
    let house = House::new();
    house.dflock(&["sem", "acquire", "s", "--limit", "2"]).ok();
    let said = house.dflock(&["sem", "acquire", "s", "--limit", "3", "-n"]).code(76);
    assert!(said.err.contains("another limit"), "{said:?}");
    // A lock of the same name is another thing.
    house.dflock(&["acquire", "s", "-n"]).ok();
    assert_eq!(house.holder_pids().len(), 2);
    house.dflock(&["release", "s"]).ok();
    house.dflock(&["sem", "release", "s", "--limit", "2"]).ok();
    assert!(!house.is_held("s"));
}
