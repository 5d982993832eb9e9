//! A server that grants a lock, and goes away before it has agreed to keep it when a connection breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client_fakes::{Fake, TOKEN};
use crate::house::clean::House;

const ABOUT: &str =
    r#"{"server":"dflock","version":"1","fencing":true,"auto_release":true,"idle_cut_s":0,"resume_s":30}"#;

/// The first connection is granted the lock, at once or after a wait, and then cut instead of agreeing. Whether the
/// server has agreed nobody knows. On later ones nothing can be resumed, and a release is answered.
fn grant_and_cut() -> Fake {
    let is_granted = Arc::new(AtomicBool::new(false));
    Fake::start(move |mut peer| {
        while let Some(request) = peer.request() {
            match request[0].as_str() {
                "info" if request[2].starts_with("resume") && is_granted.load(Ordering::SeqCst) => return,
                "info" => peer.say(&format!("ok {ABOUT}\n")),
                "e" => peer.say("queued\n"),
                "l" | "w" => {
                    is_granted.store(true, Ordering::SeqCst);
                    peer.say(&format!("ok {TOKEN} 30\n"));
                }
                "r" => peer.say("ok\n"),
                _ => peer.say("error\n"),
            }
        }
    })
}

fn was_released(fake: &Fake) -> bool {
    fake.heard().contains(&format!("r job {TOKEN}"))
}

#[test]
fn a_lock_that_is_not_told_is_given_back() {
    let fake = grant_and_cut();
    let house = House::at(&fake.address);
    house.dflock(&["acquire", "job", "--connect-retry", "0"]).code(69);
    crate::house::wait_for("the release", || was_released(&fake).then_some(()));
    house.wait_until_nobody_holds();
}

#[test]
fn a_command_is_not_started_and_its_lock_is_given_back() {
    let fake = grant_and_cut();
    let house = House::at(&fake.address);
    house.dflock(&["exec", "--connect-retry", "0", "job", "-c", "echo > ran"]).code(69);
    assert!(was_released(&fake) && !house.path("ran").exists());
}

#[test]
fn a_turn_that_is_not_told_is_given_back() {
    let fake = grant_and_cut();
    let house = House::at(&fake.address);
    assert_eq!(house.dflock(&["enqueue", "job", "--connect-retry", "0"]).ok(), "queued");
    let said = house.dflock(&["wait", "job"]).code(79);
    assert!(said.err.contains("cannot keep job"), "{said:?}");
    assert!(was_released(&fake));
    house.dflock(&["release", "job"]).code(79);
}
