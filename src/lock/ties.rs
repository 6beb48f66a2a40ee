//! Holders whose lease ends when their connection closes. A tie stands for a lock and an identifier,
//! however it holds the lock, and goes with a release or with a grant to that identifier.

use super::store::Stored;
use super::{Cx, Lock};
use crate::error::Error;
use crate::server::{OwnedStr, Str};
use crate::time::Millis;
use crate::waiting::{Tie, TieKey, connection};

/// The key of a lock and the identifier of a holder, in one piece of memory.
pub struct Tied {
    text: Box<[u8]>,
    key_len: u32,
}

impl Tied {
    fn new(key: &[u8], identifier: &[u8]) -> Option<Self> {
        let key_len = u32::try_from(key.len()).ok()?;
        Some(Self { text: [key, identifier].concat().into(), key_len })
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at_checked(self.key_len as usize).unwrap_or_default()
    }
}

fn key_of(family: &Lock, db: i32, key: &[u8], identifier: &[u8]) -> TieKey {
    family.queue.ties.key((db, key, identifier))
}

/// An identifier was granted the lock at `key`. Its lease is tied to this client, or to none.
pub fn granted(cx: Cx<'_>, key: &[u8], identifier: &[u8], ttl: Millis, client: Option<u64>) {
    let Cx { server, family } = cx;
    let Some(client) = client else { return ended(cx, key, identifier) };
    let db = server.db();
    if let Some(lease) = Tied::new(key, identifier) {
        let tie = Tie { client, db, end: server.now() + ttl, lease };
        connection::tie(cx, key_of(family, db, key, identifier), tie);
    }
}

/// The lease of an identifier was renewed.
pub fn renewed(cx: Cx<'_>, key: Str<'_>, identifier: Str<'_>, ttl: Millis) {
    let Cx { server, family } = cx;
    let ties = &family.queue.ties;
    if !ties.is_empty() {
        let key = key_of(family, server.db(), key.bytes(), identifier.bytes());
        ties.renew(key, server.now() + ttl);
    }
}

/// An identifier holds the lock no more, or not with this lease.
pub fn ended(cx: Cx<'_>, key: &[u8], identifier: &[u8]) {
    let ties = &cx.family.queue.ties;
    if !ties.is_empty() {
        ties.remove(key_of(cx.family, cx.server.db(), key, identifier));
    }
}

/// The connection of a holder has closed: if it still holds the lock, it is removed.
///
/// While the slot of the lock migrates, its key is either here or on the other node, where this one can
/// do nothing.
pub fn end(cx: Cx<'_>, tied: &Tied) -> Result<(), Error> {
    let Cx { server, family } = cx;
    let (key, identifier) = tied.parts();
    let (lock_key, holder) = (OwnedStr::new(key), OwnedStr::new(identifier));
    let stored = Stored::at(cx, lock_key.borrow());
    let holding = stored.find(holder.borrow())?;
    if !holding.held().is_held() {
        return Ok(());
    }
    stored.remove(holder.borrow(), holding)?;
    family.count_disconnect(server.db(), key, identifier, server.moment());
    family.queue.lines.mark_dirty(server.db(), key);
    Ok(())
}
