//! Every example of README.md is run, so that none of them is wrong for long.
//!
//! A block says by its language how it is tried; an invisible line above it, `<!-- tried: … -->`, says what is
//! special about it. `blocks.rs` reads them.

#![allow(unreachable_pub, reason = "a test program has no outside; pub says what a module offers the others")]

#[path = "../house/mod.rs"]
mod house;

mod blocks;
mod demo;
mod fleet;
mod idioms;
mod moving;
mod places;
mod shell;

use blocks::blocks;

/// What is tried by `.ci/run`, for it builds or installs things: each line, so that nothing gets in unnoticed.
const ELSEWHERE: [&str; 9] = [
    "cargo run --release -- exec demo -- echo \"only one of us at a time\"",
    "cargo test",
    "cargo install --path .",
    "dflock man ~/.local/share/man/man1",
    "dflock completions bash > ~/.local/share/bash-completion/completions/dflock",
    "cargo install cargo-deb --locked",
    "cargo deb",
    "rustup target add x86_64-unknown-linux-musl",
    "cargo build --release --target x86_64-unknown-linux-musl",
];

#[test]
fn every_block_is_tried_in_some_way() {
    let mut elsewhere = Vec::new();
    for block in blocks() {
        match (block.language.as_str(), block.tried.as_str()) {
            ("sh", "elsewhere") => elsewhere.extend(block.text.lines().map(str::to_owned)),
            ("console", "demo") => {}
            ("sh" | "cron" | "ini" | "yaml" | "make" | "dockerfile" | "toml", tried)
                if !tried.contains("elsewhere") => {}
            other => panic!("line {}: nobody tries a block of {other:?}", block.line),
        }
    }
    assert_eq!(elsewhere, ELSEWHERE);
}

/// The links within the page lead somewhere.
#[test]
fn links_lead_to_headings_and_files() {
    let text = blocks::readme();
    let headings: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-").replace([',', '\''], ""))
        .collect();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().expect("an end");
        let is_there = match target.strip_prefix('#') {
            Some(heading) => headings.iter().any(|known| known == heading),
            None => std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(),
        };
        assert!(is_there, "the link {target} leads nowhere");
    }
}
