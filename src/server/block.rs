//! Blocked clients.
//!
//! A client blocks on a key that is never written, so that nothing wakes it, except that the server
//! redirects it when the slot of the key moves to another node. Unblocking costs O(1): the server calls
//! the time-out callback, on some versions at once, on others later in the same tick. So the reply has
//! to be complete before [`Blocked::unblock`]. A client must not be unblocked inside the command that
//! blocked it: Redis 7.2 aborts.

use super::api::need;
use super::call::{CallReply, Mode};
use super::guard::guard;
use super::integer::integer;
use super::{OwnedStr, Reply, STATE, Server, Str, words};
use crate::error::Error;
use crate::time::{Millis, Moment, Timeout};
use redis_module::raw;
use std::io;
use std::os::raw::{c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A waiting client as the server layer sees it.
pub trait Waits: 'static {
    /// The reply of a client that stops waiting: what it was granted, why it was rejected, or the
    /// reply of a time-out.
    fn on_unblock(&self, server: &Server) -> Result<Reply<'static>, Error>;

    /// The client is gone: disconnected, killed, redirected, or unblocked with an error. Must not
    /// write.
    fn on_disconnect(&self, server: &Server);
}

/// A client that the server has blocked for this module. It can be unblocked once, and only while it
/// waits: a waiter that leaves its line drops this value.
pub struct Blocked(NonNull<raw::RedisModuleBlockedClient>);

impl Server {
    /// Blocks the calling client. Only if [`Server::may_block`] allows it. Returns `None` if the server
    /// still does not block it: Valkey 8.1 and later refuse a client that is subscribed to a channel.
    pub fn block<W: Waits>(
        &self,
        key: Str<'_>,
        timeout: Timeout,
        waiter: &Rc<W>,
    ) -> Option<Blocked> {
        let timeout = match timeout {
            Timeout::Never => 0,
            Timeout::After(span) => span.0,
        };
        let data = Rc::into_raw(waiter.clone());
        // SAFETY: the context is that of a command and may block; the server keeps the reference
        // to the waiter until it hands it to `release`, or has not taken it.
        unsafe {
            let blocked = need(raw::RedisModule_BlockClientOnKeys)(
                self.ctx,
                Some(key_was_written),
                Some(answer_now::<W>),
                Some(release::<W>),
                timeout,
                &mut key.as_ptr(),
                1,
                data.cast_mut().cast(),
            );
            let Some(blocked) = NonNull::new(blocked) else {
                drop(Rc::from_raw(data));
                return None;
            };
            need(raw::RedisModule_SetDisconnectCallback)(blocked.as_ptr(), Some(disconnected::<W>));
            Some(Blocked(blocked))
        }
    }

    /// The id of the calling client.
    pub fn client_id(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { need(raw::RedisModule_GetClientId)(self.ctx) }
    }

    /// Whether a waiting client can still receive a reply. The server notices that a client is gone
    /// when it reads from the connection, and closes it some time later.
    ///
    /// Valkey 9 walks all connections to find one. If there are so many that this takes too long, this
    /// relies on the server's disconnect callback, and checks again after a second.
    pub fn is_connected(&self, client: u64) -> bool {
        if STATE.get().checks.get().are_too_slow(self.moment()) {
            return true;
        }
        let before = Instant::now();
        let connected = self.check_connection(client);
        let took = before.elapsed();
        let checks = STATE.get().checks.get().after(took, self.moment(), || self.connections());
        STATE.get().checks.set(checks);
        connected
    }

    /// How many connections of clients the server has.
    fn connections(&self) -> u64 {
        // SAFETY: the context is valid, the names end with NUL, and the data is freed once.
        unsafe {
            let data = need(raw::RedisModule_GetServerInfo)(self.ctx, c"clients".as_ptr());
            let field = c"connected_clients".as_ptr();
            let count = need(raw::RedisModule_ServerInfoGetFieldUnsigned)(
                data,
                field,
                std::ptr::null_mut(),
            );
            need(raw::RedisModule_FreeServerInfo)(self.ctx, data);
            count
        }
    }

    /// What CLIENT LIST says of a client: nothing if it has no connection.
    fn listed(&self, client: u64) -> Result<CallReply<'_>, Error> {
        let id = OwnedStr::number(client as i64);
        self.call(c"CLIENT", Mode::Read, &[words().list(), words().id(), id.borrow()])
    }

    /// Whether a client has a connection, which may be about to close.
    pub(super) fn is_listed(&self, client: u64) -> bool {
        self.listed(client).is_ok_and(|line| !line.root().bytes().is_empty())
    }

    fn check_connection(&self, client: u64) -> bool {
        // If the CLIENT command was renamed, only the disconnect callback is left.
        let Ok(line) = self.listed(client) else { return true };
        let fields = || line.root().bytes().split(|b| *b == b' ');
        let field = |name: &[u8]| fields().find_map(|field| field.strip_prefix(name));
        let Some(flags) = field(b"flags=") else { return false };
        // A: to be closed as soon as possible. c: to be closed after the reply.
        let closing = flags.contains(&b'A') || flags.contains(&b'c');
        !closing && field(b"fd=").and_then(integer).is_none_or(|fd| !peer_is_gone(fd as c_int))
    }
}

/// How long it has recently taken to check a connection.
#[derive(Clone, Copy)]
pub(super) struct Checks {
    /// How many checks in a row took too long. A single one can be due to the operating system.
    slow: u32,
    /// When one is tried again.
    again: Moment,
}

impl Checks {
    /// Before the first check.
    pub(super) const NONE: Self = Self { slow: 0, again: Moment(0) };

    /// Longer than any check takes that does not depend on the number of connections.
    const TOO_LONG: Duration = Duration::from_micros(30);

    /// So many slow checks in a row count.
    const SLOW: u32 = 8;

    /// With fewer connections, no check depends on their number noticeably.
    const MANY: u64 = 500;

    fn are_too_slow(self, now: Moment) -> bool {
        self.slow >= Self::SLOW && now < self.again
    }

    /// `connections` tells how many connections there are, and is asked only if the checks seem slow.
    fn after(self, took: Duration, now: Moment, connections: impl FnOnce() -> u64) -> Self {
        let mut slow = if took > Self::TOO_LONG { self.slow.saturating_add(1) } else { 0 };
        if slow >= Self::SLOW && connections() < Self::MANY {
            // The machine is slow, and would be so without the checks.
            slow = 0;
        }
        Self { slow, again: now + Millis(1000) }
    }
}

/// Whether the peer has closed a socket, even if the end of file has not been read yet.
fn peer_is_gone(fd: c_int) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte is at most written to one byte; nothing is taken from the socket, and the
    // call does not wait.
    let peeked =
        unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match peeked {
        0 => true,
        1.. => false,
        // Other errors say nothing about the peer: a connection need not be a socket.
        _ => matches!(
            io::Error::last_os_error().kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::TimedOut
        ),
    }
}

impl Blocked {
    /// Unblocks the client with the reply of [`Waits::on_unblock`]. No borrow may be held: the
    /// answer can be asked for before this returns.
    pub fn unblock(self) {
        // SAFETY: the client is unblocked once, and the server has not released it before.
        unsafe { need(raw::RedisModule_UnblockClient)(self.0.as_ptr(), std::ptr::null_mut()) };
    }
}

/// A client wrote the key that is never written: the blocked client goes on waiting.
unsafe extern "C" fn key_was_written(
    _ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    raw::REDISMODULE_ERR as c_int
}

/// The waiter behind a callback.
///
/// # Safety
/// `ctx` is the context of a callback of a client that [`Server::block`] blocked for a `W`.
unsafe fn waiter<'a, W: Waits>(ctx: *mut raw::RedisModuleCtx) -> Option<&'a W> {
    // SAFETY: the private data is the pointer that `block` gave, and `release` has not run.
    unsafe { need(raw::RedisModule_GetBlockedClientPrivateData)(ctx).cast::<W>().as_ref() }
}

unsafe extern "C" fn answer_now<W: Waits>(
    ctx: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    // SAFETY: the server calls this with the context of a client that `block::<W>` blocked.
    let (server, waiter) = unsafe { (Server::new(ctx), waiter::<W>(ctx)) };
    guard((), || {
        let outcome = guard(Err(Error::Internal), || {
            waiter.map_or(Ok(Reply::Null), |waiter| waiter.on_unblock(&server))
        });
        server.answer(&outcome);
    });
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn disconnected<W: Waits>(
    ctx: *mut raw::RedisModuleCtx,
    _blocked: *mut raw::RedisModuleBlockedClient,
) {
    // SAFETY: the server calls this with the context of a client that `block::<W>` blocked.
    let (server, waiter) = unsafe { (Server::new(ctx), waiter::<W>(ctx)) };
    guard((), || {
        if let Some(waiter) = waiter {
            waiter.on_disconnect(&server);
        }
    });
}

unsafe extern "C" fn release<W: Waits>(_ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    // SAFETY: `block` made this pointer from an `Rc<W>`, and the server calls this once.
    let waiter = unsafe { Rc::from_raw(data.cast_const().cast::<W>()) };
    guard((), || drop(waiter));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn among_many_connections_checks_pause_for_a_second_after_several_slow_ones() {
        let (now, long, short) =
            (Moment(5_000_000), Duration::from_micros(90), Duration::from_micros(3));
        let after = |checks: Checks, took, now| checks.after(took, now, || 10_000);
        let mut checks = Checks::NONE;
        for _ in 0..7 {
            checks = after(checks, long, now);
            assert!(!checks.are_too_slow(now));
        }
        assert!(!after(after(checks, short, now), long, now).are_too_slow(now));
        assert!(!checks.after(long, now, || 10).are_too_slow(now));
        checks = after(checks, long, now);
        assert!(checks.are_too_slow(Moment(5_999_000)));
        assert!(!checks.are_too_slow(Moment(6_000_000)));
        // One check shows whether it still takes long.
        assert!(after(checks, long, Moment(6_000_000)).are_too_slow(Moment(6_001_000)));
        assert!(!after(checks, short, Moment(6_000_000)).are_too_slow(Moment(6_001_000)));
    }
}
