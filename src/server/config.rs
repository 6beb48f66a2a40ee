//! Settings: `CONFIG GET/SET corral.*`, and `name value` pairs as arguments of the module.
//!
//! Only integers: some servers leak memory at every read of a module's string setting.

use super::Server;
use super::api::need;
use super::guard::guard;
use crate::args::integer;
use crate::waiting;
use redis_module::raw;
use std::ffi::{CStr, c_char};
use std::os::raw::{c_int, c_longlong, c_void};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// An integer setting.
pub struct Setting {
    name: &'static CStr,
    default: i64,
    least: i64,
    most: i64,
    value: AtomicI64,
}

/// How many bytes of replies one wave of answers to waiting clients may take. What is left
/// follows after the server has looked after its other clients.
pub static WAKE_BYTES: Setting = Setting::new(c"wake-bytes", 8 << 20, 1, 1 << 32);

/// How long the last fencing token of a lock is kept after a grant, in ms.
pub static FENCE_TTL: Setting = Setting::new(c"fence-ttl-ms", 86_400_000, 1, 1 << 42);

/// How long a task is leased to a consumer, in ms, where the queue's policy says nothing; 0 is
/// without end.
pub static TASK_LEASE: Setting = Setting::new(c"task-lease-ms", 300_000, 0, 1 << 42);

/// How often a task is tried, where the queue's policy says nothing; 0 is without end.
pub static TASK_TRIES: Setting = Setting::new(c"task-tries", 20, 0, 1_000_000_000);

/// How many consumer groups a stream may have before TASK.CONSUME creates no other one. The server
/// tells of all groups of a stream or of none.
pub static TASK_GROUPS: Setting = Setting::new(c"task-groups", 256, 1, 1_000_000);

/// How long the token of a lease that has ended can still store the value, in ms.
pub static CACHE_LATE: Setting = Setting::new(c"cache-late-ms", 60_000, 0, 1 << 42);

/// How many bytes of memory the tokens of cached values may take.
pub static CACHE_LATE_BYTES: Setting = Setting::new(c"cache-late-bytes", 32 << 20, 0, 1 << 42);

static SETTINGS: [&Setting; 7] = [
    &CACHE_LATE,
    &CACHE_LATE_BYTES,
    &FENCE_TTL,
    &TASK_GROUPS,
    &TASK_LEASE,
    &TASK_TRIES,
    &WAKE_BYTES,
];

impl Setting {
    const fn new(name: &'static CStr, default: i64, least: i64, most: i64) -> Self {
        Self { name, default, least, most, value: AtomicI64::new(default) }
    }

    /// The value in force.
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

impl Server {
    /// Registers the settings. `args` are the arguments of the module.
    pub(super) fn register_settings(&self, args: &[&[u8]]) -> Result<(), &'static str> {
        let mut defaults = SETTINGS.map(|setting| (setting, setting.default));
        for pair in args.chunks(2) {
            let [name, value] = pair else {
                return Err("a module argument has no value");
            };
            let (setting, default) = defaults
                .iter_mut()
                .find(|(setting, _)| setting.name.to_bytes().eq_ignore_ascii_case(name))
                .ok_or("unknown module argument")?;
            *default = integer(value)
                .filter(|value| (setting.least..=setting.most).contains(value))
                .ok_or("a module argument is no integer in its range")?;
        }
        for (setting, default) in defaults {
            // SAFETY: the context is the one of loading; setting and name live for ever.
            let registered = unsafe {
                need(raw::RedisModule_RegisterNumericConfig)(
                    self.ctx,
                    setting.name.as_ptr(),
                    default,
                    raw::REDISMODULE_CONFIG_DEFAULT,
                    setting.least,
                    setting.most,
                    Some(read),
                    Some(write),
                    Some(apply),
                    std::ptr::from_ref(setting).cast_mut().cast(),
                )
            };
            if registered != raw::REDISMODULE_OK as c_int {
                return Err("the server refused a setting");
            }
        }
        // SAFETY: the context is the one of loading.
        match unsafe { need(raw::RedisModule_LoadConfigs)(self.ctx) } as isize {
            raw::REDISMODULE_OK => Ok(()),
            _ => Err("the server refused the settings"),
        }
    }
}

/// The setting behind a callback.
///
/// # Safety
/// `data` is what [`Server::register_settings`] registered.
unsafe fn setting(data: *mut c_void) -> Option<&'static Setting> {
    // SAFETY: it registered a pointer to a static setting.
    unsafe { data.cast::<Setting>().as_ref() }
}

unsafe extern "C" fn read(_name: *const c_char, data: *mut c_void) -> c_longlong {
    // SAFETY: the server hands back the registered pointer.
    unsafe { setting(data) }.map_or(0, Setting::get)
}

unsafe extern "C" fn write(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server hands back the registered pointer, and has checked the range.
    if let Some(setting) = unsafe { setting(data) } {
        setting.value.store(value, Relaxed);
    }
    raw::REDISMODULE_OK as c_int
}

/// A setting has changed: whoever waits may be served sooner, or later.
unsafe extern "C" fn apply(
    ctx: *mut raw::RedisModuleCtx,
    _data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server gives a valid context for the time of this call.
    let server = unsafe { Server::new(ctx) };
    guard((), || waiting::look_at_all(&server, &[]));
    raw::REDISMODULE_OK as c_int
}
