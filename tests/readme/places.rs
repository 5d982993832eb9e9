//! Examples for cron, systemd, Kubernetes, make, CI and containers: as far as each can be checked here, and the command
//! inside is run.

use yaml_rust2::{Yaml, YamlLoader};

use crate::blocks::of_language;
use crate::fleet::Fleet;
use crate::house::network::in_own_network;
use crate::house::tools;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("no text: {yaml:?}")).to_owned()
}

#[test]
fn cron() {
    let fleet = Fleet::new();
    for block in of_language("cron") {
        // A line of cron is a variable, or a job.
        let (variables, jobs): (Vec<&str>, Vec<&str>) =
            block.text.lines().partition(|line| line.starts_with("DFLOCK_"));
        assert!(variables[0].starts_with("DFLOCK_SERVERS=") && jobs.len() == 1, "{variables:?} {jobs:?}");
        let fields = words(jobs[0]);
        for (field, most) in fields[..5].iter().zip([59, 23, 31, 12, 7]) {
            assert!(field == "*" || field.parse::<u32>().is_ok_and(|number| number <= most), "{field}");
        }
        assert_eq!(fields[5], "root");
        let script = format!("export {}\n{}", variables.join(" "), fields[6..].join(" "));
        let said = fleet.script("sh", &script);
        assert_eq!((said.ok(), said.err.as_str()), ("backup.sh", ""), "{said:?}");
        // The next host comes too late, and is content.
        let said = fleet.script("sh", &script);
        assert_eq!((said.ok(), said.err.as_str()), ("", ""), "{said:?}");
    }
}

#[test]
fn systemd() {
    let fleet = Fleet::new();
    for block in of_language("ini") {
        let unit = fleet.here(&block.text);
        let path = fleet.house.path("nightly.service");
        std::fs::write(&path, &unit).expect("the unit is written");
        if tools::is_there("systemd-analyze") {
            let mut verify = fleet.house.command("systemd-analyze");
            verify.args(["verify", "--man=no"]).arg(&path);
            let said = crate::house::clean::finish(verify.spawn().expect("it starts"));
            let ours: Vec<&str> = said.err.lines().filter(|line| line.contains("nightly")).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
        let line =
            |name: &str| block.text.lines().find_map(|line| line.strip_prefix(name)).expect("the line").to_owned();
        let variables: Vec<(String, String)> = line("Environment=")
            .split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        fleet.run(&words(&line("ExecStart=")), &variables).ok();
    }
}

#[test]
fn yaml() {
    let fleet = Fleet::new();
    for block in of_language("yaml") {
        let documents =
            YamlLoader::load_from_str(&block.text).unwrap_or_else(|why| panic!("line {}: {why}", block.line));
        let document = &documents[0];
        if document["kind"].as_str() == Some("CronJob") {
            let container = &document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
            let command: Vec<String> = container["command"].as_vec().expect("a command").iter().map(text).collect();
            let variables = container["env"].as_vec().expect("variables");
            let variables: Vec<_> =
                variables.iter().map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect();
            assert_eq!(fleet.run(&command, &variables).ok(), "backup.sh");
        } else {
            let job = &document["jobs"]["deploy"];
            let line = text(&job["steps"][0]["run"]);
            let variables = [("DFLOCK_SERVERS".to_owned(), text(&job["env"]["DFLOCK_SERVERS"]))];
            assert_eq!(fleet.run(&words(&line), &variables).ok(), "deploy");
        }
    }
}

#[test]
fn make() {
    if !tools::is_there("make") {
        return;
    }
    let fleet = Fleet::new();
    for block in of_language("make") {
        std::fs::write(fleet.house.path("Makefile"), fleet.here(&block.text)).expect("the file is written");
        let said = fleet.run(&words("make deploy"), &[]);
        assert_eq!(said.ok(), "./build\nbuild\ndflock exec -w 15m deploy-production -- ./deploy\ndeploy");
    }
}

#[test]
fn dockerfile() {
    let fleet = Fleet::new();
    for block in of_language("dockerfile") {
        let mut command: Vec<String> = Vec::new();
        for line in block.text.lines() {
            let (_, list) = line.split_once(' ').expect("an instruction");
            command.extend(serde_json::from_str::<Vec<String>>(list).expect("the exec form"));
        }
        assert_eq!(fleet.run(&command, &[]).ok(), "server");
        // Where nobody says which servers, each container would have one of its own.
        in_own_network("places::dockerfile", || {
            let none = [("DFLOCK_SERVERS", ""), ("DFLOCK_CONNECT_RETRY", "0")];
            let none = none.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let said = fleet.run(&command, &none).code(69);
            assert!(said.out.is_empty() && said.err.contains("--require-server"), "{said:?}");
        });
    }
}

#[test]
fn settings() {
    let fleet = Fleet::new();
    for block in of_language("toml") {
        let dir = fleet.house.path(".config/dflock");
        std::fs::create_dir_all(&dir).expect("the directory is made");
        std::fs::write(dir.join("config.toml"), fleet.here(&block.text)).expect("the file is written");
        let document =
            fleet.run(&words("dflock config --json"), &[("DFLOCK_SERVERS".to_owned(), String::new())]).json();
        let rows = document["settings"].as_array().expect("rows");
        for name in block.text.lines().map(|line| line.split(' ').next().expect("a name")) {
            let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no setting {name}"));
            assert!(row["source"].as_str().is_some_and(|source| source.ends_with("config.toml")), "{row}");
        }
    }
}
