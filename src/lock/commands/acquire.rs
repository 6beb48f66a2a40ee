//! LOCK.ACQUIRE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::lock::rules::{self, Held, Holders, Mode, Verdict};
use crate::lock::stats::Grant;
use crate::lock::store::{Candidate, Stored};
use crate::lock::{Cx, LOCK, line, ties};
use crate::names;
use crate::server::{Reply, Str, Type};
use crate::time::Timeout;
use crate::waiting::connection;

/// `LOCK.ACQUIRE lock_name identifier ttl_ms [SHARED | LIMIT n] [BLOCK ms] [FENCE] [TIED]` makes
/// `identifier` a holder with a lease of `ttl_ms`, which begins with the grant. It replies 1, or a
/// fencing token with FENCE, or 0 if the lock is not granted.
///
/// Without options it behaves like `SET NX`: it replies 0 while the lock is held, to its holder too.
/// With any option it can be sent again safely: a holder that asks again is granted again. BLOCK waits
/// in line. An identifier that queues again takes over its own place, and its older request is
/// answered 0. With TIED, the lease also ends when the connection of the client closes.
pub struct Acquire;

/// The arguments of LOCK.ACQUIRE.
pub struct Request<'a> {
    candidate: Candidate<'a>,
    timeout: Option<Timeout>,
    /// The lease ends when the connection closes.
    tied: bool,
    /// No option was given.
    bare: bool,
}

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"lock.acquire",
        summary: c"Acquires a lock with a lease. Optionally waits in line for it.",
        complexity: c"O(1); O(log N) for a lock with N shared holders.",
        arity: -4,
        flags: "write deny-oom fast blocking",
        types: "string sortedset",
        keys: &[Key { position: 1, access: Access::Insert }],
        args: &[
            Arg::key(c"lock_name", 0),
            Arg::string(c"identifier"),
            Arg::integer(c"ttl_ms"),
            Arg::one_of(
                c"mode",
                &[Arg::keyword(c"shared", c"SHARED"), Arg::integer(c"n").after(c"LIMIT")],
            )
            .optional(),
            Arg::integer(c"block_ms").after(c"BLOCK").optional(),
            Arg::keyword(c"fence", c"FENCE").optional(),
            Arg::keyword(c"tied", c"TIED").optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::lock::Lock;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (name, identifier) = (args.name()?, args.filled("identifier")?);
        let ttl = args.lifetime()?.value;
        let bare = !args.more();
        let (mut mode, mut timeout, mut fence, mut tied) = (None, None, false, false);
        while let Some(option) = args.keyword() {
            if option.is("SHARED") && mode.is_none() {
                mode = Some(Mode::Shared);
            } else if option.is("LIMIT") && mode.is_none() {
                mode = Some(Mode::Limit(args.at_least(1)?.value as u64));
            } else if option.is("BLOCK") && timeout.is_none() {
                timeout = Some(args.timeout()?);
            } else if option.is("FENCE") && !fence {
                fence = true;
            } else if option.is("TIED") && !tied {
                tied = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        if fence && mode.is_some() {
            return Err(Error::Syntax);
        }
        let mode = mode.unwrap_or(Mode::Exclusive);
        let candidate = Candidate { name, identifier, ttl, mode, fence };
        Ok(Request { candidate, timeout, tied, bare })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let server = cx.server;
        let Request { candidate, timeout, tied, bare } = request;
        let client = if tied { Some(connection::connection(*cx)?) } else { None };
        names::reject_moving_slot(server, candidate.name)?;
        let key = names::key_of(server, LOCK, candidate.name)?;
        let key = key.borrow();
        let others_wait = line::serve_before(*cx, key);
        let stored = Stored::at(*cx, key);
        let lock = server.peek_key(key);
        let kind = lock.kind();
        match kind {
            // The fast path of the bare form, which behaves like SET NX.
            Type::Absent if bare && !others_wait && !stored.evicted() => {
                stored.own_quickly(lock, candidate.identifier, candidate.ttl)?;
                return Ok(granted(*cx, key, &candidate, None, true, Reply::Integer(1)));
            }
            Type::String if bare => return Ok(contended(*cx, key)),
            _ => drop(lock),
        }
        let held = match kind {
            Type::Absent => Held::No,
            _ => stored.held(candidate.identifier)?,
        };
        let holders = stored.holders_in(kind)?;
        let verdict = if bare {
            // If all leases at the key have expired, the lock is free after all.
            let free = holders == Holders::Free && !others_wait;
            if free { Verdict::Grant } else { Verdict::NotNow }
        } else {
            rules::acquire(holders, held, candidate.mode, others_wait)
        };
        match verdict {
            Verdict::OtherMode => Err(Error::OtherMode),
            Verdict::Grant => {
                let reply = stored.grant(&candidate)?;
                let was_free = holders == Holders::Free;
                let reply = granted(*cx, key, &candidate, client, was_free, reply);
                // The waiters now wait for the end of another lease.
                line::serve_now(*cx, key);
                Ok(reply)
            }
            Verdict::NotNow => {
                let refused = contended(*cx, key);
                match timeout {
                    Some(timeout) if server.may_block() => {
                        line::wait(*cx, key, &candidate, tied, timeout)
                    }
                    _ => Ok(refused),
                }
            }
        }
    }
}

/// The request is not granted now.
fn contended(cx: Cx<'_>, key: Str<'_>) -> Reply<'static> {
    cx.family.count_contended(cx.server.db(), key.bytes());
    Reply::Integer(0)
}

fn granted(
    cx: Cx<'_>,
    key: Str<'_>,
    candidate: &Candidate<'_>,
    client: Option<u64>,
    was_free: bool,
    reply: Reply<'static>,
) -> Reply<'static> {
    // An older request of this identifier that still waits is the same request.
    line::withdraw(cx, key, candidate.identifier);
    let identifier = candidate.identifier.bytes();
    ties::granted(cx, key.bytes(), identifier, candidate.ttl, client);
    let grant = Grant { identifier, now: cx.server.moment(), waited: None, was_free };
    cx.family.count_grant(cx.server.db(), key.bytes(), &grant);
    reply
}
