//! Conversations with the server: each of `talks/*.txt` is played byte for byte over TCP.
//!
//! Every talk has a server of its own. `DFLOCKD=/path/to/dflockd cargo test --test wire` plays the same
//! files to another server: the original, v1.10.0, by whose measured answers the files were written.
//! `TALK=part-of-a-name` plays some of them; `-- --nocapture` lists them all.
//!
//! A talk is lines; a blank one means nothing. Names of connections are up to the talk; one is opened when
//! it is first named, and its name is not used again after `close` or `reset`.
//!
//! | line | meaning |
//! | --- | --- |
//! | `# text` | the first one says what the talk shows |
//! | `only ours: why` | nothing in it is meant for the original |
//! | `serve --max-locks 2` | more flags for the server |
//! | `env NAME=value` | in the server's environment |
//! | `secret TEXT` | clients must send this secret: the server finds it in a file |
//! | `a > TEXT` | `a` sends these bytes |
//! | `a < TEXT` | these bytes come next, and within [`connection::CEILING`] |
//! | `a eof` | `a` is ended by the server (closed or reset), and no byte comes before |
//! | `a silent` | at this moment nothing has come |
//! | `a open`, `a close`, `a reset`, `a half-close` | what `a` does with its connection |
//! | `until a > TEXT has TEXT` | `a` sends this again and again until the answer's line has the second text in it |
//! | `passed 1s since a` | so long ago, or longer, `a` began to send what it sent last (or to connect) |
//! | `grows $t $u` | as text, the second is above the first |
//! | `signal TERM` | to the server |
//! | `exits 0` | the server ends, with this status |
//!
//! `ours: LINE` and `original: LINE` are for one server only; a comment right above them says why.
//!
//! In TEXT `\n`, `\r`, `\t`, `\0`, `\xNN` and a backslash before `\`, `$` or `<` stand for one byte; `$name`
//! for 32 hex digits (any at first sight, then the same ones), `<upper $name>` for them in capitals; `<k*256>`
//! repeats; `<int>` and `<float>` are a number, whichever it is. White space at the end of a line is dropped.

#[path = "../house/mod.rs"]
mod house;

mod bytes;
mod connection;
mod peer;
mod play;
mod script;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use script::{Script, Side};

/// Talks that are played at the same time. They mostly wait.
const AT_ONCE: usize = 8;

/// The folder holds at least so many, or something is wrong with how it is read.
const AT_LEAST: usize = 60;

enum Outcome {
    Played(Duration),
    Skipped(String),
    Failed(String),
}

#[test]
fn talks() {
    let files = files();
    assert!(files.len() >= AT_LEAST, "found only {} talks", files.len());
    let side = if peer::other_server().is_some() { Side::Original } else { Side::Ours };
    let wanted = std::env::var("TALK").unwrap_or_default();
    let files: Vec<PathBuf> = files.into_iter().filter(|file| name(file).contains(&wanted)).collect();

    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play_file(file, side);
                    outcomes.lock().expect("the outcomes").push((name(file), outcome));
                }
            });
        }
    });

    let mut outcomes = outcomes.into_inner().expect("the outcomes");
    outcomes.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut failures = Vec::new();
    for (name, outcome) in &outcomes {
        match outcome {
            Outcome::Played(took) => println!("played  {name} ({:.2} s)", took.as_secs_f64()),
            Outcome::Skipped(why) => println!("skipped {name}: {why}"),
            Outcome::Failed(how) => {
                println!("FAILED  {name}");
                failures.push(format!("{name}.txt {how}"));
            }
        }
    }
    let all = outcomes.len();
    assert!(all > 0, "no talk is called like {wanted}");
    assert!(failures.is_empty(), "{} of {all} talks failed\n\n{}", failures.len(), failures.join("\n\n"));
}

/// A cluster's `error_not_leader` is missing: no server of ours says it.
#[test]
fn every_word_of_the_protocol_is_spoken() {
    const COMMANDS: &str = "auth l r n e w sl sr sn se sw stats ping info resume sresume";
    const ANSWERS: &str = "ok acquired queued timeout error error_auth error_max_locks error_max_waiters \
        error_max_connections error_limit_mismatch error_not_enqueued error_already_enqueued error_lease_expired \
        error_draining";
    let talks: Vec<String> = files().iter().map(|file| fs::read_to_string(file).expect("a talk")).collect();
    let spoken = |line: String| talks.iter().any(|talk| talk.contains(&line));
    let commands = COMMANDS.split_whitespace().filter(|command| !spoken(format!(" > {command}\\n")));
    let answers = ANSWERS.split_whitespace();
    let answers = answers.filter(|answer| !spoken(format!(" < {answer}\\n")) && !spoken(format!(" < {answer} ")));
    let missing: Vec<&str> = commands.chain(answers).collect();
    assert!(missing.is_empty(), "no talk has {missing:?}");
}

/// A player that lets everything pass would be worth nothing.
#[test]
fn wrong_talks_fail() {
    let wrong: &[(&[&str], &str)] = &[
        (&[r"a > zz\n_\n_\n", r"a < ok\n"], "line 3: something else came"),
        (&[r"a > zz\n_\n_\nzz\n_\n_\n", r"a < error\n", "a silent"], "line 4: a was sent what nobody expected"),
        (&[r"a > zz\n_\n_\nzz\n_\n_\n", r"a < error\n"], "at the end: a was sent what nobody expected"),
        (&[r"a > zz\n_\n_\n", "a eof"], "line 3: instead of the end came"),
        (&["a half-close", r"a < error\n"], "line 3: the server ended the connection"),
        (&["a half-close", "a eof", r"b > zz\n_\n_\n", r"b < error\n", "passed 99s since b"], "line 6: only"),
        (&[r"a > l\nk\n0\nl\nj\n0\n", r"a < ok $t 33\n", r"a < ok $t 33\n"], "line 4: something else came"),
        (&[r"a > l\nk\n0\n", r"a < ok $t <float>1\n"], "line 3: something else came"),
        (&[r"a > r\nk\n$t\n"], "line 2: $t has not been seen yet"),
        (&["a open", r"ours: a > zz\n"], "line 3: no comment above says why the servers differ"),
        (&[r"a > \q"], "line 2: unknown escape"),
        (&["a open", "serve --max-locks 1"], "line 3: serve stands above the first step"),
        (&[], "shows nothing"),
    ];
    for (lines, how) in wrong {
        let text = format!("# A talk that is wrong.\n{}\n", lines.join("\n"));
        let end = Script::parse(&text, Side::Ours).and_then(|script| play::play(&script));
        let failure = end.expect_err(&text);
        assert!(failure.starts_with(how), "{text}\n{failure}");
    }
}

fn play_file(file: &Path, side: Side) -> Outcome {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(why) => return Outcome::Failed(format!("cannot be read: {why}")),
    };
    let script = match Script::parse(&text, side) {
        Ok(script) => script,
        Err(why) => return Outcome::Failed(why),
    };
    if let (Side::Original, Some(why)) = (side, &script.only_ours) {
        return Outcome::Skipped(why.clone());
    }
    let begin = house::now();
    // A server that does not start must not end the other talks.
    match catch_unwind(AssertUnwindSafe(|| play::play(&script))) {
        Ok(Ok(())) => Outcome::Played(begin.elapsed()),
        Ok(Err(how)) => Outcome::Failed(how),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Outcome::Failed(format!("could not be played: {}", text.unwrap_or("a panic without words")))
        }
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/talks");
    let entries = fs::read_dir(&folder).expect("the talks are there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
