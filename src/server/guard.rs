//! No panic crosses into C: unwinding there aborts the server.

use super::api::need;
use crate::stats::PANICS;
use redis_module::raw;
use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs one entry from C. A panic is counted and `otherwise` is returned; the panic hook has
/// written the log line.
pub fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        PANICS.add(1);
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

/// From now on a panic is a line in the server's log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| log(c"warning", &format!("bug: {info}"))));
}

/// Undoes [`log_panics`], before the code of the hook is unmapped.
pub fn forget_panics() {
    drop(std::panic::take_hook());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_stops_at_the_guard() {
        let before = PANICS.get();
        assert_eq!(guard(7, || 8), 8);
        assert_eq!(PANICS.get(), before);
        assert_eq!(guard(7, || panic!("a bug")), 7);
        assert_eq!(PANICS.get(), before + 1);
    }
}
