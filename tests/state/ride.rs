//! Clients of a server that is killed or replaced: nobody who holds anything is disturbed, and nobody gets what
//! is held.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::proxy::Proxy;
use crate::house::{Client, now, wait_for};
use crate::kept::{Kept, fence_of, resumable, token_of};

fn pass(time: Duration) {
    let begin = now();
    while begin.elapsed() < time {
        // The time itself is what is tested.
        std::thread::park_timeout(time.saturating_sub(begin.elapsed()));
    }
}

#[test]
fn a_lease_goes_on_and_nobody_else_gets_the_lock_before_its_end() {
    let mut kept = Kept::start(&[]);
    let mut client = kept.connect();
    let (long, short) = (client.take("long", "0 3600"), client.take("short", "0 3"));
    let asked = now();
    kept.restart();
    let mut other = kept.connect();
    assert_eq!(other.ask("l", "long", "0"), "timeout");
    let after = token_of(&other.ask("l", "short", "60"));
    assert!(asked.elapsed() >= Duration::from_millis(2900), "granted {:?} after a lease of 3 s", asked.elapsed());
    assert!(fence_of(&after) > fence_of(&short).max(fence_of(&long)));
    assert_eq!(other.ask("n", "long", &format!("{long} 3600")), "ok 3600");
    assert_eq!(other.ask("r", "long", &long), "ok");
    assert!(other.ask("l", "long", "0").starts_with("ok "));
}

#[test]
fn the_time_that_it_was_down_counts() {
    let mut kept = Kept::start(&[]);
    let token = kept.connect().take("job", "0 2");
    kept.kill();
    pass(Duration::from_millis(2100));
    let opened = kept.start_again().event("state_opened");
    assert_eq!(opened["held"], 0, "{opened}");
    let mut client = kept.connect();
    assert_eq!(client.ask("n", "job", &token), "error");
    assert!(client.ask("l", "job", "0").starts_with("ok "));
}

#[test]
fn slots_of_a_semaphore_and_its_limit_are_as_they_were() {
    let mut kept = Kept::start(&[]);
    let mut client = kept.connect();
    let slots: Vec<String> = (0..2).map(|_| token_of(&client.ask("sl", "pool", "0 3 600"))).collect();
    kept.restart();
    let mut client = kept.connect();
    assert_eq!(client.ask("sl", "pool", "0 4"), "error_limit_mismatch");
    assert!(client.ask("sl", "pool", "0 3").starts_with("ok "));
    assert_eq!(client.ask("sl", "pool", "0 3"), "timeout");
    assert_eq!(client.ask("sr", "pool", &slots[0]), "ok");
    assert!(client.ask("sl", "pool", "0 3").starts_with("ok "));
    assert_eq!(client.ask("sresume", "pool", &slots[1]), "ok 600");
}

#[test]
fn queue_places_keep_their_order() {
    let mut kept = Kept::start(&[]);
    let mut holder = kept.connect();
    let token = holder.take("job", "0 600");
    let mut waiting: Vec<Client> = (0..4).map(|_| resumable(&kept)).collect();
    let tickets: Vec<String> = waiting.iter_mut().map(|client| token_of(&client.ask("e", "job", "600"))).collect();
    let opened = kept.restart();
    assert_eq!((opened["held"].as_u64(), opened["queued"].as_u64()), (Some(1), Some(4)), "{opened}");
    // Back in another order; the second stays away.
    let mut back: Vec<(usize, Client)> = [3, 0, 2].into_iter().map(|at| (at, resumable(&kept))).collect();
    for (at, client) in &mut back {
        assert_eq!(client.ask("resume", "job", &tickets[*at]), format!("queued {}", tickets[*at]));
        client.send(b"w\njob\n60\n");
    }
    back.sort_by_key(|(at, _)| *at);
    let waiters = || kept.connect().stats()["locks"][0]["waiters"].as_u64();
    wait_for("all places", || (waiters() == Some(4)).then_some(()));
    assert_eq!(kept.connect().ask("r", "job", &token), "ok");
    let mut last = 0;
    for (_, client) in &mut back {
        let token = token_of(&client.line());
        assert!(fence_of(&token) > last);
        last = fence_of(&token);
        assert_eq!(client.ask("r", "job", &token), "ok");
    }
}

/// What was granted to a place is found by its ticket, even if its client never heard of it.
#[test]
fn a_grant_to_a_place_is_found_by_its_ticket() {
    let mut kept = Kept::start(&[]);
    let (mut holder, mut queued) = (kept.connect(), resumable(&kept));
    let token = holder.take("job", "0 600");
    let ticket = token_of(&queued.ask("e", "job", "600"));
    assert_eq!(holder.ask("r", "job", &token), "ok");
    kept.restart();
    assert_eq!(kept.connect().ask("l", "job", "0"), "timeout");
    let resumed = resumable(&kept).ask("resume", "job", &ticket);
    assert!(resumed.starts_with("acquired "), "{resumed}");
}

/// Of a place of an ordinary client nobody knows the token: it blocks nobody after a restart.
#[test]
fn a_grant_that_nobody_can_know_of_is_not_kept() {
    let mut kept = Kept::start(&[]);
    let (mut holder, mut queued) = (kept.connect(), kept.connect());
    let (token, other) = (holder.take("job", "0 600"), holder.take("other", "0 600"));
    for key in ["job", "other"] {
        assert_eq!(queued.ask("e", key, "600"), "queued");
    }
    assert_eq!(holder.ask("r", "job", &token), "ok");
    assert_eq!(holder.ask("r", "other", &other), "ok");
    // Of this one it heard.
    let known = token_of(&queued.ask("w", "other", "0"));
    kept.restart();
    let mut client = kept.connect();
    assert!(client.ask("l", "job", "0").starts_with("ok "));
    assert_eq!(client.ask("n", "other", &format!("{known} 60")), "ok 60");
}

#[test]
fn on_sigterm_it_leaves_at_once_and_what_is_held_stays_so() {
    for shutdown in ["0", "30"] {
        let mut kept = Kept::start(&["--shutdown-timeout", shutdown]);
        let mut holder = kept.connect();
        let token = holder.take("job", "0 600");
        let (mut blocked, mut queued) = (kept.connect(), resumable(&kept));
        blocked.send(b"l\njob\n600\n");
        let ticket = token_of(&queued.ask("e", "job", "600"));
        queued.send(b"w\njob\n600\n");
        let waiters = || kept.connect().stats()["locks"][0]["waiters"].as_u64();
        wait_for("both to wait", || (waiters() == Some(2)).then_some(()));
        let server = kept.stop();
        let draining = || "error_draining".to_owned();
        assert_eq!((blocked.line(), queued.line()), (draining(), draining()));
        assert_eq!((blocked.rest(), holder.rest()), (vec![], vec![]));
        let kept_event = || server.events().into_iter().find(|event| event["event"] == "state_kept");
        let left = wait_for("what it says of it", kept_event);
        assert_eq!(left["held"], 1);
        let opened = kept.start_again().event("state_opened");
        assert_eq!((opened["held"].as_u64(), opened["queued"].as_u64()), (Some(1), Some(1)));
        assert_eq!(kept.connect().ask("l", "job", "0"), "timeout");
        assert_eq!(resumable(&kept).ask("resume", "job", &ticket), format!("queued {ticket}"));
        assert_eq!(kept.connect().ask("n", "job", &format!("{token} 60")), "ok 60");
    }
}

#[test]
fn an_unused_server_still_leaves_by_itself() {
    let mut kept = Kept::start(&["--idle-exit", "1"]);
    let mut client = kept.connect();
    let (a, _b) = (client.take("a", "0 600"), client.take("b", "0 1"));
    assert_eq!(client.ask("r", "a", &a), "ok");
    drop(client);
    assert_eq!(kept.server().wait().code(), Some(0));
    assert_eq!(kept.start_again().event("state_opened")["held"], 0);
}

/// As users have them: a command and a holder, over two deaths and two upgrades.
#[test]
fn exec_and_holders_ride_it_out() {
    let mut kept = Kept::start(&[]);
    let proxy = Proxy::to(&kept.server().address);
    let house = House::at(&proxy.address);
    let job = "echo began > began; read line; echo ended > ended; exit 7";
    let mut command = house.command("dflock");
    command.args(["exec", "-l", "20", "job", "--", "sh", "-c", job]).stdin(std::process::Stdio::piped());
    let mut running = crate::house::clean::Running::start(&mut command);
    house.wait_for_file("began");
    let token = house.dflock(&["acquire", "held", "-l", "20"]).ok().to_owned();
    for death in ["KILL", "TERM", "KILL", "TERM"] {
        let passed = proxy.passed();
        if death == "KILL" {
            kept.kill()
        } else {
            drop(kept.stop())
        }
        kept.start_again();
        proxy.point_to(&kept.server().address);
        wait_for("both to come back", || {
            let mut client = kept.connect();
            let stats = client.stats();
            let owners = stats["locks"].as_array()?.iter().filter(|lock| lock["owner_conn_id"] != 0).count();
            (proxy.passed() >= passed + 2 && owners == 2).then_some(())
        });
        let mut other = kept.connect();
        assert_eq!((other.ask("l", "job", "0"), other.ask("l", "held", "0")), ("timeout".into(), "timeout".into()));
        assert!(running.is_running(), "after {death}");
    }
    assert_eq!(kept.connect().ask("n", "held", &format!("{token} 20")), "ok 20");
    house.dflock(&["release", "held"]).ok();
    running.go_on();
    let said = running.finish();
    assert_eq!((said.code, said.err.as_str()), (7, ""), "{said:?}");
    assert_eq!(house.read("ended"), "ended\n");
    let mut client = kept.connect();
    for key in ["job", "held"] {
        assert!(client.ask("l", key, "5").starts_with("ok "), "{key} was given back");
    }
}
