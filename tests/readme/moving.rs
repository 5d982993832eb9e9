//! The tables for those who come from another tool: both sides are run where both are there.

use crate::blocks::{code, table};
use crate::fleet::Fleet;
use crate::house::tools;

/// How often the job ran, and how it ended.
fn outcome(fleet: &Fleet, line: &str) -> (i32, usize) {
    let said = fleet.script("sh", line);
    (said.code, said.out.lines().filter(|line| *line == "job").count())
}

#[test]
fn from_flock() {
    let fleet = Fleet::new();
    let has_flock = tools::is_there("flock");
    let rows = table("Moving from flock");
    assert!(rows.len() > 6, "{rows:?}");
    for row in rows {
        let [theirs, ours] = [0, 1].map(|at| code(&row[at]).expect("a command").to_owned());
        let (code, jobs) = outcome(&fleet, &ours);
        assert_eq!(code, 0, "{ours}");
        let can_run = has_flock && (!theirs.contains("fuser") || tools::is_there("fuser"));
        if can_run {
            assert_eq!(outcome(&fleet, &theirs), (code, jobs), "{theirs} and {ours}");
        }
    }
}

/// Their side needs a cluster of theirs; ours must do what the row says.
#[test]
fn from_consul_and_etcdctl() {
    let fleet = Fleet::new();
    for heading in ["Moving from consul lock", "Moving from etcdctl lock"] {
        let rows = table(heading);
        assert!(rows.len() > 3, "{rows:?}");
        for row in rows {
            let [theirs, ours] = [0, 1].map(|at| code(&row[at]).expect("a command").to_owned());
            let (code, jobs) = outcome(&fleet, &ours);
            assert_eq!((code, jobs), (0, theirs.matches("./job").count()), "{theirs} and {ours}");
        }
        fleet.house.dflock(&["release", "k"]);
    }
}

/// What README says of exit codes is what the manual says, and that is the table of the program.
#[test]
fn exit_codes_are_those_of_the_program() {
    let mut known: Vec<String> = dflock::error::TABLE.iter().map(|row| row.exit.to_string()).collect();
    known.dedup();
    let rows = table("Exit codes");
    let numbers = rows.iter().flat_map(|row| row[0].split(", ")).map(|cell| cell.trim().to_owned());
    let mut listed: Vec<String> = numbers.filter(|cell| cell.bytes().all(|digit| digit.is_ascii_digit())).collect();
    known.sort();
    listed.sort();
    assert_eq!(listed, known);
}
