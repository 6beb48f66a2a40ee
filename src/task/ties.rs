//! Tasks whose lease ends when the connection of their consumer closes. A tie stands for an entry in a
//! group. It records the consumer and the number of the delivery, because another client can claim the
//! entry without an event.

use super::id::{EntryId, Priority};
use super::{Cx, Task};
use crate::server::Str;
use crate::time::{Millis, UnixMs};
use crate::waiting::{Tie, TieKey, connection};
use std::cell::RefCell;
use std::rc::Rc;

/// Where a consumer reads. Consecutive deliveries to the same one share it.
#[derive(PartialEq, Eq)]
pub struct Place {
    /// The database.
    pub db: i32,
    /// The queue.
    pub queue: Box<[u8]>,
    /// The group.
    pub group: Box<[u8]>,
    /// The consumer.
    pub consumer: Box<[u8]>,
    /// How long its leases last at least, as far as the ends of their ties say.
    pub span: Millis,
}

/// A delivery to a consumer.
pub struct Tied {
    /// To which.
    pub place: Rc<Place>,
    /// Which stream.
    pub priority: Priority,
    /// Which entry.
    pub id: EntryId,
    /// How often the entry was delivered, this time included.
    pub deliveries: i64,
}

/// Whom tasks are delivered to.
#[derive(Clone, Copy)]
pub struct Receiver<'a> {
    /// The queue.
    pub queue: Str<'a>,
    /// The group.
    pub group: Str<'a>,
    /// The consumer.
    pub name: Str<'a>,
    /// The client to which the leases are tied, if they are.
    pub client: Option<u64>,
}

/// The place of the last delivery that was tied.
#[derive(Default)]
pub struct LastPlace(RefCell<Option<Rc<Place>>>);

impl LastPlace {
    fn share(&self, to: Receiver<'_>, db: i32, span: Millis) -> Rc<Place> {
        let last = &mut *self.0.borrow_mut();
        let (queue, group, name) = (to.queue.bytes(), to.group.bytes(), to.name.bytes());
        if let Some(last) = last
            && last.span == span
            && last.db == db
            && (&*last.queue, &*last.group, &*last.consumer) == (queue, group, name)
        {
            return last.clone();
        }
        let (queue, group, consumer) = (queue.into(), group.into(), name.into());
        last.insert(Rc::new(Place { db, queue, group, consumer, span })).clone()
    }
}

/// After how long a lease without an end is looked up, in case that a plain client has finished it.
const LOOKED_UP: Millis = Millis(600_000);

/// How long the tie of a lease lasts until it is looked up, or dropped.
pub fn span(lease: Option<Millis>) -> Millis {
    lease.unwrap_or(LOOKED_UP)
}

impl Task {
    fn tie_key(&self, db: i32, place: (&[u8], &[u8]), priority: Priority, id: EntryId) -> TieKey {
        self.queue.ties.key((db, place, priority.number(), id))
    }

    /// How long a lease of this queue lasts, if its policy is known.
    fn known_lease(&self, db: i32, queue: &[u8]) -> Option<Option<Millis>> {
        self.queues.policy(db, queue).map(|policy| self.lease(&policy))
    }

    /// Whether a lease has ended whose tie has. The present policy may give it more time than the one
    /// under which it began.
    pub fn is_tie_over(&self, tie: &Tie<Tied>) -> bool {
        let place = &tie.lease.place;
        let lease = self.known_lease(tie.db, &place.queue).flatten();
        lease.is_some_and(|lease| lease <= place.span)
    }
}

/// Entries were delivered to a consumer. Their leases are tied to its client, or to none.
pub fn delivered(
    cx: Cx<'_>,
    to: Receiver<'_>,
    priority: Priority,
    ids: &[EntryId],
    deliveries: i64,
    now: UnixMs,
) {
    let Cx { server, family } = cx;
    let Receiver { queue, group, client, .. } = to;
    let Some(client) = client else {
        return ended(cx, queue, group, priority, ids.iter().copied());
    };
    let db = server.db();
    let lease = family.known_lease(db, queue.bytes());
    // An unknown policy has no end that could be relied on.
    let span = span(lease.flatten());
    let place = family.last_place.share(to, db, span);
    for id in ids {
        let key = family.tie_key(db, (queue.bytes(), group.bytes()), priority, *id);
        let lease = Tied { place: place.clone(), priority, id: *id, deliveries };
        connection::tie(cx, key, Tie { client, db, end: now + span, lease });
    }
}

/// The lease of an entry has begun again.
pub fn renewed(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: Str<'_>,
    priority: Priority,
    id: EntryId,
    now: UnixMs,
) {
    let Cx { server, family } = cx;
    let ties = &family.queue.ties;
    if !ties.is_empty() {
        let db = server.db();
        let key = family.tie_key(db, (queue.bytes(), group.bytes()), priority, id);
        let lease = span(family.known_lease(db, queue.bytes()).flatten());
        // Not before the end that the span of its place stands for.
        ties.renew_with(key, |tie| now + lease.max(tie.lease.place.span));
    }
}

/// Entries are not leased any more, or not with these leases.
pub fn ended(
    cx: Cx<'_>,
    queue: Str<'_>,
    group: Str<'_>,
    priority: Priority,
    ids: impl IntoIterator<Item = EntryId>,
) {
    let Cx { server, family } = cx;
    let ties = &family.queue.ties;
    if !ties.is_empty() {
        let db = server.db();
        for id in ids {
            ties.remove(family.tie_key(db, (queue.bytes(), group.bytes()), priority, id));
        }
    }
}
