//! What a state directory costs: throughput in memory, on tmpfs and on disk, and how start and journal grow.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::house::{Server, now};
use super::{ROUND, ROUNDS, hold, pairs_per_second};

/// Where memory pretends to be a disk, and where the disk is.
fn places() -> Vec<(&'static str, PathBuf)> {
    let disk = std::env::var_os("DFLOCK_DISK").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let all = [("tmpfs", PathBuf::from("/dev/shm")), ("disk", disk)];
    all.into_iter().filter(|(_, path)| path.is_dir()).collect()
}

fn dir_in(place: &Path) -> TempDir {
    tempfile::Builder::new().prefix("dflock-bench-").tempdir_in(place).expect("a directory")
}

fn start(dir: &Path, flags: &[&str]) -> Server {
    let dir = dir.canonicalize().expect("it is there").join("state");
    let dir = dir.to_str().expect("a plain path");
    Server::start(&[&["--state-dir", dir, "--max-locks", "2000000"], flags].concat())
}

/// How often a second this place brings 4 KiB to where they are safe.
fn syncs_per_second(place: &Path) -> f64 {
    let dir = dir_in(place);
    let file = File::create(dir.path().join("file")).expect("a file");
    file.write_all_at(&vec![0; 4 << 20], 0).and_then(|()| file.sync_all()).expect("room");
    let begin = now();
    let mut count = 0;
    while begin.elapsed() < Duration::from_secs(1) {
        file.write_all_at(&[1; 4096], count % 1024 * 4096).and_then(|()| file.sync_data()).expect("written");
        count += 1;
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

pub(super) fn throughput(sizes: &[usize]) {
    println!(
        "\nacquire+release pairs per second with a state directory, median of {ROUNDS} rounds of {ROUND:?}, alternating"
    );
    println!(
        "{:>12} {:>10} {:>9} {:>10} {:>10} {:>7} {:>9}",
        "connections", "place", "fsync", "memory", "dflock", "ratio", "fsyncs/s"
    );
    for &connections in sizes {
        for (name, place) in places() {
            for fsync in ["always", "interval", "never"] {
                let dir = dir_in(&place);
                let (memory, kept) = (Server::start(&[]), start(dir.path(), &["--fsync", fsync]));
                let mut figures: Vec<(f64, f64, f64)> = (0..ROUNDS)
                    .map(|_| {
                        let bare = pairs_per_second(&memory.address, connections, true);
                        let ours = pairs_per_second(&kept.address, connections, true);
                        (ours / bare, bare, ours)
                    })
                    .collect();
                figures.sort_by(|a, b| a.0.total_cmp(&b.0));
                let (ratio, bare, ours) = figures[ROUNDS / 2];
                let syncs = syncs_per_second(&place);
                println!("{connections:>12} {name:>10} {fsync:>9} {bare:>10.0} {ours:>10.0} {ratio:>7.2} {syncs:>9.0}");
            }
        }
    }
}

pub(super) fn growth() {
    println!("\nstart on what was held when the server was killed");
    println!(
        "{:>12} {:>10} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "locks", "place", "journal KiB", "reading ms", "start ms", "TERM ms", "memory MiB"
    );
    for locks in [1_000, 100_000, 1_000_000] {
        for (name, place) in places() {
            let dir = dir_in(&place);
            let mut server = start(dir.path(), &[]);
            let mut keeper = server.connect();
            hold(&mut keeper, locks);
            server.signal("KILL");
            server.wait();
            let begin = now();
            let mut again = start(dir.path(), &[]);
            let took = begin.elapsed();
            let opened = again.event("state_opened");
            let figure =
                |name: &str| opened[name].as_f64().or_else(|| opened[name].as_str()?.parse().ok()).unwrap_or(f64::NAN);
            assert_eq!(opened["held"], locks, "{opened}");
            let journal = figure("bytes_written") / 1024.0;
            let memory = again.memory_kib() as f64 / 1024.0;
            let begin = now();
            again.signal("TERM");
            again.wait();
            let term = begin.elapsed();
            println!(
                "{locks:>12} {name:>10} {journal:>12.0} {:>12.1} {:>12.1} {:>12.1} {memory:>12.1}",
                figure("took_s") * 1e3,
                took.as_secs_f64() * 1e3,
                term.as_secs_f64() * 1e3,
            );
            let size = dir.path().join("state/journal").metadata().expect("a journal").size();
            assert!(size < 64 << 20 || locks > 100_000, "a journal of {size} bytes");
        }
    }
}
