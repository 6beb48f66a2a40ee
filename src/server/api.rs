//! The two assumptions of the server layer: the API is complete, and there is one thread.

/// A function of the API whose presence [`super::module`] has checked at load.
#[inline(always)]
pub(super) fn need<F>(function: Option<F>) -> F {
    match function {
        Some(function) => function,
        // Unreachable: a server without the function has rejected the module.
        None => std::process::abort(),
    }
}

/// A value that only the server's main thread touches.
pub struct MainThread<T>(T);

// SAFETY: the module starts no thread, and the server calls it from one thread at a time. Unit
// tests, which run in parallel, use no such static.
unsafe impl<T> Sync for MainThread<T> {}

impl<T> MainThread<T> {
    /// Wraps the value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. It does its own borrow checking (`Cell`, `RefCell`).
    pub fn get(&'static self) -> &'static T {
        &self.0
    }
}
