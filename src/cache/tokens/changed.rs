//! The values that other clients have changed and that the timer has to check, in order.

use crate::time::Moment;
use crate::waiting::AFTER_REFUSAL;
use std::collections::BTreeMap;

/// A value: its database, and the hash of its name.
pub type Id = (i32, u64);

/// A queue of values. Each of them has a number, under which it can be taken out.
#[derive(Debug, Default)]
pub struct Changed {
    ids: BTreeMap<u64, Id>,
    /// The number of the next one.
    next: u64,
    /// The timer checks none before this moment, because the server refused the last one.
    refused_until: Moment,
}

impl Changed {
    /// How many values have to be checked.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Adds a value behind all others, and returns its number.
    pub fn push(&mut self, id: Id) -> u64 {
        let number = self.next;
        self.next += 1;
        self.ids.insert(number, id);
        number
    }

    /// Takes out the first value.
    pub fn pop(&mut self) -> Option<(u64, Id)> {
        self.ids.pop_first()
    }

    /// Takes out the value with this number, if it has one.
    pub fn remove(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.ids.remove(&number);
        }
    }

    /// The server has refused to write: the next check comes a little later.
    pub fn pause(&mut self, now: Moment) {
        self.refused_until = now + AFTER_REFUSAL;
    }

    /// When the timer has to check a value.
    pub fn next_check(&self, now: Moment) -> Option<Moment> {
        (self.len() > 0).then(|| self.refused_until.max(now))
    }

    /// The value with this number.
    #[cfg(test)]
    pub fn get(&self, number: u64) -> Option<Id> {
        self.ids.get(&number).copied()
    }
}
