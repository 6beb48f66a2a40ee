//! Settings: `CONFIG GET/SET corral.*`, and `name value` pairs as arguments of the module.
//!
//! They are integers only: some servers leak memory whenever a string setting of a module is read.

use super::api::need;
use super::guard::guard;
use super::integer::integer;
use super::{STATE, Server};
use redis_module::raw;
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::os::raw::{c_int, c_longlong, c_void};
use std::rc::Rc;

/// An integer setting. Clones share the value.
#[derive(Clone)]
pub struct Setting(Rc<Inner>);

struct Inner {
    name: &'static CStr,
    default: i64,
    least: i64,
    most: i64,
    value: Cell<i64>,
}

impl Setting {
    /// A setting that takes integers from `least` to `most`.
    pub fn new(name: &'static CStr, default: i64, least: i64, most: i64) -> Self {
        Self(Rc::new(Inner { name, default, least, most, value: Cell::new(default) }))
    }

    /// The current value.
    pub fn get(&self) -> i64 {
        self.0.value.get()
    }

    /// The current value as a number of bytes or items.
    pub fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }
}

impl Server {
    /// Registers the settings. `args` are the arguments of the module.
    pub(super) fn register_settings(
        &self,
        settings: Vec<Setting>,
        args: &[&[u8]],
    ) -> Result<(), &'static str> {
        let mut defaults: Vec<_> = settings.iter().map(|setting| setting.0.default).collect();
        for pair in args.chunks(2) {
            let [name, value] = pair else {
                return Err("a module argument has no value");
            };
            let named = |setting: &Setting| setting.0.name.to_bytes().eq_ignore_ascii_case(name);
            let index = settings.iter().position(named).ok_or("unknown module argument")?;
            let (Some(setting), Some(default)) = (settings.get(index), defaults.get_mut(index))
            else {
                return Err("unknown module argument");
            };
            *default = integer(value)
                .filter(|value| (setting.0.least..=setting.0.most).contains(value))
                .ok_or("a module argument is not an integer within its range")?;
        }
        STATE.get().settings.replace(settings.clone());
        for (setting, default) in settings.iter().zip(defaults) {
            // SAFETY: the context is the one of loading; the name lives for ever. `STATE` keeps the
            // setting until the module is unloaded, and the server reads none while it unloads one.
            let registered = unsafe {
                need(raw::RedisModule_RegisterNumericConfig)(
                    self.ctx,
                    setting.0.name.as_ptr(),
                    default,
                    raw::REDISMODULE_CONFIG_DEFAULT,
                    setting.0.least,
                    setting.0.most,
                    Some(read),
                    Some(write),
                    Some(apply),
                    Rc::as_ptr(&setting.0).cast_mut().cast(),
                )
            };
            if registered != raw::REDISMODULE_OK as c_int {
                return Err("the server rejected a setting");
            }
        }
        // SAFETY: the context is the one of loading.
        match unsafe { need(raw::RedisModule_LoadConfigs)(self.ctx) } as isize {
            raw::REDISMODULE_OK => Ok(()),
            _ => Err("the server rejected the settings"),
        }
    }
}

/// The setting behind a callback.
///
/// # Safety
/// `data` is what [`Server::register_settings`] registered.
unsafe fn setting<'a>(data: *mut c_void) -> Option<&'a Inner> {
    // SAFETY: it registered a pointer to a setting that `STATE` keeps while the server reads it.
    unsafe { data.cast::<Inner>().as_ref() }
}

unsafe extern "C" fn read(_name: *const c_char, data: *mut c_void) -> c_longlong {
    // SAFETY: the server hands back the registered pointer.
    unsafe { setting(data) }.map_or(0, |setting| setting.value.get())
}

unsafe extern "C" fn write(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server hands back the registered pointer, and has checked the range.
    if let Some(setting) = unsafe { setting(data) } {
        setting.value.set(value);
    }
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn apply(
    ctx: *mut raw::RedisModuleCtx,
    _data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    // SAFETY: the server gives a valid context for the time of this call.
    let server = unsafe { Server::new(ctx) };
    guard((), || {
        if let Some(module) = STATE.get().module.get() {
            (module.settings_changed)(&server);
        }
    });
    raw::REDISMODULE_OK as c_int
}
