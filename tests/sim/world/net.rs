//! Connections as TCP gives them: in order, late, cut, swallowed, or gone at one end without the other knowing.

mod socket;

use std::rc::Rc;
use std::task::{Poll, Waker};

use dflock::lock::{Kind, Space};
use dflock::server::stamp::Stamp;

pub use socket::Socket;

use super::check::Violation;
use super::env::Env;
use super::{MS, SECOND, World};

/// What a client says. A greeting and the first request travel in one write.
#[derive(Clone, Copy, Debug)]
pub enum Packet {
    Info { resume_s: Option<u64> },
    Acquire { key: u8, kind: Kind, timeout_s: u64, lease_s: u64 },
    Enqueue { key: u8, kind: Kind, lease_s: u64 },
    Wait { key: u8, space: Space, timeout_s: u64 },
    Release { key: u8, space: Space, token: Stamp },
    Renew { key: u8, space: Space, token: Stamp, lease_s: u64 },
    Resume { key: u8, space: Space, proof: Stamp, lease_s: Option<u64> },
}

/// What a server says.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    About {
        resume_s: u64,
    },
    Granted {
        stamp: Stamp,
    },
    Acquired {
        stamp: Stamp,
    },
    Queued {
        ticket: Option<Stamp>,
    },
    Left,
    Done,
    Timeout,
    /// `error`, and no more.
    Error,
    /// Any other refusal.
    Refused,
}

/// The server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    Connecting,
    Open {
        incarnation: u64,
    },
    Closed,
    /// The machine lost its power: it will answer with a reset once it is back.
    Forgotten,
}

struct Link {
    client: usize,
    /// Counts the connections of this client.
    nth: u64,
    process: usize,
    /// Descriptors that the client's machine has of it.
    descriptors: u32,
    inbox: Vec<(u64, Said)>,
    over: bool,
    reader: Option<Waker>,
    far: Far,
    /// Nothing comes through any more.
    lost: bool,
    up_free_at: u64,
    down_free_at: u64,
    messages: u64,
}

/// The way between one client and the server.
#[derive(Default)]
struct Way {
    hole_until: u64,
    slow_by: u64,
    slow_until: u64,
    connections: u64,
}

#[derive(Default)]
pub struct Net {
    links: Vec<Link>,
    ways: Vec<Way>,
}

impl Net {
    pub fn forget(&mut self) {
        self.links.clear();
    }

    fn way(&mut self, client: usize) -> &mut Way {
        while self.ways.len() <= client {
            self.ways.push(Way::default());
        }
        &mut self.ways[client]
    }
}

impl World {
    /// When what leaves now arrives.
    fn arrival(&self, link: usize, up: bool) -> u64 {
        let mut net = self.net.borrow_mut();
        let Link { client, nth, messages, .. } = net.links[link];
        net.links[link].messages += 1;
        let jitter = self.dice(&[1, client as u64, nth, messages]) % self.history.latency;
        let latency = self.history.latency / 4 + jitter;
        let now = self.now();
        let way = net.way(client);
        let slow = if way.slow_until > now { way.slow_by } else { 0 };
        let leaves = way.hole_until.max(now);
        let link = &mut net.links[link];
        let free_at = if up { &mut link.up_free_at } else { &mut link.down_free_at };
        *free_at = (leaves + latency + slow).max(*free_at + 1);
        *free_at
    }

    pub fn swallow(&self, client: usize, until: u64) {
        self.net.borrow_mut().way(client).hole_until = until;
    }

    pub fn slow_down(&self, client: usize, by: u64, until: u64) {
        let mut net = self.net.borrow_mut();
        let way = net.way(client);
        (way.slow_by, way.slow_until) = (by, until);
    }

    /// Breaks every connection of a client; with `silently` neither end hears of it.
    pub fn cut(&self, client: usize, silently: bool) {
        let count = self.net.borrow().links.len();
        for link in 0..count {
            let Link { client: whose, lost, far, .. } = self.net.borrow().links[link];
            if whose != client || lost || far == Far::Closed {
                continue;
            }
            self.net.borrow_mut().links[link].lost = true;
            if !silently {
                let dice = self.dice(&[2, client as u64, link as u64]);
                self.after(dice % (2 * MS), move |world| world.end_near(link));
                self.after(dice / 7 % (2 * MS), move |world| world.end_far(link));
            }
        }
    }

    /// Of the whole server: its process died, or its machine lost its power.
    pub fn cut_all(&self, power: bool) {
        let count = self.net.borrow().links.len();
        for link in 0..count {
            if !matches!(self.net.borrow().links[link].far, Far::Open { .. } | Far::Connecting) {
                continue;
            }
            if power {
                self.net.borrow_mut().links[link].far = Far::Forgotten;
            } else {
                self.close_far(link);
            }
        }
    }

    /// The server closes: what it said before arrives first.
    pub fn close_far(&self, link: usize) {
        self.net.borrow_mut().links[link].far = Far::Closed;
        let at = self.arrival(link, false);
        self.at(at, move |world| {
            if !world.net.borrow().links[link].lost {
                world.end_near(link);
            }
        });
    }

    /// The client's machine knows that it is over.
    fn end_near(self: &Rc<World>, link: usize) {
        let reader = {
            let mut net = self.net.borrow_mut();
            net.links[link].over = true;
            net.links[link].reader.take()
        };
        self.noticed_break(link);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The server's machine knows that it is over.
    fn end_far(self: &Rc<World>, link: usize) {
        let far = std::mem::replace(&mut self.net.borrow_mut().links[link].far, Far::Closed);
        if let Far::Open { incarnation } = far {
            self.disconnected(link, incarnation);
        }
    }

    fn send_up(self: &Rc<World>, link: usize, packet: Packet) {
        let Link { over, lost, .. } = self.net.borrow().links[link];
        if over || lost {
            return;
        }
        let at = self.arrival(link, true);
        self.at(at, move |world| {
            let Link { lost, far, .. } = world.net.borrow().links[link];
            match far {
                _ if lost => {}
                Far::Open { incarnation } => world.receive(link, incarnation, packet),
                Far::Forgotten if world.server.borrow().powered => world.end_near(link),
                Far::Connecting | Far::Closed | Far::Forgotten => {}
            }
        });
    }

    pub fn send_down(self: &Rc<World>, link: usize, said: Said) {
        if self.net.borrow().links[link].lost {
            return;
        }
        let at = self.arrival(link, false);
        self.at(at, move |world| world.arrive(link, said));
    }

    fn arrive(self: &Rc<World>, link: usize, said: Said) {
        let number = self.now();
        let reader = {
            let mut net = self.net.borrow_mut();
            let link = &mut net.links[link];
            if link.lost || link.descriptors == 0 {
                return;
            }
            link.inbox.push((number, said));
            link.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        if matches!(said, Said::Granted { .. } | Said::Acquired { .. }) {
            self.after(5 * SECOND, move |world| world.look_for_orphan(link, number));
        }
    }

    /// A grant that nobody reads, on a connection that is kept open, is a lock that nobody uses.
    fn look_for_orphan(&self, link: usize, number: u64) {
        let net = self.net.borrow();
        let Link { process, descriptors, ref inbox, over, .. } = net.links[link];
        let unread = inbox.iter().any(|(at, _)| *at == number);
        if unread
            && descriptors > 0
            && !over
            && !self.is_dead(process)
            && !self.is_frozen(process)
            && !self.starves(process)
        {
            let client = net.links[link].client;
            drop(net);
            self.violate(Violation::Orphan { client });
        }
    }

    pub fn client_of(&self, link: usize) -> usize {
        self.net.borrow().links[link].client
    }

    fn close_near(self: &Rc<World>, link: usize) {
        if self.is_over() {
            return;
        }
        {
            let mut net = self.net.borrow_mut();
            let link = &mut net.links[link];
            link.descriptors -= 1;
            if link.descriptors > 0 || link.lost {
                return;
            }
        }
        let at = self.arrival(link, true);
        self.at(at, move |world| {
            if !world.net.borrow().links[link].lost {
                world.end_far(link);
            }
        });
    }
}
