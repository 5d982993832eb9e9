//! What must hold between any two operations, for tests to ask after each. It looks at everything there is.

use std::collections::HashMap;

use super::{Claim, Key, Moment, Place, Stage, Table};

/// What is not so.
type Broken = String;

impl Table {
    /// Whether all indexes agree with the claims, and all counts with both. The error names what does not.
    pub fn check(&self) -> Result<(), Broken> {
        self.check_names()?;
        self.check_keys()?;
        self.check_owners()?;
        self.check_displaced()?;
        self.check_queue()?;
        self.check_deadlines()?;
        self.check_stamps()?;
        self.check_places()
    }

    /// Every key is found by its name, and nothing else is.
    fn check_names(&self) -> Result<(), Broken> {
        for (slot, Key { name, kind, .. }) in &self.keys {
            let found = self.find(kind.space(), name);
            agree("the key that a name leads to", found, Some(super::index(slot)))?;
        }
        agree("names", self.names.iter().map(HashMap::len).sum(), self.keys.len())
    }

    /// A key counts its claims, has no more holders than may be, and is in the list of unused ones, longest
    /// unused first, while it has no claim. Whoever is there and could have it does not wait.
    fn check_keys(&self) -> Result<(), Broken> {
        let mut counts: HashMap<u32, (u64, u64, u64)> = HashMap::new();
        for (_, claim) in &self.claims {
            let (holders, waiting, away) = counts.entry(claim.key).or_default();
            *away += u64::from(!claim.is_granted() && claim.is_away());
            *(if claim.is_granted() { holders } else { waiting }) += 1;
        }
        for (slot, key) in &self.keys {
            let (holders, waiting, away) = counts.remove(&super::index(slot)).unwrap_or_default();
            agree("holders and waiters of a key", (key.holders, key.waiting), (holders, waiting))?;
            agree("waiters of a key who are away", key.away, away)?;
            if holders > key.kind.limit() {
                return Err(format!("{holders} hold what {} may", key.kind.limit()));
            }
            let newest = self.claims.get(key.newest as usize);
            let is_holder = newest.is_some_and(|claim| claim.is_granted() && claim.key == super::index(slot));
            if key.kind == crate::lock::Kind::Lock && holders > 0 && !is_holder {
                return Err("the holder of a lock is another one than was granted it last".to_owned());
            }
            let slot = super::index(slot);
            let is_ready = |claim: u32| !self.conns[self.claims[claim as usize].conn.index()].gone;
            // Those behind one who is expected back wait for that.
            let is_away = |claim: u32| self.claims[claim as usize].is_away();
            let queue = self.queue.range((slot, 0, 0)..=(slot, u64::MAX, u32::MAX)).map(|(.., claim)| *claim);
            let mut first = queue.take_while(|claim| !is_away(*claim));
            let somebody_could = holders < key.kind.limit() && first.any(is_ready);
            if somebody_could && !self.paused && !self.closed {
                return Err("somebody waits for what is free".to_owned());
            }
        }
        agree("keys of claims that are no keys", counts.len(), 0)?;
        let idle: Vec<&Key> = self.idle.walk(&self.keys).map(|key| &self.keys[key as usize]).collect();
        let unused = self.keys.iter().filter(|(_, key)| key.holders + key.waiting == 0).count();
        agree("keys that nobody uses", idle.iter().filter(|key| key.holders + key.waiting == 0).count(), idle.len())?;
        agree("keys in the list of unused ones", idle.len(), unused)?;
        let in_order = idle.is_sorted_by_key(|key| key.idle_since);
        if in_order { Ok(()) } else { Err("unused keys are not in the order in which they became that".to_owned()) }
    }

    /// A connection's list has its claims, all of them, and nobody else's; a claim's connection is there.
    fn check_owners(&self) -> Result<(), Broken> {
        let mut listed = 0;
        for (slot, conn) in &self.conns {
            for claim in conn.owned.walk(&self.claims) {
                listed += 1;
                agree("the owner of a claim", self.claims[claim as usize].conn.index(), slot)?;
            }
        }
        let owned = self.claims.iter().filter(|(_, claim)| !claim.is_away()).count();
        agree("claims in the lists of connections", listed, owned)
    }

    /// Whoever is remembered as an owner before this one is connected, or just closing, and does not own the claim.
    fn check_displaced(&self) -> Result<(), Broken> {
        let mut pairs = 0;
        for (claim, conn) in self.displaced.pairs() {
            pairs += 1;
            let is_other = self.claims.get(claim as usize).is_some_and(|claim| claim.conn != conn);
            if !is_other || !self.conns.contains(conn.index()) || !self.displaced.has(claim, conn) {
                return Err(format!("connection {} is remembered for claim {claim}", conn.index()));
            }
            let Claim { stage, .. } = self.claims[claim as usize];
            // A place may have found its connection with another one of its own.
            let is_nobodys = stage == Stage::Held && self.claims[claim as usize].is_away();
            if is_nobodys && !self.conns[conn.index()].gone {
                return Err(format!("claim {claim} is nobody's, and connection {} is there", conn.index()));
            }
        }
        agree("owners before these", self.displaced.len(), pairs)
    }

    /// Those are in the queue who wait and whose client is there; who has just gone may be there still, and who
    /// outlived the server.
    fn check_queue(&self) -> Result<(), Broken> {
        let is_there = |claim: &Claim| self.conns.get(claim.conn.index()).is_some_and(|conn| !conn.gone);
        for (slot, claim) in &self.claims {
            let queued = self.queue.contains(&(claim.key, claim.order, super::index(slot)));
            if !claim.is_granted() && is_there(claim) && !queued {
                return Err("somebody who waits is in no queue".to_owned());
            }
        }
        for (key, order, claim) in &self.queue {
            let fits = self.claims.get(*claim as usize).is_some_and(|claim| {
                let may_wait = !claim.is_away() || claim.ticket().is_some();
                (claim.key, claim.order) == (*key, *order) && !claim.is_granted() && may_wait
            });
            if !fits {
                return Err("somebody is in a queue who waits for nothing".to_owned());
            }
        }
        let held = self.claims.iter().filter(|(_, claim)| claim.is_granted()).count();
        agree("held and waiting", (self.load.held, self.load.waiting), (held, self.claims.len() - held))
    }

    /// Every claim that runs out stands under its deadline, and nothing runs out before it is looked for.
    fn check_deadlines(&self) -> Result<(), Broken> {
        let mut running = 0;
        for (slot, claim) in self.claims.iter().filter(|(_, claim)| claim.due() != Moment::NEVER) {
            running += 1;
            if !self.due.contains(&(claim.due(), super::index(slot))) {
                return Err("a deadline is not known".to_owned());
            }
            if claim.due() < self.quiet_until {
                return Err("a deadline would be passed over".to_owned());
            }
        }
        agree("deadlines", self.due.len(), running)?;
        let oldest = self.idle.first().map(|key| self.keys[key as usize].idle_since + self.limits.idle);
        if oldest.is_some_and(|due| due < self.quiet_until) {
            return Err("an unused key would be passed over".to_owned());
        }
        Ok(())
    }

    /// Every token and every ticket leads to its claim, and nothing else does; none is above the last number.
    fn check_stamps(&self) -> Result<(), Broken> {
        let mut stamps = 0;
        for (slot, claim) in &self.claims {
            let token = claim.is_granted().then_some(claim.stamp.number);
            let ticket = claim.ticket().map(|ticket| ticket.number);
            for number in token.into_iter().chain(ticket) {
                stamps += 1;
                agree("the claim that a stamp leads to", self.stamps.get(&number), Some(&super::index(slot)))?;
                if number > self.last_number {
                    return Err(format!("number {number} was never given out"));
                }
            }
        }
        agree("stamps", self.stamps.len(), stamps)
    }

    /// Every two-phase claim whose client is there is its connection's place for that key, until it is waited
    /// for; what else is a place slept through its grant, and is counted.
    fn check_places(&self) -> Result<(), Broken> {
        let (mut open, mut expired) = (0, 0);
        for ((conn, key), place) in &self.places {
            let Place::Open(claim) = place else {
                expired += 1;
                continue;
            };
            open += 1;
            let fits = self.claims.get(*claim as usize).is_some_and(|claim| {
                (claim.conn, claim.key) == (*conn, *key) && matches!(claim.stage, Stage::Queued | Stage::Unclaimed)
            });
            if !fits {
                return Err("a place leads to what is none".to_owned());
            }
        }
        let is_place = |claim: &Claim| matches!(claim.stage, Stage::Queued | Stage::Unclaimed) && !claim.is_away();
        let places = self.claims.iter().filter(|(_, claim)| is_place(claim)).count();
        // One who was blocked when the server handed over has a place by its ticket alone.
        if open != places && !(self.closed && open < places) {
            return Err(format!("{open} places are open, of {places}"));
        }
        agree("places that slept", self.expired_places, expired)?;
        if let Some(((conn, _), _)) = self.places.iter().find(|((conn, _), _)| !self.conns.contains(conn.index())) {
            return Err(format!("connection {} is gone and has a place", conn.index()));
        }
        Ok(())
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Broken> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}
