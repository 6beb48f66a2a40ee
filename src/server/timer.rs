//! The module's one timer. It stands only while somebody waits and something is due; a module
//! that holds a timer cannot be unloaded.

use super::api::need;
use super::guard::guard;
use super::{MainThread, Server};
use crate::time::{Millis, UnixMs};
use crate::waiting;
use redis_module::raw;
use std::cell::Cell;
use std::os::raw::c_void;

/// The timer that stands, and when it goes off.
static ARMED: MainThread<Cell<Option<(raw::RedisModuleTimerID, UnixMs)>>> =
    MainThread::new(Cell::new(None));

/// Has [`waiting::look_again`] run after `delay`, or before if it is going to run before. With a
/// delay of 0 it runs as soon as the server has finished what it is doing: callbacks in which
/// nothing may be written leave their work to it.
pub fn arm(server: &Server, delay: Millis) {
    // The server adds the delay to its clock without a look at the range. To wake up too early
    // does no harm: whoever looks again sets the timer again.
    const LONGEST: Millis = Millis(3_600_000);
    let delay = delay.min(LONGEST);
    let due = UnixMs(server.now().0.saturating_add(delay.0));
    if ARMED.get().get().is_some_and(|(_, armed)| armed <= due) {
        return;
    }
    disarm(server);
    // SAFETY: the context belongs to this module.
    let id = unsafe {
        need(raw::RedisModule_CreateTimer)(server.ctx, delay.0, Some(fire), std::ptr::null_mut())
    };
    ARMED.get().set(Some((id, due)));
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
