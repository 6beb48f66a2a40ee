//! The walk through what follows tasks by their original ids, page by page. It forgets the tasks that
//! other clients have ended: an entry that was deleted, or acknowledged by a plain client.

use super::following::Position;
use super::groups::Overviews;
use super::id::EntryId;
use super::locate::{self, Place};
use super::{Cx, MARKS, MOVED, held, life, marks, moved};
use crate::error::Error;
use crate::names::{self, Prefix};
use crate::server::{Mode, OwnedStr, Str, words};
use crate::time::Millis;

/// Fields in a page. A hash of a compact encoding is read as a whole.
const PAGE: usize = 128;

/// Reads the next page, if it is due. `lease` is how long a lease of the queue lasts, if it ends.
pub fn sweep(cx: Cx<'_>, queue: Str<'_>, lease: Option<Millis>) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let (db, name, now) = (server.db(), queue.bytes(), server.moment());
    if !life::traces(cx, queue)?.exist() {
        return Ok(());
    }
    let Some(position) = family.queues.traces_position(db, name, lease, now) else { return Ok(()) };
    let mut walk = Walk { cx, queue, overviews: Overviews::default() };
    let next = match position {
        Position::Moved(cursor) => match walk.moved_page(cursor)? {
            0 => Some(Position::Marks(0)),
            next => Some(Position::Moved(next)),
        },
        Position::Marks(cursor) => match walk.marks_page(cursor)? {
            0 => Some(Position::Held(0)),
            next => Some(Position::Marks(next)),
        },
        Position::Held(order) => walk.held_page(order)?.map(Position::Held),
    };
    family.queues.trace_page_read(db, name, next, lease, now);
    Ok(())
}

/// One page of the walk.
struct Walk<'a> {
    cx: Cx<'a>,
    queue: Str<'a>,
    overviews: Overviews,
}

/// A page of a hash: its fields and values, and the cursor of the next page; 0 if there is none.
type Page = (Vec<(Vec<u8>, Vec<u8>)>, u64);

impl Walk<'_> {
    /// A page of a hash.
    fn page(&self, key: Str<'_>, position: u64) -> Result<Page, Error> {
        let server = self.cx.server;
        if !server.peek_key(key).is_hash() {
            return Ok((Vec::new(), 0));
        }
        let cursor = OwnedStr::new(position.to_string().as_bytes());
        let count = OwnedStr::number(PAGE as i64);
        let args = [key, cursor.borrow(), words().count(), count.borrow()];
        let page = server.call(c"HSCAN", Mode::Read, &args)?;
        let next = page.root().at(0).and_then(|cursor| std::str::from_utf8(cursor.bytes()).ok());
        let next = next.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let fields = page.root().at(1).into_iter().flat_map(|fields| fields.pairs());
        Ok((fields.map(|(field, value)| (field.to_vec(), value.to_vec())).collect(), next))
    }

    fn key(&self, prefix: Prefix) -> Result<OwnedStr, Error> {
        names::key_of(self.cx.server, prefix, self.queue)
    }

    /// Removes the fields of tasks that have ended, and those that are no ids.
    fn moved_page(&mut self, position: u64) -> Result<u64, Error> {
        let key = self.key(MOVED)?;
        let (fields, next) = self.page(key.borrow(), position)?;
        let mut gone = Vec::new();
        for (original, present) in fields {
            let present = EntryId::parse(&present).filter(|_| EntryId::parse(&original).is_some());
            let lives = match present {
                None => false,
                Some(present) => {
                    match locate::present(self.cx, self.queue, present, &mut self.overviews) {
                        Ok(found) => found.is_some(),
                        // A key of another type, or too many groups: nothing can be said.
                        Err(_) => true,
                    }
                }
            };
            if !lives {
                gone.push(OwnedStr::new(&original));
            }
        }
        moved::remove(self.cx, self.queue, key.borrow(), &gone)?;
        Ok(next)
    }

    /// Where a task is; an error if nothing can be said.
    fn find(&mut self, original: EntryId) -> Result<Option<Place>, Error> {
        let found = locate::find(self.cx, self.queue, original, &mut self.overviews)?;
        Ok(found.map(|found| found.place))
    }

    /// Ends the marks of tasks that have ended, and those that end with the first delivery of tasks that
    /// are leased.
    fn marks_page(&mut self, position: u64) -> Result<u64, Error> {
        let key = self.key(MARKS)?;
        let (fields, next) = self.page(key.borrow(), position)?;
        let (mut ended, mut started, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (field, _) in fields {
            match EntryId::parse(&field) {
                None => unknown.push(OwnedStr::new(&field)),
                Some(original) => match self.find(original) {
                    Ok(None) => ended.push(original),
                    Ok(Some(Place::Leased(_))) => started.push(original),
                    _ => {}
                },
            }
        }
        marks::forget(self.cx, self.queue, key.borrow(), &unknown)?;
        marks::started(self.cx, self.queue, &started)?;
        marks::end(self.cx, self.queue, &ended)?;
        Ok(next)
    }

    /// Lets the held tasks enter that nothing keeps any more. Returns where the next page begins.
    fn held_page(&mut self, order: u64) -> Result<Option<u64>, Error> {
        let members = held::page(self.cx.server, self.queue, order, PAGE)?;
        for (member, _) in &members {
            let member = member.borrow();
            let group = held::group_of(member.bytes());
            let Some(held) = held::decode(member.bytes(), group.as_deref()) else { continue };
            if let Ok(None) = self.find(held.after) {
                let _ = held::enter(self.cx, self.queue, member);
            }
        }
        let last = members.last().filter(|_| members.len() >= PAGE);
        Ok(last.and_then(|(_, order)| order.checked_add(1)))
    }
}
