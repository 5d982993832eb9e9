//! Locks in shell scripts: taken and given back, as variables, in subshells, and when the script is killed.

use crate::house::clean::House;
use crate::house::{now, wait_for};

const SHELLS: [&str; 2] = ["sh", "bash"];

#[test]
fn a_script_takes_a_lock_and_gives_it_back() {
    let house = House::new();
    for shell in SHELLS {
        let said = house.script(
            shell,
            "set -e
            token=$(dflock acquire job)
            [ ${#token} = 32 ]
            dflock status job
            dflock release job
            dflock status job",
        );
        let lines: Vec<&str> = said.ok().lines().collect();
        assert_eq!(lines.len(), 2, "{said:?}");
        assert!(lines[0].starts_with("job: held by connection "), "{said:?}");
        assert_eq!(lines[1], format!("job: free, on {}", house.servers));
        assert_eq!(said.err, "");
    }
}

#[test]
fn exported_variables_survive_eval_whatever_the_key_is() {
    let house = House::new();
    let hostile = r#"it's-$(id)-"x"-`id`-\-*-&-;-'$HOME'"#;
    for shell in SHELLS {
        let mut script = house.script_command(
            shell,
            r#"eval "$(dflock acquire "$HOSTILE" --export -l 20)" || exit
            printf '%s\n' "$DFLOCK_KEY" "$DFLOCK_SERVER" "$DFLOCK_LEASE" "${#DFLOCK_TOKEN}" "$DFLOCK_FENCE"
            sh -c 'printf "%s\n" "$DFLOCK_KEY"'
            dflock release "$HOSTILE""#,
        );
        let said = crate::house::clean::finish(script.env("HOSTILE", hostile).spawn().unwrap());
        let lines: Vec<&str> = said.ok().lines().collect();
        assert_eq!(lines[..4], [hostile, &house.servers, "20", "32"], "{said:?}");
        assert!(lines[4].parse::<u64>().is_ok(), "a fence: {said:?}");
        assert_eq!(lines[5], hostile, "exported to children");
        house.wait_until_nobody_holds();
    }
}

#[test]
fn a_failed_eval_fails_and_leaves_no_old_variables() {
    let house = House::new();
    house.dflock(&["acquire", "busy"]).ok();
    let old = "export DFLOCK_KEY=o DFLOCK_TOKEN=o DFLOCK_LEASE=o DFLOCK_SERVER=o DFLOCK_FENCE=o\n";
    for shell in SHELLS {
        let said = house.script(
            shell,
            &format!(
                "{old} eval \"$(dflock acquire busy -n --export)\"
                echo $? ${{DFLOCK_KEY-no}} ${{DFLOCK_TOKEN-no}} ${{DFLOCK_LEASE-no}} ${{DFLOCK_SERVER-no}} ${{DFLOCK_FENCE-no}}"
            ),
        );
        assert_eq!(said.ok(), "75 no no no no no");
        assert!(said.err.starts_with("dflock: busy is held by somebody else"), "{said:?}");
        let exits = "eval \"$(dflock acquire busy -qn --export)\" || exit; echo never";
        assert_eq!(house.script(shell, exits).code(75).out, "");
        let quits = "set -e; eval \"$(dflock acquire busy -qn --export)\"; echo never";
        assert_eq!(house.script(shell, quits).code(75).out, "");
        let usage = "eval \"$(dflock acquire 'a b' --export)\"; echo $?";
        assert_eq!(house.script(shell, usage).ok(), "125");
    }
}

#[test]
fn a_killed_script_frees_its_lock() {
    let house = House::new();
    for shell in SHELLS {
        let script = house.start_script(shell, "dflock acquire job >/dev/null; echo >ready; read line");
        house.wait_for_file("ready");
        // Whoever waits gets it in the moment it is free.
        let mut next = house.server().connect();
        next.send(b"l\njob\n60\n");
        house.wait_for_waiters("job", 1);
        let begin = now();
        script.signal("KILL");
        let answer = next.line();
        eprintln!("{shell}: free {:?} after the kill", begin.elapsed());
        assert!(answer.starts_with("ok "), "{answer}");
        std::fs::remove_file(house.path("ready")).unwrap();
        house.wait_until_nobody_holds();
    }
}

#[test]
fn a_lock_taken_in_a_subshell_lives_as_long_as_the_script() {
    let house = House::new();
    for shell in SHELLS {
        let mut script = house.start_script(
            shell,
            "take() { dflock acquire in-function >/dev/null; }
            take
            ( dflock acquire in-subshell >/dev/null )
            x=$(dflock acquire in-pipe | cat)
            ( ( y=$(dflock acquire deep | cat | cat) ) )
            echo one | while read z; do dflock acquire in-loop >/dev/null; done
            dflock acquire in-background >/dev/null & wait
            { sh -c : ; dflock acquire in-group >/dev/null; } | cat
            eval \"$(dflock acquire in-eval --export)\"
            echo ready >ready; read line",
        );
        house.wait_for_file("ready");
        let holders = house.holders();
        let mut keys: Vec<&str> = holders.iter().map(|holder| holder["key"].as_str().unwrap()).collect();
        keys.sort_unstable();
        let all = ["deep", "in-background", "in-eval", "in-function", "in-group", "in-loop", "in-pipe", "in-subshell"];
        assert_eq!(keys, all, "{shell}");
        for holder in &holders {
            assert_eq!(holder["owner_pid"], script.pid, "{shell}: {holder}");
            assert_eq!(holder["state"], "held");
        }
        script.go_on();
        script.finish();
        house.wait_until_nobody_holds();
        for key in all {
            assert!(!house.is_held(key), "{shell}: {key}");
        }
        std::fs::remove_file(house.path("ready")).unwrap();
    }
}

#[test]
fn a_script_of_a_script_is_an_owner_of_its_own() {
    let house = House::new();
    std::fs::write(house.path("inner"), "dflock acquire inner >/dev/null; echo $$").unwrap();
    let said = house.script("sh", "dflock acquire outer >/dev/null; sh ./inner; dflock holders --json; echo $$");
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_ne!(lines[0], lines[2], "two shells");
    house.wait_until_nobody_holds();
}

#[test]
fn an_expansion_returns_while_the_holder_lives_on() {
    let house = House::new();
    let me = std::process::id().to_string();
    for shell in SHELLS {
        // The output of the script ends only when nobody has it open any more.
        let said = house.script(
            shell,
            &format!(
                "token=$(dflock acquire job --owner {me} 2>&1) || exit; echo \"$token\"; dflock acquire b --owner {me}"
            ),
        );
        assert_eq!(said.masked(), "TOKEN\nTOKEN\n", "{said:?}");
        assert_eq!(house.holder_pids().len(), 2);
        house.dflock(&["release", "job"]).ok();
        house.dflock(&["release", "b"]).ok();
    }
}

#[test]
fn a_file_lock_of_the_script_ends_with_it() {
    let house = House::new();
    for shell in SHELLS {
        let mut script = house.start_script(
            shell,
            "exec 9>file 7<file; flock 9 || exit
            dflock acquire job --owner none --max-hold 60 >token
            echo ready >ready; read line",
        );
        house.wait_for_file("ready");
        assert_eq!(house.script(shell, "flock -n file true").code, 1, "held by the script");
        script.go_on();
        script.finish();
        house.script(shell, "flock -n file true").ok();
        assert_eq!(house.holder_pids().len(), 1, "the holder lives on");
        house.dflock(&["release", "job", house.read("token").trim()]).ok();
        std::fs::remove_file(house.path("ready")).unwrap();
    }
}

#[test]
fn several_locks_of_one_script_are_told_apart_by_their_keys() {
    let house = House::new();
    let said = house.script(
        "sh",
        "eval \"$(dflock acquire one --export)\" && eval \"$(dflock acquire two --export)\" || exit
        dflock release one && dflock status one && dflock renew two && dflock release two && dflock status two",
    );
    let free = |key| format!("{key}: free, on {}", house.servers);
    assert_eq!(said.ok(), format!("{}\n33\n{}", free("one"), free("two")));
}

#[test]
fn a_trap_hears_of_a_lost_lock() {
    let mut house = House::new();
    let script = house.start_script(
        "sh",
        "trap 'echo lost >lost; kill $!' USR1
        dflock acquire job -l 2 --signal-on-lost USR1 >/dev/null
        sleep 60 & echo ready >ready; wait $!; dflock release job; echo $? >code; read line",
    );
    house.wait_for_file("ready");
    house.server_mut().signal("KILL");
    assert_eq!(house.wait_for_file("lost"), "lost\n");
    assert_eq!(house.wait_for_file("code"), "79\n");
    wait_for("the end of the holder", || house.holder_pids().is_empty().then_some(()));
    drop(script);
}

/// A shell waits for what it calls, so what it holds is not given back meanwhile.
#[test]
fn a_script_does_not_wait_for_itself() {
    let house = House::new();
    for shell in ["sh", "bash", "dash", "zsh"] {
        if !crate::house::tools::is_there(shell) {
            continue;
        }
        for (first, second, has) in [
            ("dflock acquire k", "exec k true", "has k already"),
            ("dflock acquire k", "acquire k -w forever", "has k already"),
            ("eval \"$(dflock acquire k --export)\"", "exec other --also k true", "has k already"),
            ("dflock enqueue k >/dev/null && dflock wait k", "exec -w 1h k true", "has k already"),
        ] {
            let script = format!("{first} >/dev/null || exit 9\ndflock {second}\necho $?; dflock release k");
            let said = house.script(shell, &script);
            assert_eq!(said.ok(), "125", "{shell}: {second}: {said:?}");
            assert!(said.err.contains(has) && said.err.contains("wait for itself"), "{said:?}");
        }
        // Whoever does not wait is told that it is busy; what nobody holds any more is there to be had.
        let script = "dflock acquire k >/dev/null; dflock exec -qn k true; echo $?
            dflock release k; dflock exec k true; echo $?";
        assert_eq!(house.script(shell, script).ok(), "75\n0");
        // Two parts of a script that go on at once exclude each other.
        let script =
            "once() { dflock acquire k >/dev/null && echo $1 >>log && sleep 0.05 && echo $1 >>log; dflock release k; }
            (once a) & (once b) & wait; rm -f sorted; sort log | tr -d '\\n'; uniq log | wc -l; rm log";
        let said = house.script(shell, script);
        assert_eq!(said.ok().split_whitespace().collect::<String>(), "aabb2", "{shell}: {said:?}");
    }
}

#[test]
fn what_was_enqueued_is_given_up_by_release() {
    let house = House::new();
    let mut client = crate::house::Client::connect(&house.servers);
    let token = client.ask("l", "k", "1 60").split_whitespace().nth(1).expect("a token").to_owned();
    let said =
        house.script("sh", "dflock enqueue k; dflock exec -w 1h k true; echo $?; dflock release k; dflock holders");
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines[..2], ["queued", "125"], "{said:?}");
    assert!(said.err.contains("waits for k already"), "{said:?}");
    house.wait_until_nobody_holds();
    assert_eq!(client.stats()["locks"][0]["waiters"], 0);
    client.ask("r", "k", &token);
}
