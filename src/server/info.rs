//! The section `corral` of INFO.

use super::api::need;
use super::guard::guard;
use crate::FAMILIES;
use crate::stats::PANICS;
use redis_module::raw;
use std::ffi::CStr;
use std::os::raw::c_int;

pub(super) unsafe extern "C" fn write(ctx: *mut raw::RedisModuleInfoCtx, _crash_report: c_int) {
    guard((), || {
        // SAFETY: the server gives a valid context; a null name is the module's own section.
        let wanted = unsafe { need(raw::RedisModule_InfoAddSection)(ctx, std::ptr::null()) };
        if wanted != raw::REDISMODULE_OK as c_int {
            return;
        }
        let field = |name: &CStr, value: u64| {
            // SAFETY: the context is valid and in a section; the name is a C string.
            unsafe { need(raw::RedisModule_InfoAddFieldULongLong)(ctx, name.as_ptr(), value) };
        };
        let totals = FAMILIES.iter().flat_map(|family| family.counters);
        for counter in [&PANICS].into_iter().chain(totals.copied()) {
            field(counter.name, counter.get());
        }
        for family in &FAMILIES {
            field(family.gauge, (family.waiters)() as u64);
        }
    });
}
