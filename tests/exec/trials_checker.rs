//! Reads what children wrote in turn, and finds those that ran at once.

use std::collections::HashMap;

/// One line of a child: who it is, the fence of its grant, and when it wrote, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) fence: u64,
    pub(crate) at: u64,
}

/// The server forgot the locks of `whom` at `at`: until `until` they may still be there.
#[derive(Clone, Debug)]
pub(crate) struct Break {
    pub(crate) at: u64,
    pub(crate) until: u64,
    pub(crate) whom: Vec<String>,
}

/// What the log proves.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<String>,
    pub(crate) grants: usize,
    /// How long after each break the child of the lost lock still wrote, in microseconds.
    pub(crate) tails: Vec<u64>,
    /// The same, as far as another child ran by then.
    pub(crate) overlaps: Vec<u64>,
}

impl Break {
    fn excuses(&self, line: &Line) -> bool {
        self.at <= line.at && line.at <= self.until && self.whom.contains(&line.name)
    }
}

impl Line {
    /// `NAME FENCE SECONDS.MICROSECONDS`
    pub(crate) fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        let (name, fence, time) = (words.next()?, words.next()?, words.next()?);
        let (seconds, micros) = time.split_once(['.', ','])?;
        let at = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
        (words.next().is_none() && micros.len() == 6).then_some(Line {
            name: name.to_owned(),
            fence: fence.parse().ok()?,
            at,
        })
    }
}

/// The order of the lines in the file is the truth; times count only where a break excuses somebody.
/// With `fences` every new grant must have a higher one than the one before.
pub(crate) fn check(lines: &[Line], fences: bool, breaks: &[Break]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen: HashMap<&str, u64> = HashMap::new();
    let mut newest: Option<&Line> = None;
    for (number, line) in lines.iter().enumerate() {
        // Without fences the first lines are all that tells the order of grants, and one whose lock broke as its
        // child began may have written its first line after the next one's.
        let late = newest.filter(|newest| !fences && newest.name != line.name);
        let excuses = |broken: &&Break| broken.excuses(line) || late.is_some_and(|late| broken.excuses(late));
        let excused = breaks.iter().rev().find(excuses);
        match seen.get(line.name.as_str()) {
            None => {
                seen.insert(&line.name, line.fence);
                // Whoever lost its lock as its child began may write its first line beside the next one.
                match excused.filter(|broken| broken.excuses(line)) {
                    _ if !fences || newest.is_none_or(|newest| newest.fence < line.fence) => newest = Some(line),
                    Some(broken) => verdict.overlaps.push(line.at.saturating_sub(broken.at)),
                    None => {
                        verdict
                            .violations
                            .push(format!("line {number}: a fence that does not grow: {newest:?}, {line:?}"));
                        newest = Some(line);
                    }
                }
            }
            Some(fence) if *fence != line.fence => {
                verdict.violations.push(format!("line {number}: another fence ({fence} before): {line:?}"));
            }
            Some(_) => {
                if newest.is_some_and(|newest| newest.name != line.name) {
                    match excused {
                        Some(broken) => verdict.overlaps.push(line.at.saturating_sub(broken.at)),
                        None => verdict.violations.push(format!("line {number}: {line:?} ran on beside {newest:?}")),
                    }
                }
            }
        }
    }
    verdict.grants = seen.len();
    for broken in breaks {
        look_at_break(lines, broken, &mut verdict);
    }
    verdict
}

/// Whoever wrote last before a break and lost its lock by it may write on only for a while.
fn look_at_break(lines: &[Line], broken: &Break, verdict: &mut Verdict) {
    let Some(before) = lines.iter().rev().find(|line| line.at < broken.at) else { return };
    if !broken.whom.contains(&before.name) {
        return;
    }
    let last = lines.iter().rev().find(|line| line.name == before.name).unwrap_or(before);
    if last.at > broken.until {
        verdict.violations.push(format!("{last:?} ran on long after {broken:?}"));
    }
    if last.at > broken.at {
        verdict.tails.push(last.at - broken.at);
    }
}

/// The one in the middle, and the largest.
pub(crate) fn spread<T: Copy + Ord>(values: &[T]) -> Option<(T, T)> {
    let mut sorted = values.to_vec();
    sorted.sort();
    Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
}

fn lines(text: &str) -> Vec<Line> {
    text.split(' ')
        .enumerate()
        .map(|(at, word)| {
            let fence = word[1..].parse().expect("a number");
            Line { name: word.to_owned(), fence, at: at as u64 }
        })
        .collect()
}

#[test]
fn the_checker_passes_what_is_in_order() {
    let verdict = check(&lines("a1 a1 b2 c7 c7 c7"), true, &[]);
    assert_eq!((verdict.violations.len(), verdict.grants), (0, 3), "{verdict:?}");
    assert!(check(&[], true, &[]).violations.is_empty());
    assert!(check(&lines("a9 a9 b2"), false, &[]).violations.is_empty(), "no fences, no order of them");
}

#[test]
fn the_checker_finds_what_was_planted() {
    for planted in ["a1 b2 a1", "a1 a1 b2 b2 b2 a1 b2", "a1 b2 c3 a1 c3", "a2 b1", "a1 b1", "a1 b2 c1"] {
        assert_eq!(check(&lines(planted), true, &[]).violations.len(), 1, "{planted}");
    }
    assert_eq!(check(&lines("a1 b2 a1 b2 a1"), false, &[]).violations.len(), 2);
    let mut other_fence = lines("a1 a1 a1");
    other_fence[2].fence = 2;
    assert_eq!(check(&other_fence, true, &[]).violations.len(), 1);
}

#[test]
fn the_checker_excuses_only_what_a_break_excuses() {
    let story = lines("a1 a1 b2 a1 b2 b2");
    let check = |at, until| check(&story, true, &[Break { at, until, whom: vec!["a1".to_owned()] }]);
    let verdict = check(2, 4);
    assert_eq!((verdict.violations.len(), verdict.overlaps.as_slice()), (0, &[1][..]), "{verdict:?}");
    assert_eq!(verdict.tails, [1]);
    assert_eq!(check(4, 5).violations.len(), 1, "an overlap before the break");
    assert_eq!(check(2, 2).violations.len(), 2, "too long after it, and beside another one");
    let late = [lines("b2 b2"), lines("a1 b2")].concat();
    let broken = Break { at: 0, until: 9, whom: vec!["a1".to_owned()] };
    assert_eq!(super::trials_checker::check(&late, true, &[broken]).violations.len(), 0, "its first line came late");
    assert_eq!(super::trials_checker::check(&late, true, &[]).violations.len(), 2, "and nothing excuses it");
    let other = Break { at: 2, until: 4, whom: vec!["b2".to_owned()] };
    assert_eq!(super::trials_checker::check(&story, true, &[other]).violations.len(), 1, "somebody else's break");
}

#[test]
fn the_checker_reads_what_children_write() {
    let line = Line { name: "r1".to_owned(), fence: 7, at: 12_000_345 };
    assert_eq!(Line::parse("r1 7 12.000345"), Some(line));
    for half in ["", "r1", "r1 7", "r1 7 12", "r1 7 12.5", "r1 7 12.000345 x"] {
        assert_eq!(Line::parse(half), None, "{half}");
    }
}
