//! `dflock stats --watch`, on a terminal and in a pipe, and what Prometheus makes of `stats`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::house::clean::House;
use crate::house::tools;
use crate::house::typist::Typist;
use crate::house::{signal, wait_for};

const OPENED: &str = "\x1b[?1049h";
const CLOSED: &str = "\x1b[?1049l";

/// A shell that runs the watch and tells how it found the terminal afterwards.
fn watching(house: &House) -> Typist {
    let mut command = house.command("sh");
    command.args([
        "-c",
        "trap : INT; stty -g > before; dflock stats --watch 0.1; echo code $?; stty -g > after; echo done",
    ]);
    command.env("TERM", "xterm");
    let mut typist = Typist::start(&command);
    typist.wait_for(OPENED);
    typist
}

fn is_clean(house: &House, mut typist: Typist, code: i32) {
    typist.wait_for("\x1b[?25h");
    typist.wait_for(CLOSED);
    typist.wait_for(&format!("code {code}\r\n"));
    typist.wait_for("done\r\n");
    assert_eq!(typist.finish(), Some(0));
    assert_eq!(house.read("before"), house.read("after"), "the terminal is not as it was");
}

#[test]
fn a_live_table_that_ends_with_q() {
    let house = House::new();
    house.dflock(&["acquire", "first"]).ok();
    let mut typist = watching(&house);
    typist.wait_for("q ends it");
    typist.wait_for(&house.servers);
    typist.wait_for("KEY");
    typist.wait_for("first");
    // What comes later is seen too, in place of the old picture.
    house.dflock(&["sem", "acquire", "second", "--limit", "3"]).ok();
    typist.wait_for("second");
    typist.wait_for("1/3");
    typist.wait_for("\x1b[H");
    typist.press("q");
    is_clean(&house, typist, 0);
}

#[test]
fn ctrl_c_and_term_leave_the_terminal_clean() {
    let house = House::new();
    let mut typist = watching(&house);
    typist.wait_for("q ends it");
    typist.press("\x03");
    is_clean(&house, typist, 0);
    let mut typist = watching(&house);
    typist.wait_for("q ends it");
    let pids = house.script("sh", "pgrep -f 'dflock stats --watch' || true");
    let mine = format!("HOME={}", house.home.path().display());
    let is_mine = |pid: &&str| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("environ").split('\0').any(|variable| variable == mine) && read("comm") == "dflock\n"
    };
    let pid = pids.out.lines().find(is_mine).expect("it runs").parse().expect("a number");
    signal(pid, "TERM");
    is_clean(&house, typist, 143);
}

#[test]
fn ctrl_z_gives_the_terminal_back_and_fg_goes_on() {
    if !tools::is_there("bash") {
        return;
    }
    let house = House::new();
    let mut command = house.command("bash");
    command.args(["--norc", "--noprofile", "-i"]).env("TERM", "xterm").env("INPUTRC", "/dev/null");
    let mut typist = Typist::start(&command);
    typist.press("PS1='> '; bind 'set enable-bracketed-paste off'; dflock stats --watch 0.1\r");
    typist.wait_for(OPENED);
    typist.wait_for("q ends it");
    typist.press("\x1a");
    typist.wait_for(CLOSED);
    typist.wait_for("Stopped");
    typist.press("fg\r");
    typist.wait_for(OPENED);
    typist.wait_for("q ends it");
    typist.press("q");
    typist.wait_for(CLOSED);
    typist.press("exit\r");
    typist.finish();
}

/// q is heard even while a server says nothing.
#[test]
fn a_silent_server_does_not_hold_up_the_end() {
    let house = House::new();
    let mut typist = watching(&house);
    typist.wait_for("q ends it");
    signal(house.server().pid(), "STOP");
    typist.press("q");
    is_clean(&house, typist, 0);
    signal(house.server().pid(), "CONT");
}

#[test]
fn lines_in_a_pipe() {
    let house = House::new();
    house.dflock(&["acquire", "job"]).ok();
    for (more, parts) in [
        (
            &[] as &[&str],
            [
                format!(" server={} up=true connections=", house.servers),
                " key=job kind=lock holders=1 waiters=0".to_owned(),
            ],
        ),
        (&["--format", "table"], ["up=true".to_owned(), "lease_left_s=".to_owned()]),
        (&["--json"], ["{\"schema\":1,".to_owned(), "\"key\":\"job\"".to_owned()]),
        (&["--format", "json"], ["{\"schema\":1,".to_owned(), "\"key\":\"job\"".to_owned()]),
    ] {
        let mut command = house.command("dflock");
        command.args(["stats", "--watch=0.05"]).args(more);
        let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
        for part in parts.iter().chain(&parts) {
            assert!(lines.any(|line| line.contains(part) && !line.contains('\x1b')), "{more:?}: {part}");
        }
        // Whoever has read enough closes the pipe, and it ends.
        drop(lines);
        let status = wait_for("its end", || child.try_wait().expect("it can be waited for"));
        assert_eq!(status.code(), Some(0), "{more:?}");
    }
    house.dflock(&["stats", "--watch", "--format", "prometheus"]).code(125);
    house.dflock(&["stats", "--watch", "0"]).code(125);
}

/// The parser of the Prometheus client for Python, from PyPI; `.ci/run` installs it.
#[test]
fn prometheus_reads_it() {
    const PARSE: &str = "\
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(family.type, sample.name, sample.labels.get('key', ''), float(sample.value))
";
    let python = std::env::var("DFLOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let house = House::new();
    house.dflock(&["acquire", "we\"ird\\key"]).ok();
    house.dflock(&["sem", "acquire", "pool", "--limit", "3"]).ok();
    let metrics = house.dflock(&["stats", "--format", "prometheus"]);
    strictly(metrics.ok());
    let can =
        std::process::Command::new(&python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return tools::missing("prometheus_client for Python");
    }
    std::fs::write(house.path("metrics"), &metrics.out).expect("the file is written");
    let said = house.script("sh", &format!("{python} -c \"$(cat <<'E'\n{PARSE}E\n)\" < metrics"));
    let samples: Vec<&str> = said.ok().lines().collect();
    assert!(samples.iter().any(|line| line.starts_with("gauge dflock_up  1.0")), "{said:?}");
    assert!(samples.iter().any(|line| line.starts_with("gauge dflock_lock_lease_seconds we\"ird\\key ")), "{said:?}");
    assert!(samples.contains(&"gauge dflock_semaphore_limit pool 3.0"), "{said:?}");
}

/// The text format, as its description says: a HELP and a TYPE before the samples of a name, and each sample once.
fn strictly(text: &str) {
    let mut family = String::new();
    let mut seen = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().expect("a name").to_owned();
            assert!(seen.insert(family.clone()), "{family} is described twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(
                ["gauge", "counter"].contains(&rest.strip_prefix(&format!("{family} ")).expect("its type")),
                "{line}"
            );
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().unwrap_or_else(|why| panic!("{line}: {why}"));
            assert!(sample.starts_with(&family) && seen.insert(sample.to_owned()), "{line}");
        }
    }
}
