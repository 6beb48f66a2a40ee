//! `taskmarks:{stream}`: a hash from the original id of a task that was published with UNTIL or LAST to
//! its mark ([`super::mark`]). A mark goes with its task, whatever ends it. The deduplication window
//! goes as well, if the mark says so and it is still the window of this task. The task that was held
//! until then enters the queue.

use super::hash::{self, text};
use super::id::EntryId;
use super::mark::{Mark, Until};
use super::{Cx, MARKS, held, unique_key};
use crate::error::Error;
use crate::names;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::UnixMs;

/// The key, if it exists and is a hash.
fn key(server: &Server, queue: Str<'_>) -> Result<Option<OwnedStr>, Error> {
    let key = names::key_of(server, MARKS, queue)?;
    let is_hash = server.peek_key(key.borrow()).is_hash();
    Ok(is_hash.then_some(key))
}

/// Returns WRONGTYPE if the key exists and is not a hash.
pub fn check(server: &Server, queue: Str<'_>) -> Result<(), Error> {
    let key = names::key_of(server, MARKS, queue)?;
    let open = server.peek_key(key.borrow());
    if open.exists() && !open.is_hash() { Err(Error::WrongType) } else { Ok(()) }
}

/// Stores the mark of a task.
pub fn set(cx: Cx<'_>, queue: Str<'_>, original: EntryId, mark: &Mark<'_>) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let key = names::key_of(server, MARKS, queue)?;
    hash::set(server, key.borrow(), &[text(original), OwnedStr::new(&mark.encode())])?;
    family.queues.set_marks(server.db(), queue.bytes(), true);
    Ok(())
}

/// The stored values of the marks of these tasks.
fn values(
    server: &Server,
    key: Str<'_>,
    originals: &[EntryId],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    hash::values(server, key, originals.iter().copied(), |value| Some(value.to_vec()))
}

/// The stored value of the mark of a task.
pub fn value(cx: Cx<'_>, queue: Str<'_>, original: EntryId) -> Result<Option<Vec<u8>>, Error> {
    match key(cx.server, queue)? {
        Some(key) => Ok(values(cx.server, key.borrow(), &[original])?.pop().flatten()),
        None => Ok(None),
    }
}

/// Tasks have ended. Those that were held until then enter the queue; one that cannot enter yet stays
/// held, and the sweep tries again.
pub fn end(cx: Cx<'_>, queue: Str<'_>, originals: &[EntryId]) -> Result<(), Error> {
    let server = cx.server;
    let Some(key) = key(server, queue)?.filter(|_| !originals.is_empty()) else { return Ok(()) };
    let values = values(server, key.borrow(), originals)?;
    let mut gone = Vec::new();
    for (original, value) in originals.iter().zip(values) {
        let Some(value) = value else { continue };
        gone.push(text(*original));
        let Some(mark) = Mark::parse(&value) else { continue };
        if mark.ends_with_task() {
            end_window(cx, queue, *original, &mark)?;
        }
        if let Some(successor) = mark.successor
            && let Some(member) = held::find(server, queue, successor)?
        {
            let _ = held::enter(cx, queue, member.borrow());
        }
    }
    forget(cx, queue, key.borrow(), &gone)
}

/// Tasks were delivered for the first time. Windows with `UNTIL START` end.
pub fn started(cx: Cx<'_>, queue: Str<'_>, originals: &[EntryId]) -> Result<(), Error> {
    let server = cx.server;
    let Some(key) = key(server, queue)?.filter(|_| !originals.is_empty()) else { return Ok(()) };
    let mut gone = Vec::new();
    for (original, value) in originals.iter().zip(values(server, key.borrow(), originals)?) {
        let mark = value.as_deref().and_then(Mark::parse);
        if let Some(mark) = mark.filter(|mark| mark.until == Until::Start) {
            end_window(cx, queue, *original, &mark)?;
            gone.push(text(*original));
        }
    }
    forget(cx, queue, key.borrow(), &gone)
}

/// Ends the window of a task, unless it is that of another one by now.
fn end_window(cx: Cx<'_>, queue: Str<'_>, original: EntryId, mark: &Mark<'_>) -> Result<(), Error> {
    let unique = OwnedStr::new(mark.unique);
    let window = unique_key(cx.server, queue, unique.borrow())?;
    if holder(cx.server, window.borrow())?.is_some_and(|(holder, _)| holder == original) {
        cx.server.peek_key(window.borrow()).delete()?;
    }
    Ok(())
}

/// The task that a window stands for, and when the window ends.
pub fn holder(
    server: &Server,
    window: Str<'_>,
) -> Result<Option<(EntryId, Option<UnixMs>)>, Error> {
    let (kind, end) = {
        let key = server.peek_key(window);
        (key.kind(), key.deadline())
    };
    if kind != Type::String {
        return Ok(None);
    }
    let found = server.call(c"GET", Mode::Read, &[window])?;
    Ok(EntryId::parse(found.root().bytes()).map(|holder| (holder, end)))
}

/// A held task is removed while the task before it lives: the window is that of the latter again.
pub fn successor_gone(
    cx: Cx<'_>,
    queue: Str<'_>,
    after: EntryId,
    gone: EntryId,
) -> Result<(), Error> {
    let server = cx.server;
    let Some(value) = value(cx, queue, after)? else { return Ok(()) };
    let Some(mark) = Mark::parse(&value).filter(|mark| mark.successor == Some(gone)) else {
        return Ok(());
    };
    let unique = OwnedStr::new(mark.unique);
    let window = unique_key(server, queue, unique.borrow())?;
    if let Some((holder, Some(end))) = holder(server, window.borrow())?
        && holder == gone
    {
        let (id, end) = (text(after), server.time(end));
        let args = [window.borrow(), id.borrow(), words().pxat(), end.borrow()];
        server.call(c"SET", Mode::Write, &args)?;
    }
    set(cx, queue, after, &Mark { successor: None, ..mark })
}

/// Removes the marks of tasks that are named by their ids.
pub fn forget(cx: Cx<'_>, queue: Str<'_>, key: Str<'_>, gone: &[OwnedStr]) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let exists = hash::remove(cx.server, key, gone)?;
    cx.family.queues.set_marks(cx.server.db(), queue.bytes(), exists);
    Ok(())
}
