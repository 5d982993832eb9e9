//! A stopwatch for locks in etcd: dflock and `etcdctl lock` side by side in one run, and what a crowd costs.
//!
//! `cargo bench --bench etcd` prints; it asserts nothing, because machines differ. Ratios of one run count.

#![allow(clippy::print_stdout, reason = "a stopwatch prints")]

#[path = "../house/mod.rs"]
mod house;

use std::process::{Command, Stdio};
use std::time::Duration;

use house::clean::{House, Running};
use house::etcd::{Etcd, is_here};
use house::gate::Gate;
use house::{now, wait_for};

fn main() {
    if !is_here("bench etcd") {
        return;
    }
    println!("cores: {}", std::thread::available_parallelism().map_or(0, usize::from));
    for members in [1, 3] {
        let etcd = Etcd::start(members).ready();
        let house = House::at(&etcd.servers());
        println!("\n{members} member(s), dflock beside etcdctl, medians");
        wall_time(&etcd, &house);
        hand_off(&etcd, &house);
    }
    crowd();
}

fn ours(house: &House, args: &[&str]) -> Command {
    let mut command = house.command("dflock");
    command.args(args);
    command
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// From its start to its end.
fn run(command: &mut Command) -> Duration {
    let begin = now();
    let status = command.stdout(Stdio::null()).status().expect("it starts");
    let took = begin.elapsed();
    assert!(status.success(), "{status}");
    took
}

/// One after the other in turns, so that both meet the same machine.
fn wall_time(etcd: &Etcd, house: &House) {
    const TIMES: usize = 60;
    let (mut dflock, mut etcdctl) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        dflock.push(run(&mut ours(house, &["exec", "k", "true"])));
        etcdctl.push(run(&mut etcd.ctl_command(&["lock", "k", "true"])));
    }
    let (dflock, etcdctl) = (median(dflock), median(etcdctl));
    let ratio = dflock.as_secs_f64() / etcdctl.as_secs_f64();
    println!("exec k true: {dflock:?} against {etcdctl:?}, {ratio:.2} x");
}

/// Many wait; each notes the time and goes. What lies between two notes is one hand-off and one `bash`.
fn hand_off(etcd: &Etcd, house: &House) {
    const MANY: usize = 40;
    let note = |log: &str| format!("echo $EPOCHREALTIME >> {}", house.path(log).display());
    let gap = |log: &str| {
        let text = house.read(log);
        let times: Vec<f64> = text.lines().filter_map(|line| line.replace(',', ".").parse().ok()).collect();
        assert_eq!(times.len(), MANY, "{log}");
        median(times.windows(2).map(|pair| Duration::from_secs_f64(pair[1] - pair[0])).collect())
    };
    let chain = |folder: &str, log: &str, start: &dyn Fn(&str) -> Running| {
        let go = house.path(&format!("{log}.go"));
        let gate = Gate::at(go.clone());
        let first = start(&format!("read -r _ < {}", go.display()));
        wait_for("the first one", || (etcd.keys(folder).len() == 1).then_some(()));
        let others: Vec<Running> = (0..MANY).map(|_| start(&note(log))).collect();
        wait_for("all in the queue", || (etcd.keys(folder).len() == MANY + 1).then_some(()));
        gate.open();
        first.finish().ok();
        others.into_iter().for_each(|one| drop(one.finish().ok().to_owned()));
        std::fs::remove_file(go).expect("the pipe goes");
        gap(log)
    };
    let dflock = chain("dflock/lock/h/", "ours", &|script| {
        Running::start(&mut ours(house, &["exec", "-w", "forever", "h", "--", "bash", "-c", script]))
    });
    let etcdctl = chain("h/", "theirs", &|script| {
        Running::start(&mut etcd.ctl_command(&["lock", "h", "--", "bash", "-c", script]))
    });
    let ratio = dflock.as_secs_f64() / etcdctl.as_secs_f64();
    println!("hand-off among {MANY}: {dflock:?} against {etcdctl:?}, {ratio:.2} x");
}

/// Requests that etcd has begun to serve from the first release to the last, by its own count.
fn crowd() {
    println!("\nrequests of a hand-off, by etcd's own count (grpc_server_started_total)");
    let etcd = Etcd::start(1).ready();
    let house = House::at(&etcd.servers());
    for count in [10, 50, 200] {
        let key = format!("crowd{count}");
        let go = house.path(&format!("{key}.go"));
        let gate = Gate::at(go.clone());
        let start = |script: &str| {
            Running::start(&mut ours(&house, &["exec", "-l", "2000", "-w", "forever", &key, "-c", script]))
        };
        let first = start(&format!("read -r _ < {}", go.display()));
        let folder = format!("dflock/lock/{key}/");
        wait_for("the first one", || (etcd.keys(&folder).len() == 1).then_some(()));
        let others: Vec<Running> = (0..count).map(|_| start("true")).collect();
        wait_for("all in the queue", || (etcd.keys(&folder).len() == count + 1).then_some(()));
        let mut last = 0;
        wait_for("silence", || {
            std::thread::park_timeout(Duration::from_millis(300));
            let requests = etcd.requests();
            (std::mem::replace(&mut last, requests) == requests).then_some(())
        });
        let begin = now();
        gate.open();
        first.finish().ok();
        others.into_iter().for_each(|one| drop(one.finish().ok().to_owned()));
        let each = (etcd.requests() - last) as f64 / (count + 1) as f64;
        println!("{count} wait: {each:.2} requests, {:?} each", begin.elapsed() / (count as u32 + 1));
    }
}
