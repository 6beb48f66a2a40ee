//! Timers. A timer is armed only while something waits for it: the server does not unload a module
//! that holds one.
//!
//! The server schedules timers by the wall clock. If that is set back, a timer fires late by as much,
//! so the periodic event of the server, which follows the monotonic clock, checks each timer
//! ([`Timer::rearm_if_late`]).

use super::Server;
use super::api::need;
use super::guard::guard;
use crate::time::{Millis, Moment};
use redis_module::raw;
use std::cell::Cell;
use std::os::raw::c_void;

/// What a timer calls.
pub type OnFire = fn(&Server);

/// A timer that is armed for one moment at a time.
pub struct Timer {
    armed: Cell<Option<(raw::RedisModuleTimerID, Moment)>>,
    on_fire: OnFire,
}

impl Timer {
    /// A timer that is not armed. `on_fire` has to call [`Timer::has_fired`] first.
    pub fn new(on_fire: OnFire) -> Self {
        Self { armed: Cell::new(None), on_fire }
    }

    /// Fires at `due`, or earlier if it is already armed for an earlier moment. If `due` has passed,
    /// it fires as soon as the server has finished what it is doing: callbacks that may not write
    /// leave their work to it.
    pub fn arm(&self, server: &Server, due: Moment) {
        // The server adds the delay to its clock without a range check. Firing too early does no
        // harm: the handler arms the timer again.
        const LONGEST: Millis = Millis(3_600_000);
        if self.armed.get().is_some_and(|(_, armed)| armed <= due) {
            return;
        }
        self.disarm(server);
        let delay = server.moment().until(due).min(LONGEST);
        let data = self.on_fire as *mut c_void;
        // SAFETY: the context belongs to this module; `fire` gets the function back from `data`.
        let id =
            unsafe { need(raw::RedisModule_CreateTimer)(server.ctx, delay.0, Some(fire), data) };
        self.armed.set(Some((id, due)));
    }

    /// The timer has fired: the server has forgotten it.
    pub fn has_fired(&self) {
        self.armed.set(None);
    }

    /// Fires at once if the timer should have fired a while ago.
    pub fn rearm_if_late(&self, server: &Server) {
        const LATE: Millis = Millis(50);
        let now = server.moment();
        if self.armed.get().is_some_and(|(_, due)| now.since(due) > LATE) {
            self.disarm(server);
            self.arm(server, now);
        }
    }

    /// Disarms the timer.
    pub fn disarm(&self, server: &Server) {
        if let Some((id, _)) = self.armed.take() {
            // SAFETY: the timer was created by `arm`. The server ignores an id that it does not know.
            unsafe { need(raw::RedisModule_StopTimer)(server.ctx, id, std::ptr::null_mut()) };
        }
    }
}

unsafe extern "C" fn fire(ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    // SAFETY: the server gives a valid context for the time of this call, and the data that `arm`
    // gave it: an `OnFire`.
    let (server, on_fire) =
        unsafe { (Server::in_timer(ctx), std::mem::transmute::<*mut c_void, OnFire>(data)) };
    guard((), || on_fire(&server));
}
