//! Which names the module remembers anything of. Every write of the server raises a keyspace event, and
//! nearly all of them concern keys of which nothing is known here: one look at this set tells.
//!
//! The set holds hashes, so it can say yes for a name that nobody remembers, but never no for one that
//! somebody does. The tables that remember a name hold an [`Interesting`] of it.

use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::rc::Rc;

/// The names of which something is remembered, in any database.
#[derive(Debug, Default)]
pub struct Interest {
    hashes: RandomState,
    /// How often each hash of a name is remembered.
    counts: RefCell<HashMap<u64, u32, BuildHasherDefault<Identity>>>,
}

impl Interest {
    /// Something is remembered of a name, as long as the returned value lives.
    pub fn in_name(self: &Rc<Self>, name: &[u8]) -> Interesting {
        let hash = self.hash(name);
        *self.counts.borrow_mut().entry(hash).or_default() += 1;
        Interesting { hash, interest: self.clone() }
    }

    /// Whether something may be remembered of a name.
    pub fn contains(&self, name: &[u8]) -> bool {
        let counts = self.counts.borrow();
        !counts.is_empty() && counts.contains_key(&self.hash(name))
    }

    /// A name is the only thing that is hashed, so its length need not be hashed as well.
    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        hasher.write(name);
        hasher.finish()
    }

    fn forget(&self, hash: u64) {
        let counts = &mut *self.counts.borrow_mut();
        if let Entry::Occupied(mut count) = counts.entry(hash) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
            counts.shrink_to(2 * counts.len());
        }
    }
}

/// Says that something is remembered of a name.
#[derive(Debug)]
pub struct Interesting {
    hash: u64,
    interest: Rc<Interest>,
}

impl Drop for Interesting {
    fn drop(&mut self) {
        self.interest.forget(self.hash);
    }
}

/// What is hashed is a hash already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_interest_as_long_as_something_remembers_it() {
        let interest = Rc::new(Interest::default());
        assert!(!interest.contains(b"a"));
        let first = interest.in_name(b"a");
        let second = interest.in_name(b"a");
        assert!(interest.contains(b"a") && !interest.contains(b"b"));
        drop(first);
        assert!(interest.contains(b"a"));
        drop(second);
        assert!(!interest.contains(b"a"));
    }

    #[test]
    fn forgotten_names_leave_no_memory_behind() {
        let interest = Rc::new(Interest::default());
        let names = (0..100_000u32).map(|n| interest.in_name(&n.to_le_bytes()));
        drop(names.collect::<Vec<_>>());
        assert!(interest.counts.borrow().is_empty());
        assert!(interest.counts.borrow().capacity() < 200);
    }
}
