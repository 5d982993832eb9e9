//! Conformance: the same checks for every backend, all through the real binary.

#[path = "../house/mod.rs"]
mod house;

mod checks;

use std::sync::OnceLock;

use house::Server;
use house::etcd::Etcd;

/// A lock service to check.
struct Site {
    servers: String,
    /// Ended with the check.
    _server: Option<Server>,
}

fn dflockd(_check: &str) -> Option<Site> {
    let server = Server::start(&[]);
    Some(Site { servers: server.address.clone(), _server: Some(server) })
}

/// One for all checks: each has keys of its own.
fn etcd(check: &str) -> Option<Site> {
    static ETCD: OnceLock<Etcd> = OnceLock::new();
    if !house::etcd::is_here(check) {
        return None;
    }
    let etcd = ETCD.get_or_init(|| Etcd::start(1).ready());
    Some(Site { servers: etcd.servers(), _server: None })
}

macro_rules! checks {
    ($($check:ident)*) => {
        checks!(@of dflockd: $($check)*);
        checks!(@of etcd: $($check)*);
    };
    (@of $backend:ident: $($check:ident)*) => {
        mod $backend {
            $(
                #[test]
                fn $check() {
                    if let Some(site) = super::$backend(stringify!($check)) {
                        super::checks::$check(&super::house::clean::House::at(&site.servers));
                    }
                }
            )*
        }
    };
}

checks! {
    acquire_and_release
    busy
    timeout
    first_come_first_served
    semaphore
    semaphore_of_one
    renew
    lost_lock
    release_by_token_from_elsewhere
    two_phases
    fences_grow
    several_keys_all_or_nothing
    who_is_interrupted_leaves_the_queue
    guardian
    a_lock_outlives_its_command
    reports
    unsupported_says_so
}
