//! The picture at the top of README.md: what is shown is what the program says, but for numbers that differ.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::blocks::of_language;
use crate::house::clean::{House, Running};
use crate::house::wait_for;

/// Commands, each with the lines that it makes appear.
fn scenes(text: &str) -> Vec<(String, Vec<String>)> {
    let mut scenes: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), scenes.last_mut()) {
            (Some(command), _) => scenes.push((command.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("the demo begins with {line:?}"),
        }
    }
    scenes
}

/// Numbers of connections, processes and seconds differ, and with them the width of columns.
fn masked(line: &str) -> String {
    let mut masked = String::new();
    for word in line.split_whitespace() {
        let digits = |letter: char| letter.is_ascii_digit() || letter == '.';
        let is_measure = word.trim_end_matches(['s', ',']).chars().all(digits);
        masked.push_str(if is_measure { "N" } else { word });
        masked.push(' ');
    }
    masked
}

#[test]
fn the_demo_is_true() {
    let block = &of_language("console")[0];
    let house = House::new();
    let mut command = house.command("bash");
    command.args(["--norc", "--noprofile"]).stdin(Stdio::piped());
    command.stderr(Stdio::from(std::io::stdout()));
    let mut shell = command.spawn().expect("bash starts");
    let mut keyboard = shell.stdin.take().expect("its input");
    let output = shell.stdout.take().expect("its output");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            written.lock().expect("the lines").push(line);
        }
    });
    // Both streams in their order, and jobs with numbers, as somebody at a prompt has them.
    keyboard.write_all(b"exec 2>&1; set -m\n").expect("bash reads");
    let mut seen = 0;
    for (command, expected) in scenes(&block.text) {
        // The first job takes its time until somebody waits for it, however slow this machine is.
        let command = command.replace("sleep 5", "until test -e waited; do sleep 0.05; done");
        if command.contains("-w 1m") {
            std::fs::write(house.path("waited"), "").expect("the mark is made");
        }
        keyboard.write_all(format!("{command}\n").as_bytes()).expect("bash reads");
        for line in &expected {
            let line = line.replace("127.0.0.1:6388", &house.servers);
            let said =
                wait_for(&format!("{line:?} of {command}"), || lines.lock().expect("the lines").get(seen).cloned());
            // An exit code is no number that may differ.
            let is_right = if command.starts_with("echo $?") { said == line } else { masked(&said) == masked(&line) };
            assert!(is_right, "the demo in README.md is not true any more: {command} says {said:?}");
            seen += 1;
        }
    }
    drop(keyboard);
    let mut running = Running::of(shell);
    wait_for("the end of the demo", || (!running.is_running()).then_some(()));
    let all = lines.lock().expect("the lines").clone();
    assert_eq!(all.len(), seen, "the program says more than the demo: {all:?}");
}
