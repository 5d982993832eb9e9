//! Data flows one way: a module names only what stands below it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each floor may name, besides itself and what everyone may use.
const BELOW: &[(&str, &[&str])] = &[
    ("main", &["cli", "command", "output"]),
    ("lib", &[]),
    ("cli", &["command", "exec"]),
    (
        "command",
        &["exec", "holder", "lease", "backend", "server", "client", "net", "wire", "lock", "output", "settings"],
    ),
    ("exec", &["lease", "backend", "lock"]),
    ("holder", &["lease", "backend", "client", "net", "lock"]),
    ("lease", &["backend", "lock"]),
    ("backend", &["client", "net", "wire", "lock"]),
    ("client", &["net", "wire", "lock"]),
    ("server", &["net", "wire", "lock"]),
    ("output", &[]),
    ("settings", &["net", "wire"]),
    ("wire", &["lock"]),
    ("net", &[]),
    ("lock", &[]),
    ("cgroup", &[]),
    ("error", &[]),
    ("clock", &[]),
    ("sys", &[]),
    ("procfs", &[]),
];

/// Everyone may use these; they use nobody.
const GROUND: &[&str] = &["cgroup", "error", "clock", "sys", "procfs"];

/// Files that decide, and so touch no clock, socket, file, environment or randomness.
const PURE: &[&str] = &[
    "src/wire/",
    "src/lock/",
    "src/backend/dflockd/rows.rs",
    "src/backend/etcd/layout.rs",
    "src/server/table/",
    "src/server/journal/downtime.rs",
    "src/server/journal/frame.rs",
    "src/server/journal/kept.rs",
    "src/server/journal/record.rs",
    "src/server/journal/replay.rs",
    "src/lease/plan.rs",
    "src/lease/keeping.rs",
    "src/client/retry.rs",
    "src/exec/guard/birth.rs",
    "src/exec/guard/duty.rs",
    "src/exec/guard/vigil.rs",
    "src/exec/kin.rs",
    "src/exec/policy.rs",
];

const IMPURE: &[&str] = &[
    "clock::now",
    "clock::server_now",
    "clock::wall",
    "std::time::Instant",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::net",
    "tokio::",
    "getrandom",
    "std::process",
    "std::thread",
];

#[test]
fn every_arrow_points_down() {
    let below: BTreeMap<_, _> = BELOW.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let floor = floor_of(&file);
        let allowed =
            below.get(floor.as_str()).unwrap_or_else(|| panic!("{}: floor {floor} has no rule", file.display()));
        for (number, line) in code_lines(&text) {
            for used in uses(line) {
                let fine = used == floor || GROUND.contains(&used.as_str()) || allowed.contains(&used.as_str());
                if !fine {
                    wrong.push(format!("{}:{number}: {floor} names {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_decides_touches_nothing() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let name = file.to_string_lossy().into_owned();
        if !PURE.iter().any(|pure| name.starts_with(pure)) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{name}:{number}: a deciding file uses {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not begin with a //! sentence", file.display());
    }
}

/// Only one file may do each of these.
#[test]
fn some_things_stand_in_one_file() {
    let only: &[(&str, &[&str])] = &[
        ("rustls_pemfile", &["src/net/tls.rs"]),
        ("io::stdout", &["src/output/mod.rs"]),
        ("io::stderr", &["src/output/mod.rs"]),
        ("b\"ok ", &["src/wire/answer.rs"]),
        ("clock_gettime", &["src/clock.rs"]),
        (
            "unsafe {",
            &[
                "src/sys.rs",
                "src/sys/allocated.rs",
                "src/sys/beside.rs",
                "src/sys/namespace.rs",
                "src/sys/reapers.rs",
                "src/sys/renaming.rs",
                "src/sys/signals.rs",
                "src/sys/start.rs",
            ],
        ),
        (
            ".renew(",
            &[
                "src/lease/keeper.rs",
                "src/backend/mod.rs",
                "src/backend/dflockd/hold.rs",
                "src/backend/etcd/hold.rs",
                "src/server/session/mod.rs",
                "src/server/table/play.rs",
                "src/holder/run.rs",
                "src/command/renew.rs",
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let name = file.to_string_lossy().into_owned();
        for (word, homes) in only {
            for (number, line) in code_lines(&text) {
                if line.contains(word) && !homes.contains(&name.as_str()) {
                    wrong.push(format!("{name}:{number}: {word} belongs to {}", homes.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line without its comment, outside of test modules.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests_at = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let code = |line| match str::split_once(line, "//") {
        Some((code, _)) => code,
        None => line,
    };
    text[..tests_at].lines().enumerate().map(move |(at, line)| (at + 1, code(line)))
}

/// The floors that a line names, by `crate::` or, in main.rs, `dflock::`.
fn uses(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in ["crate::", "dflock::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(name.len());
                found.push(name[..end].to_owned());
            }
        }
    }
    found
}

fn floor_of(file: &Path) -> String {
    let inside = file.strip_prefix("src").expect("sources are below src");
    let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "found only {} sources", found.len());
    found
}
