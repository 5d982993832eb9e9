//! When a child is told to end and when it is dead, by the child's own clock; and a lock kept for longer than an
//! idle connection may live.
//!
//! A busy machine must not fail this, nor may it hide a child that lives too long. So three things are told apart.
//! A sign of life at a moment when the server could have given the lock away is a failure, whatever the machine did.
//! The moments must be right to [`RIGHT`], and the last sign of life no later than asked by more than it takes to
//! wake. If they are not, and the machine is measured to have been busy, another attempt is made; if it is busy
//! every time, the last one may use half of the margin that is there for such machines.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::pty_jobs::state;
use super::trials_fleet::has_life;
use crate::house::clean::{House, Running};
use crate::house::original::Original;
use crate::house::proxy::Proxy;
use crate::house::{now, signal, wait_for};

const LEASE: u64 = 10;

/// By rule 2, for this lease and the grace that is given if none is asked for.
const TERM: Duration = Duration::from_millis(6500);
const KILL: Duration = Duration::from_millis(9000);

/// How exact it must be on a machine that has time.
const RIGHT: Duration = Duration::from_millis(100);

/// A machine that wakes everybody within this has time.
const AWAKE: Duration = Duration::from_millis(20);

/// On one that never has time: half of what is left between the KILL and the end of the lease.
const STARVED: Duration = Duration::from_millis(500);

const ATTEMPTS: u32 = 3;

/// Writes when it lives and when it is told to end, without a fork.
const JOB: &str = r#"
echo $$ > pid
exec 9<> pace
trap 'echo "term $EPOCHREALTIME" >> log' TERM
trap 'echo "told $EPOCHREALTIME" >> log' USR1
while :; do
    echo "alive $EPOCHREALTIME" >> log
    read -r -t 0.002 -u 9
done
"#;

/// What keeps a lease from being renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    FrozenServer,
    BlackHole,
    /// Its guardian kills, and nobody says TERM.
    FrozenDflock,
}

/// Counted from `begin`, when the last renewal that was answered had been sent, in microseconds.
#[derive(Debug)]
struct Times {
    begin: u64,
    term: Option<Duration>,
    last_life: Duration,
}

/// Tells whether others had the processors.
struct Watch {
    house: House,
    sleepers: Vec<Running>,
    waited: u64,
    begin: Instant,
}

/// Naps again and again, and writes when one was too long. In a session of its own, as a guardian is: schedulers
/// share a processor between sessions first.
const SLEEPER: &str = r#"
exec 9<> pace
end=${EPOCHREALTIME/[.,]/}
while :; do
    begin=$end
    read -r -t 0.002 -u 9
    end=${EPOCHREALTIME/[.,]/}
    [ $((end - begin)) -gt 4000 ] && echo "$begin $end" >> late
done
"#;

impl Watch {
    /// One for each processor and one more, so that there is always one that wants what others want.
    fn start() -> Watch {
        let house = House::at("nowhere:1");
        furnish(&house, SLEEPER);
        let number = std::thread::available_parallelism().map_or(2, |number| number.get() + 1);
        let sleepers = (0..number).map(|_| Running::start(house.command("setsid").args(["bash", "job"]))).collect();
        Watch { house, sleepers, waited: waited(), begin: now() }
    }

    /// How late anybody woke around these moments, and whether that was the machine's manner all the time.
    fn look(&self, moments: &[u64]) -> Busy {
        let around = RIGHT.as_micros() as u64;
        let near = |begin: u64, end: u64| moments.iter().any(|at| begin < at + 2 * around && at - around < end);
        let late = self.house.read("late");
        let naps = late.lines().filter_map(|line| {
            let (begin, end) = line.split_once(' ')?;
            Some((begin.parse::<u64>().ok()?, end.parse::<u64>().ok()?))
        });
        let woke = naps.filter(|(begin, end)| near(*begin, *end)).map(|(begin, end)| end - begin).max().unwrap_or(0);
        let share = (waited() - self.waited) as f64 / self.begin.elapsed().as_micros() as f64;
        Busy { woke: Duration::from_micros(woke), share }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for sleeper in &self.sleepers {
            sleeper.signal("KILL");
        }
    }
}

/// For how long so far somebody waited for a processor, in microseconds, where the kernel tells.
fn waited() -> u64 {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.rsplit_once("total=")?.1.parse().ok());
    total.unwrap_or(0)
}

#[derive(Debug)]
struct Busy {
    woke: Duration,
    share: f64,
}

impl Busy {
    fn is_it(&self) -> bool {
        self.woke > AWAKE || self.share > 0.2
    }
}

/// The pipe that nobody writes to, and what waits at it.
fn furnish(house: &House, job: &str) {
    nix::unistd::mkfifo(&house.path("pace"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::fs::write(house.path("job"), job).expect("the job is written");
}

/// Microseconds at which the proxy had the last renewal that was answered.
fn last_renewal(proxy: &Proxy) -> Option<u64> {
    let heard = proxy.heard();
    let answer = heard.iter().rposition(|heard| !heard.from_client && heard.text == format!("ok {LEASE}\n"))?;
    let sent = heard[..answer].iter().rev().find(|heard| heard.from_client && heard.text.starts_with("n\n"))?;
    Some(sent.at.duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64)
}

fn measure(trouble: Trouble) -> Times {
    let original = (trouble == Trouble::BlackHole).then(|| Original::start(Duration::from_secs(23)));
    let house = original.as_ref().map_or_else(House::new, |original| House::at(&original.address));
    let proxy = Proxy::to(&house.servers);
    furnish(&house, JOB);
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", &proxy.address);
    let running = Running::start(command.args(["exec", "-l", &LEASE.to_string(), "k", "bash", "job"]));
    if trouble == Trouble::BlackHole {
        // Answers are late, too: the lease counts from the question.
        wait_for("a child", || house.read("log").contains("alive").then_some(()));
        proxy.delay(Duration::from_millis(250));
    }
    wait_for("a renewal", || last_renewal(&proxy));
    // It has gone through dflock when that was told of it, and sleeps again.
    running.signal("USR1");
    wait_for("dflock to have read it", || house.read("log").contains("told").then_some(()));
    wait_for("dflock to be idle", || (state(running.pid.cast_signed()) == 'S').then_some(()));
    match trouble {
        Trouble::FrozenServer => house.server().signal("STOP"),
        Trouble::BlackHole => proxy.swallow(true),
        Trouble::FrozenDflock => running.signal("STOP"),
    }
    let begin = last_renewal(&proxy).expect("it was there");
    let last = |kind: &str, log: &str| -> Option<u64> {
        // What is read while it is written may end with half a line.
        let whole = &log[..log.rfind('\n')?];
        let line = whole.lines().rev().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        line.replace(['.', ','], "").parse().ok()
    };
    let child = house.wait_for_file("pid").trim().parse().expect("a number");
    wait_for("the end of the child", || (!has_life(child)).then_some(()));
    assert_eq!(last_renewal(&proxy), Some(begin), "{trouble:?}: no other one was answered");
    match trouble {
        Trouble::FrozenServer => house.server().signal("CONT"),
        Trouble::BlackHole => proxy.swallow(false),
        Trouble::FrozenDflock => signal(running.pid, "CONT"),
    }
    let said = running.finish();
    assert_eq!(said.code, 79, "{said:?}");
    let log = house.read("log");
    let since = |at: u64| Duration::from_micros(at.saturating_sub(begin));
    Times { begin, term: last("term", &log).map(since), last_life: since(last("alive", &log).expect("it lived")) }
}

/// What is wrong with these times, if they may be wrong by `slack`.
fn judge(trouble: Trouble, times: &Times, slack: Duration) -> Result<(), String> {
    let Times { term, last_life, .. } = times;
    // This one nothing excuses.
    let end = Duration::from_secs(LEASE);
    assert!(*last_life < end, "{trouble:?}: it lived when the lock could be another's: {times:?}");
    let is_near = |time: Duration, wanted: Duration| time + slack > wanted && time < wanted + slack;
    let is_told_well = match (trouble, term) {
        (Trouble::FrozenDflock, term) => term.is_none(),
        (_, Some(term)) => is_near(*term, TERM),
        (_, None) => false,
    };
    if !is_told_well {
        return Err(format!("{trouble:?}: TERM is due at {TERM:?}: {times:?}"));
    }
    // Later than it should be dead: only as late as anybody wakes.
    if !is_near(*last_life, KILL) || *last_life > KILL + slack.max(RIGHT) - RIGHT + AWAKE {
        return Err(format!("{trouble:?}: it must be dead at {KILL:?}: {times:?}"));
    }
    Ok(())
}

#[test]
fn a_child_is_told_and_killed_when_it_must_be() {
    let _quiet = crate::quiet();
    for attempt in 1.. {
        let watch = Watch::start();
        let troubles = [Trouble::FrozenServer, Trouble::BlackHole, Trouble::FrozenDflock];
        let all = troubles.map(|trouble| (trouble, std::thread::spawn(move || measure(trouble))));
        let all = all.map(|(trouble, measuring)| (trouble, measuring.join().expect("it was measured")));
        let is_last = attempt == ATTEMPTS;
        let mut again = false;
        for (trouble, times) in all {
            let busy = watch.look(&[TERM, KILL].map(|due| times.begin + due.as_micros() as u64));
            let slack = if is_last && busy.is_it() { STARVED } else { RIGHT };
            let judged = judge(trouble, &times, slack);
            println!("attempt {attempt}, {trouble:?}: {busy:?}; {times:?}");
            assert!(judged.is_ok() || busy.is_it() && !is_last, "{busy:?}: {judged:?}");
            again |= judged.is_err();
        }
        if !again {
            return;
        }
    }
}

/// The original frees the locks of a connection that is silent for 23 s, whatever their lease.
#[test]
fn a_job_longer_than_the_originals_idle_cut_keeps_its_lock() {
    let cut = Duration::from_secs(23);
    let original = Original::start(cut);
    let house = House::at(&original.address);
    let job = "echo ready > ready; until [ -e go ]; do sleep 0.1; done; exit 5";
    let running = house.start(&["exec", "-l", "120", "k", "-c", job]);
    house.wait_for_file("ready");
    let begin = now();
    while begin.elapsed() < cut + Duration::from_secs(4) {
        house.dflock(&["exec", "-n", "k", "true"]).code(75);
        std::thread::park_timeout(Duration::from_millis(500));
    }
    std::fs::write(house.path("go"), "").expect("the sign is given");
    let said = running.finish();
    assert_eq!((said.code, said.err.as_str()), (5, ""), "{said:?}");
    // With the lease each time: without it the original would fall back to its own.
    let renewals: Vec<String> = original.heard().into_iter().filter(|line| line.starts_with("n k ")).collect();
    assert!(renewals.len() >= 3 && renewals.iter().all(|line| line.ends_with(" 120")), "{}", renewals.len());
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
}
