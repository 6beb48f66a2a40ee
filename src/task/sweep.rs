//! The walk through what is leased in a group, page by page: it finds the leases that this process
//! does not know, and consumers that are gone.

use super::groups;
use super::id::{EntryId, Priority};
use super::leases::{RELEASED, Sweep};
use super::memory::{self, Group};
use super::store::{self, NOBODY};
use crate::args::Argument;
use crate::error::Error;
use crate::server::call::Element;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::{Millis, UnixMs};

/// Entries in a page.
const PAGE: usize = 128;

/// A group of a queue whose leases are walked through.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The server.
    pub server: &'a Server,
    /// The queue.
    pub queue: Str<'a>,
    /// The group.
    pub group: Str<'a>,
    /// How long a lease lasts, if it ends.
    pub lease: Option<Millis>,
}

impl Walk<'_> {
    fn with<R>(&self, look: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let Self { server, queue, group, .. } = *self;
        memory::with_group(server.db(), queue.bytes(), group.bytes(), look)
    }

    /// Reads about one page, if it is due.
    pub fn look(&self) -> Result<(), Error> {
        let now = self.server.moment();
        if self.with(|group| group.sweep.due(self.lease) <= now) == Some(true) {
            self.step(false)?;
        }
        Ok(())
    }

    /// Reads about one page. How many of its entries nobody has, and whether it was the last.
    fn step(&self, searches: bool) -> Result<(i64, bool), Error> {
        let Self { server, queue, group, lease } = *self;
        let (now, moment) = (server.now(), server.moment());
        let Some(seen) = self.with(|group| group.seen) else { return Ok((0, true)) };
        // Without a lease nothing ends.
        let walks = lease.is_some() || seen.is_some() || searches;
        let mut next = seen.or(Some((Priority::LOWEST, None)));
        let (mut found, mut released) = (0, 0);
        while walks
            && found < PAGE
            && let Some((priority, last)) = next
        {
            let leases = page(server, queue, group, priority, last)?;
            found += leases.len();
            next = match leases.last() {
                Some((last, _)) if leases.len() >= PAGE => Some((priority, Some(*last))),
                _ => next_stream(server.db(), queue.bytes(), priority),
            };
            self.with(|group| {
                for (id, idle) in leases {
                    let once = [id].into_iter();
                    if idle == NOBODY {
                        released += 1;
                        group.begin(priority, once, RELEASED);
                    } else if lease.is_some() && !group.knows(priority, id) {
                        group.begin(priority, once, UnixMs(now.0.saturating_sub(idle)));
                    }
                }
            });
        }
        let finished = next.is_none() || !walks;
        self.with(|group| {
            group.seen = next.filter(|_| !finished);
            if finished {
                group.sweep.finished(moment, lease);
            } else {
                group.sweep.page_read(moment);
            }
        });
        if finished {
            tidy(self)?;
        }
        Ok((released, finished))
    }

    /// How many entries other clients have given back: they are pending, and nobody has them. No
    /// event tells of that. The server is asked for the sums, which takes it a step for each
    /// consumer: not where there are more than `most`.
    pub fn released(&self, most: i64) -> Result<i64, Error> {
        if !store::others_may_release() || self.consumers()? > most {
            return Ok(0);
        }
        let mut all = 0;
        self.for_each_stream(|stream| {
            all += store::released(self.server, stream, self.group)?;
            Ok(())
        })?;
        Ok(all)
    }

    /// How many consumers the group has in the stream that has most.
    fn consumers(&self) -> Result<i64, Error> {
        if let Some(consumers) = self.with(|group| group.consumers).flatten() {
            return Ok(consumers);
        }
        let mut most = 0;
        self.for_each_stream(|stream| {
            let consumers = groups::consumers(self.server, stream, self.group)?;
            most = most.max(consumers.unwrap_or(i64::MAX));
            Ok(())
        })?;
        self.with(|group| group.consumers = Some(most));
        Ok(most)
    }

    fn for_each_stream(
        &self,
        mut look: impl FnMut(Str<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Self { server, queue, .. } = *self;
        let mut next = Some(Priority::LOWEST);
        while let Some(priority) = next {
            let stream = store::stream_of(server, queue, priority)?;
            if server.type_of(stream.borrow()) == Type::Stream {
                look(stream.borrow())?;
            }
            next = next_stream(server.db(), queue.bytes(), priority).map(|(next, _)| next);
        }
        Ok(())
    }

    /// Looks for what was given back, and finds it: all of it, or as much as there is in so many
    /// entries.
    pub fn find_released(&self) -> Result<(), Error> {
        const ENTRIES: usize = 4096;
        let moment = self.server.moment();
        let due = self.with(|group| {
            let due = group.release_due.is_some_and(|due| due <= moment);
            if due {
                group.release_due = Some(moment.after(RELEASED_EVERY));
            }
            due
        });
        let most = if due == Some(true) { CONSUMERS } else { FEW };
        let number = self.released(most)?;
        if number == 0 {
            return Ok(());
        }
        let begin = |group: &mut Group| (group.sweep, group.seen) = (Sweep::first(), None);
        // A walk that hurries goes on where it is, and begins again if that was not enough.
        let goes_on = self.with(|group| {
            let goes_on = group.sweep.hurries() && group.seen.is_some();
            if !goes_on {
                begin(group);
            }
            goes_on
        });
        let (mut is_whole, mut left) = (goes_on != Some(true), number);
        for _ in 0..ENTRIES / PAGE {
            let (found, finished) = self.step(true)?;
            left -= found;
            if left <= 0 || (finished && is_whole) {
                break;
            }
            if finished {
                self.with(begin);
                (is_whole, left) = (true, number);
            }
        }
        Ok(())
    }
}

/// How often is looked for what other clients have given back, where there are too many consumers
/// to do so each time.
const RELEASED_EVERY: Millis = Millis(500);

/// How many consumers a group may have for that to be done each time.
pub const FEW: i64 = 1_000;

/// The stream that follows that of a priority.
fn next_stream(db: i32, queue: &[u8], priority: Priority) -> Option<(Priority, Option<EntryId>)> {
    let streams = memory::with(db, queue, |known| known.streams)?;
    let mut above = Priority::ALL.into_iter().filter(|next| *next > priority);
    above.find(|next| streams.contains(*next)).map(|next| (next, None))
}

/// At most a page of the leases behind `last`: ids, and how long ago they began, in ms.
fn page(
    server: &Server,
    queue: Str<'_>,
    group: Str<'_>,
    priority: Priority,
    last: Option<EntryId>,
) -> Result<Vec<(EntryId, i64)>, Error> {
    let stream = store::stream_of(server, queue, priority)?;
    let w = words();
    let behind = last.map(|id| OwnedStr::new(format!("({id}").as_bytes()));
    let from = behind.as_ref().map_or(w.minimum(), OwnedStr::borrow);
    let count = OwnedStr::number(PAGE as i64);
    let args = [stream.borrow(), group, from, w.maximum(), count.borrow()];
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
    let lease =
        |lease: Element<'_>| Some((EntryId::parse(lease.at(0)?.bytes())?, lease.at(2)?.integer()));
    Ok(reply.root().elements().filter_map(lease).collect())
}

/// How long a consumer without leases must have been idle to be taken for gone, in ms.
const GONE: i64 = 3_600_000;

/// How often consumers that are gone are looked for.
const EVERY: Millis = Millis(600_000);

/// How many consumers a group may have for them to be looked at: the server tells of all of them or
/// of none, which takes it about 5 µs each.
const CONSUMERS: i64 = 10_000;

/// Drops consumers that are gone: names that no worker uses any more would pile up.
fn tidy(walk: &Walk<'_>) -> Result<(), Error> {
    let Walk { server, group, .. } = *walk;
    let now = server.moment();
    let due = walk.with(|group| {
        let due = group.tidy_due <= now;
        if due {
            group.tidy_due = now.after(EVERY);
            group.consumers = None;
        }
        due
    });
    if due != Some(true) {
        return Ok(());
    }
    walk.for_each_stream(|stream| match groups::consumers(server, stream, group)? {
        Some(consumers) if consumers <= CONSUMERS => drop_idle(server, stream, group),
        _ => Ok(()),
    })
}

/// Drops consumers of one stream.
fn drop_idle(server: &Server, stream: Str<'_>, group: Str<'_>) -> Result<(), Error> {
    let w = words();
    let reply = match server.call(c"XINFO", Mode::Read, &[w.consumers(), stream, group]) {
        Err(Error::Server(refused)) if refused.code() == "NOGROUP" => return Ok(()),
        other => other?,
    };
    let is_gone = |consumer: &Element<'_>| {
        let number = |field| consumer.field(field).map(Element::integer);
        number(b"pending".as_slice()) == Some(0) && number(b"idle") >= Some(GONE)
    };
    for consumer in reply.root().elements().filter(is_gone) {
        let name = OwnedStr::new(consumer.field(b"name").map_or(&[], Element::bytes));
        let args = [w.del_consumer(), stream, group, name.borrow()];
        server.call(c"XGROUP", Mode::Write, &args)?;
    }
    Ok(())
}
