//! A ceiling for every test: a program in which a test runs beyond it is ended, with all that it started, and says
//! which test it was, what it waited for, and what was said by whom it had started.
//!
//! A test is known from its first fixture on, for each has a [`Home`](super::home::Home), until its thread ends.
//! `DFLOCK_TEST_TIMES=1` tells how long each took.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};

use super::home::{dwellers, estate};
use super::now;

/// For a test that asks for no other; on a busy machine it is still far more than any needs.
const USUAL: Duration = Duration::from_secs(120);

/// For a program, in whatever tests it is, beside what single tests ask for.
const PROGRAM: Duration = Duration::from_secs(1200);

/// How long telling may take: it must not hang for what it tells of.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// How much is shown of what somebody said.
const SHOWN: usize = 4000;

struct Test {
    name: String,
    /// Threads of a test have no names, but for its first.
    thread: Pid,
    /// `None` while it waits for its turn.
    begin: Option<Instant>,
    ceiling: Duration,
    /// The last one is what it waits for now.
    waits: Vec<(String, Instant)>,
}

impl Test {
    fn ran(&self) -> Duration {
        self.begin.map_or(Duration::ZERO, |begin| begin.elapsed())
    }
}

static TESTS: Mutex<Vec<Test>> = Mutex::new(Vec::new());

fn tests() -> MutexGuard<'static, Vec<Test>> {
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the entry of a test with its thread.
struct Attendance {
    is_test: bool,
}

impl Attendance {
    fn begin() -> Attendance {
        let name = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
        let is_test = name.is_some();
        if let Some(name) = name {
            static WATCHDOG: Once = Once::new();
            WATCHDOG.call_once(|| drop(thread::spawn(watch)));
            tests().push(Test { name, thread: gettid(), begin: Some(now()), ceiling: USUAL, waits: Vec::new() });
        }
        Attendance { is_test }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if !self.is_test {
            return;
        }
        let me = gettid();
        let mut tests = tests();
        let Some(at) = tests.iter().position(|test| test.thread == me) else { return };
        let test = tests.swap_remove(at);
        if std::env::var_os("DFLOCK_TEST_TIMES").is_some() {
            say(&format!("{:8.2} s {}\n", test.ran().as_secs_f64(), test.name));
        }
    }
}

/// Counts this thread as a test, if it is the first of one.
pub fn attend() {
    thread_local! {
        static HERE: Attendance = Attendance::begin();
    }
    // While a thread ends it may be too late.
    let _ = HERE.try_with(|_| ());
}

fn change(what: impl FnOnce(&mut Test)) {
    attend();
    let me = gettid();
    if let Some(test) = tests().iter_mut().find(|test| test.thread == me) {
        what(test);
    }
}

/// This test needs longer than others.
pub fn may_take(time: Duration) {
    ALLOWED.fetch_add(time.as_secs(), Ordering::Relaxed);
    change(|test| test.ceiling = time);
}

/// Seconds that tests asked for.
static ALLOWED: AtomicU64 = AtomicU64::new(0);

/// Waits for what others have before it; a test begins when it has it.
pub fn in_turn<T>(wait: impl FnOnce() -> T) -> T {
    change(|test| test.begin = None);
    let waiting = waiting_for("its turn");
    let had = wait();
    drop(waiting);
    change(|test| test.begin = Some(now()));
    had
}

/// While this lives, its thread waits for something.
pub struct Waiting;

pub fn waiting_for(what: &str) -> Waiting {
    change(|test| test.waits.push((what.to_owned(), now())));
    Waiting
}

impl Drop for Waiting {
    fn drop(&mut self) {
        change(|test| drop(test.waits.pop()));
    }
}

type Says = Box<dyn Fn() -> String + Send>;

static WITNESSES: Mutex<Vec<(u64, String, Says)>> = Mutex::new(Vec::new());

fn witnesses() -> MutexGuard<'static, Vec<(u64, String, Says)>> {
    WITNESSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody that a test started; asked for what it said should a test hang.
pub struct Witness {
    number: u64,
}

impl Witness {
    pub fn new(name: String, says: impl Fn() -> String + Send + 'static) -> Witness {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        attend();
        witnesses().push((number, name, Box::new(says)));
        Witness { number }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        witnesses().retain(|(number, _, _)| *number != self.number);
    }
}

fn watch() {
    let begin = now();
    loop {
        thread::park_timeout(Duration::from_millis(200));
        let overdue = tests()
            .iter()
            .find(|test| test.ran() > test.ceiling)
            .map(|test| format!("{} has run for {:.0?}, and its ceiling is {:?}", test.name, test.ran(), test.ceiling));
        let allowed = PROGRAM + Duration::from_secs(ALLOWED.load(Ordering::Relaxed));
        let overdue = overdue.or_else(|| (begin.elapsed() > allowed).then(|| format!("it runs for {allowed:?}")));
        if let Some(why) = overdue {
            thread::spawn(|| {
                thread::park_timeout(LAST_WORDS);
                std::process::abort();
            });
            say(&format!("\nHANGS: {why}\n"));
            say(&report());
            // Whoever is left is ended by the caretaker of their homes.
            std::process::abort();
        }
    }
}

/// What is going on: tests, processes, and what was said.
fn report() -> String {
    let mut text = String::new();
    for test in tests().iter() {
        let Test { name, thread, waits, .. } = test;
        let task = |file: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default();
        let _ = writeln!(text, "test {name}, {:.0?}, in the kernel at {:?}", test.ran(), task("wchan"));
        for (what, since) in waits {
            let _ = writeln!(text, "  waits for {what}, {:.0?}", since.elapsed());
        }
    }
    for pid in dwellers(estate()) {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let plain = |file: &str| String::from_utf8_lossy(&read(file)).replace('\0', " ");
        let state = plain("stat").rsplit_once(") ").map(|(_, rest)| rest.chars().take(1).collect::<String>());
        let state = state.unwrap_or_default();
        let _ = writeln!(text, "process {pid} {state} at {:?}: {}", plain("wchan"), plain("cmdline").trim_end());
    }
    for (_, name, says) in witnesses().iter() {
        let said = says();
        let from = said.len().saturating_sub(SHOWN);
        let from = (from..=said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or_default();
        let _ = writeln!(text, "--- {name} said\n{}", said[from..].trim_end());
    }
    text
}

/// Not through print: of a test that passes, or never ends, that is not shown.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
