//! The module's one timer. It stands only while somebody waits and something is due; a module
//! that holds a timer cannot be unloaded.
//!
//! The server measures its timers by the wall clock. When that is set back, a timer goes off late by
//! as much; so the server's own periodic work, which the monotonic clock drives, checks it
//! ([`rearm_if_late`]).

use super::api::need;
use super::guard::guard;
use super::{MainThread, Server};
use crate::time::{Millis, Moment};
use crate::waiting;
use redis_module::raw;
use std::cell::Cell;
use std::os::raw::c_void;

/// The timer that stands, and when it goes off.
static ARMED: MainThread<Cell<Option<(raw::RedisModuleTimerID, Moment)>>> =
    MainThread::new(Cell::new(None));

/// Has [`waiting::look_again`] run at `due`, or before if it is going to run before. Where `due` has
/// passed it runs as soon as the server has finished what it is doing: callbacks in which nothing
/// may be written leave their work to it.
pub fn arm(server: &Server, due: Moment) {
    // The server adds the delay to its clock without a look at the range. To wake up too early
    // does no harm: whoever looks again sets the timer again.
    const LONGEST: Millis = Millis(3_600_000);
    if ARMED.get().get().is_some_and(|(_, armed)| armed <= due) {
        return;
    }
    disarm(server);
    let delay = server.moment().until(due).min(LONGEST);
    // SAFETY: the context belongs to this module.
    let id = unsafe {
        need(raw::RedisModule_CreateTimer)(server.ctx, delay.0, Some(fire), std::ptr::null_mut())
    };
    ARMED.get().set(Some((id, due)));
}

/// Sets the timer anew if it should have gone off a while ago: the wall clock was set back.
pub(super) fn rearm_if_late(server: &Server) {
    const LATE: Millis = Millis(50);
    let late = |due: Moment| server.moment().since(due) > LATE;
    if ARMED.get().get().is_some_and(|(_, due)| late(due)) {
        disarm(server);
        arm(server, server.moment());
    }
}

/// Stops the timer.
pub fn disarm(server: &Server) {
    if let Some((id, _)) = ARMED.get().take() {
        // SAFETY: the timer was created by `arm` and has not fired: `fire` forgets the id.
        unsafe { need(raw::RedisModule_StopTimer)(server.ctx, id, std::ptr::null_mut()) };
    }
}

unsafe extern "C" fn fire(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    ARMED.get().set(None);
    // SAFETY: the server gives a valid context for the time of this call.
    let server = unsafe { Server::in_timer(ctx) };
    guard((), || waiting::look_again(&server));
}
