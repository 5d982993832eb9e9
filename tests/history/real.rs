//! Real runs under real faults: commands that will not end when told to, and a server that is killed and started
//! again at once on its state, again and again.
//!
//! `DFLOCK_ROUNDS=N` kills it more often.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::checker::{Tenure, check, read};
use crate::house::clean::{House, Running};
use crate::house::watchdog::may_take;
use crate::house::{Server, now, wait_for};
use crate::random::Random;

const ROUNDS: u64 = 25;

/// How every command of these trials ends.
const OWN_CODE: i32 = 7;

/// Microseconds on the clock that all of a machine share.
fn clock() -> u64 {
    dflock::clock::now().as_nanos() / 1000
}

fn write(log: &Path, who: &str, lock: (&str, u64), fence: &str, event: &str) {
    let (key, limit) = lock;
    let line = format!("{who} {key} {limit} {fence} {event} {}\n", clock());
    let file = OpenOptions::new().append(true).create(true).open(log);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the log is written");
}

/// Not a test but the command of the trials: they start this program again with its name.
#[test]
fn command() {
    let Some(log) = std::env::var_os("HISTORY_LOG").map(PathBuf::from) else { return };
    let variable = |name: &str| std::env::var(name).expect("a variable of the trial");
    let (who, key, fence) = (variable("HISTORY_WHO"), variable("DFLOCK_KEY"), variable("DFLOCK_FENCE"));
    let number = |name: &str| variable(name).parse::<u64>().expect("a number");
    let lock = (key.as_str(), number("HISTORY_LIMIT"));
    let (begin, time) = (now(), Duration::from_millis(number("HISTORY_MS")));
    write(&log, &who, lock, &fence, "began");
    while begin.elapsed() < time {
        write(&log, &who, lock, &fence, "alive");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    write(&log, &who, lock, &fence, "ended");
    #[expect(clippy::exit, clippy::disallowed_methods, reason = "its own exit code is what is looked at")]
    std::process::exit(OWN_CODE);
}

struct Trial {
    house: House,
    server: Option<Server>,
    state: TempDir,
    started: u64,
    runs: Vec<(String, &'static str, Running)>,
    ended: u64,
}

fn start_server(port: &str, state: &TempDir) -> Server {
    let dir = state.path().join("state");
    Server::start(&["--port", port, "--state-dir", dir.to_str().expect("a plain path")])
}

impl Trial {
    fn begin() -> Trial {
        let state = tempfile::tempdir().expect("a home for the state");
        let server = start_server("0", &state);
        let house = House::at(&server.address);
        Trial { house, server: Some(server), state, started: 0, runs: Vec::new(), ended: 0 }
    }

    fn log(&self) -> PathBuf {
        self.house.path("history")
    }

    /// `dflock exec` with a command that ignores TERM and lives for so long.
    fn start(&mut self, key: &'static str, limit: u64, millis: u64) -> String {
        self.started += 1;
        let who = format!("r{}", self.started);
        write(&self.log(), &who, (key, limit), "-", "asked");
        let mut command = self.house.command("dflock");
        command.env("HISTORY_LOG", self.log()).env("HISTORY_WHO", &who);
        command.env("HISTORY_LIMIT", limit.to_string()).env("HISTORY_MS", millis.to_string());
        command.args(["exec", "-w", "forever", "--connect-retry", "10m", "-l", "20"]);
        if limit > 1 {
            command.args(["--limit", &limit.to_string()]);
        }
        let program = std::env::current_exe().expect("this program");
        command.args([key, "--", "sh", "-c", r#"trap '' TERM; exec "$0" --exact real::command --nocapture"#]);
        command.arg(program);
        self.runs.push((who.clone(), key, Running::start(&mut command)));
        who
    }

    /// Whoever has ended must have ended as its command did.
    fn reap(&mut self) {
        for (who, key, mut run) in std::mem::take(&mut self.runs) {
            if run.is_running() {
                self.runs.push((who, key, run));
                continue;
            }
            let said = run.finish();
            assert_eq!(said.code, OWN_CODE, "{who} on {key}: {said:?}");
            self.ended += 1;
        }
    }

    fn kill_server(&mut self) {
        let server = self.server.as_mut().expect("a server");
        let port = server.address.rsplit_once(':').expect("a port").1.to_owned();
        server.signal("KILL");
        server.wait();
        self.server = Some(start_server(&port, &self.state));
    }

    fn end(&mut self) -> Vec<Tenure> {
        wait_for("everybody to end", || {
            self.reap();
            self.runs.is_empty().then_some(())
        });
        let text = std::fs::read_to_string(self.log()).expect("the log");
        read(&text).unwrap_or_else(|fault| panic!("{fault}"))
    }
}

#[test]
fn commands_run_to_their_own_end_while_the_server_dies_again_and_again() {
    let seed = std::env::var("DFLOCK_SEED").map_or(clock(), |text| text.parse().expect("a number"));
    let rounds = std::env::var("DFLOCK_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    println!("DFLOCK_SEED={seed}");
    may_take(Duration::from_secs(200 + 4 * rounds));
    let mut random = Random::new(seed);
    let mut trial = Trial::begin();
    let holder = ["acquire", "held", "-l", "20", "--owner", "none", "--max-hold", "10m", "--json"];
    let held = trial.house.dflock(&holder).json();
    let fence = held["fence"].as_u64().expect("a fence").to_string();
    write(&trial.log(), "holder", ("held", 1), &fence, "began");
    for _ in 0..rounds {
        trial.reap();
        for (key, limit, most) in [("k", 1, 2), ("pool", 2, 4)] {
            while trial.runs.iter().filter(|(_, of, _)| *of == key).count() < most {
                trial.start(key, limit, 200 + random.below(1200));
            }
        }
        // A moment of its own for every kill: whoever begins, renews, waits or releases then.
        let pause = Duration::from_millis(random.below(400));
        let begin = now();
        while begin.elapsed() < pause {
            std::thread::park_timeout(pause - begin.elapsed().min(pause));
        }
        trial.kill_server();
    }
    let log = trial.log();
    let token = |held: &serde_json::Value| held["token"].as_str().expect("a token").to_owned();
    let released = trial.house.dflock(&["release", "held", &token(&held)]);
    write(&log, "holder", ("held", 1), &fence, "ended");
    assert_eq!(released.code, 0, "a holder rides it out: {released:?}");
    let again = trial.house.dflock(&["acquire", "held", "-n", "--owner", "none", "--max-hold", "10m", "--json"]).json();
    write(&log, "next", ("held", 1), &again["fence"].to_string(), "began");
    trial.house.dflock(&["release", "held", &token(&again)]).ok();
    let all = trial.end();
    let faults = check(&all);
    let ran = all.iter().filter(|tenure| tenure.ran.is_some()).count();
    println!("{rounds} kills, {} commands ended by themselves, {ran} tenures", trial.ended);
    assert_eq!(faults, [], "DFLOCK_SEED={seed}");
    assert_eq!(trial.ended, trial.started);
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let mut trial = Trial::begin();
    for (waiting, millis) in [(0, 1500), (1, 30), (2, 30), (3, 30), (4, 30)] {
        let who = trial.start("k", 1, millis);
        if waiting == 0 {
            trial.house.wait_until_held("k");
        } else {
            trial.house.wait_for_waiters("k", waiting);
            write(&trial.log(), &who, ("k", 1), "-", "queued");
        }
    }
    let all = trial.end();
    assert_eq!(all.iter().filter(|tenure| tenure.queued.is_some()).count(), 4);
    assert_eq!(check(&all), []);
}
