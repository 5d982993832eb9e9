//! Overlap trials: seeded faults against many `exec`s on one key, and proof that no two children ran at once.
//!
//! `DFLOCK_SEED=N` runs a story again, as far as the machine's scheduler lets it; `DFLOCK_ROUNDS=N` asks for more.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::suid::furnish_for_nobody;
use super::trials_checker::{Break, Verdict, check, spread};
use super::trials_faults;
use super::trials_fleet::{MANNERS, Manners, Role, Tail, command, furnish, has_life, processes, send, stuck_pipe};
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::watchdog::may_take;
use crate::house::{CEILING, Client, Server, lasting_port, now, wait_for};
use crate::random::Random;

/// How many faults are injected unless `DFLOCK_ROUNDS` says otherwise.
const ROUNDS: u64 = 300;

/// How many run or wait at any time.
const FLEET: usize = 3;

/// What a lane's server is like, and so which faults it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// Ours: a broken connection is resumed.
    Own,
    /// Ours, killed and started again with nothing in its memory.
    Restarted,
    /// Ours, killed and started again at once on the state that it kept.
    Kept,
    /// The original's manners: a broken connection is a lost lock.
    Original,
}

/// Each lane has a house, a server and a wire to it of its own, and its share of the rounds, in parts of 300.
const LANES: [(Site, u64); 8] = [
    (Site::Own, 48),
    (Site::Own, 48),
    (Site::Own, 48),
    (Site::Own, 48),
    (Site::Original, 44),
    (Site::Original, 44),
    (Site::Restarted, 20),
    (Site::Kept, 30),
];

/// One `dflock exec`.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) running: Running,
    pub(crate) lease: u64,
    pub(crate) manners: Manners,
    /// It reaches the server through the proxy.
    pub(crate) proxied: bool,
    /// In a PID namespace: it ends with dflock, whatever happens to the guardian.
    pub(crate) contained: bool,
    /// Its guardian is gone: it must not be killed or frozen any more.
    pub(crate) tender: bool,
    /// How it may end.
    pub(crate) may: Vec<i32>,
    /// Its end is one by force: nobody of its command may be left when it has ended.
    pub(crate) swept: bool,
    /// The other end of what it says its messages to, if nobody reads that.
    _unread: Option<OwnedFd>,
}

pub(crate) struct Lane {
    pub(crate) site: Site,
    pub(crate) house: House,
    pub(crate) server: Option<Server>,
    address: String,
    pub(crate) proxy: Proxy,
    pub(crate) random: Random,
    pub(crate) runs: Vec<Run>,
    pub(crate) tail: Tail,
    pub(crate) breaks: Vec<Break>,
    pub(crate) story: Vec<String>,
    /// New ones are started as old ones end.
    pub(crate) refills: bool,
    started: u64,
    codes: BTreeMap<i32, u64>,
    /// Commands can change their user here.
    has_root: bool,
    /// What its server keeps, if it does.
    pub(crate) state: TempDir,
    /// Keeps the original's server alive.
    _original: Option<Original>,
}

/// A server that goes on from what the one before it kept.
pub(crate) fn start_kept(port: &str, state: &TempDir) -> Server {
    let dir = state.path().join("state");
    Server::start(&["--port", port, "--state-dir", dir.to_str().expect("a plain path")])
}

impl Lane {
    fn open(site: Site, seed: u64) -> Lane {
        let (mut server, mut original) = (None, None);
        let state = tempfile::tempdir().expect("a home for the state");
        let address = match site {
            Site::Original => original.insert(Original::start(Duration::from_secs(23))).address.clone(),
            Site::Own => server.insert(Server::start(&[])).address.clone(),
            Site::Restarted => server.insert(Server::start(&["--port", &lasting_port()])).address.clone(),
            Site::Kept => server.insert(start_kept(&lasting_port(), &state)).address.clone(),
        };
        let house = House::at(&address);
        furnish(&house);
        // Where a lock cannot be lost before its command ends by itself: nobody could end it.
        let has_root = matches!(site, Site::Own | Site::Kept) && furnish_for_nobody(&house);
        let (tail, proxy) = (Tail::of(&house), Proxy::to(&address));
        Lane {
            site,
            house,
            server,
            address,
            proxy,
            random: Random::new(seed),
            runs: Vec::new(),
            tail,
            breaks: Vec::new(),
            story: Vec::new(),
            refills: true,
            started: 0,
            codes: BTreeMap::new(),
            has_root,
            state,
            _original: original,
        }
    }

    /// Looks at the log and at who has ended, and sends new ones in.
    pub(crate) fn step(&mut self) {
        self.tail.read();
        let (ended, runs) = std::mem::take(&mut self.runs).into_iter().partition(|run: &Run| !run.is_running());
        self.runs = runs;
        let ended: Vec<Run> = ended;
        for run in ended {
            let Run { name, running, may, lease, manners, proxied, swept, .. } = run;
            let said = running.finish();
            *self.codes.entry(said.code).or_default() += 1;
            if said.code != 0 {
                let (line, code, err) = (self.tail.lines.len(), said.code, said.err.trim());
                self.story
                    .push(format!("end of {name}: {code} (line {line}) lease {lease} {manners:?} {proxied} {err}"));
            }
            assert!(
                may.contains(&said.code),
                "{name} (lease {lease}, {manners:?}, proxied {proxied}) may end with {may:?}: {said:?}"
            );
            if said.code == 79 || swept {
                let left = processes(&self.house, Some(&name));
                assert!(left.iter().all(|one| one.role != Role::Job), "orphans of {name} ({}): {left:?}", said.code);
            }
        }
        while self.refills && self.runs.len() < FLEET {
            self.started += 1;
            let name = format!("r{}", self.started);
            let (lease, manners) = if self.has_root && self.random.chance(8) {
                (20, Manners::Root)
            } else {
                (*self.random.pick(&[2, 2, 3, 6, 20]), *self.random.pick(&MANNERS))
            };
            let proxied = self.random.chance(60);
            // Whoever waits may be sent away by many a fault. On a busy machine a short lease may be lost for
            // nothing. Both are allowed, and safe.
            let may = if lease < 10 { vec![0, 69, 79] } else { vec![0, 69] };
            let lines = 5 + self.random.below(40);
            let server = if proxied { self.proxy.address.clone() } else { self.address.clone() };
            let mut flags = vec!["-l".to_owned(), lease.to_string()];
            if self.random.chance(50) {
                // Many an attempt to come back is given up within one lease.
                flags.extend(["--connect-timeout", "0.5"].map(str::to_owned));
            }
            if self.random.chance(70) {
                flags.extend(["--kill-after", "0.5"].map(str::to_owned));
            }
            let contained = self.has_root && manners != Manners::Root && self.random.chance(20);
            if contained {
                flags.extend(["--contain", "pidns"].map(str::to_owned));
            }
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let mut command = command(&self.house, &server, &name, lines, manners, &flags);
            let mut unread = None;
            if self.random.chance(20) {
                let (read, write) = stuck_pipe();
                command.stderr(write);
                unread = Some(read);
            }
            let running = Running::start(&mut command);
            let tender = false;
            let run =
                Run { name, running, lease, manners, proxied, contained, tender, may, swept: false, _unread: unread };
            self.runs.push(run);
        }
    }

    /// Goes on until `look` finds something.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Lane) -> Option<T>) -> T {
        let begin = now();
        loop {
            self.step();
            if let Some(found) = look(self) {
                return found;
            }
            if begin.elapsed() > CEILING {
                let alive = processes(&self.house, None);
                panic!("waited {CEILING:?} for {what}; last line {:?}; alive: {alive:?}", self.tail.lines.last());
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Goes on until children have written so many lines, or for so long if that comes first.
    pub(crate) fn pass_time(&mut self, lines: u64, at_most: Duration) {
        let (goal, begin) = (self.tail.lines.len() as u64 + lines, now());
        self.until("time to pass", |lane| {
            (lane.tail.lines.len() as u64 >= goal || begin.elapsed() >= at_most).then_some(())
        });
    }

    /// Whose child writes now: one that `fits`.
    pub(crate) fn writer(&mut self, fits: impl Fn(&Run) -> bool) -> Option<usize> {
        let before = self.tail.lines.len();
        let name = self.until("somebody to write", |lane| {
            (lane.tail.lines.len() > before).then(|| lane.tail.last().unwrap_or_default().to_owned())
        });
        self.find(&name).filter(|at| fits(&self.runs[*at]))
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.runs.iter().position(|run| run.name == name)
    }

    pub(crate) fn wait_for_end(&mut self, name: &str) {
        self.until(&format!("the end of {name}"), |lane| lane.find(name).is_none().then_some(()));
    }

    /// Waits until neither a child nor a guardian of a run is left.
    pub(crate) fn wait_for_silence(&mut self, name: &str) {
        self.until(&format!("nobody left of {name}"), |lane| {
            let left = processes(&lane.house, Some(name));
            left.iter().all(|process| process.role == Role::Dflock).then_some(())
        });
    }

    /// The faults, then the end: everybody leaves, and nothing is left of anything.
    fn run(&mut self, rounds: u64) -> (Verdict, u64) {
        let mut done = 0;
        while done < rounds {
            done += u64::from(trials_faults::inject(self));
        }
        self.refills = false;
        self.until("the last ones to end", |lane| lane.runs.is_empty().then_some(()));
        wait_for("the end of every process", || processes(&self.house, None).is_empty().then_some(()));
        let mut client = Client::connect(&self.address);
        wait_for("an empty server", || {
            let stats = client.stats();
            (stats["locks"].as_array().is_some_and(Vec::is_empty) && stats["semaphores"] == serde_json::json!([]))
                .then_some(())
        });
        self.tail.read();
        (check(&self.tail.lines, self.site != Site::Original, &self.breaks), done)
    }
}

impl Run {
    fn is_running(&self) -> bool {
        has_life(self.running.pid)
    }

    pub(crate) fn send(&self, signal: Signal) {
        send(self.running.pid.cast_signed(), signal);
    }
}

/// Microseconds on the clock that the children read.
#[expect(clippy::disallowed_methods, reason = "tests stand outside the house's clock")]
pub(crate) fn wall() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[expect(clippy::print_stdout, reason = "the story and its figures")]
pub(crate) fn trials() {
    let _loud = crate::loud();
    let seed = number("DFLOCK_SEED").unwrap_or_else(wall);
    let rounds = number("DFLOCK_ROUNDS").unwrap_or(ROUNDS);
    println!("DFLOCK_SEED={seed} DFLOCK_ROUNDS={rounds}");
    may_take(Duration::from_secs(300 + 2 * rounds));
    let begin = now();
    let lanes = LANES.iter().enumerate().map(|(at, (site, share))| {
        let rounds = (share * rounds).div_ceil(ROUNDS);
        std::thread::spawn(move || run_lane(at, *site, seed.wrapping_add(at as u64), rounds))
    });
    let lanes: Vec<_> = lanes.collect();
    let ends: Vec<_> = lanes.into_iter().map(std::thread::JoinHandle::join).collect();
    let injected: u64 = ends.iter().flatten().sum();
    println!("{injected} faults in {:?}", begin.elapsed());
    let broken = ends.iter().filter(|end| end.is_err()).count();
    assert_eq!(broken, 0, "lanes that failed; DFLOCK_SEED={seed} runs them again");
}

#[expect(clippy::print_stdout, reason = "the story and its figures")]
fn run_lane(at: usize, site: Site, seed: u64, rounds: u64) -> u64 {
    let mut lane = Lane::open(site, seed);
    // However it ends, the story is told.
    let begin = now();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lane.run(rounds)));
    let Ok((verdict, done)) = ended else {
        let from = lane.story.len().saturating_sub(12);
        println!("lane {at} ({site:?}) failed; its last faults: {:#?}", &lane.story[from..]);
        lane.tail.read();
        let verdict = check(&lane.tail.lines, site != Site::Original, &lane.breaks);
        let (count, some) = (verdict.violations.len(), verdict.violations.first());
        println!("lane {at}: {count} lines out of place by then: {some:?}");
        for run in &lane.runs {
            run.send(Signal::SIGCONT);
        }
        panic!("lane {at} failed");
    };
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for fault in lane.story.iter().filter(|fault| !fault.starts_with("end of ")) {
        *faults.entry(fault.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    println!(
        "lane {at} {site:?}: {done} faults, {} runs, {} grants, {} lines in {:?}; ends {:?}; {faults:?}; after a break \
         (median, max in µs) the old child wrote for {:?}, beside another one for {:?}",
        lane.started,
        verdict.grants,
        lane.tail.lines.len(),
        begin.elapsed(),
        lane.codes,
        spread(&verdict.tails),
        spread(&verdict.overlaps),
    );
    if !verdict.violations.is_empty() {
        println!("story of lane {at}: {:#?}", lane.story);
    }
    let shown: Vec<_> = verdict.violations.iter().take(3).chain(verdict.violations.iter().rev().take(1)).collect();
    let count = verdict.violations.len();
    assert_eq!(count, 0, "lane {at} {site:?}, {count} lines: {shown:#?}");
    done
}
