//! Loads whose lease ends when the connection of the loader closes. A tie stands for the value and the
//! token of its newest lease. Only the lease ends: what the loader stores with its token afterwards,
//! over another connection, is still accepted.

use super::rules::Token;
use super::{Cache, Cx};
use crate::time::UnixMs;
use crate::waiting::{Tie, TieKey, connection};

/// A value, and the token of the lease of its loader.
pub struct Tied {
    /// The value.
    pub key: Box<[u8]>,
    /// The token.
    pub token: Token,
}

fn key_of(family: &Cache, db: i32, key: &[u8]) -> TieKey {
    family.queue.ties.key((db, key))
}

/// A lease was given out. It is tied to this client, or to none.
pub fn lent(cx: Cx<'_>, key: &[u8], token: Token, end: UnixMs, client: Option<u64>) {
    let Cx { server, family } = cx;
    let Some(client) = client else { return ended(cx, key) };
    let (db, lease) = (server.db(), Tied { key: key.into(), token });
    connection::tie(cx, key_of(family, db, key), Tie { client, db, end, lease });
}

/// The newest lease ends at another time.
pub fn extended(cx: Cx<'_>, key: &[u8], end: UnixMs) {
    let ties = &cx.family.queue.ties;
    if !ties.is_empty() {
        ties.renew(key_of(cx.family, cx.server.db(), key), end);
    }
}

/// Nobody loads the value.
pub fn ended(cx: Cx<'_>, key: &[u8]) {
    let ties = &cx.family.queue.ties;
    if !ties.is_empty() {
        ties.remove(key_of(cx.family, cx.server.db(), key));
    }
}
