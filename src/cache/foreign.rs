//! What other clients do to cached values, and expiries. A keyspace event only marks the value, since
//! nothing can be written in the middle of another client's command. The timer removes records that
//! no longer count, and has the waiters served.

use super::Cx;
use super::record;
use super::store::Stored;
use super::tokens::Change;
use crate::server::events::KeyEvent;
use crate::server::{Mode, OwnedStr};
use crate::waiting;

/// Another client, or an expiry, has changed a key.
pub fn key_changed(cx: Cx<'_>, event: KeyEvent<'_>) {
    let Cx { server, family } = cx;
    let db = server.db();
    if event.own || !family.tokens.is_known(db, event.key) {
        return;
    }
    let change = match event.name {
        b"expired" => Change::Expired,
        b"evicted" => Change::Evicted,
        b"expire" | b"persist" => {
            let key = OwnedStr::new(event.key);
            Change::Deadline(server.peek_key(key.borrow()).deadline())
        }
        _ => Change::Written,
    };
    if family.tokens.change(db, event.key, change, server.now(), server.moment()) {
        waiting::schedule(cx);
    }
}

/// The timer's part: checks the values that have changed, a bounded number of them. The others, and
/// those for which the server refuses to write, are checked later.
pub fn check_changed(cx: Cx<'_>) {
    const AT_ONCE: usize = 128;
    let Cx { server, family } = cx;
    for _ in 0..family.tokens.changed().min(AT_ONCE) {
        let Some((db, name, void)) = family.tokens.next_changed() else { continue };
        server.select(db);
        let key = OwnedStr::new(&name);
        let key = key.borrow();
        if void {
            if record::remove_void(cx, key).is_err() {
                // The record is still there, and as void as before.
                family.tokens.check_later(db, &name, server.moment());
                continue;
            }
            // Waiters get the value that was written. If it was deleted, the first one loads.
            let written = || Stored::read(cx, key)?.watch().copy();
            if family.waiters(db, &name) > 0
                && let Ok(Some(value)) = written()
            {
                family.hand_out(db, &name, value);
            }
        } else if let Ok(stored) = Stored::read(cx, key)
            && stored.watch().keep_mark(Mode::Write).is_err()
        {
            family.tokens.check_later(db, &name, server.moment());
        }
        family.queue.lines.mark_dirty(db, &name);
    }
}
