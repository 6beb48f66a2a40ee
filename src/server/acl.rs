//! What users may do, and which commands the server has.

use super::api::need;
use super::string::OwnedStr;
use super::{Server, Str};
use redis_module::raw;
use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

/// Whether a client may still run its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may run the command.
    Granted,
    /// It may not, or its user no longer exists.
    Denied,
    /// The server has closed the connection.
    Gone,
}

/// The result of checking a user's rules.
enum Check {
    Permitted,
    Refused,
    UnknownCommand,
}

/// A handle on a user of the server.
struct User(NonNull<raw::RedisModuleUser>);

impl User {
    /// An existing user of the server.
    fn named(name: &OwnedStr) -> Option<Self> {
        // SAFETY: the name is a valid string; null stands for a user that does not exist.
        let user =
            unsafe { need(raw::RedisModule_GetModuleUserFromUserName)(name.borrow().as_ptr()) };
        NonNull::new(user).map(Self)
    }

    fn check(&self, argv: &[Str<'_>]) -> Check {
        let (strings, count) = (argv.as_ptr().cast_mut().cast(), argv.len() as i32);
        // SAFETY: the user is valid; `Str` is a transparent pointer to a valid string.
        let checked = unsafe {
            need(raw::RedisModule_ACLCheckCommandPermissions)(self.0.as_ptr(), strings, count)
        };
        if checked == raw::REDISMODULE_OK as i32 {
            return Check::Permitted;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT) => Check::UnknownCommand,
            _ => Check::Refused,
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: the handle is freed once; the server's user stays.
        unsafe { need(raw::RedisModule_FreeModuleUser)(self.0.as_ptr()) };
    }
}

impl Server {
    /// Whether a client may still run the command that it sent, by its user's current rules.
    pub fn permission(&self, client: u64, argv: &[OwnedStr]) -> Permission {
        // Redis 7.0 and 7.4 crash in RM_GetCurrentUserName.
        // SAFETY: the context is valid.
        let name = unsafe { need(raw::RedisModule_GetClientUserNameById)(self.ctx, client) };
        let Some(name) = NonNull::new(name) else {
            return match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOENT) => Permission::Gone,
                // A connection without a user is unrestricted.
                _ => Permission::Granted,
            };
        };
        let Some(user) = User::named(&OwnedStr::take(name)) else { return Permission::Denied };
        let argv: Vec<Str<'_>> = argv.iter().map(OwnedStr::borrow).collect();
        match user.check(&argv) {
            Check::Permitted => Permission::Granted,
            Check::Refused | Check::UnknownCommand => Permission::Denied,
        }
    }

    /// Whether the server has a command of this name.
    pub fn has_command(&self, name: &'static CStr) -> bool {
        self.missing_command(&[name]).is_none()
    }

    /// The first of these commands that the server does not have under this name.
    pub(super) fn missing_command(&self, commands: &[&'static CStr]) -> Option<&'static CStr> {
        // Any user will do, and this one always exists. Redis 7.0 leaks memory for each user that a
        // module creates.
        let user = User::named(&OwnedStr::new(b"default"))?;
        commands.iter().copied().find(|name| {
            let name = OwnedStr::new(name.to_bytes());
            matches!(user.check(&[name.borrow()]), Check::UnknownCommand)
        })
    }
}
