//! Which server a key belongs to, and what happens to the others when one is down.

use std::collections::BTreeSet;

use dflock::client::shards::shard_of;

use crate::client_fakes::{Fake, closed_port};
use crate::client_house::Desk;
use crate::house::Server;

/// CRC-32 as zlib and Go's `ChecksumIEEE` count it, one bit after the other.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
}

fn home_of(key: &str, shards: usize) -> usize {
    crc32(key.as_bytes()) as usize % shards
}

/// A key of each shard.
fn one_of_each(shards: usize) -> Vec<String> {
    let of = |shard| (0..).map(|number| format!("key-{number}")).find(|key| home_of(key, shards) == shard);
    (0..shards).map(|shard| of(shard).expect("there is one")).collect()
}

#[test]
fn ten_thousand_keys_go_where_the_other_clients_look_for_them() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
    for number in 0..10_000 {
        let key = format!("cron/job-{number}/\u{e9}{}", number * 7919);
        for shards in [1, 2, 3, 5, 7] {
            assert_eq!(shard_of(key.as_bytes(), shards), home_of(&key, shards), "{key} of {shards}");
        }
    }
}

#[test]
fn a_lock_lies_on_the_server_of_its_key() {
    let servers: Vec<Server> = (0..7).map(|_| Server::start(&[])).collect();
    for count in [1, 2, 3, 5, 7] {
        let used = &servers[..count];
        let list = used.iter().map(|server| server.address.as_str()).collect::<Vec<_>>().join(",");
        let desk = Desk::at(&list);
        let keys: Vec<String> = (0..8).map(|number| format!("job-{count}-{number}")).collect();
        for key in &keys {
            desk.ok(&["acquire", key]);
        }
        for (at, server) in used.iter().enumerate() {
            let wanted: BTreeSet<&str> =
                keys.iter().filter(|key| home_of(key, count) == at).map(String::as_str).collect();
            let stats = server.stats();
            let found: BTreeSet<&str> =
                stats["locks"].as_array().expect("a list").iter().filter_map(|row| row["key"].as_str()).collect();
            assert_eq!(found, wanted, "server {at} of {count}");
        }
        let all = desk.json(&["stats"]);
        let rows = all["locks"].as_array().expect("a list");
        assert_eq!((rows.len(), all["servers"].as_array().map(Vec::len)), (keys.len(), Some(count)), "{all}");
        for row in rows {
            let home = home_of(row["key"].as_str().expect("a key"), count);
            assert_eq!(row["server"], used[home].address, "{row}");
        }
        let key = &keys[0];
        let status = desk.json(&["status", key, "--json"]);
        let home = home_of(key, count);
        assert_eq!((&status["shard"], &status["state"]), (&home.into(), &"held".into()), "{status}");
        assert_eq!(status["server"], used[home].address);
        // One alone is not called a shard.
        assert_eq!(desk.ok(&["status", key]).contains(&format!("(shard {home})")), count > 1);
        for key in &keys {
            desk.ok(&["release", key]);
        }
    }
}

#[test]
fn the_order_counts_and_a_shard_can_be_picked() {
    let servers = [Server::start(&[]), Server::start(&[])];
    let [first, second] = &servers;
    let forth = format!("{},{}", first.address, second.address);
    let back = format!("{},{}", second.address, first.address);
    let keys = one_of_each(2);
    let desk = Desk::new();
    for (at, key) in keys.iter().enumerate() {
        for (list, home) in [(&forth, at), (&back, 1 - at)] {
            let status = desk.json(&["status", key, "--json", "-s", list]);
            assert_eq!(status["server"], servers[home].address, "{list}");
        }
        let other = (1 - at).to_string();
        let picked = desk.json(&["acquire", key, "--json", "-s", &forth, "--shard", &other]);
        assert_eq!(picked["server"], servers[1 - at].address, "{picked}");
        assert_eq!(servers[1 - at].stats()["locks"][0]["key"], key.as_str());
        assert!(desk.ok(&["status", key, "-s", &forth]).contains("free"), "its own server knows nothing of it");
        let seen = desk.json(&["stats", "-s", &forth, "--shard", &other]);
        assert_eq!(seen["servers"].as_array().map(Vec::len), Some(1), "{seen}");
        desk.ok(&["release", key]);
    }
    desk.refuses(&["status", "k", "-s", &forth, "--shard", "2"], 125, &["it must be below 2, the number of shards"]);
}

#[test]
fn a_server_that_is_down_takes_only_its_own_keys_with_it() {
    let (first, last) = (Server::start(&[]), Server::start(&[]));
    let dead = closed_port();
    let desk = Desk::at(&format!("{},{dead},{}", first.address, last.address));
    let keys = one_of_each(3);
    desk.ok(&["acquire", &keys[0]]);
    desk.ok(&["acquire", &keys[2]]);
    desk.fails(&["acquire", &keys[1]], 69, &[&keys[1], &dead, "nothing listens there"]);
    let said = desk.run(&["stats"]);
    assert_eq!(said.code, Some(69), "{said:?}");
    let stats: serde_json::Value = serde_json::from_str(&said.out).expect("stats are JSON");
    let up: Vec<bool> = stats["servers"].as_array().expect("a list").iter().map(|row| row["ok"] == true).collect();
    assert_eq!(up, [true, false, true], "{stats}");
    assert_eq!(
        (&stats["servers"][1]["server"], stats["servers"][1]["error"].as_str()),
        (&dead.as_str().into(), Some("unreachable"))
    );
    assert_eq!(stats["locks"].as_array().map(Vec::len), Some(2), "the locks of the others are shown: {stats}");
    for format in ["table", "prometheus"] {
        let said = desk.run(&["stats", "--format", format]);
        assert_eq!(said.code, Some(69), "{said:?}");
        assert!(said.out.contains(&keys[0]) && said.out.contains(&keys[2]), "{said:?}");
        assert!(said.err.contains(&dead), "{said:?}");
    }
    desk.ok(&["release", &keys[0]]);
    desk.ok(&["release", &keys[2]]);
    desk.keeps_nothing();
}

#[test]
fn addresses_of_every_form() {
    let home = tempfile::tempdir().expect("a home");
    let socket = format!("unix:{}/d.sock", home.path().display());
    let file = Server::start(&["--host", &socket]);
    let mut list = vec![file.address.clone()];
    let mut servers = vec![file];
    // A machine may have no IPv6 at all.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let six = Server::start(&["--host", "::1"]);
        assert!(six.address.starts_with("[::1]:"), "{}", six.address);
        list.push(six.address.clone());
        servers.push(six);
    } else {
        eprintln!("SKIPPED: IPv6");
    }
    let list = list.join(", ");
    let desk = Desk::at(&list);
    for (at, key) in one_of_each(servers.len()).iter().enumerate() {
        let taken = desk.json(&["acquire", key, "--json"]);
        assert_eq!(taken["server"], servers[at].address, "{taken}");
        desk.ok(&["release", key]);
    }
    assert_eq!(desk.json(&["stats"])["servers"].as_array().map(Vec::len), Some(servers.len()));
}

#[test]
fn lists_that_cannot_be_meant() {
    let fake = Fake::answering("ok\n");
    let good = &fake.address;
    let desk = Desk::new();
    for (list, part) in [
        (format!("tls://{good},{good}"), "tls://"),
        (format!("ftp://{good}"), "ftp:// is not supported"),
        (format!("{good},"), "empty address"),
        (String::new(), "empty address"),
        (",".to_owned(), "empty address"),
        (format!("{good},a b"), "is not an address"),
        (format!("{good},a:0"), "no port between 1 and 65535"),
        ("unix:relative".to_owned(), "absolute path"),
        ("dflockd://".to_owned(), "empty address"),
    ] {
        for verb in [&["acquire", "k", "-s", &list] as &[&str], &["stats", "-s", &list], &["config", "-s", &list]] {
            desk.refuses(verb, 125, &["servers", part]);
        }
    }
    assert_eq!(fake.count(), 0, "it was connected to: {:?}", fake.heard());
}
