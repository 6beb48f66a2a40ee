//! What becomes of a leased task when the connection of its consumer has closed. Its lease expires at
//! once, and the task is delivered again, or dead-lettered, like any task whose lease has expired. A
//! queue without leases has no such moment, so there the task is given back.

use super::Cx;
use super::moves::{GiveBack, Leased};
use super::policy::policy_of;
use super::rules::Failure;
use super::store::{self, Pending};
use super::ties::{Tied, span};
use crate::error::Error;
use crate::names;
use crate::server::{CowStr, Mode, OwnedStr, words};
use crate::time::{Millis, UnixMs};
use crate::waiting::Tie;

/// The names of a tied delivery.
struct Names {
    queue: OwnedStr,
    group: OwnedStr,
    consumer: OwnedStr,
    id: OwnedStr,
}

impl Names {
    fn of(lease: &Tied) -> Self {
        Self {
            queue: OwnedStr::new(&lease.place.queue),
            group: OwnedStr::new(&lease.place.group),
            consumer: OwnedStr::new(&lease.place.consumer),
            id: OwnedStr::new(lease.id.to_string().as_bytes()),
        }
    }

    fn stream(&self, cx: Cx<'_>, lease: &Tied) -> Result<CowStr<'_>, Error> {
        store::stream_of(cx.server, self.queue.borrow(), lease.priority)
    }

    /// The lease, if it is still the one that was tied.
    fn find(&self, cx: Cx<'_>, lease: &Tied) -> Result<Option<Pending>, Error> {
        let (stream, group) = (self.stream(cx, lease)?, self.group.borrow());
        let found = store::pending(cx.server, stream.borrow(), group, self.id.borrow())?;
        Ok(found.filter(|found| {
            *found.consumer == *lease.place.consumer && found.deliveries == lease.deliveries
        }))
    }
}

/// The connection of a consumer has closed: if it still has the task, the task is delivered again.
pub fn end(cx: Cx<'_>, tie: &Tie<Tied>) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let names = Names::of(&tie.lease);
    let Some(pending) = names.find(cx, &tie.lease)? else { return Ok(()) };
    let queue = names.queue.borrow();
    let now = server.now();
    match family.lease(&policy_of(cx, queue)?) {
        Some(lease) if pending.idle >= lease.0 => return Ok(()),
        // The server knows no time before 1970.
        Some(lease) if now > UnixMs(lease.0) => expire(cx, &names, tie, lease)?,
        _ => {
            names::reject_moving_slot(server, queue)?;
            let (priority, group) = (tie.lease.priority, names.group.borrow());
            let leased = Leased { queue, priority, group, id: (tie.lease.id, names.id.borrow()) };
            let (failure, delay) = (Failure::Fail, Some(Millis(0)));
            let how = GiveBack { failure, delay, reason: b"disconnected", payload: None };
            leased.give_back(cx, pending.deliveries, &how)?;
        }
    }
    family.counters.disconnected.add(1);
    family.queue.lines.mark_dirty(tie.db, queue.bytes());
    Ok(())
}

/// Makes a lease expire. It stays with its consumer, and the number of deliveries stays as it is.
fn expire(cx: Cx<'_>, names: &Names, tie: &Tie<Tied>, lease: Millis) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let (w, idle) = (words(), OwnedStr::number(lease.0));
    let stream = names.stream(cx, &tie.lease)?;
    let (group, consumer, id) = (names.group.borrow(), names.consumer.borrow(), names.id.borrow());
    let args =
        [stream.borrow(), group, consumer, w.zero(), id, w.idle(), idle.borrow(), w.just_id()];
    server.call(c"XCLAIM", Mode::Write, &args)?;
    let (queue, group) = (names.queue.borrow().bytes(), group.bytes());
    let (priority, id) = (tie.lease.priority, tie.lease.id);
    let since = server.now().before(lease);
    family.queues.leased(tie.db, queue, group, priority, &[id], since);
    Ok(())
}

/// Until when a tied lease runs whose time has passed as far as known when it was tied.
pub fn runs_until(cx: Cx<'_>, tie: &Tie<Tied>) -> Option<UnixMs> {
    let names = Names::of(&tie.lease);
    let pending = names.find(cx, &tie.lease).ok()??;
    let lease = cx.family.lease(&policy_of(cx, names.queue.borrow()).ok()?);
    if lease.is_some_and(|lease| pending.idle >= lease.0) {
        return None;
    }
    let now = cx.server.now();
    let end = now.before(Millis(pending.idle)) + span(lease).max(tie.lease.place.span);
    // A lease without an end is looked up again.
    Some(if lease.is_none() { end.max(now + span(None)) } else { end })
}
