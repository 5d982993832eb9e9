//! Lists that run through the entries of a slab: joining the end and leaving from anywhere cost nothing to search.

use slab::Slab;

/// No entry.
const NONE: u32 = u32::MAX;

/// Where an entry stands in its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: u32,
    after: u32,
}

impl Default for Link {
    fn default() -> Link {
        Link { before: NONE, after: NONE }
    }
}

/// Entries that can be in a list.
pub(super) trait Linked {
    fn link(&mut self) -> &mut Link;

    fn place(&self) -> Link;
}

/// A list, first to last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: u32,
    last: u32,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { first: NONE, last: NONE }
    }
}

impl Chain {
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// From the first to the last.
    pub(super) fn walk<T: Linked>(self, entries: &Slab<T>) -> impl Iterator<Item = u32> {
        let after = |at: &u32| Some(entries[*at as usize].place().after).filter(|after| *after != NONE);
        std::iter::successors(self.first(), after)
    }

    pub(super) fn push<T: Linked>(&mut self, entries: &mut Slab<T>, entry: u32) {
        *entries[entry as usize].link() = Link { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = entry,
            last => entries[last as usize].link().after = entry,
        }
        self.last = entry;
    }

    /// `entry` must be in this list.
    pub(super) fn remove<T: Linked>(&mut self, entries: &mut Slab<T>, entry: u32) {
        let Link { before, after } = std::mem::take(entries[entry as usize].link());
        match before {
            NONE => self.first = after,
            before => entries[before as usize].link().after = after,
        }
        match after {
            NONE => self.last = before,
            after => entries[after as usize].link().before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Linked for Link {
        fn link(&mut self) -> &mut Link {
            self
        }

        fn place(&self) -> Link {
            *self
        }
    }

    fn walk(chain: Chain, entries: &Slab<Link>) -> Vec<u32> {
        chain.walk(entries).collect()
    }

    #[test]
    fn keeps_order_whoever_leaves() {
        let mut entries: Slab<Link> = (0..4).map(|at| (at, Link::default())).collect();
        let mut chain = Chain::default();
        (0..4).for_each(|at| chain.push(&mut entries, at));
        assert_eq!(walk(chain, &entries), [0, 1, 2, 3]);
        chain.remove(&mut entries, 2);
        chain.remove(&mut entries, 0);
        assert_eq!(walk(chain, &entries), [1, 3]);
        chain.push(&mut entries, 0);
        chain.remove(&mut entries, 3);
        assert_eq!(walk(chain, &entries), [1, 0]);
        chain.remove(&mut entries, 0);
        chain.remove(&mut entries, 1);
        assert_eq!(chain.first(), None);
        chain.push(&mut entries, 3);
        assert_eq!(walk(chain, &entries), [3]);
    }
}
