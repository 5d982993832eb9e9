//! Sees every grant that the clients of a soak get, and complains when two hold what only one may.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// 14 locks, and 6 semaphores of 2 to 4.
pub const LIMITS: [u32; 20] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4];

/// What the clients together know of each key.
pub struct Checker {
    pub keys: Vec<Mutex<Seen>>,
    pub wrong: Mutex<Vec<String>>,
    pub stop: AtomicBool,
    pub grants: AtomicU64,
}

#[derive(Default)]
pub struct Seen {
    holders: u32,
    fence: u64,
    pub grants: u64,
}

impl Checker {
    pub fn new() -> Checker {
        let keys = LIMITS.iter().map(|_| Mutex::default()).collect();
        Checker { keys, wrong: Mutex::default(), stop: AtomicBool::new(false), grants: AtomicU64::new(0) }
    }

    /// Called right behind an `ok`.
    pub fn enter(&self, key: usize, token: &str) {
        let mut seen = self.keys[key].lock().unwrap_or_else(PoisonError::into_inner);
        seen.holders += 1;
        seen.grants += 1;
        self.grants.fetch_add(1, Ordering::Relaxed);
        if seen.holders > LIMITS[key] {
            self.complain(format!("key {key} has {} holders, its limit is {}", seen.holders, LIMITS[key]));
        }
        let Some(fence) = token.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
            return self.complain(format!("no fence in {token:?}"));
        };
        if LIMITS[key] == 1 {
            if fence <= seen.fence {
                self.complain(format!("key {key} got fence {fence} after {}", seen.fence));
            }
            seen.fence = fence;
        }
    }

    /// Called right before the lock is given up.
    pub fn leave(&self, key: usize) {
        self.keys[key].lock().unwrap_or_else(PoisonError::into_inner).holders -= 1;
    }

    pub fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.stop.store(true, Ordering::Relaxed);
    }
}
