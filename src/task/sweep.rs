//! The walk through the leases of a group, page by page. It finds leases that this process does not
//! know, entries that other clients have returned to the group, and idle consumers.

use super::id::{EntryId, Priority};
use super::known::Position;
use super::leases::RELEASED;
use super::store;
use super::{Cx, groups};
use crate::error::Error;
use crate::server::resp::Element;
use crate::server::{Mode, OwnedStr, Str, Type, words};
use crate::time::{Millis, UnixMs};

/// Entries in a page.
const PAGE: usize = 128;

/// A group of a queue whose leases are walked through.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The server.
    pub cx: Cx<'a>,
    /// The queue.
    pub queue: Str<'a>,
    /// The group.
    pub group: Str<'a>,
    /// How long a lease lasts, if it ends.
    pub lease: Option<Millis>,
}

/// The outcome of one page.
struct Page {
    /// How many of its entries were released by another client.
    released: i64,
    /// Whether it was the last one.
    last: bool,
}

impl<'a> Walk<'a> {
    /// Database, queue and group.
    fn names(&self) -> (i32, &'a [u8], &'a [u8]) {
        (self.cx.server.db(), self.queue.bytes(), self.group.bytes())
    }

    /// Reads about one page, if it is due.
    pub fn read_due_page(&self) -> Result<(), Error> {
        let (db, queue, group) = self.names();
        let now = self.cx.server.moment();
        if self.cx.family.queues.is_sweep_due(db, queue, group, self.lease, now) {
            self.read_page(false)?;
        }
        Ok(())
    }

    /// Reads about one page. `search` reads it even if no lease ever ends.
    fn read_page(&self, search: bool) -> Result<Page, Error> {
        let Cx { server, family } = self.cx;
        let ((db, queue, group), lease) = (self.names(), self.lease);
        let (now, moment) = (server.now(), server.moment());
        let Some(position) = family.queues.sweep_position(db, queue, group) else {
            return Ok(Page { released: 0, last: true });
        };
        let walks = lease.is_some() || position.is_some() || search;
        let mut next = if walks { position.or(Some((Priority::LOWEST, None))) } else { None };
        let (mut found, mut released) = (0, 0);
        while found < PAGE
            && let Some((priority, last)) = next
        {
            let leases = self.leases_after(priority, last, now)?;
            found += leases.len();
            released += leases.iter().filter(|(_, since)| *since == RELEASED).count();
            next = match leases.last() {
                Some((last, _)) if leases.len() >= PAGE => Some((priority, Some(*last))),
                _ => self.next_stream(priority),
            };
            let all = lease.is_some();
            family.queues.found_leases(db, queue, group, priority, &leases, all);
        }
        family.queues.page_read(db, queue, group, next, lease, moment);
        if next.is_none() {
            self.drop_idle_consumers()?;
        }
        Ok(Page { released: released as i64, last: next.is_none() })
    }

    /// At most a page of the leases after `last`: ids, and since when.
    fn leases_after(
        &self,
        priority: Priority,
        last: Option<EntryId>,
        now: UnixMs,
    ) -> Result<Vec<(EntryId, UnixMs)>, Error> {
        let server = self.cx.server;
        let stream = store::stream_of(server, self.queue, priority)?;
        let w = words();
        let after = last.map(|id| OwnedStr::new(format!("({id}").as_bytes()));
        let from = after.as_ref().map_or(w.minimum(), OwnedStr::borrow);
        let count = OwnedStr::number(PAGE as i64);
        let args = [stream.borrow(), self.group, from, w.maximum(), count.borrow()];
        let reply = match server.call(c"XPENDING", Mode::Read, &args) {
            Err(Error::Server(refused)) if refused.code() == "NOGROUP" => {
                return Ok(Vec::new());
            }
            // A priority key that is not a stream holds no lease.
            Err(error) if priority > Priority::LOWEST && error.is_wrong_type() => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let lease = |lease: Element<'_>| {
            let since = store::lease_start(now, lease.at(2)?.integer());
            Some((EntryId::parse(lease.at(0)?.bytes())?, since))
        };
        Ok(reply.root().elements().filter_map(lease).collect())
    }

    /// The beginning of the stream after that of a priority.
    fn next_stream(&self, priority: Priority) -> Option<Position> {
        let (db, queue, _) = self.names();
        let streams = self.cx.family.queues.streams(db, queue).filter(|all| !all.is_empty())?;
        let mut above = Priority::ALL.into_iter().filter(|next| *next > priority);
        above.find(|next| streams.contains(*next)).map(|next| (next, None))
    }

    /// Looks at the streams of the queue that have at least `least` entries.
    fn for_each_stream(
        &self,
        least: usize,
        mut look: impl FnMut(Str<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let server = self.cx.server;
        let mut next = Some(Priority::LOWEST);
        while let Some(priority) = next {
            let stream = store::stream_of(server, self.queue, priority)?;
            let key = server.peek_key(stream.borrow());
            let is_one = key.kind() == Type::Stream && key.len() >= least;
            drop(key);
            if is_one {
                look(stream.borrow())?;
            }
            next = self.next_stream(priority).map(|(next, _)| next);
        }
        Ok(())
    }

    /// How many entries other clients have returned to the group: they are pending without a
    /// consumer, and no event reports it. The server needs a step for each consumer to count them,
    /// so the answer is 0 if the group has more than `most`. A stream without entries has none that
    /// could be delivered.
    pub fn released(&self, most: i64) -> Result<i64, Error> {
        let Cx { server, family } = self.cx;
        if !family.others_may_release(server) || self.consumers()? > most {
            return Ok(0);
        }
        let mut all = 0;
        self.for_each_stream(1, |stream| {
            all += store::released(server, stream, self.group)?;
            Ok(())
        })?;
        Ok(all)
    }

    /// The number of consumers in the group's stream that has most.
    fn consumers(&self) -> Result<i64, Error> {
        let ((db, queue, group), queues) = (self.names(), &self.cx.family.queues);
        if let Some(consumers) = queues.consumers(db, queue, group) {
            return Ok(consumers);
        }
        let mut most = 0;
        self.for_each_stream(0, |stream| {
            let consumers = groups::consumers(self.cx, stream, self.group)?;
            most = most.max(consumers.unwrap_or(i64::MAX));
            Ok(())
        })?;
        queues.set_consumers(db, queue, group, most);
        Ok(most)
    }

    /// Finds entries that other clients have returned to the group: all of them, or as many as there
    /// are among a bounded number of entries.
    pub fn find_released(&self) -> Result<(), Error> {
        const ENTRIES: usize = 4096;
        let ((db, queue, group), queues) = (self.names(), &self.cx.family.queues);
        let now = self.cx.server.moment();
        let thorough = queues.is_release_due(db, queue, group, now, RELEASED_EVERY);
        let number = self.released(if thorough { CONSUMERS } else { FEW_CONSUMERS })?;
        if number == 0 {
            return Ok(());
        }
        // A first walk continues. If that was not enough, it begins again.
        let (mut is_whole, mut left) = (!queues.hurry_sweep(db, queue, group), number);
        for _ in 0..ENTRIES / PAGE {
            let page = self.read_page(true)?;
            left -= page.released;
            if left <= 0 || (page.last && is_whole) {
                break;
            }
            if page.last {
                queues.restart_sweep(db, queue, group);
                (is_whole, left) = (true, number);
            }
        }
        Ok(())
    }

    /// Drops consumers that have been idle for long: unused names would pile up.
    fn drop_idle_consumers(&self) -> Result<(), Error> {
        let (db, queue, group) = self.names();
        let now = self.cx.server.moment();
        if !self.cx.family.queues.is_tidy_due(db, queue, group, now, TIDY_EVERY) {
            return Ok(());
        }
        self.for_each_stream(0, |stream| match groups::consumers(self.cx, stream, self.group)? {
            Some(consumers) if consumers <= CONSUMERS => self.drop_idle(stream),
            _ => Ok(()),
        })
    }

    fn drop_idle(&self, stream: Str<'_>) -> Result<(), Error> {
        let (server, w) = (self.cx.server, words());
        let reply = match server.call(c"XINFO", Mode::Read, &[w.consumers(), stream, self.group]) {
            Err(Error::Server(refused)) if refused.code() == "NOGROUP" => return Ok(()),
            other => other?,
        };
        let is_idle = |consumer: &Element<'_>| {
            let number = |field| consumer.field(field).map(Element::integer);
            number(b"pending".as_slice()) == Some(0) && number(b"idle") >= Some(IDLE)
        };
        for consumer in reply.root().elements().filter(is_idle) {
            let name = OwnedStr::new(consumer.field(b"name").map_or(&[], Element::bytes));
            let args = [w.del_consumer(), stream, self.group, name.borrow()];
            server.call(c"XGROUP", Mode::Write, &args)?;
        }
        Ok(())
    }
}

/// How often released entries are looked for in a group with many consumers.
const RELEASED_EVERY: Millis = Millis(500);

/// How many consumers a group may have for released entries to be looked for every time.
pub const FEW_CONSUMERS: i64 = 1_000;

/// How many consumers a group may have for all of them to be looked at. The server reports all of
/// them or none, which takes it about 5 µs each.
const CONSUMERS: i64 = 10_000;

/// How long a consumer without leases is kept, in ms.
const IDLE: i64 = 3_600_000;

/// How often idle consumers are looked for.
const TIDY_EVERY: Millis = Millis(600_000);
