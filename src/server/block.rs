//! Clients that wait.
//!
//! A client blocks on a key that nobody writes, so that the server itself redirects it when the
//! slot of that key moves to another node, and nothing else wakes it. To answer it is O(1): the
//! server then calls the time-out callback, on some versions at once, on others later in the same
//! tick. So the waiter must hold its whole answer before [`Blocked::answer`] is called. A client is
//! never answered inside the command that blocked it: Redis 7.2 aborts.

use super::api::need;
use super::call::Mode;
use super::guard::guard;
use super::{MainThread, OwnedStr, Server, Str, words};
use crate::args::{Patience, integer};
use crate::error::Error;
use crate::server::Reply;
use crate::time::{Millis, Moment};
use redis_module::raw;
use std::cell::Cell;
use std::io;
use std::os::raw::{c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A waiter, as the server sees it.
pub trait Waits: 'static {
    /// The client leaves the line with this reply: what it was granted, why it was refused, or
    /// nothing because its time ran out.
    fn farewell(&self, server: &Server) -> Result<Reply<'static>, Error>;

    /// The client is gone: disconnected, killed, redirected, or unblocked with an error. Writes
    /// nothing.
    fn gone(&self, server: &Server);
}

/// A client that the server has blocked for this module. It can be answered once, and only while it
/// waits: whoever leaves the line gives this up.
pub struct Blocked(NonNull<raw::RedisModuleBlockedClient>);

impl Server {
    /// Makes the calling client wait for `patience`. Only where [`Server::may_block`] allows it.
    /// `None` where the server does not let this client wait all the same: Valkey 8.1 and later
    /// refuse one that is subscribed to a channel.
    pub fn block<W: Waits>(
        &self,
        key: Str<'_>,
        patience: Patience,
        waiter: &Rc<W>,
    ) -> Option<Blocked> {
        let timeout = match patience {
            Patience::Forever => 0,
            Patience::For(span) => span.0,
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

    /// Whether a waiting client can still be answered. The server finds out that a client is gone
    /// when it reads from it next, and closes the connection some time after that.
    ///
    /// Some servers look at every connection to tell of one (Valkey 9). Where that takes long, this
    /// trusts the server to have called back for whoever is gone, and tries again after a second.
    pub fn is_connected(&self, client: u64) -> bool {
        if LOOKS.get().get().are_too_dear(self.moment()) {
            return true;
        }
        let before = Instant::now();
        let connected = self.look_at(client);
        LOOKS.get().set(LOOKS.get().get().after(before.elapsed(), self.moment()));
        connected
    }

    fn look_at(&self, client: u64) -> bool {
        let id = OwnedStr::number(client as i64);
        let args = [words().list(), words().id(), id.borrow()];
        // A server whose CLIENT command was renamed does not tell; then its callback will.
        let Ok(line) = self.call(c"CLIENT", Mode::Read, &args) else { return true };
        let fields = || line.root().bytes().split(|b| *b == b' ');
        let field = |name: &[u8]| fields().find_map(|field| field.strip_prefix(name));
        let Some(flags) = field(b"flags=") else { return false };
        // A: to be closed as soon as possible. c: to be closed after the reply.
        let closing = flags.contains(&b'A') || flags.contains(&b'c');
        !closing && field(b"fd=").and_then(integer).is_none_or(|fd| !peer_is_gone(fd as c_int))
    }
}

/// What it has cost lately to look at a connection.
#[derive(Clone, Copy)]
struct Looks {
    /// How many looks in a row took too long: one can be the operating system's doing.
    slow: u32,
    /// When one is tried again.
    again: Moment,
}

static LOOKS: MainThread<Cell<Looks>> =
    MainThread::new(Cell::new(Looks { slow: 0, again: Moment(0) }));

impl Looks {
    /// Longer than any look takes that does not depend on the number of connections.
    const TOO_LONG: Duration = Duration::from_micros(30);

    fn are_too_dear(self, now: Moment) -> bool {
        self.slow >= 8 && now < self.again
    }

    fn after(self, took: Duration, now: Moment) -> Self {
        let slow = if took > Self::TOO_LONG { self.slow.saturating_add(1) } else { 0 };
        Self { slow, again: now.after(Millis(1000)) }
    }
}

/// Whether the other end of a socket was closed, though nobody has read that yet.
fn peer_is_gone(fd: c_int) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte is at most written to one byte; nothing is taken from the socket, and the
    // call does not wait.
    let peeked =
        unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    match peeked {
        0 => true,
        1.. => false,
        // Other errors say nothing about the peer: not every connection is a socket.
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
    /// Lets the client go with its waiter's [`Waits::farewell`]. No borrow may be held: the
    /// answer can be asked for before this returns.
    pub fn answer(self) {
        // SAFETY: the waiter says goodbye once, and the server has not released it before.
        unsafe { need(raw::RedisModule_UnblockClient)(self.0.as_ptr(), std::ptr::null_mut()) };
    }
}

/// Somebody wrote the key on which nothing is ever written: the client goes on waiting.
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
            waiter.map_or(Ok(Reply::Null), |waiter| waiter.farewell(&server))
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
            waiter.gone(&server);
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
    fn looks_are_spared_for_a_second_when_several_in_a_row_took_long() {
        let (now, long, short) =
            (Moment(5_000_000), Duration::from_micros(90), Duration::from_micros(3));
        let mut looks = Looks { slow: 0, again: Moment(0) };
        for _ in 0..7 {
            looks = looks.after(long, now);
            assert!(!looks.are_too_dear(now));
        }
        assert!(!looks.after(short, now).after(long, now).are_too_dear(now));
        looks = looks.after(long, now);
        assert!(looks.are_too_dear(Moment(5_999_000)));
        assert!(!looks.are_too_dear(Moment(6_000_000)));
        // One look tells whether it still takes long.
        assert!(looks.after(long, Moment(6_000_000)).are_too_dear(Moment(6_001_000)));
        assert!(!looks.after(short, Moment(6_000_000)).are_too_dear(Moment(6_001_000)));
    }
}
