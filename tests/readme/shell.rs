//! Blocks of shell: run as they stand, and servers that are started as they stand.

use crate::blocks::of_language;
use crate::fleet::Fleet;
use crate::house::home::dwellers;
use crate::house::{Server, etcd, tools};

#[test]
fn shell_examples_run() {
    let fleet = Fleet::new();
    for block in of_language("sh") {
        if block.tried.contains("elsewhere") || block.tried.contains("serve") {
            continue;
        }
        if block.tried == "with etcd" {
            with_etcd(&fleet, &block.text);
            continue;
        }
        if block.text.contains("jq ") && !tools::is_there("jq") {
            continue;
        }
        let said = fleet.script("sh", &format!("set -e\n{}", block.text));
        assert_eq!(said.code, 0, "line {}: {said:?}", block.line);
        assert!(fleet.house.holder_pids().is_empty(), "line {} leaves a holder", block.line);
    }
}

/// The etcd that the example names, where there is one to start.
fn with_etcd(fleet: &Fleet, text: &str) {
    if !etcd::is_here("readme") {
        return;
    }
    let peers = etcd::Etcd::start(1).ready();
    let servers = peers.servers();
    let line = text.lines().find(|line| line.starts_with("export ")).expect("the servers");
    let said =
        fleet.script("sh", &format!("set -e\n{}", text.replace(line, &format!("export DFLOCK_SERVERS={servers}"))));
    assert_eq!(said.ok(), "backup.sh\nbackup.sh", "{said:?}");
}

/// With a free port of this machine in place of what the example says, and nothing else changed.
#[test]
fn servers_start_as_they_stand() {
    let fleet = Fleet::new();
    for block in of_language("sh").into_iter().filter(|block| block.tried.starts_with("serve")) {
        let line = block.text.trim().strip_prefix("dflock serve ").expect("it starts a server");
        let here = |word: &str| match word {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            name if name.contains('.') || matches!(name, "secret" | "state") => {
                fleet.house.path(name).display().to_string()
            }
            word => word.to_owned(),
        };
        let words: Vec<String> = line.split(' ').map(here).collect();
        let server = Server::start(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(server.address.starts_with("127.0.0.1:"), "line {}", block.line);
    }
}

/// The main job with nothing set at all: a server of its own, which would leave by itself.
#[test]
fn the_main_job_needs_no_server() {
    const HERE: &str = "127.0.0.1:6388";
    if std::net::TcpStream::connect(HERE).is_ok() {
        tools::skipped("somebody listens on 127.0.0.1:6388 already");
        return;
    }
    let house = crate::house::clean::House::at("");
    let line = crate::ELSEWHERE[0].replace("cargo run --release --", "dflock");
    let said = house.script("sh", &format!("{line}\ndflock holders --json"));
    let (job, holders) = said.ok().split_once('\n').expect("two answers");
    assert_eq!(job, "only one of us at a time");
    assert!(holders.contains("\"holders\":[]"), "{said:?}");
    let is_server = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0--idle-exit\0")
    };
    let servers: Vec<u32> = dwellers(house.home.path()).into_iter().filter(is_server).collect();
    assert_eq!(servers.len(), 1, "a server that leaves when it is idle");
    crate::house::signal(servers[0], "TERM");
    crate::house::wait_for("its end", || std::net::TcpStream::connect(HERE).is_err().then_some(()));
}
