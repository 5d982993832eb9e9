//! Blocks of shell: run as they stand, and servers that are started as they stand.

use std::process::Command;

use crate::blocks::of_language;
use crate::fleet::Fleet;
use crate::house::{Server, tools};

/// Whether a flag is there yet: an example may be written before its feature has landed.
fn has_flag(verb: &str, flag: &str) -> bool {
    let said = Command::new(env!("CARGO_BIN_EXE_dflock")).args([verb, "--help"]).output().expect("dflock runs");
    String::from_utf8_lossy(&said.stdout).contains(flag)
}

#[test]
fn shell_examples_run() {
    let fleet = Fleet::new();
    for block in of_language("sh") {
        if block.tried.contains("elsewhere") || block.tried.contains("serve") {
            continue;
        }
        if let Some(flag) = block.tried.strip_prefix("if ") {
            if !has_flag("exec", flag) {
                eprintln!("SKIPPED line {}: there is no {flag} yet", block.line);
                continue;
            }
            // A server of others: the tests of its backend have it.
            let Ok(etcd) = std::env::var("DFLOCK_ETCD") else {
                eprintln!("SKIPPED line {}: DFLOCK_ETCD names no etcd", block.line);
                continue;
            };
            let text = block.text.replace("etcd1.example.com:2379", &etcd);
            assert_eq!(fleet.script("sh", &text).code, 0, "line {}", block.line);
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

/// With a free port of this machine in place of what the example says, and nothing else changed.
#[test]
fn servers_start_as_they_stand() {
    let fleet = Fleet::new();
    for block in of_language("sh").into_iter().filter(|block| block.tried.starts_with("serve")) {
        if let Some((_, flag)) = block.tried.split_once("if ")
            && !has_flag("serve", flag)
        {
            eprintln!("SKIPPED line {}: there is no {flag} yet", block.line);
            continue;
        }
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
        eprintln!("SKIPPED: somebody listens on {HERE} already");
        return;
    }
    let house = crate::house::clean::House::at("");
    let line = crate::ELSEWHERE[0].replace("cargo run --release --", "dflock");
    let said = house.script("sh", &format!("{line}\ndflock holders --json"));
    let (job, holders) = said.ok().split_once('\n').expect("two answers");
    assert_eq!(job, "only one of us at a time");
    assert!(holders.contains("\"holders\":[]"), "{said:?}");
    let mine = format!("HOME={}", house.home.path().display());
    let is_server = |pid: &u32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("environ").split('\0').any(|variable| variable == mine) && read("cmdline").contains("\0--idle-exit\0")
    };
    let all = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let servers: Vec<u32> = pids.filter(is_server).collect();
    assert_eq!(servers.len(), 1, "a server that leaves when it is idle");
    crate::house::signal(servers[0], "TERM");
    crate::house::wait_for("its end", || std::net::TcpStream::connect(HERE).is_err().then_some(()));
}
