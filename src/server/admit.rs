//! Who may connect: limits on connections in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::{self, Moment};
use crate::net::listen::Origin;

/// Zero is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doors {
    pub(super) connections: usize,
    pub(super) connections_per_ip: usize,
}

pub(super) struct Gate {
    doors: Doors,
    inside: Mutex<Inside>,
    /// Woken when the last connection is gone.
    pub(super) emptied: Notify,
}

#[derive(Default)]
struct Inside {
    connections: usize,
    by_ip: HashMap<IpAddr, usize>,
    /// When the last one left.
    emptied_at: Option<Moment>,
}

/// A connection that was let in; counted until dropped.
pub(super) struct Admission {
    gate: Arc<Gate>,
    origin: Origin,
}

impl Gate {
    pub(super) fn new(doors: Doors) -> Arc<Gate> {
        Arc::new(Gate { doors, inside: Mutex::default(), emptied: Notify::new() })
    }

    /// `Err` says which limit was reached.
    pub(super) fn admit(self: &Arc<Gate>, origin: Origin) -> Result<Admission, &'static str> {
        let Doors { connections, connections_per_ip } = self.doors;
        let mut inside = self.lock();
        if connections > 0 && inside.connections >= connections {
            return Err("--max-connections");
        }
        if let Origin::Address(ip) = origin {
            let count = inside.by_ip.entry(ip).or_default();
            if connections_per_ip > 0 && *count >= connections_per_ip {
                return Err("--max-connections-per-ip");
            }
            *count += 1;
        }
        inside.connections += 1;
        Ok(Admission { gate: self.clone(), origin })
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Since when nobody is connected; `None` while somebody is, or nobody ever was.
    pub(super) fn empty_since(&self) -> Option<Moment> {
        let inside = self.lock();
        inside.emptied_at.filter(|_| inside.connections == 0)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.connections -= 1;
        let last = inside.connections == 0;
        if last {
            inside.emptied_at = Some(clock::server_now());
        }
        if let Origin::Address(ip) = self.origin
            && let Some(count) = inside.by_ip.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                inside.by_ip.remove(&ip);
            }
        }
        drop(inside);
        if last {
            self.gate.emptied.notify_one();
        }
    }
}
