//! The two assumptions under everything else here: the API is complete, and there is one thread.

/// A function of the API that [`super::module::load`] has checked to be there.
#[inline(always)]
pub fn need<F>(function: Option<F>) -> F {
    match function {
        Some(function) => function,
        // Not reached: a server without the function has refused the module.
        None => std::process::abort(),
    }
}

/// State that lives as long as the module. The server runs commands, timers and events on its main
/// thread (or holds its global lock), so no two of them touch the state at once.
pub struct MainThread<T>(T);

// SAFETY: the module starts no thread, and the server calls it from one thread at a time. Unit
// tests, which do run in parallel, use no such static.
unsafe impl<T> Sync for MainThread<T> {}

impl<T> MainThread<T> {
    /// Wraps the state.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The state. It does its own borrow checking (`Cell`, `RefCell`).
    pub fn get(&'static self) -> &'static T {
        &self.0
    }
}
