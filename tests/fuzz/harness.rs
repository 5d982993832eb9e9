//! Plays inputs, notices what goes wrong, and leaves the smallest one that does.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use dflock::settings::duration;

use crate::memory;
use crate::random::Random;

/// An input that takes longer is taken for one that never ends. Far longer than any does, on a busy machine too.
const ENDLESS: Duration = Duration::from_secs(120);

/// What making an input smaller may cost.
const SHRINK_FOR: Duration = Duration::from_secs(20);

pub struct Target {
    /// Also of the folder with its kept inputs.
    pub name: &'static str,
    /// Seeds of a plain `cargo test`.
    pub inputs: u64,
    pub make: fn(&mut Random) -> Vec<u8>,
    /// Panics if something does not hold.
    pub check: fn(&[u8]),
    /// How many bytes of memory an input of so many bytes may take.
    pub memory: fn(usize) -> usize,
}

/// Some for a start, and a bit for every byte.
pub fn modest(length: usize) -> usize {
    64 * 1024 + 64 * length
}

/// What was seen.
#[derive(Default)]
pub struct Summary {
    pub inputs: u64,
    bytes: u64,
    /// With the seed that took it.
    slowest: (Duration, u64),
    largest: (usize, u64),
}

/// An input for which something does not hold.
pub struct Failed {
    pub seed: u64,
    pub input: Vec<u8>,
    pub why: String,
}

/// Plays what was kept and then what the environment asks for.
pub fn fuzz(target: &Target) {
    replay(target);
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let time = std::env::var("DFLOCK_FUZZ").ok().map(|text| duration::parse(&text).expect("a duration"));
    let (from, seeds) = match (number("DFLOCK_SEED"), time) {
        (Some(seed), None) => {
            println!("{} seed {seed}: {}", target.name, shown(&(target.make)(&mut Random::new(seed))));
            (seed, 1)
        }
        (Some(seed), Some(_)) => (seed, u64::MAX),
        (None, Some(_)) => (some_seed(), u64::MAX),
        (None, None) => (0, target.inputs),
    };
    match play(target, from, seeds, time) {
        Ok(Summary { inputs, bytes, slowest, largest }) => println!(
            "{}: {inputs} inputs of {bytes} bytes from seed {from} on; slowest {:?} (seed {}), most memory {} (seed {})",
            target.name, slowest.0, slowest.1, largest.0, largest.1
        ),
        Err(Failed { seed, input, why }) => {
            let path = folder().join(format!("{}-{seed}", target.name));
            fs::write(&path, &input).expect("the input is kept");
            panic!(
                "{}: {why}\nThe input of DFLOCK_SEED={seed} does this. Made small it is {}, and in {}",
                target.name,
                shown(&input),
                path.display()
            );
        }
    }
}

/// Every input that failed once.
fn replay(target: &Target) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let files = fs::read_dir(folder).into_iter().flatten();
    for file in files {
        let path = file.expect("the folder is readable").path();
        let input = fs::read(&path).expect("a kept input is readable");
        if let Err(why) = attempt(target, &input) {
            panic!("{}: {why}\nThe input is {}", target.name, path.display());
        }
    }
}

/// Plays so many seeds, or for so long. The failed input of an error is as small as it could be made.
pub fn play(target: &Target, from: u64, seeds: u64, time: Option<Duration>) -> Result<Summary, Failed> {
    let mut summary = Summary::default();
    let running = Running::begin(target.name);
    let begin = now();
    while summary.inputs < seeds && time.is_none_or(|time| begin.elapsed() < time) {
        let seed = from.wrapping_add(summary.inputs);
        running.at(seed);
        let input = (target.make)(&mut Random::new(seed));
        let began = now();
        let taken = match attempt(target, &input) {
            Ok(taken) => taken,
            Err(why) => {
                let (input, why) = shrink(target, input, why);
                return Err(Failed { seed, input, why });
            }
        };
        summary.inputs += 1;
        summary.bytes += input.len() as u64;
        summary.slowest = summary.slowest.max((began.elapsed(), seed));
        summary.largest = summary.largest.max((taken, seed));
    }
    Ok(summary)
}

/// Plays one input. Says how much memory it took, or what does not hold.
fn attempt(target: &Target, input: &[u8]) -> Result<usize, String> {
    listen_to_panics();
    PANIC.with_borrow_mut(|said| *said = None);
    IS_PLAYING.set(true);
    let (checked, taken) = memory::peak_of(|| panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_ok());
    IS_PLAYING.set(false);
    // One in a task of a runtime ends nothing but that task.
    if let Some(said) = PANIC.take() {
        return Err(said);
    }
    assert!(checked, "a panic without a word");
    let limit = (target.memory)(input.len());
    if taken > limit {
        return Err(format!("{} bytes take {taken} bytes of memory, more than {limit}", input.len()));
    }
    Ok(taken)
}

/// Leaves out whatever can be left out, and makes zeros of what cannot.
fn shrink(target: &Target, mut input: Vec<u8>, mut why: String) -> (Vec<u8>, String) {
    let begin = now();
    let mut try_out = |input: &mut Vec<u8>, smaller: Vec<u8>| match attempt(target, &smaller) {
        Err(said) => {
            (*input, why) = (smaller, said);
            true
        }
        Ok(_) => false,
    };
    let mut size = input.len();
    while size > 0 {
        let mut at = 0;
        while at < input.len() && begin.elapsed() < SHRINK_FOR {
            let mut without = input.clone();
            without.drain(at..(at + size).min(input.len()));
            if !try_out(&mut input, without) {
                at += size;
            }
        }
        size /= 2;
    }
    for plain in [0, b'0'] {
        for at in 0..input.len() {
            if input[at] != 0 && input[at] != plain && begin.elapsed() < SHRINK_FOR {
                let mut plainer = input.clone();
                plainer[at] = plain;
                try_out(&mut input, plainer);
            }
        }
    }
    (input, why)
}

thread_local! {
    static IS_PLAYING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The first panic of an input is kept; none is printed, as making an input smaller takes hundreds.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let otherwise = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if IS_PLAYING.get() {
                PANIC.with_borrow_mut(|said| _ = said.get_or_insert_with(|| panic.to_string()));
            } else {
                otherwise(panic);
            }
        }));
    });
}

/// Says which seed is being played, should the program not live to say it itself.
struct Running {
    seed: Arc<AtomicU64>,
    file: File,
    path: PathBuf,
}

impl Running {
    fn begin(name: &'static str) -> Running {
        let path = folder().join(format!("{name}.running"));
        let file = File::create(&path).expect("a file is made");
        let seed = Arc::new(AtomicU64::new(0));
        let watched = Arc::downgrade(&seed);
        std::thread::spawn(move || {
            let (mut last, mut since) = (0, now());
            while let Some(seed) = watched.upgrade().map(|seed| seed.load(Ordering::Relaxed)) {
                if seed != last {
                    (last, since) = (seed, now());
                }
                if since.elapsed() > ENDLESS {
                    eprintln!("{name}: the input of DFLOCK_SEED={seed} has not ended within {ENDLESS:?}");
                    std::process::abort();
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        Running { seed, file, path }
    }

    fn at(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
        self.file.write_all_at(format!("{seed:020}\n").as_bytes(), 0).expect("the seed is written down");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever looks for it finds the seeds of programs that died.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where failed inputs are put.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).expect("a folder for failed inputs");
    folder
}

fn some_seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    // Short enough to be typed.
    u64::from_ne_bytes(bytes) >> 24
}

fn shown(input: &[u8]) -> String {
    const MOST: usize = 600;
    let more = if input.len() > MOST { "…" } else { "" };
    format!("b\"{}{more}\" ({} bytes)", input[..input.len().min(MOST)].escape_ascii(), input.len())
}

/// A test measures with the ordinary clock.
#[expect(clippy::disallowed_methods, reason = "tests stand outside the house's clock")]
pub fn now() -> Instant {
    Instant::now()
}
