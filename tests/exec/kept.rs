//! What a keeper does about a lock that it cannot prove any more: it gives it back all the same.

use std::time::Duration;

use crate::house::clean::House;
use crate::house::now;
use crate::house::proxy::Proxy;

/// The way to the server is gone until the command is told to end. Then the lock may still be ours at the server, to
/// nobody's use: whoever comes next must not wait for the end of its lease.
#[test]
fn a_lock_that_was_given_up_is_given_back_when_the_server_can_be_reached_again() {
    let house = House::new();
    let proxy = Proxy::to(&house.server().address);
    let job = "trap 'echo > told; until [ -e go ]; do sleep 0.01; done; exit 1' TERM; echo > begun; while :; do sleep 0.01; done";
    let mut command = house.command("dflock");
    command.env("DFLOCK_SERVERS", &proxy.address).args(["exec", "-l", "20", "--kill-after", "8", "k", "-c", job]);
    let running = crate::house::clean::Running::start(&mut command);
    house.wait_for_file("begun");
    let begin = now();
    proxy.refuse(true);
    proxy.cut();
    house.wait_for_file("told");
    proxy.refuse(false);
    std::fs::write(house.path("go"), "").expect("the sign is given");
    running.finish().code(79);
    house.dflock(&["exec", "-n", "k", "true"]).code(0);
    assert!(begin.elapsed() < Duration::from_secs(20), "its lease had ended: that proves nothing");
}
