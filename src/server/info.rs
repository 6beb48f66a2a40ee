//! The section of the module in INFO.
//!
//! Of the crate's macros the module uses those for INFO, for loading and for changes of the role
//! ([`super::events`]). The others are not usable here: `#[command]` needs a function that Redis 7.0
//! lacks, the FLUSHDB handler does not say which database was flushed, and replies from structs sort
//! their fields.

use super::STATE;
use super::guard::guard;
use redis_module::{InfoContext, RedisResult, basic_info_command_handler, raw};
use std::os::raw::c_int;

/// The fields of the section.
#[derive(Default)]
pub struct Section {
    numbers: Vec<(&'static str, u64)>,
    texts: Vec<(&'static str, &'static str)>,
}

impl Section {
    /// Adds a number. The server puts the name of the module before `name`.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.numbers.push((name, value));
    }

    /// Adds a text without line breaks. Texts come before numbers.
    pub fn text(&mut self, name: &'static str, value: &'static str) {
        self.texts.push((name, value));
    }
}

#[redis_module_macros::info_command_handler]
fn write_section(info: &InfoContext, _for_crash_report: bool) -> RedisResult<()> {
    let Some(module) = STATE.get().module.get() else { return Ok(()) };
    let mut section = Section::default();
    (module.info)(&mut section);
    // A section without a name is the module's own.
    let mut builder = info.builder().add_section("");
    for (name, value) in section.texts {
        builder = builder.field(name, value)?;
    }
    for (name, value) in section.numbers {
        builder = builder.field(name, value)?;
    }
    builder.build_section()?.build_info().map(drop)
}

pub(super) unsafe extern "C" fn write(ctx: *mut raw::RedisModuleInfoCtx, _crash_report: c_int) {
    // Without the backtrace that the crate would add to a crash report: the server writes one.
    guard((), || basic_info_command_handler(&InfoContext::new(ctx), false));
}
