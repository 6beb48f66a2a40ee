//! What users may do, and which commands the server has.

use super::api::need;
use super::string::OwnedStr;
use super::{Server, Str};
use redis_module::raw;
use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

/// The user of every connection that has not named another.
const DEFAULT_USER: &[u8] = b"default";

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

/// A command of a client that waits.
pub struct HeldCommand {
    /// The id of the client.
    pub client: u64,
    /// Whether its user was the default user, which cannot be deleted.
    by_default_user: bool,
    argv: Box<[OwnedStr]>,
}

impl HeldCommand {
    /// An argument of the command; 0 is its name.
    pub fn arg(&self, index: usize) -> Option<Str<'_>> {
        self.argv.get(index).map(OwnedStr::borrow)
    }

    /// Whether the client may still run the command, by its user's current rules.
    pub fn permission(&self, server: &Server) -> Permission {
        let Some(name) = server.user_of(self.client) else {
            return match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOENT) => Permission::Gone,
                // A connection without a user is unrestricted.
                _ => Permission::Granted,
            };
        };
        // A client that waits cannot change its user. But when a user is deleted, the server gives its
        // connections to the default user until it closes them.
        if is_default(&name) && !self.by_default_user {
            return Permission::Gone;
        }
        let Some(user) = User::named(&name) else { return Permission::Denied };
        let argv: Vec<Str<'_>> = self.argv.iter().map(OwnedStr::borrow).collect();
        match user.check(&argv) {
            Check::Permitted => Permission::Granted,
            Check::Refused | Check::UnknownCommand => Permission::Denied,
        }
    }
}

fn is_default(user: &OwnedStr) -> bool {
    user.borrow().bytes() == DEFAULT_USER
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
    /// The current command, kept beyond its end.
    pub fn hold_command(&self) -> HeldCommand {
        let client = self.client_id();
        let argv = if self.argv.is_null() {
            Box::default()
        } else {
            // SAFETY: the arguments live as long as the command, and this value no longer than it.
            let argv = unsafe { std::slice::from_raw_parts(self.argv, self.argc) };
            argv.iter().map(|arg| OwnedStr::hold(*arg)).collect()
        };
        let by_default_user = self.user_of(client).is_some_and(|name| is_default(&name));
        HeldCommand { client, by_default_user, argv }
    }

    /// The name of a client's user, if the client is known and has one.
    fn user_of(&self, client: u64) -> Option<OwnedStr> {
        // Redis 7.0 and 7.4 crash in RM_GetCurrentUserName.
        // SAFETY: the context is valid.
        let name = unsafe { need(raw::RedisModule_GetClientUserNameById)(self.ctx, client) };
        NonNull::new(name).map(OwnedStr::take)
    }

    /// Whether the server has a command of this name.
    pub fn has_command(&self, name: &'static CStr) -> bool {
        self.missing_command(&[name]).is_none()
    }

    /// The first of these commands that the server does not have under this name.
    pub(super) fn missing_command(&self, commands: &[&'static CStr]) -> Option<&'static CStr> {
        // Any user will do, and this one always exists. Redis 7.0 leaks memory for each user that a
        // module creates.
        let user = User::named(&OwnedStr::new(DEFAULT_USER))?;
        commands.iter().copied().find(|name| {
            let name = OwnedStr::new(name.to_bytes());
            matches!(user.check(&[name.borrow()]), Check::UnknownCommand)
        })
    }
}
