//! dflock with a real etcd: what its members' and its users' mishaps do to a lock.

#[path = "../cli/certificates.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
mod certificates;
#[path = "../house/mod.rs"]
mod house;
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
#[path = "../cli/lines.rs"]
mod lines;
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
#[path = "../sim/random.rs"]
mod random;
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
#[path = "../cli/start.rs"]
mod start;
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
#[path = "../exec/trials_checker.rs"]
mod trials_checker;
#[allow(dead_code, unreachable_pub, reason = "shared with another test program")]
#[path = "../exec/trials_fleet.rs"]
mod trials_fleet;

mod access;
mod crowd;
mod etcdctl;
mod members;
mod peers;
mod trials;

use std::sync::OnceLock;

use house::clean::House;
use house::etcd::Etcd;

/// Tests begin in the order of their names, and this one takes longest.
#[test]
fn a_fleet_meets_faults_of_etcd() {
    trials::trials();
}

/// Three members that nobody harms, for all tests; each has a house and keys of its own.
fn calm(test: &str) -> Option<(&'static Etcd, House)> {
    static CALM: OnceLock<Etcd> = OnceLock::new();
    if !house::etcd::is_here(test) {
        return None;
    }
    let etcd = CALM.get_or_init(|| Etcd::start(3).ready());
    Some((etcd, House::at(&etcd.servers())))
}

/// Members of one test's own.
fn own(test: &str, count: usize) -> Option<(Etcd, House)> {
    if !house::etcd::is_here(test) {
        return None;
    }
    let etcd = Etcd::start(count).ready();
    let house = House::at(&etcd.servers());
    Some((etcd, house))
}
