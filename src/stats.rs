//! Counters for `INFO corral`. They only grow, and every name begins with its family.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A total since the module was loaded.
pub struct Counter {
    /// The field's name in INFO; the server puts `corral_` before it.
    pub name: &'static CStr,
    value: AtomicU64,
}

impl Counter {
    /// A counter at 0.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, value: AtomicU64::new(0) }
    }

    /// Counts `n` more. Commands run on one thread, so no atomic read-modify-write is paid for.
    pub fn add(&self, n: u64) {
        self.value.store(self.get().wrapping_add(n), Relaxed);
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// Panics that the guard caught: bugs of this module.
pub static PANICS: Counter = Counter::new(c"panics");
