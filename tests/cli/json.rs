//! Answers for machines: the same fields in every case, plain text to the letter, and three forms of stats.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::house::clean::House;
use crate::house::typist::Typist;
use crate::house::{Server, wait_for};

/// The names of all fields, those of objects in lists and objects included: `servers[].ok`.
fn fields(document: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, all: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    all.insert(path.clone());
                    walk(value, &path, all);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, &format!("{path}[]"), all)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    walk(document, "", &mut all);
    all
}

fn set(names: &str) -> BTreeSet<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn whatever_was_taken_is_told_in_the_same_fields() {
    let house = House::new();
    let json = |args: &[&str]| house.dflock(&[args, &["--json"]].concat()).json();
    let taken = set("schema key server state limit token fence fence_text lease_s holder_pid owner_pid");
    let acquired = json(&["acquire", "a"]);
    let of_nobody = json(&["acquire", "b", "--owner", "none", "--max-hold", "60"]);
    let its_token = of_nobody["token"].as_str().expect("a token");
    for document in [
        acquired.clone(),
        of_nobody.clone(),
        json(&["enqueue", "c"]),
        json(&["enqueue", "a"]),
        json(&["wait", "c"]),
        json(&["sem", "acquire", "s", "--limit", "1"]),
        json(&["sem", "enqueue", "s", "--limit", "1"]),
    ] {
        assert_eq!(fields(&document), taken, "{document}");
        assert_eq!(document["schema"], 1);
    }
    assert_eq!(
        (&acquired["key"], &acquired["state"], &acquired["lease_s"]),
        (&"a".into(), &"acquired".into(), &33.0.into())
    );
    assert_eq!(acquired["server"], house.servers);
    let queued = json(&["enqueue", "a"]);
    assert_eq!((&queued["state"], &queued["token"]), (&"queued".into(), &Value::Null));
    for document in [json(&["renew", "b", its_token]), json(&["renew", "c", "-l", "90"])] {
        assert_eq!(fields(&document), set("schema key server limit remaining_s"));
    }
    assert_eq!(fields(&json(&["release", "b", its_token])), set("schema key server limit released"));
}

#[test]
fn every_failure_is_told_in_the_same_fields() {
    let house = House::new();
    house.dflock(&["acquire", "busy"]).ok();
    house.dflock(&["sem", "acquire", "s", "--limit", "2"]).ok();
    for (code, error, args) in [
        (75, "busy", &["acquire", "busy", "-n"][..]),
        (75, "busy", &["acquire", "busy", "-qn"]),
        (79, "lost", &["release", "free"]),
        (79, "lost", &["renew", "free", "00000000000000000000000000000000"]),
        (79, "lost", &["wait", "free"]),
        (69, "unreachable", &["acquire", "k", "-s", "127.0.0.1:1"]),
        (69, "unreachable", &["status", "k", "-s", "127.0.0.1:1"]),
        (76, "refused", &["sem", "acquire", "s", "--limit", "3", "-n"]),
        (125, "usage", &["acquire", "a b"]),
        (125, "usage", &["acquire", "k", "--owner", "none"]),
        (125, "usage", &["config", "-s", ":::"]),
    ] {
        let said = house.dflock(&[args, &["--json"]].concat()).code(code);
        let document = said.json();
        assert_eq!(fields(&document), set("schema error message hint key server exit"), "{args:?}");
        assert_eq!((&document["error"], &document["exit"]), (&error.into(), &code.into()), "{args:?}");
        assert_eq!(said.err, "", "{args:?}");
    }
    let busy = house.dflock(&["acquire", "busy", "-n", "--json"]).json();
    assert_eq!((&busy["key"], &busy["server"]), (&"busy".into(), &house.servers.clone().into()));
}

#[test]
fn holders_are_told_in_the_same_fields() {
    let house = House::new();
    assert_eq!(house.dflock(&["holders", "--json"]).out, "{\"schema\":1,\"holders\":[]}\n");
    assert_eq!(house.dflock(&["holders"]).out, "KEY  STATE  HELD FOR  SERVER  PID  OWNER\n");
    house.dflock(&["acquire", "a"]).ok();
    house.dflock(&["enqueue", "a"]).ok();
    house.dflock(&["sem", "acquire", "s", "--limit", "4", "--owner", "none", "--max-hold", "60"]).ok();
    let row = set(
        "key limit server state why pid owner_pid owner_name fence fence_text held_s lease_s lease_left_s max_hold_left_s",
    );
    let holders = house.holders();
    assert_eq!(holders.len(), 3);
    for holder in &holders {
        assert_eq!(fields(holder), row, "{holder}");
    }
    // Readers that keep numbers as floating point lose the end of a fence.
    let fence = holders.iter().find_map(|holder| holder["fence"].as_u64()).expect("a fence");
    assert!(fence > 1 << 53, "{fence}");
    let text = fence.to_string();
    assert!(holders.iter().any(|holder| holder["fence_text"] == text.as_str()), "{holders:?}");
    let table = house.dflock(&["holders"]).out;
    let mut rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    rows.sort();
    assert_eq!(rows[0][..3], ["a", "held", "0s"], "{table}");
    assert_eq!(rows[1][..3], ["a", "waiting", "-"], "{table}");
    assert_eq!(rows[2][..4], ["s", "(of", "4)", "held"], "{table}");
    assert_eq!(rows[2].last(), Some(&"none"), "{table}");
}

#[test]
fn the_status_of_a_key() {
    let house = House::new();
    let json = |key: &str| house.dflock(&["status", key, "--json"]).json();
    let free = json("k");
    let basic = set("schema key server shard state lock semaphore");
    assert_eq!(fields(&free), basic);
    assert_eq!(free["state"], "free");
    house.dflock(&["acquire", "k", "-l", "100"]).ok();
    house.dflock(&["sem", "acquire", "k", "--limit", "3"]).ok();
    house.dflock(&["enqueue", "k"]).ok();
    let held = json("k");
    let names: BTreeSet<String> = fields(&held).into_iter().filter(|name| !name.contains('.')).collect();
    assert_eq!(names, basic);
    assert_eq!((&held["state"], &held["lock"]["waiters"]), (&"held".into(), &1.into()));
    assert_eq!((&held["semaphore"]["holders"], &held["semaphore"]["limit"]), (&1.into(), &3.into()));
    let text = house.dflock(&["status", "k"]).out;
    let lines: Vec<&str> = text.lines().collect();
    let place = format!("on {}", house.servers);
    assert!(lines[0].starts_with("k: held by connection ") && lines[0].contains("of its lease left, 1 waiting, "));
    assert!(lines[0].ends_with(&place), "{text}");
    assert_eq!(lines[1], format!("k: 1 of 3 slots held, 0 waiting, {place}"));
    house.dflock(&["sem", "acquire", "only", "--limit", "1"]).ok();
    assert_eq!(json("only")["state"], "held");
    assert!(json("only")["lock"].is_null());
}

/// The server keeps a lock whose client is gone, for it to come back or to the end of its lease.
#[test]
fn a_lock_of_nobody_who_is_there_is_told_in_words() {
    let server = Server::start(&["--no-auto-release-on-disconnect"]);
    let house = House::at(&server.address);
    server.connect().take("k", "0 600");
    let status = wait_for("its end to be noticed", || {
        let status = house.dflock(&["status", "k"]).out;
        (!status.contains("held by connection")).then_some(status)
    });
    assert!(status.starts_with("k: held by a client that is not connected, "), "{status}");
    assert_eq!(house.dflock(&["status", "k", "--json"]).json()["lock"]["owner_conn_id"], 0);
    let busy = house.dflock(&["acquire", "k", "-nv"]).code(75).err;
    assert!(busy.contains("a client that is not connected has it") && !busy.contains("connection 0"), "{busy}");
    let table = house.dflock(&["stats", "--format", "table"]).out;
    assert!(table.contains("1 (not connected)"), "{table}");
    // Whoever waits alone is no holder.
    let server = Server::start(&[]);
    let house = House::at(&server.address);
    let mut first = server.connect();
    let token = first.take("k", "0");
    let mut away = server.connect();
    assert!(away.ask("info", "_", "resume 60").starts_with("ok "));
    assert!(away.ask("e", "k", "").starts_with("queued "));
    drop(away);
    wait_for("its end to be noticed", || (first.stats()["connections"] == 1).then_some(()));
    assert_eq!(first.ask("r", "k", &token), "ok");
    let status = house.dflock(&["status", "k"]).out;
    assert!(status.starts_with("k: free, 1 waiting, "), "{status}");
}

#[test]
fn stats_of_several_servers_are_merged() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    let down = "127.0.0.1:1";
    let house = House::at(&format!("{},{},{down}", one.address, two.address));
    house.dflock(&["acquire", "a", "--shard", "0"]).ok();
    house.dflock(&["acquire", "b", "--shard", "1"]).ok();
    house.dflock(&["sem", "acquire", "s", "--shard", "1", "--limit", "2"]).ok();
    let all = house.dflock(&["stats"]).code(69).json();
    let up = house.dflock(&["stats", "-s", &format!("{},{}", one.address, two.address)]);
    up.ok();
    assert_eq!(fields(&all), fields(&up.json()));
    let nothing = house.dflock(&["stats", "-s", down]).code(69).json();
    let names = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&nothing), names(&all));
    let expected = set("schema connections locks semaphores idle_locks idle_semaphores servers");
    assert_eq!(names(&all), expected);
    let servers: Vec<(&str, bool)> = all["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["server"].as_str().unwrap(), row["ok"].as_bool().unwrap()))
        .collect();
    assert_eq!(servers, [(one.address.as_str(), true), (two.address.as_str(), true), (down, false)]);
    assert_eq!(all["servers"][2]["error"], "unreachable");
    let places = |list: &str| -> Vec<(String, String)> {
        let rows = all[list].as_array().unwrap().iter();
        rows.map(|row| (row["key"].as_str().unwrap().into(), row["server"].as_str().unwrap().into())).collect()
    };
    assert_eq!(places("locks"), [("a".into(), one.address.clone()), ("b".into(), two.address.clone())]);
    assert_eq!(places("semaphores"), [("s".to_owned(), two.address.clone())]);
    let connections: u64 = (0..2).map(|at| all["servers"][at]["connections"].as_u64().unwrap()).sum();
    assert_eq!(all["connections"], connections);
    // The same sums in the other forms.
    let table = house.dflock(&["stats", "--format", "table"]).code(69);
    assert!(table.out.starts_with("SERVER ") && table.out.contains("\n\nKEY "), "{table:?}");
    assert!(table.out.lines().any(|line| line.starts_with("s ") && line.contains("1/2")), "{table:?}");
    assert!(table.err.contains(down), "{table:?}");
    let metrics = house.dflock(&["stats", "--format", "prometheus"]).code(69).out;
    assert!(metrics.contains(&format!("dflock_up{{server=\"{}\"}} 1\n", one.address)), "{metrics}");
    assert!(metrics.contains(&format!("dflock_up{{server=\"{down}\"}} 0\n")), "{metrics}");
    let holders = format!("dflock_semaphore_holders{{server=\"{}\",key=\"s\"}} 1\n", two.address);
    assert!(metrics.contains(&holders), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').unwrap().1;
        assert!(line.starts_with("dflock_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

/// A key may hold whatever is no white space.
#[test]
fn no_form_of_an_answer_steers_a_terminal() {
    let house = House::new();
    let key = "\u{1b}[2J\u{7}\u{7f}\u{9b}31m\u{202e}k";
    house.dflock(&["acquire", key]).ok();
    let steers = |letter: char| letter != '\n' && (letter.is_control() || letter == '\u{202e}');
    for args in [
        &["stats"] as &[&str],
        &["status", key, "--json"],
        &["status", key],
        &["holders", "--json"],
        &["holders"],
        &["exec", "-n", key, "--json", "true"],
        &["stats", "--format", "table"],
    ] {
        let said = house.dflock(args);
        assert!(!said.out.contains(steers) && !said.err.contains(steers), "{args:?}: {said:?}");
    }
    assert_eq!(house.dflock(&["stats"]).json()["locks"][0]["key"], key, "and it is the same key");
    // A machine is told the label as it is; a person sees it.
    let metrics = ["stats", "--format", "prometheus"];
    assert!(house.dflock(&metrics).ok().contains(&format!("key=\"{key}\"")));
    let mut command = house.command("dflock");
    let mut typist = Typist::start(command.args(metrics));
    let screen = typist.wait_for("dflock_semaphore_limit");
    assert!(screen.contains("key=\"\\u{1b}[2J\\u{7}\\u{7f}\\u{9b}31m\\u{202e}k\""), "{screen:?}");
    assert!(!screen.replace('\r', "").contains(steers), "{screen:?}");
    assert_eq!(typist.finish(), Some(0));
}

#[test]
fn the_settings_say_where_they_come_from() {
    let house = House::new();
    let json = house.dflock(&["config", "--json"]).json();
    assert_eq!(fields(&json), set("schema settings settings[].name settings[].value settings[].source"));
    let of = |document: &Value, name: &str| -> (String, String) {
        let rows = document["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {document}"));
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    let (value, source) = of(&json, "servers");
    assert_eq!(value, house.servers);
    assert!(source.contains("DFLOCK_SERVERS"), "{source}");
    let flag = house.dflock(&["config", "-s", "h:1", "--json"]).json();
    assert_eq!(of(&flag, "servers").0, "h:1");
    assert_eq!(fields(&flag), fields(&json));
    let mut command = house.command("dflock");
    command.args(["config", "--json"]).env("DFLOCK_AUTH_TOKEN", "s3cret-s3cret");
    let said = crate::house::clean::finish(command.spawn().unwrap());
    assert!(!said.ok().contains("s3cret-s3cret"), "{said:?}");
    let table = house.dflock(&["config"]).out;
    assert!(table.starts_with("SETTING "), "{table}");
}
