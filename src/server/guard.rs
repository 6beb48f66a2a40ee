//! Keeps panics out of C, where unwinding aborts the server.

use super::api::need;
use redis_module::raw;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Panics that the guard has caught: bugs of this module. Unit tests panic on several threads.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics the guard has caught since the module was loaded.
pub fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// Runs the body of one entry from C. After a panic it returns `otherwise`; the panic hook has
/// already written the log line.
pub fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        PANICS.fetch_add(1, Relaxed);
        otherwise
    })
}

/// Writes a line to the server's log.
pub fn log(level: &CStr, text: &str) {
    let line = CString::new(text.replace(|c: char| c.is_control(), " ")).unwrap_or_default();
    // SAFETY: a null context is allowed; the format has exactly one `%s` and both are C strings.
    unsafe {
        need(raw::RedisModule_Log)(
            std::ptr::null_mut(),
            level.as_ptr(),
            c"<corral> %s".as_ptr(),
            line.as_ptr(),
        )
    }
}

/// Sends panic messages to the server's log.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|info| log(c"warning", &format!("bug: {info}"))));
}

/// Undoes [`log_panics`] before the code of the hook is unmapped.
pub(super) fn forget_panics() {
    drop(std::panic::take_hook());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_stops_at_the_guard() {
        let before = panics();
        assert_eq!(guard(7, || 8), 8);
        assert_eq!(panics(), before);
        assert_eq!(guard(7, || panic!("a bug")), 7);
        assert_eq!(panics(), before + 1);
    }
}
