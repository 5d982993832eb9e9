//! A history as data: who comes when, and what goes wrong. Made of a seed, or of what shrinking left of it.

use dflock::lock::Kind;

use super::MS;
use super::child::Manners;
use super::exec::Job;
use super::holder::Holding;
use super::ticket::Queuing;
use crate::random::Random;

/// What kind of server it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Ours, with `--state-dir` and `--fsync always`.
    Journal,
    /// Ours, with nothing but its memory.
    Memory,
    /// The original's manners: no resuming, idle connections are cut.
    Original,
}

#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub site: Site,
    /// The most that a message takes, in nanoseconds.
    pub latency: u64,
    pub decisions: Vec<Decision>,
}

#[derive(Clone, Debug)]
pub struct Decision {
    pub at_ms: u64,
    /// It happens so many events later: between any two steps of whatever is under way then.
    pub steps: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Arrive {
        client: usize,
        ppm: i64,
        role: Role,
    },
    Cut {
        client: usize,
    },
    /// Its connections are dead, and neither end knows.
    HalfOpen {
        client: usize,
    },
    Swallow {
        client: usize,
        for_ms: u64,
    },
    Slow {
        client: usize,
        by_ms: u64,
        for_ms: u64,
    },
    /// SIGSTOP to dflock, and SIGCONT later.
    Freeze {
        client: usize,
        for_ms: u64,
    },
    KillDflock {
        client: usize,
    },
    KillGuardian {
        client: usize,
    },
    /// It stands still, and nobody is told: a debugger, a freezer.
    HoldGuardian {
        client: usize,
        for_ms: u64,
    },
    KillCommand {
        client: usize,
    },
    /// TERM to dflock, which hands it on.
    Tell {
        client: usize,
    },
    /// Its machine is suspended.
    Sleep {
        client: usize,
        for_ms: u64,
    },
    /// Its machine gives dflock too little processor time from now on, though the command gets all that it wants.
    Starve {
        client: usize,
        most_ms: u64,
    },
    KillServer {
        down_ms: u64,
    },
    /// TERM to a server that keeps nothing: it goes when nothing is held, and another one comes.
    DrainServer,
    /// SIGSTOP to the server, and SIGCONT later.
    FreezeServer {
        for_ms: u64,
    },
    /// Power cut, and a boot.
    CutPower {
        down_ms: u64,
    },
    BreakDisk {
        for_ms: u64,
    },
    BreakDirectory {
        for_ms: u64,
    },
    SlowDisk {
        by_ms: u64,
        for_ms: u64,
    },
    /// The server's wall clock is set.
    SetWall {
        by_ms: i64,
    },
}

#[derive(Clone, Debug)]
pub enum Role {
    Exec(Job),
    Holder(Holding),
    Ticket(Queuing),
}

/// The faults of one kind only: a server that is away for a moment must not disturb long leases.
const UPGRADES: u64 = 12;

/// The same of a server that stands still: long enough for attempts that are given up, short enough for long leases
/// to live, and for commands that run on for long after.
const STANDSTILLS: u64 = 4;

/// Machines that give too little processor time.
const STARVING: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    Upgrades,
    Standstills,
    Starving,
    Anything,
}

impl History {
    pub fn of(seed: u64) -> History {
        let mut random = Random::new(seed);
        let theme = match random.below(100) {
            0..UPGRADES => Theme::Upgrades,
            UPGRADES.. if random.below(100 - UPGRADES) < STANDSTILLS => Theme::Standstills,
            _ if random.below(100) < STARVING => Theme::Starving,
            _ => Theme::Anything,
        };
        let upgrades = theme == Theme::Upgrades;
        let site = match random.below(100) {
            _ if theme != Theme::Anything => Site::Journal,
            0..60 => Site::Journal,
            60..75 => Site::Memory,
            _ => Site::Original,
        };
        let latency = *random.pick(&[MS / 5, MS, 5 * MS, 20 * MS]);
        let clients = 2 + random.below(5) as usize;
        let keys = 1 + random.below(2) as u8;
        let mut decisions = Vec::new();
        for client in 0..clients {
            let within = if random.chance(50) { 300 } else { 12_000 };
            let at_ms = random.below(within);
            let ppm = *random.pick(&[0, 0, 100, -100, 2_000, -2_000, 10_000, -10_000]);
            let role = role(&mut random, keys, theme);
            decisions.push(Decision { at_ms, steps: 0, what: What::Arrive { client, ppm, role } });
            if theme == Theme::Starving && random.chance(70) {
                let what = What::Starve { client, most_ms: 500 + random.below(300) };
                decisions.push(Decision { at_ms: at_ms + random.below(1_000), steps: 0, what });
            }
        }
        let mut at_ms = 200;
        for _ in 0..random.below(10) {
            at_ms += match theme {
                Theme::Upgrades => 12_000,
                Theme::Standstills => random.below(40_000),
                Theme::Starving | Theme::Anything => random.below(5_000),
            };
            let what = match theme {
                Theme::Upgrades => What::KillServer { down_ms: random.below(500) },
                Theme::Standstills => What::FreezeServer { for_ms: 5_000 + random.below(15_000) },
                Theme::Starving => fault_beside(&mut random, clients as u64),
                Theme::Anything => fault(&mut random, site, clients as u64),
            };
            let steps = if !upgrades && random.chance(60) { random.below(40) } else { 0 };
            decisions.push(Decision { at_ms, steps, what: what.clone() });
            if let What::HoldGuardian { client, .. } = what {
                // By then it is noticed, unless dflock did not run all the while.
                at_ms += 5_000 + random.below(2_000);
                let what = if random.chance(50) {
                    What::KillDflock { client }
                } else {
                    What::Freeze { client, for_ms: 30_000 }
                };
                decisions.push(Decision { at_ms, steps: 0, what });
            }
            // Troubles come together.
            if theme == Theme::Anything && random.chance(30) {
                let what = fault(&mut random, site, clients as u64);
                decisions.push(Decision { at_ms: at_ms + random.below(100), steps: random.below(10), what });
            }
        }
        decisions.sort_by_key(|decision| decision.at_ms);
        History { seed, site, latency, decisions }
    }

    pub fn starves_somebody(&self) -> bool {
        self.decisions.iter().any(|decision| matches!(decision.what, What::Starve { .. }))
    }

    /// Only the server went away, and never for long.
    pub fn has_only_upgrades(&self) -> bool {
        let mut last = None;
        let calm = |decision: &Decision| match decision.what {
            What::Arrive { .. } => true,
            What::KillServer { down_ms } => {
                let before = last.replace(decision.at_ms);
                // Steps may take it later, so that two come close together: those do not count.
                down_ms <= 500 && decision.steps == 0 && before.is_none_or(|before| decision.at_ms >= before + 12_000)
            }
            _ => false,
        };
        self.site == Site::Journal && self.decisions.iter().all(calm)
    }
}

fn role(random: &mut Random, keys: u8, theme: Theme) -> Role {
    let key = random.below(u64::from(keys)) as u8;
    let semaphore = Kind::Semaphore { limit: 2 };
    let kind = if random.chance(20) { semaphore } else { Kind::Lock };
    let lease_ms = match theme {
        Theme::Upgrades => 10_000 + random.below(10_000),
        Theme::Standstills => 33_000,
        Theme::Starving | Theme::Anything => *random.pick(&[2000, 2000, 3000, 5000, 10_000]),
    };
    let wait_ms = *random.pick(&[0, 2_000, 15_000, 40_000]);
    let longest = match theme {
        Theme::Standstills => 120_000,
        _ if random.chance(50) => 2_000,
        _ => 15_000,
    };
    let hold_ms = 50 + random.below(longest);
    let connect_retry_ms = *random.pick(&[0, 10_000]);
    match random.below(100) {
        0..55 => {
            let mut locks = vec![(key, kind)];
            if keys > 1 && random.chance(25) {
                locks = vec![(1, Kind::Lock), (0, Kind::Lock)];
            }
            let manners = Manners {
                run_ms: hold_ms,
                obeys_after_ms: random.chance(50).then(|| random.below(1_500)),
                tidy: random.chance(50),
                deep: random.chance(35),
            };
            let max_runtime_ms = random.chance(12).then(|| 100 + random.below(6_000));
            let kill_after_ms = *random.pick(&[5_000, 5_000, 300, 1_000, 20_000]);
            let kill_after_given = kill_after_ms != 5_000;
            Role::Exec(Job {
                locks,
                lease_ms,
                wait_ms,
                connect_retry_ms,
                kill_after_ms,
                kill_after_given,
                max_runtime_ms,
                manners,
            })
        }
        55..78 => {
            let (two_phase, plain) = (random.chance(40), random.chance(30));
            Role::Holder(Holding { lock: (key, kind), lease_ms, wait_ms, hold_ms, connect_retry_ms, two_phase, plain })
        }
        _ => Role::Ticket(Queuing {
            lock: (key, kind),
            lease_s: lease_ms / 1000,
            resume_s: 1 + random.below(10),
            hold_ms,
            wait_ms,
        }),
    }
}

/// What leaves those alone whom a machine gives too little time.
fn fault_beside(random: &mut Random, clients: u64) -> What {
    let client = random.below(clients) as usize;
    let for_ms = *random.pick(&[2_500, 6_000, 12_000]) + random.below(50);
    match random.below(5) {
        0 => What::Cut { client },
        1 => What::Swallow { client, for_ms },
        _ => What::Freeze { client, for_ms },
    }
}

fn fault(random: &mut Random, site: Site, clients: u64) -> What {
    let client = random.below(clients) as usize;
    let for_ms = *random.pick(&[50, 300, 1_000, 2_500, 6_000, 12_000]) + random.below(50);
    let of_server = match site {
        Site::Journal => 55,
        Site::Memory => 15,
        Site::Original => 8,
    };
    if random.below(100) < of_server {
        let down_ms = *random.pick(&[0, 20, 300, 1_500, 8_000]) + random.below(20);
        return match random.below(12) {
            0..5 => What::KillServer { down_ms },
            _ if site == Site::Memory && random.chance(70) => What::DrainServer,
            _ if site != Site::Journal => What::KillServer { down_ms },
            5..8 => What::CutPower { down_ms: down_ms + 700 },
            8 => What::BreakDisk { for_ms },
            9 => What::BreakDirectory { for_ms },
            10 => What::SlowDisk { by_ms: 20 + random.below(1_500), for_ms },
            _ => What::SetWall { by_ms: *random.pick(&[-3_600_000, 3_600_000, -1_000_000_000, 90_000]) },
        };
    }
    match random.below(25) {
        23.. => What::HoldGuardian { client, for_ms: for_ms + 10_000 },
        21.. => What::FreezeServer { for_ms },
        0..4 => What::Cut { client },
        4..6 => What::HalfOpen { client },
        6..9 => What::Swallow { client, for_ms },
        9..11 => What::Slow { client, by_ms: 10 + random.below(2_000), for_ms },
        11..14 => What::Freeze { client, for_ms },
        14..16 => What::KillDflock { client },
        16 => What::KillGuardian { client },
        17 => What::KillCommand { client },
        18 => What::Tell { client },
        _ => What::Sleep { client, for_ms },
    }
}
