//! A stopwatch for `dflock serve`: throughput beside a bare echo, and what disconnects, hand-offs, memory and
//! a state directory cost.
//!
//! `cargo bench --bench server` prints; it asserts nothing, because machines differ. Ratios of one run count.

#![allow(clippy::print_stdout, reason = "a stopwatch prints")]

#[path = "../house/mod.rs"]
mod house;
mod state;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use house::{Client, Server, now, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("echo") {
        return echo_server();
    }
    let only = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name == only);
    println!("cores: {}", std::thread::available_parallelism().map_or(0, usize::from));
    if wanted("throughput") {
        throughput(&sizes(&[1, 10, 100, 500]));
    }
    if wanted("disconnect") {
        disconnect();
    }
    if wanted("chain") {
        chain();
    }
    if wanted("memory") {
        memory();
    }
    if wanted("state") {
        state::throughput(&sizes(&[100]));
        state::growth();
    }
}

/// The sizes to measure at: those given behind the name, or all.
fn sizes(all: &[usize]) -> Vec<usize> {
    let given: Vec<usize> = std::env::args().skip(2).filter_map(|size| size.parse().ok()).collect();
    if given.is_empty() { all.to_vec() } else { given }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Sends back whatever it reads, and says on stdout where.
fn echo_server() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                while let Ok(read) = stream.read(&mut bytes).await {
                    if read == 0 || stream.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

struct Echo {
    child: Child,
    address: String,
}

impl Echo {
    fn start() -> Echo {
        let this = std::env::current_exe().expect("this program");
        let mut child = Command::new(this).arg("echo").stdout(Stdio::piped()).spawn().expect("the echo starts");
        let mut address = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut address).expect("an address");
        Echo { child, address: address.trim().to_owned() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn throughput(sizes: &[usize]) {
    println!("\nacquire+release pairs per second, median of {ROUNDS} rounds of {ROUND:?} each, alternating");
    println!("{:>12} {:>10} {:>10} {:>7}", "connections", "echo", "dflock", "ratio");
    for &connections in sizes {
        let (echo, server) = (Echo::start(), Server::start(&[]));
        let mut figures: Vec<(f64, f64, f64)> = (0..ROUNDS)
            .map(|_| {
                let bare = pairs_per_second(&echo.address, connections, false);
                let ours = pairs_per_second(&server.address, connections, true);
                (ours / bare, bare, ours)
            })
            .collect();
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, bare, ours) = figures[ROUNDS / 2];
        println!("{connections:>12} {bare:>10.0} {ours:>10.0} {ratio:>7.2}");
    }
}

fn pairs_per_second(address: &str, connections: usize, locks: bool) -> f64 {
    runtime().block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let pairs = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for number in 0..connections {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            let (stop, pairs) = (stop.clone(), pairs.clone());
            tasks.push(tokio::spawn(async move {
                let acquire = format!("l\nbench-{number}\n10\n").into_bytes();
                let mut release = format!("r\nbench-{number}\n").into_bytes();
                let token_at = release.len();
                release.extend_from_slice(&[b'0'; 33]);
                *release.last_mut().expect("not empty") = b'\n';
                let mut answer = [0; 256];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&acquire).await.expect("written");
                    let read = stream.read(&mut answer).await.expect("an answer");
                    if locks {
                        assert!(answer[..read].starts_with(b"ok "), "{}", String::from_utf8_lossy(&answer[..read]));
                        release[token_at..token_at + 32].copy_from_slice(&answer[3..35]);
                    }
                    stream.write_all(&release).await.expect("written");
                    let read = stream.read(&mut answer).await.expect("an answer");
                    assert!(read > 0, "the server hung up");
                    pairs.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let begin = now();
        tokio::time::sleep(ROUND).await;
        let counted = pairs.load(Ordering::Relaxed);
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("a worker");
        }
        counted as f64 / took.as_secs_f64()
    })
}

/// Takes `keys` locks over one connection, many at a time.
fn hold(client: &mut Client, keys: usize) {
    for batch in (0..keys).collect::<Vec<_>>().chunks(1000) {
        let requests: String = batch.iter().map(|key| format!("l\njob-{key}\n0 3600\n")).collect();
        client.send(requests.as_bytes());
        for _ in batch {
            let answer = client.line();
            assert!(answer.starts_with("ok "), "{answer}");
        }
    }
}

fn disconnect() {
    println!("\nfrom a holder's close to the next waiter's answer, while other keys are held");
    println!("{:>12} {:>12} {:>12}", "keys held", "median µs", "p90 µs");
    for keys in [0, 1_000, 100_000, 1_000_000] {
        let server = Server::start(&["--max-locks", "2000000"]);
        let mut keeper = server.connect();
        hold(&mut keeper, keys);
        let mut took: Vec<Duration> = (0..400)
            .map(|_| {
                let mut holder = server.connect();
                holder.take("x", "10");
                let mut waiter = server.connect();
                assert_eq!(waiter.ask("e", "x", ""), "queued");
                waiter.send(b"w\nx\n10\n");
                let begin = now();
                drop(holder);
                assert!(waiter.line().starts_with("ok "));
                begin.elapsed()
            })
            .collect();
        took.sort_unstable();
        let micros = |at: usize| took[took.len() * at / 100].as_secs_f64() * 1e6;
        println!("{keys:>12} {:>12.0} {:>12.0}", micros(50), micros(90));
    }
}

fn chain() {
    const WAITERS: usize = 5000;
    println!("\n{WAITERS} waiters of one key, each releases as soon as it is granted");
    let server = Server::start(&[]);
    let mut holder = server.connect();
    let token = holder.take("k", "0 3600");
    let address = server.address.clone();
    // One thread asks, so that what is measured is the server and not the asker's threads waking each other.
    let asker = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let took = asker.block_on(async {
        let mut waiting = Vec::new();
        for _ in 0..WAITERS {
            let mut stream = TcpStream::connect(&address).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            stream.write_all(b"l\nk\n600 3600\n").await.expect("written");
            waiting.push(tokio::spawn(async move {
                let mut answer = [0; 64];
                let read = stream.read(&mut answer).await.expect("an answer");
                assert!(answer[..read].starts_with(b"ok "), "{}", String::from_utf8_lossy(&answer[..read]));
                let mut release = b"r\nk\n".to_vec();
                release.extend_from_slice(&answer[3..35]);
                release.push(b'\n');
                stream.write_all(&release).await.expect("written");
                stream
            }));
        }
        wait_for("all waiters in the queue", || (server.stats()["locks"][0]["waiters"] == WAITERS).then_some(()));
        let begin = now();
        holder.send(format!("r\nk\n{token}\n").as_bytes());
        let mut streams = Vec::new();
        for task in waiting {
            streams.push(task.await.expect("a waiter"));
        }
        begin.elapsed()
    });
    println!("{:.1} µs a hand-off ({took:?} in all)", took.as_secs_f64() * 1e6 / WAITERS as f64);
}

fn memory() {
    const LOCKS: usize = 100_000;
    const WAITERS: usize = 5_000;
    println!("\nmemory");
    let server = Server::start(&[]);
    wait_for("an answer", || Some(server.stats()));
    let idle = server.memory_kib();
    println!("idle: {:.1} MiB", idle as f64 / 1024.0);
    let mut keeper = server.connect();
    hold(&mut keeper, LOCKS);
    let with_locks = server.memory_kib();
    println!("a held lock: {:.3} KiB (of {LOCKS})", (with_locks - idle) as f64 / LOCKS as f64);
    drop(keeper);

    let server = Server::start(&[]);
    let mut holder = server.connect();
    holder.take("k", "0 3600");
    let before = server.memory_kib();
    let mut waiters = Vec::new();
    for _ in 0..WAITERS {
        let mut waiter = server.connect();
        waiter.send(b"l\nk\n600\n");
        waiters.push(waiter);
    }
    wait_for("all waiters in the queue", || (server.stats()["locks"][0]["waiters"] == WAITERS).then_some(()));
    let after = server.memory_kib();
    println!("a waiter: {:.2} KiB (of {WAITERS})", (after - before) as f64 / WAITERS as f64);
}
