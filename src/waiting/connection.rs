//! Leases that end when the connection of their client closes: what the server reports of
//! connections, and the timer that ends the leases. [`super::ties`] is the table of them.
//!
//! The server reports a disconnect in the middle of freeing the client, where nothing may be written.
//! So the leases are ended by the timer, a bounded number at a time.

use super::ties::{Added, MOST_TIES, Tie, TieKey};
use super::{AFTER_REFUSAL, Waiting, schedule};
use crate::context::Context;
use crate::error::Error;
use crate::server::guard::log;

/// How many leases one run of the timer ends before the server attends to its other clients.
const ENDED_AT_ONCE: usize = 128;

/// How many ties of leases whose time has passed are dropped with each new one.
const DROPPED_AT_ONCE: usize = 4;

/// How many of them are dropped at least, and looked up at most, at each of the server's periodic
/// events.
const DROPPED_PERIODICALLY: usize = 1024;
const LOOKED_UP_PERIODICALLY: usize = 64;

/// The calling client if leases can be tied to its connection. Nothing is changed before this is known.
pub fn connection<F: Waiting>(cx: Context<'_, F>) -> Result<u64, Error> {
    let client = cx.server.connection().ok_or(Error::NoConnection)?;
    cx.server.subscribe_to_disconnects()?;
    Ok(client)
}

/// Ties a lease to a client.
pub fn tie<F: Waiting>(cx: Context<'_, F>, key: TieKey, tie: Tie<F::Tied>) {
    let Context { server, family } = cx;
    let queue = family.queue();
    queue.ties.drop_ended(server.now(), DROPPED_AT_ONCE, |tie| family.is_over(tie));
    match queue.ties.add(key, tie) {
        Added::Tied => {}
        Added::Broken => schedule(cx),
        Added::Full => {
            if !queue.logged_too_many_ties.replace(true) {
                let text = format!(
                    "{MOST_TIES} leases of a family are tied to connections, which is the maximum. \
                     Others end by their time only. Logged once."
                );
                log(c"warning", &text);
            }
        }
    }
}

/// The connection of a client has closed. Writes nothing.
pub fn client_gone<F: Waiting>(cx: Context<'_, F>, client: u64) {
    if cx.family.queue().ties.disconnect(client) {
        schedule(cx);
    }
}

/// The timer's part: ends leases whose client is gone. One for which the server refuses to write now
/// is tried again a little later.
pub(super) fn end_broken<F: Waiting>(cx: Context<'_, F>) {
    let Context { server, family } = cx;
    let ties = &family.queue().ties;
    let now = server.moment();
    let mut refused = Vec::new();
    for _ in 0..ENDED_AT_ONCE {
        let Some((key, tie)) = ties.next_broken(now) else { break };
        server.select(tie.db);
        if F::end_tied(cx, &tie).is_err_and(|error| error.passes()) {
            refused.push((key, tie));
        }
    }
    if !refused.is_empty() {
        ties.put_back(refused, now + AFTER_REFUSAL);
    }
}

/// The server's periodic event: drops ties of leases whose time has passed. Writes nothing.
pub fn drop_ended<F: Waiting>(cx: Context<'_, F>) {
    let Context { server, family } = cx;
    let (ties, now) = (&family.queue().ties, server.now());
    if ties.is_empty() {
        return;
    }
    let db = server.db();
    ties.drop_ended(now, DROPPED_PERIODICALLY, |tie| family.is_over(tie));
    for _ in 0..LOOKED_UP_PERIODICALLY {
        ties.drop_ended(now, DROPPED_AT_ONCE, |tie| family.is_over(tie));
        let Some((key, tie)) = ties.take_ended(now) else { break };
        server.select(tie.db);
        if let Some(end) = F::runs_until(cx, &tie) {
            ties.add(key, Tie { end, ..tie });
        }
    }
    // Other events get the same context.
    server.select(db);
}
