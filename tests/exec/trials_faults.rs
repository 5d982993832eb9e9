//! The faults of the overlap trials, each injected into one lane and healed again.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::trials::{Lane, Run, Site, start_kept, wall};
use super::trials_checker::Break;
use super::trials_fleet::{Manners, Role, Stay, processes, send};
use crate::house::quota::Quota;
use crate::house::{Server, now};

/// For a proved loss, and for a server that forgot everything: the grace, and time for a busy machine.
const EXCUSED: u64 = 3_000_000;

const SOON: Duration = Duration::from_millis(500);

type Fault = fn(&mut Lane) -> Option<String>;

/// The more often a name is here, the more often it happens.
const ANYWHERE: [(&str, Fault); 20] = [
    ("dflock killed", kill_dflock),
    ("dflock killed", kill_dflock),
    ("dflock killed while it waits", kill_waiter),
    ("dflock frozen past its lease", freeze_past_lease),
    ("dflock frozen for a moment", freeze_for_a_moment),
    ("dflock frozen while it waits", freeze_waiter),
    ("guardian killed", kill_guardian),
    ("dflock starved", starve),
    ("dflock and its guardian killed", kill_both),
    ("dflock and its guardian killed", kill_both),
    ("child killed", kill_child),
    ("dflock told to end", tell_to_end),
    ("dflock told to end", tell_to_end),
    ("dflock hung up on while it is frozen", tell_to_end_while_frozen),
    ("cut", cut),
    ("cut", cut),
    ("slow wire", slow_wire),
    ("slow wire, cut", slow_wire_and_cut),
    ("black hole for a moment", swallow_for_a_moment),
    ("black hole past the lease", swallow_past_lease),
];

/// Injects one fault; says whether it could: its victim may have ended by itself.
pub(crate) fn inject(lane: &mut Lane) -> bool {
    // At any moment of a grant, its very beginning included.
    let lines = lane.random.below(12);
    lane.pass_time(lines, SOON);
    let of_server: Option<(&str, Fault)> = match lane.site {
        Site::Own if lane.random.chance(8) => Some(("server frozen and thawed", thaw_server)),
        Site::Own if lane.random.chance(12) => Some(("server frozen", freeze_server)),
        Site::Kept if lane.random.chance(30) => Some(("server replaced, with its state", replace_kept_server)),
        Site::Kept if lane.random.chance(40) => Some(("server killed, with its state", restart_kept_server)),
        Site::Restarted if lane.random.chance(30) => Some(("server drained and replaced", drain_server)),
        Site::Restarted if lane.random.chance(40) => Some(("server killed", restart_server)),
        _ => None,
    };
    let (name, fault) = of_server.unwrap_or_else(|| *lane.random.pick(&ANYWHERE));
    // Should it never end, the story tells which it was.
    let at = lane.story.len();
    lane.story.push(format!("end of nothing: {name} began (line {})", lane.tail.lines.len()));
    let detail = fault(lane);
    lane.story.remove(at);
    let Some(detail) = detail else { return false };
    lane.story.push(format!("{name}: {detail} (line {})", lane.tail.lines.len()));
    true
}

fn sturdy(run: &Run) -> bool {
    !run.tender
}

fn short(run: &Run) -> bool {
    !run.tender && run.lease < 10
}

/// These may lose their lock.
fn forgive(lane: &mut Lane, fits: impl Fn(&Run) -> bool) {
    for run in lane.runs.iter_mut().filter(|run| fits(run)) {
        run.may.push(79);
    }
}

fn kill_dflock(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(sturdy)?;
    lane.runs[at].send(Signal::SIGKILL);
    lane.runs[at].may.push(137);
    let name = lane.runs[at].name.clone();
    lane.wait_for_end(&name);
    lane.wait_for_silence(&name);
    Some(name)
}

fn waiter(lane: &mut Lane) -> Option<usize> {
    let writer = lane.tail.last().unwrap_or_default().to_owned();
    let waiting: Vec<usize> =
        (0..lane.runs.len()).filter(|at| sturdy(&lane.runs[*at]) && lane.runs[*at].name != writer).collect();
    (!waiting.is_empty()).then(|| *lane.random.pick(&waiting))
}

fn kill_waiter(lane: &mut Lane) -> Option<String> {
    let at = waiter(lane)?;
    lane.runs[at].send(Signal::SIGKILL);
    lane.runs[at].may.push(137);
    let name = lane.runs[at].name.clone();
    lane.wait_for_end(&name);
    lane.wait_for_silence(&name);
    Some(name)
}

/// Its guardian ends the child in time; when it wakes it says 79.
fn freeze_past_lease(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let at = lane.writer(short)?;
    let name = lane.runs[at].name.clone();
    lane.runs[at].send(Signal::SIGSTOP);
    // Its child writes still, so it did not end by itself just before.
    let lines = lane.tail.lines.len() + 3;
    let is_writing = lane.until("a line or silence", |lane| {
        let wrote = lane.tail.lines.iter().skip(lines).any(|line| line.name == name);
        let left = processes(&lane.house, Some(&name)).iter().any(|process| process.role == Role::Job);
        if wrote { Some(true) } else { (!left).then_some(false) }
    });
    let at = lane.find(&name)?;
    lane.runs[at].may = if is_writing { vec![79] } else { vec![0, 79] };
    lane.until("the child of a frozen dflock to end", |lane| {
        (!processes(&lane.house, Some(&name)).iter().any(|process| process.role == Role::Job)).then_some(())
    });
    if lane.random.chance(70) {
        lane.until("somebody else to write", |lane| (lane.tail.last() != Some(&name)).then_some(()));
    }
    let at = lane.find(&name)?;
    lane.runs[at].send(Signal::SIGCONT);
    drop(stay);
    lane.wait_for_end(&name);
    Some(name)
}

fn freeze_for_a_moment(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(sturdy)?;
    let name = lane.runs[at].name.clone();
    lane.runs[at].send(Signal::SIGSTOP);
    let lines = lane.random.below(30);
    lane.pass_time(lines, Duration::from_millis(300));
    let at = lane.find(&name)?;
    lane.runs[at].send(Signal::SIGCONT);
    Some(name)
}

/// It may be granted the lock while it is frozen, and wake when that is over again.
fn freeze_waiter(lane: &mut Lane) -> Option<String> {
    let at = waiter(lane).filter(|at| short(&lane.runs[*at]))?;
    let name = lane.runs[at].name.clone();
    lane.runs[at].send(Signal::SIGSTOP);
    let pause = Duration::from_millis(lane.random.below(2500));
    lane.pass_time(u64::MAX / 2, pause);
    let at = lane.find(&name)?;
    lane.runs[at].send(Signal::SIGCONT);
    Some(format!("{name} for {pause:?}"))
}

fn kill_guardian(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(sturdy)?;
    let name = lane.runs[at].name.clone();
    let guardian = processes(&lane.house, Some(&name)).into_iter().find(|one| one.role == Role::Guardian)?;
    lane.runs[at].tender = true;
    send(guardian.pid, Signal::SIGKILL);
    Some(name)
}

/// As by one `pkill`.
fn kill_both(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(|run| sturdy(run) && run.contained)?;
    let name = lane.runs[at].name.clone();
    let guardian = processes(&lane.house, Some(&name)).into_iter().find(|one| one.role == Role::Guardian)?;
    let mut both = [guardian.pid, lane.runs[at].running.pid.cast_signed()];
    if lane.random.chance(50) {
        both.reverse();
    }
    both.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    lane.runs[at].may.push(137);
    lane.wait_for_end(&name);
    lane.wait_for_silence(&name);
    Some(name)
}

/// It and its guardian share a twentieth of a processor with many others. The child has all it needs.
fn starve(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let at = lane.writer(|run| short(run) && run.manners != Manners::Root)?;
    let name = lane.runs[at].name.clone();
    let quota = Quota::new(&format!("trial-{}-{name}", lane.runs[at].running.pid))?;
    lane.runs[at].may.push(79);
    for process in processes(&lane.house, Some(&name)).iter().filter(|process| process.role != Role::Job) {
        quota.take_in(process.pid);
    }
    let (begin, lease) = (now(), Duration::from_secs(lane.runs[at].lease));
    lane.until("a lease to pass", |lane| (begin.elapsed() > lease || lane.find(&name).is_none()).then_some(()));
    drop(quota);
    drop(stay);
    Some(name)
}

/// Its first process alone: what that has started is ended before the lock is free.
fn kill_child(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(|_| true)?;
    let name = lane.runs[at].name.clone();
    let jobs = processes(&lane.house, Some(&name)).into_iter();
    let leader = jobs.filter(|one| one.role == Role::Job).find(|one| one.pid == one.group)?;
    lane.runs[at].may.push(137);
    lane.runs[at].swept = true;
    send(leader.pid, Signal::SIGKILL);
    lane.wait_for_end(&name);
    Some(name)
}

/// The command hears of it; whatever it does then, nobody of it is left when the lock is free.
fn tell_to_end(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(sturdy)?;
    let name = lane.runs[at].name.clone();
    told_to_end(lane, at, Signal::SIGTERM);
    lane.wait_for_end(&name);
    Some(name)
}

/// It hears of that when it wakes.
fn tell_to_end_while_frozen(lane: &mut Lane) -> Option<String> {
    let at = lane.writer(sturdy)?;
    let name = lane.runs[at].name.clone();
    lane.runs[at].send(Signal::SIGSTOP);
    told_to_end(lane, at, Signal::SIGHUP);
    let lines = lane.random.below(30);
    lane.pass_time(lines, Duration::from_millis(300));
    let at = lane.find(&name)?;
    lane.runs[at].send(Signal::SIGCONT);
    lane.wait_for_end(&name);
    Some(name)
}

/// It ends as its command does: by this signal, by KILL after the grace, or, if it is stubborn, when it likes.
fn told_to_end(lane: &mut Lane, at: usize, signal: Signal) {
    let run = &mut lane.runs[at];
    run.may.extend([128 + signal as i32, 137]);
    run.swept = true;
    run.send(signal);
}

/// Whoever waits may be sent away; whoever holds resumes, or has lost its lock.
fn cut(lane: &mut Lane) -> Option<String> {
    let again = if lane.random.chance(30) { 1 + lane.random.below(3) } else { 0 };
    for time in 0..=again {
        if lane.site == Site::Original {
            forgive(lane, |run| run.proxied);
        }
        let whom = lane.runs.iter().filter(|run| run.proxied).map(|run| run.name.clone()).collect();
        let at = wall();
        lane.proxy.cut();
        if lane.site == Site::Original {
            lane.breaks.push(Break { at, until: at + EXCUSED, whom });
        }
        if time < again {
            let lines = lane.random.below(20);
            lane.pass_time(lines, SOON);
        }
    }
    Some(format!("{} times", again + 1))
}

fn slow_wire(lane: &mut Lane) -> Option<String> {
    let delay = Duration::from_millis(5 + lane.random.below(100));
    lane.proxy.delay(delay);
    let lines = 5 + lane.random.below(60);
    lane.pass_time(lines, SOON);
    lane.proxy.delay(Duration::ZERO);
    Some(format!("{delay:?}"))
}

fn slow_wire_and_cut(lane: &mut Lane) -> Option<String> {
    let delay = Duration::from_millis(5 + lane.random.below(60));
    lane.proxy.delay(delay);
    let lines = lane.random.below(40);
    lane.pass_time(lines, SOON);
    let cuts = cut(lane);
    let lines = lane.random.below(10);
    lane.pass_time(lines, SOON);
    lane.proxy.delay(Duration::ZERO);
    cuts.map(|cuts| format!("{delay:?}, {cuts}"))
}

fn swallow_for_a_moment(lane: &mut Lane) -> Option<String> {
    lane.proxy.swallow(true);
    let lines = 1 + lane.random.below(40);
    lane.pass_time(lines, SOON);
    lane.proxy.swallow(false);
    Some(format!("{lines} lines"))
}

fn swallow_past_lease(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let at = lane.writer(|run| short(run) && run.proxied)?;
    let name = lane.runs[at].name.clone();
    lane.proxy.swallow(true);
    lane.wait_for_end(&name);
    if lane.random.chance(50) {
        let lines = lane.random.below(20);
        lane.pass_time(lines, SOON);
    }
    lane.proxy.swallow(false);
    drop(stay);
    Some(name)
}

/// For a moment, or until whoever holds the lock has given it up.
fn freeze_server(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let at = lane.writer(|_| true)?;
    let (name, lease) = (lane.runs[at].name.clone(), lane.runs[at].lease);
    let server = lane.server.as_ref()?.pid().cast_signed();
    send(server, Signal::SIGSTOP);
    if lease < 10 && lane.random.chance(50) {
        lane.wait_for_end(&name);
    } else {
        let pause = Duration::from_millis(lane.random.below(400));
        lane.pass_time(u64::MAX / 2, pause);
    }
    send(server, Signal::SIGCONT);
    drop(stay);
    Some(name)
}

/// So long that whoever holds the lock has given up many an attempt to come back when the server hears of them.
/// Then nothing happens for longer than a lease: what is renewed is held.
fn thaw_server(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let at = lane.writer(|run| run.lease >= 6)?;
    let (name, lease) = (lane.runs[at].name.clone(), Duration::from_secs(lane.runs[at].lease));
    let server = lane.server.as_ref()?.pid().cast_signed();
    let freeze = lease.mul_f64(0.35 + 0.01 * lane.random.below(30) as f64);
    send(server, Signal::SIGSTOP);
    lane.pass_time(u64::MAX / 2, freeze);
    send(server, Signal::SIGCONT);
    forgive(lane, |run| run.name == name);
    let begin = now();
    let over = lease.min(Duration::from_secs(6)) + Duration::from_secs(2);
    lane.until("a lease to pass", |lane| (begin.elapsed() > over || lane.find(&name).is_none()).then_some(()));
    drop(stay);
    Some(format!("{name} for {freeze:?}"))
}

/// It leaves when nobody holds anything any more, and until then nobody else can have its place.
fn drain_server(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    lane.writer(|_| true)?;
    let server = lane.server.as_mut()?;
    let port = server.address.rsplit_once(':').map(|(_, port)| port.to_owned())?;
    server.signal("TERM");
    let lines = lane.random.below(40);
    lane.pass_time(lines, SOON);
    drop(stay);
    lane.until("a drained server to leave", |lane| {
        lane.server.as_mut().is_none_or(|server| !server.is_running()).then_some(())
    });
    lane.server = Some(Server::start(&["--port", &port]));
    Some(port)
}

/// It is there again a second later, and knows nobody.
fn restart_server(lane: &mut Lane) -> Option<String> {
    let stay = Stay::in_house(&lane.house);
    let holder = lane.writer(|_| true)?;
    let holder = lane.runs[holder].name.clone();
    let server = lane.server.as_mut()?;
    let port = server.address.rsplit_once(':').map(|(_, port)| port.to_owned())?;
    server.signal("KILL");
    server.wait();
    forgive(lane, |_| true);
    let begin = now();
    lane.until("a second", |_| (begin.elapsed() > Duration::from_secs(1)).then_some(()));
    forgive(lane, |_| true);
    let whom = lane.runs.iter().map(|run| run.name.clone()).collect();
    let at = wall();
    lane.server = Some(Server::start(&["--port", &port]));
    lane.breaks.push(Break { at, until: at + EXCUSED, whom });
    // Others have come.
    let lines = 5 + lane.random.below(20);
    lane.pass_time(lines, Duration::from_secs(2));
    // Whoever was there before has gone: one that is frozen before it hears of its loss is no match for such a server.
    lane.until("whoever held the lock to be gone", |lane| {
        let is_there = processes(&lane.house, Some(&holder)).iter().any(|process| process.role == Role::Job);
        (!is_there || wall() > at + EXCUSED).then_some(())
    });
    drop(stay);
    Some(port)
}

/// Killed and there again at once: nobody loses anything, so nobody is forgiven anything.
fn restart_kept_server(lane: &mut Lane) -> Option<String> {
    let times = 1 + lane.random.below(3);
    for _ in 0..times {
        let server = lane.server.as_mut()?;
        let port = server.address.rsplit_once(':').map(|(_, port)| port.to_owned())?;
        server.signal("KILL");
        server.wait();
        lane.server = Some(start_kept(&port, &lane.state));
        let lines = lane.random.below(10);
        lane.pass_time(lines, SOON);
    }
    Some(format!("{times} times"))
}

/// As an upgrade does it: nobody loses anything, whoever waits keeps its place.
fn replace_kept_server(lane: &mut Lane) -> Option<String> {
    let times = 1 + lane.random.below(2);
    for _ in 0..times {
        let server = lane.server.as_mut()?;
        let port = server.address.rsplit_once(':').map(|(_, port)| port.to_owned())?;
        server.signal("TERM");
        server.wait();
        lane.server = Some(start_kept(&port, &lane.state));
        let lines = lane.random.below(10);
        lane.pass_time(lines, SOON);
    }
    Some(format!("{times} times"))
}
