//! What a process tells only while nobody holds its memory: its environment and its command line. Whoever sits in the
//! kernel with that in hand (a mapping of a file whose server is silent) lets us wait for as long as it likes, and we
//! could not even be told to stop waiting. So a thread asks, which is left behind with one that does not answer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::SigSet;

use super::Identity;
use crate::clock::{self, Moment};
use crate::sys;

/// Whoever keeps a thread that wants nothing else waiting for so long does not answer.
const PATIENCE: Duration = Duration::from_millis(10);

/// How often it is looked how far they are.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// So many threads are left behind at most; then nobody is asked any more.
const MOST_HELPERS: usize = 64;

/// It reads a file, and no more.
const STACK: usize = 128 * 1024;

/// What to ask a process, by its number.
pub type Question = Arc<dyn Fn(i32) -> Option<Vec<u8>> + Send + Sync>;

/// What those who were asked say.
#[derive(Default)]
pub struct Answers {
    pub said: HashMap<Identity, Vec<u8>>,
    /// There was no time to ask all of them.
    pub is_cut_short: bool,
}

#[derive(Default)]
struct Asking {
    /// One question after the other, should several threads have some.
    turn: Mutex<()>,
    round: Mutex<Round>,
    questions_came: Condvar,
    all_asked: Condvar,
}

#[derive(Default)]
struct Round {
    number: u64,
    question: Option<Question>,
    to_ask: Vec<Identity>,
    said: HashMap<Identity, Vec<u8>>,
    /// What each thread is at, by its number, and since when.
    at: HashMap<i32, (Identity, Moment)>,
    helpers: usize,
    /// They are not asked again until they have answered.
    silent: HashSet<Identity>,
}

static ASKING: LazyLock<Asking> = LazyLock::new(Asking::default);
static COME_FIRST: AtomicBool = AtomicBool::new(false);

/// Threads that ask run before others as soon as they want to, as this one does.
pub fn come_first() {
    COME_FIRST.store(true, Ordering::Relaxed);
}

/// Asks all of these, but for those who have not answered before. Where there can be no thread we ask ourselves.
pub fn ask(whom: impl IntoIterator<Item = Identity>, question: &Question, until: Moment) -> Answers {
    let _turn = ASKING.turn.lock();
    let mut round = ASKING.lock();
    let to_ask: Vec<Identity> = whom.into_iter().filter(|identity| !round.silent.contains(identity)).collect();
    if to_ask.is_empty() {
        return Answers::default();
    }
    round.number += 1;
    (round.question, round.to_ask, round.said) = (Some(question.clone()), to_ask, HashMap::new());
    ASKING.questions_came.notify_all();
    let mut is_cut_short = false;
    loop {
        round.give_up_on_the_silent();
        let is_busy = round.at.values().any(|(identity, _)| !round.silent.contains(identity));
        if round.to_ask.is_empty() && !is_busy {
            break;
        }
        if clock::now() >= until {
            is_cut_short = true;
            break;
        }
        let has_free_helper = round.helpers > round.stuck();
        if !has_free_helper && !round.start_helper() {
            if round.helpers == 0 {
                let to_ask = std::mem::take(&mut round.to_ask);
                let answers = to_ask.into_iter().filter_map(|identity| Some((identity, question(identity.pid)?)));
                round.said = answers.collect();
            }
            is_cut_short = !round.to_ask.is_empty();
            break;
        }
        round = ASKING.all_asked.wait_timeout(round, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
    }
    (round.question, round.to_ask) = (None, Vec::new());
    Answers { said: std::mem::take(&mut round.said), is_cut_short }
}

impl Asking {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    /// Threads that wait for somebody who does not answer.
    fn stuck(&self) -> usize {
        self.at.values().filter(|(identity, _)| self.silent.contains(identity)).count()
    }

    fn give_up_on_the_silent(&mut self) {
        let now = clock::now();
        let is_silent = |(thread, (_, since)): &(&i32, &(Identity, Moment))| {
            now.since(*since) >= PATIENCE && is_waiting_in_the_kernel(**thread)
        };
        let silent: Vec<Identity> = self.at.iter().filter(is_silent).map(|(_, (identity, _))| *identity).collect();
        self.silent.extend(silent);
    }

    fn start_helper(&mut self) -> bool {
        if self.helpers >= MOST_HELPERS {
            return false;
        }
        let started = std::thread::Builder::new().stack_size(STACK).spawn(help).is_ok();
        self.helpers += usize::from(started);
        started
    }
}

/// One that wants a processor has only had no time yet.
fn is_waiting_in_the_kernel(thread: i32) -> bool {
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat).into_owned();
    stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with('D'))
}

/// What a thread does for the rest of this process's life. It ends with that, even in the middle of a question.
fn help() {
    // They are for others of us.
    let _ = SigSet::all().thread_block();
    if COME_FIRST.load(Ordering::Relaxed) {
        sys::come_first();
    }
    let us = sys::thread_number();
    let mut round = ASKING.lock();
    loop {
        let next = round.question.clone().and_then(|question| Some((question, round.to_ask.pop()?)));
        let Some((question, identity)) = next else {
            ASKING.all_asked.notify_all();
            round = ASKING.questions_came.wait(round).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let number = round.number;
        round.at.insert(us, (identity, clock::now()));
        drop(round);
        let said = question(identity.pid);
        round = ASKING.lock();
        round.at.remove(&us);
        round.silent.remove(&identity);
        if round.number == number {
            round.said.extend(said.map(|said| (identity, said)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_are_asked_and_none_twice_at_once() {
        let whom = |from: i32| (from..from + 500).map(|pid| Identity { pid, started: 7 });
        let question: Question = Arc::new(|pid| (pid % 3 == 0).then(|| pid.to_string().into_bytes()));
        let answers = ask(whom(1000), &question, Moment::NEVER);
        assert!(!answers.is_cut_short);
        assert_eq!(answers.said.len(), whom(1000).filter(|one| one.pid % 3 == 0).count());
        assert!(answers.said.iter().all(|(one, said)| one.pid.to_string().as_bytes() == said));
    }

    /// It waits, but not in the kernel's hands: so until the moment.
    #[test]
    fn a_question_takes_no_longer_than_it_may() {
        let (_open, never) = mpsc::channel::<()>();
        let never = Mutex::new(never);
        let question: Question =
            Arc::new(move |_| never.lock().ok()?.recv_timeout(Duration::from_secs(2)).ok().map(|()| vec![]));
        let begin = clock::now();
        let answers = ask([Identity { pid: 1, started: 8 }], &question, begin + Duration::from_millis(20));
        assert!(answers.is_cut_short && answers.said.is_empty());
    }
}
