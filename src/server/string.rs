//! The server's strings. Arguments go on to inner commands by pointer, without a copy.

use super::api::need;
use super::integer::{LONGEST, decimal};
use super::{STATE, Server};
use crate::time::UnixMs;
use redis_module::raw;
use std::io::Write;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::rc::Rc;

/// A borrowed string of the server.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Str<'a> {
    raw: NonNull<raw::RedisModuleString>,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Str<'a> {
    pub(super) fn as_ptr(self) -> *mut raw::RedisModuleString {
        self.raw.as_ptr()
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        let mut len = 0;
        // SAFETY: the string lives for 'a and the server does not change it meanwhile.
        unsafe {
            let start = need(raw::RedisModule_StringPtrLen)(self.raw.as_ptr(), &mut len);
            std::slice::from_raw_parts(start.cast(), len)
        }
    }
}

/// The arguments of a command.
///
/// # Safety
/// `argv` points to `argc` strings that live for 'a.
pub(super) unsafe fn arguments<'a>(
    argv: *mut *mut raw::RedisModuleString,
    argc: i32,
) -> &'a [Str<'a>] {
    // Without arguments, at load, the pointer can be null.
    let Some(argc) = usize::try_from(argc).ok().filter(|argc| *argc > 0) else { return &[] };
    // SAFETY: `Str` is a transparent non-null pointer, and the server passes no null argument.
    unsafe { std::slice::from_raw_parts(argv.cast(), argc) }
}

/// A string of the server that this module owns.
pub struct OwnedStr(NonNull<raw::RedisModuleString>);

impl OwnedStr {
    /// A string of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        // SAFETY: a null context is allowed: the string is then freed by hand.
        let raw = unsafe {
            need(raw::RedisModule_CreateString)(ptr::null_mut(), bytes.as_ptr().cast(), bytes.len())
        };
        Self(need(NonNull::new(raw)))
    }

    /// Takes ownership of a string that the server has created for this module.
    pub(super) fn take(raw: NonNull<raw::RedisModuleString>) -> Self {
        Self(raw)
    }

    /// Another reference to a string of the server, which outlives the command.
    pub fn hold(text: Str<'_>) -> Self {
        // SAFETY: the string is valid; with a null context it is freed by hand.
        let raw = unsafe { need(raw::RedisModule_HoldString)(ptr::null_mut(), text.as_ptr()) };
        Self(need(NonNull::new(raw)))
    }

    /// A string of these parts. A short one is assembled without an allocation of its own.
    pub fn concat(parts: &[&[u8]]) -> Self {
        let mut buffer = [0; 256];
        let mut rest = buffer.as_mut_slice();
        let fits = parts.iter().all(|part| rest.write_all(part).is_ok());
        let free = rest.len();
        match buffer.get(..buffer.len() - free) {
            Some(whole) if fits => Self::new(whole),
            _ => Self::new(&parts.concat()),
        }
    }

    /// The decimal form of a number.
    pub fn number(value: i64) -> Self {
        Self::new(decimal(value, &mut [0; LONGEST]))
    }

    /// The string, as long as this value lives.
    pub fn borrow(&self) -> Str<'_> {
        Str { raw: self.0, life: PhantomData }
    }
}

/// A string that was given, or that had to be created.
pub enum CowStr<'a> {
    /// Borrowed.
    Given(Str<'a>),
    /// Owned.
    Made(OwnedStr),
}

impl CowStr<'_> {
    /// The string, as long as this value lives.
    pub fn borrow(&self) -> Str<'_> {
        match self {
            CowStr::Given(text) => *text,
            CowStr::Made(text) => text.borrow(),
        }
    }
}

impl Drop for OwnedStr {
    fn drop(&mut self) {
        // SAFETY: this value holds the one reference that `new` was given.
        unsafe { need(raw::RedisModule_FreeString)(ptr::null_mut(), self.0.as_ptr()) };
    }
}

/// Defines a struct of constant strings that inner commands are built from, each created once.
macro_rules! words {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Constant strings for inner commands.
        pub struct Words { $($name: $crate::server::OwnedStr),* }

        impl Words {
            /// Creates the strings; only after the module is loaded.
            pub fn new() -> Self {
                Self { $($name: $crate::server::OwnedStr::new($text)),* }
            }
            $(pub fn $name(&self) -> $crate::server::Str<'_> { self.$name.borrow() })*
        }
    };
}
pub(crate) use words as define_words;

define_words! {
    zero = b"0", one = b"1", any_id = b"*", new_entries = b">",
    nx = b"NX", pxat = b"PXAT",
    group = b"GROUP", count = b"COUNT", streams = b"STREAMS",
    create = b"CREATE", groups = b"GROUPS", mkstream = b"MKSTREAM",
    list = b"LIST", id = b"ID",
    infinity = b"+inf", minus_infinity = b"-inf", limit = b"LIMIT", with_scores = b"WITHSCORES",
    last = b"-1", minimum = b"-", maximum = b"+", stream = b"STREAM",
    just_id = b"JUSTID", idle = b"IDLE", retries = b"RETRYCOUNT",
    del_consumer = b"DELCONSUMER", consumers = b"CONSUMERS",
}

/// The words of the server's own commands.
pub fn words() -> &'static Words {
    STATE.get().words.get().unwrap_or_else(|| {
        let words = Box::leak(Box::new(Words::new()));
        STATE.get().words.set(Some(words));
        words
    })
}

impl Server {
    /// A point in time as an argument: ms since the Unix epoch. The commands of a millisecond mostly
    /// need the same one, so the last one is kept.
    pub fn time(&self, at: UnixMs) -> Rc<OwnedStr> {
        let last = &STATE.get().last_time;
        let text = match last.take() {
            Some((time, text)) if time == at => text,
            _ => Rc::new(OwnedStr::number(at.0)),
        };
        last.set(Some((at, text.clone())));
        text
    }
}

/// Frees the words when the module is unloaded and nothing uses them any more.
pub(super) fn forget_words() {
    STATE.get().last_time.take();
    if let Some(words) = STATE.get().words.take() {
        // SAFETY: the pointer came from the `Box` in `words`, and only unloading calls this.
        drop(unsafe { Box::from_raw(ptr::from_ref(words).cast_mut()) });
    }
}
