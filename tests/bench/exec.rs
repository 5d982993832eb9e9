//! A stopwatch for `dflock exec`: what it costs beside flock(1) and nothing at all, and how fast a lock changes hands.
//!
//! `cargo bench --bench exec [-- cost|handoff [TIMES]]` prints; it asserts nothing, because machines differ. Ratios of
//! one run count.

#![allow(clippy::print_stdout, reason = "a stopwatch prints")]

#[path = "../house/mod.rs"]
mod house;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use house::clean::{House, Running};
use house::{now, wait_for};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("stamp") {
        return stamp();
    }
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let (only, times) = (words.next(), words.next().and_then(|times| times.parse().ok()));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name == only);
    println!("cores: {}", std::thread::available_parallelism().map_or(0, usize::from));
    if wanted("cost") {
        cost(times.unwrap_or(400));
    }
    if wanted("handoff") {
        handoff(times.unwrap_or(200));
    }
}

/// The one in the middle, and the one that nine in ten stay below.
fn spread(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 9 / 10])
}

/// The same three commands in turn, each started the same way, so that what the machine does meets them alike.
fn cost(times: usize) {
    let house = House::new();
    let true_ = ["true"];
    let flock = ["flock", "-n", "file", "true"];
    let dflock = ["dflock", "exec", "k", "true"];
    let commands: [&[&str]; 3] = [&true_, &flock, &dflock];
    let mut taken: [Vec<Duration>; 3] = Default::default();
    for time in 0..times + 10 {
        for (command, taken) in commands.iter().zip(&mut taken) {
            let mut started = house.command(command[0]);
            let took = run(started.args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()));
            // The first ones bring everything into memory.
            if time >= 10 {
                taken.push(took);
            }
        }
    }
    let figures = taken.map(spread);
    println!("\na whole process, median of {times}, alternating; the server is on loopback");
    println!("{:>28} {:>10} {:>10} {:>8} {:>8}", "", "median", "90 %", "/ true", "/ flock");
    for (command, (median, most)) in commands.iter().zip(&figures) {
        let ratio = |to: Duration| median.as_secs_f64() / to.as_secs_f64();
        let (bare, flock) = (ratio(figures[0].0), ratio(figures[1].0));
        let (median, most) = (format!("{median:.1?}"), format!("{most:.1?}"));
        println!("{:>28} {median:>10} {most:>10} {bare:>8.2} {flock:>8.2}", command.join(" "));
    }
}

fn run(command: &mut Command) -> Duration {
    let begin = now();
    let status = command.spawn().expect("it starts").wait().expect("it ends");
    let took = begin.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// How many wait when the lock is given back.
const WAITING: u64 = 3;

/// What every command does here: write when it began and when it ended.
fn stamp() {
    let begin = wall();
    let mut log = std::fs::File::options().append(true).open("log").expect("the log");
    // As late as can be told.
    writeln!(log, "{begin} {}", wall()).expect("the log is written");
}

/// Microseconds on a clock that all processes share.
#[expect(clippy::disallowed_methods, reason = "a stopwatch stands outside the house's clock")]
fn wall() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

/// From a release to the first moment of the next command, and from the last moment of one to the first of the next.
fn handoff(times: usize) {
    let house = House::new();
    let this = std::env::current_exe().expect("this program");
    let (mut released, mut chained, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let since = |begin: u64, end: u64| Duration::from_micros(end.saturating_sub(begin));
    let lines = || -> Vec<(u64, u64)> {
        let numbers = |line: &str| line.split_once(' ').map(|(a, b)| (a.parse().expect("a"), b.parse().expect("b")));
        house.read("log").lines().map(|line| numbers(line).expect("two numbers")).collect()
    };
    while released.len() < times {
        std::fs::write(house.path("log"), "").expect("a log");
        let mut door = house.server().connect();
        let token = door.take("k", "10 60");
        let crowd: Vec<Running> = (0..WAITING)
            .map(|_| {
                let mut command = house.command("dflock");
                command.args(["exec", "-w", "forever", "k", "--"]).arg(&this).arg("stamp");
                Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
            })
            .collect();
        wait_for("a crowd", || (house.server().stats()["locks"][0]["waiters"] == WAITING).then_some(()));
        let begin = wall();
        door.ask("r", "k", &token);
        for one in crowd {
            one.finish().code(0);
        }
        let stamps = lines();
        released.push(since(begin, stamps[0].0));
        chained.extend(stamps.windows(2).map(|pair| since(pair[0].1, pair[1].0)));
        // The least that it can take: somebody starts the same command, and it ends.
        std::fs::write(house.path("log"), "").expect("a log");
        let begin = wall();
        run(house.command(&this.to_string_lossy()).arg("stamp").stdout(Stdio::null()).stderr(Stdio::null()));
        bare.push(since(begin, lines()[0].0));
    }
    println!("\nmedian of {times} rounds, {WAITING} waiting in each");
    println!("{:>60} {:>10} {:>10}", "", "median", "90 %");
    let say = |what: &str, times: Vec<Duration>| {
        let (median, most) = spread(times);
        println!("{what:>60} {:>10} {:>10}", format!("{median:.1?}"), format!("{most:.1?}"));
    };
    say("from a release to the next waiter's command", released);
    say("from a command's last moment to the next one's first", chained);
    say("for comparison: from a spawn to the command's first moment", bare);
}
