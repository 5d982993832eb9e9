//! Decides what a real run has shown: who held what and when, told by those who did.
//!
//! One line an event, all on one clock: `WHO KEY LIMIT FENCE EVENT MICROSECONDS`. FENCE is `-` where none is known
//! yet. Events: `asked` (the request is about to leave), `queued` (seen in the queue), `began`, `alive` (a command
//! under the lock runs), `ended` (its last moment). A command that was killed has no end: its last sign of life is
//! one. What is decided:
//!
//! - exclusion: of one key, no more than LIMIT run at any moment;
//! - fences: of one key, no two have the same, and whoever began after another had ended has the higher one;
//! - order: whoever was seen in the queue before another asked is granted first, if both were granted.

use std::collections::BTreeMap;
use std::fmt;

/// One request for a lock and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    pub who: String,
    pub key: String,
    pub limit: u64,
    pub fence: Option<u64>,
    pub asked: Option<u64>,
    pub queued: Option<u64>,
    /// First and last sign of a command under the lock.
    pub ran: Option<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    NotALine {
        line: String,
    },
    /// More than `limit` at once.
    Overlap {
        key: String,
        at: u64,
        who: Vec<String>,
    },
    SameFence {
        key: String,
        fence: u64,
        who: [String; 2],
    },
    /// The second one began after the first one had ended, with a fence that is not higher.
    FenceOrder {
        key: String,
        who: [String; 2],
    },
    /// The second one was granted first, though the first one was in the queue before it asked.
    OutOfTurn {
        key: String,
        who: [String; 2],
    },
    /// The fence of one tenure is told in two ways.
    TwoFences {
        who: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// Lines in any order.
pub fn read(text: &str) -> Result<Vec<Tenure>, Fault> {
    let mut all: BTreeMap<(String, String), Tenure> = BTreeMap::new();
    for line in text.lines() {
        let not_a_line = || Fault::NotALine { line: line.to_owned() };
        let words: Vec<&str> = line.split(' ').collect();
        let [who, key, limit, fence, event, at] = words.as_slice() else { return Err(not_a_line()) };
        let number = |text: &str| text.parse::<u64>().map_err(|_| not_a_line());
        let (limit, at) = (number(limit)?, number(at)?);
        let tenure = all.entry(((*who).to_owned(), (*key).to_owned())).or_insert_with(|| Tenure {
            who: (*who).to_owned(),
            key: (*key).to_owned(),
            limit,
            ..Tenure::default()
        });
        if *fence != "-" {
            let fence = number(fence)?;
            if tenure.fence.is_some_and(|before| before != fence) {
                return Err(Fault::TwoFences { who: (*who).to_owned() });
            }
            tenure.fence = Some(fence);
        }
        match *event {
            "asked" => tenure.asked = Some(at),
            "queued" => tenure.queued = Some(at),
            "began" | "alive" | "ended" => {
                let (first, last) = tenure.ran.unwrap_or((at, at));
                tenure.ran = Some((first.min(at), last.max(at)));
            }
            _ => return Err(not_a_line()),
        }
    }
    Ok(all.into_values().collect())
}

/// Everything that is wrong with a run.
pub fn check(all: &[Tenure]) -> Vec<Fault> {
    let mut by_key: BTreeMap<&str, Vec<&Tenure>> = BTreeMap::new();
    for tenure in all {
        by_key.entry(&tenure.key).or_default().push(tenure);
    }
    let mut faults = Vec::new();
    for (key, tenures) in by_key {
        check_exclusion(key, &tenures, &mut faults);
        check_pairs(key, &tenures, &mut faults);
    }
    faults
}

fn check_exclusion(key: &str, tenures: &[&Tenure], faults: &mut Vec<Fault>) {
    let limit = tenures.iter().map(|tenure| tenure.limit).min().unwrap_or(1);
    // Beginnings before ends of the same moment: both were there.
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (at, tenure) in tenures.iter().enumerate() {
        if let Some((first, last)) = tenure.ran {
            moments.push((first, false, at));
            moments.push((last, true, at));
        }
    }
    moments.sort_unstable();
    let mut there: Vec<usize> = Vec::new();
    for (at, ends, tenure) in moments {
        if ends {
            there.retain(|other| *other != tenure);
            continue;
        }
        there.push(tenure);
        if there.len() as u64 > limit {
            let who = there.iter().map(|at| tenures[*at].who.clone()).collect();
            faults.push(Fault::Overlap { key: key.to_owned(), at, who });
        }
    }
}

fn check_pairs(key: &str, tenures: &[&Tenure], faults: &mut Vec<Fault>) {
    for (at, first) in tenures.iter().enumerate() {
        for (other, second) in tenures.iter().enumerate() {
            let key = || key.to_owned();
            let who = || [first.who.clone(), second.who.clone()];
            let fences = first.fence.zip(second.fence);
            if at < other
                && let Some((fence, same)) = fences
                && fence == same
            {
                faults.push(Fault::SameFence { key: key(), fence, who: who() });
            }
            let Some((one, two)) = first.ran.zip(second.ran) else { continue };
            if at == other {
                continue;
            }
            if one.1 < two.0 && fences.is_some_and(|(before, after)| before > after) {
                faults.push(Fault::FenceOrder { key: key(), who: who() });
            }
            let came_first = first.queued.zip(second.asked).is_some_and(|(queued, asked)| queued < asked);
            let served_last = match fences {
                Some((first, second)) => first > second,
                None => one.0 > two.0,
            };
            if came_first && served_last {
                faults.push(Fault::OutOfTurn { key: key(), who: who() });
            }
        }
    }
}
