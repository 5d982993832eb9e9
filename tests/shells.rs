//! The completion scripts in real shells: verbs, flags, values of flags, and the keys that real holders have.

#[path = "house/mod.rs"]
mod house;

use std::path::Path;
use std::process::Command;

use house::clean::House;
use house::tools;
use house::typist::Typist;

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("completions").join(name).display().to_string()
}

/// What is typed, and what is there after Tab was pressed.
const CASES: [(&str, &str); 15] = [
    ("dflock enq", "dflock enqueue "),
    ("dflock sem rene", "dflock sem renew "),
    ("dflock exec --max-ru", "dflock exec --max-runtime "),
    ("dflock exec --on-lost w", "dflock exec --on-lost warn "),
    ("dflock exec -w for", "dflock exec -w forever "),
    ("dflock stats --format prom", "dflock stats --format prometheus "),
    ("dflock serve --log-format js", "dflock serve --log-format json "),
    ("dflock acquire k --signal-on-lost US", "dflock acquire k --signal-on-lost USR"),
    ("dflock completions fi", "dflock completions fish "),
    ("dflock man b", "dflock man bin/"),
    ("dflock release job-o", "dflock release job-one "),
    ("dflock renew -l 5m job-o", "dflock renew -l 5m job-one "),
    ("dflock wait pla", "dflock wait place "),
    ("dflock sem release --limit 2 poo", "dflock sem release --limit 2 pool "),
    ("dflock exec -w 5 job-one qqq", "dflock exec -w 5 job-one qqqjob "),
];

/// A house with holders of a lock, of a place in a queue and of a slot, and a command of its own.
fn house() -> House {
    let house = House::new();
    house.dflock(&["acquire", "job-one"]).ok();
    house.dflock(&["acquire", "team:nightly"]).ok();
    house.dflock(&["enqueue", "place"]).ok();
    house.dflock(&["sem", "acquire", "pool", "--limit", "2"]).ok();
    house.script("sh", "mkdir bin; printf '#!/bin/sh\\n' > bin/qqqjob; chmod +x bin/qqqjob").ok();
    house
}

/// The shell itself, with nothing of this user's.
fn shell(house: &House, program: &str, args: &[&str]) -> Command {
    let mut command = house.command(program);
    let bin = Path::new(env!("CARGO_BIN_EXE_dflock")).parent().expect("a directory").display().to_string();
    let own = house.path("bin").display().to_string();
    command
        .args(args)
        .env("TERM", "dumb")
        .env("PATH", format!("{own}:{bin}:/usr/bin:/bin"))
        .env("INPUTRC", "/dev/null");
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// Types each case and looks at what Tab makes of it.
fn try_all(typist: &mut Typist) {
    for (typed, completed) in CASES {
        typist.press(typed);
        typist.wait_for(typed);
        typist.press("\t");
        let rest = completed.strip_prefix(typed).expect("it goes on from what is typed");
        typist.wait_for(rest);
        // A fresh line.
        typist.press("\x15echo clean\r");
        typist.wait_for("clean\r\n");
        typist.wait_for("> ");
    }
}

#[test]
fn bash() {
    if !tools::is_there("bash") {
        return;
    }
    let house = house();
    let mut typist = Typist::start(&shell(&house, "bash", &["--norc", "--noprofile", "-i"]));
    typist.press("PS1='> '; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'\r");
    typist.wait_for("\n> ");
    typist.press(&format!("source {}\r", script("dflock.bash")));
    typist.wait_for("\n> ");
    try_all(&mut typist);
    // A colon is where readline cuts words.
    typist.press("dflock release team:n\t");
    typist.wait_for("team:nightly ");
    typist.press("\x15exit\r");
    typist.finish();
}

/// A key may hold anything but white space: it must come as one word, and nothing in it may be run.
#[test]
fn a_wicked_key_is_one_word_in_bash() {
    if !tools::is_there("bash") {
        return;
    }
    let house = House::new();
    let wicked = "wicked$(touch${IFS}pwned)'`\"*";
    house.dflock(&["acquire", wicked]).ok();
    let text = format!(
        "source {}\nCOMP_LINE='dflock release wick' COMP_POINT=19 COMP_WORDS=(dflock release wick) COMP_CWORD=2\n\
         _dflock_or_keys dflock wick release\necho \"${{#COMPREPLY[@]}}\"\neval \"dflock ${{COMP_WORDS[1]}} $COMPREPLY\"\n",
        script("dflock.bash")
    );
    let said = house.script("bash", &text);
    assert_eq!((said.ok(), said.err.as_str()), ("1", ""), "{said:?}");
    assert!(!house.is_held(wicked) && !house.path("pwned").exists());
}

#[test]
fn zsh() {
    if !tools::is_there("zsh") {
        return;
    }
    let house = house();
    let mut typist = Typist::start(&shell(&house, "zsh", &["-f", "-i"]));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions").display().to_string();
    typist.press(&format!("PS1='> '; setopt no_beep; unsetopt zle_bracketed_paste; fpath=({dir} $fpath)\r"));
    typist.press("autoload -Uz compinit && compinit -u -d ~/dump && echo rea''dy\r");
    typist.wait_for("ready\r\n");
    typist.wait_for("> ");
    try_all(&mut typist);
    typist.press("dflock release team:n\t");
    typist.wait_for("ightly ");
    typist.press("\x15exit\r");
    typist.finish();
}

/// fish tells what it would offer.
#[test]
fn fish() {
    if !tools::is_there("fish") {
        return;
    }
    let house = house();
    let mut text = format!("source {}\n", script("dflock.fish"));
    for (typed, _) in CASES {
        text.push_str(&format!("complete -C '{typed}'\necho ---\n"));
    }
    let file = house.path("ask.fish");
    std::fs::write(&file, text).expect("the file is written");
    let asked = shell(&house, "fish", &["--no-config", &file.display().to_string()]).spawn().expect("fish starts");
    let said = house::clean::finish(asked);
    let offers: Vec<&str> = said.ok().split("---\n").collect();
    for ((typed, completed), offered) in CASES.iter().zip(offers) {
        let wanted = completed.trim_end().rsplit(' ').next().expect("a word");
        let fits = offered.lines().any(|line| line.split('\t').next().is_some_and(|word| word.starts_with(wanted)));
        assert!(fits, "{typed:?} offers {offered:?}, not {wanted:?}: {said:?}");
    }
}

/// A holder that is stopped answers nobody; Tab must not wait for it, nor for a server that is gone.
#[test]
fn keys_come_at_once_whatever_stands_still() {
    let mut house = House::new();
    house.dflock(&["acquire", "free"]).ok();
    let frozen = house.dflock(&["acquire", "frozen", "--json"]).json()["holder_pid"].as_u64().expect("a number");
    house::signal(u32::try_from(frozen).expect("a pid"), "STOP");
    let server = house.server_mut().pid();
    house::signal(server, "STOP");
    let begin = house::now();
    let said = house.dflock(&["holders", "--keys"]);
    assert_eq!(said.ok(), "free");
    eprintln!("keys took {:?}", begin.elapsed());
    // A holder that answers no Tab has five seconds for anybody else.
    assert!(begin.elapsed() < std::time::Duration::from_secs(4), "{:?}", begin.elapsed());
    house::signal(server, "CONT");
    house::signal(u32::try_from(frozen).expect("a pid"), "CONT");
}
