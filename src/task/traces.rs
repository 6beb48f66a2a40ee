//! The walk through what follows tasks by their original ids, page by page. It forgets the tasks that
//! other clients have ended: an entry that was deleted, or acknowledged by a plain client.

use super::groups::Overviews;
use super::id::EntryId;
use super::{Cx, MOVED, life, locate, moved};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Str, words};
use crate::time::Millis;

/// Fields in a page. A hash of a compact encoding is read as a whole.
const PAGE: i64 = 128;

/// Reads the next page, if it is due. `lease` is how long a lease of the queue lasts, if it ends.
pub fn sweep(cx: Cx<'_>, queue: Str<'_>, lease: Option<Millis>) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let (db, name, now) = (server.db(), queue.bytes(), server.moment());
    if !life::traces(cx, queue)?.exist() {
        return Ok(());
    }
    let Some(position) = family.queues.traces_position(db, name, lease, now) else { return Ok(()) };
    let next = moved_page(cx, queue, position)?;
    family.queues.trace_page_read(db, name, next, lease, now);
    Ok(())
}

/// Removes the fields of tasks that have ended, and those that are no ids. Returns where the next page
/// begins.
fn moved_page(cx: Cx<'_>, queue: Str<'_>, position: u64) -> Result<u64, Error> {
    let server = cx.server;
    let key = names::key_of(server, MOVED, queue)?;
    let key = key.borrow();
    if !server.peek_key(key).is_hash() {
        return Ok(0);
    }
    let cursor = OwnedStr::new(position.to_string().as_bytes());
    let count = OwnedStr::number(PAGE);
    let args = [key, cursor.borrow(), words().count(), count.borrow()];
    let page = server.call(c"HSCAN", Mode::Read, &args)?;
    let next = page.root().at(0).and_then(|cursor| std::str::from_utf8(cursor.bytes()).ok());
    let next = next.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let (mut gone, mut overviews) = (Vec::new(), Overviews::default());
    for (original, present) in page.root().at(1).into_iter().flat_map(|fields| fields.pairs()) {
        let present = EntryId::parse(present).filter(|_| EntryId::parse(original).is_some());
        let lives = match present {
            None => false,
            Some(present) => match locate::present(cx, queue, present, &mut overviews) {
                Ok(found) => found.is_some(),
                // A key of another type, or too many groups: nothing can be said.
                Err(_) => true,
            },
        };
        if !lives {
            gone.push(OwnedStr::new(original));
        }
    }
    moved::remove(cx, queue, key, &gone)?;
    Ok(next)
}
