//! LOCK.ACQUIRE

use super::holders::{Candidate, Stored};
use super::rules::{self, Holders, Mode, Verdict};
use super::stats::{self, Grant};
use super::{ACQUIRED, CONTENDED, evicted, line};
use crate::args::{Args, Argument, Patience};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Reply, Server, Str, Type};

/// `LOCK.ACQUIRE lock_name identifier ttl_ms [SHARED | LIMIT n] [BLOCK ms] [FENCE]` replies 1 and
/// makes `identifier` a holder for `ttl_ms` from the grant on, or 0. With FENCE it replies a
/// fencing token instead of 1.
///
/// Without options it is `SET NX`: 0 for everybody while the lock is held. With any option it can
/// be sent again safely: a holder that asks again is granted again. BLOCK waits in line; an
/// identifier that queues again takes over its own place, and its older request is answered 0.
pub struct Acquire;

/// The arguments of LOCK.ACQUIRE.
pub struct Request<'a> {
    candidate: Candidate<'a>,
    patience: Option<Patience>,
    /// No option was given.
    bare: bool,
}

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"lock.acquire",
        summary: c"Acquires a lock for the time of a lease, and waits in line for it if asked to.",
        complexity: c"O(1); O(log N) for a lock with N shared holders.",
        since: c"0.1.0",
        arity: -4,
        flags: c"write deny-oom fast blocking",
        categories: c"write string sortedset fast blocking",
        keys: &[Key { position: 1, access: Access::Insert }],
        legacy_keys: (1, 1, 1),
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
        ],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (name, identifier) = (args.name()?, args.filled("identifier")?);
        let ttl = args.lifetime()?.value;
        let bare = !args.more();
        let (mut mode, mut patience, mut fence) = (None, None, false);
        while let Some(option) = args.keyword() {
            if option.is("SHARED") && mode.is_none() {
                mode = Some(Mode::Shared);
            } else if option.is("LIMIT") && mode.is_none() {
                mode = Some(Mode::Limit(args.at_least(1)?.value as u64));
            } else if option.is("BLOCK") && patience.is_none() {
                patience = Some(args.patience()?);
            } else if option.is("FENCE") && !fence {
                fence = true;
            } else {
                return Err(Error::Syntax);
            }
        }
        if fence && mode.is_some() {
            return Err(Error::Syntax);
        }
        let mode = mode.unwrap_or(Mode::Exclusive);
        let candidate = Candidate { name, identifier, ttl, mode, fence };
        Ok(Request { candidate, patience, bare })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { candidate, patience, bare } = request;
        server.refuse_while_slot_moves(candidate.name)?;
        let key = server.key_of(Prefix::Lock, candidate.name)?;
        let key = key.borrow();
        let others_wait = line::serve_now(server, key);
        let evicted = evicted::until(server, key.bytes()).is_some();
        let stored = Stored::at(server, key);
        match server.type_of(key) {
            // What SET NX would do, and what it would say.
            Type::Absent if bare && !others_wait && !evicted => {
                stored.own(candidate.identifier, candidate.ttl)?;
                return Ok(granted(server, key, &candidate, true, Reply::Integer(1)));
            }
            Type::String if bare => return Ok(contended(server, key)),
            _ => {}
        }
        // A key of another type is not a lock that somebody will release.
        let held = stored.held(candidate.identifier)?;
        let holders = stored.holders()?;
        let verdict = if bare {
            // The key can hold ended leases only; then SET NX was refused for nothing.
            let free = holders == Holders::Free && !others_wait;
            if free { Verdict::Grant } else { Verdict::NotNow }
        } else {
            rules::acquire(holders, held, candidate.mode, others_wait)
        };
        match verdict {
            Verdict::OtherMode => Err(Error::OtherMode),
            Verdict::Grant => {
                let reply = stored.grant(&candidate)?;
                let reply = granted(server, key, &candidate, holders == Holders::Free, reply);
                // Its line now waits for the end of another lease.
                line::serve_now(server, key);
                Ok(reply)
            }
            Verdict::NotNow => {
                let refused = contended(server, key);
                match patience {
                    Some(patience) if server.may_block() => {
                        line::wait(server, key, &candidate, patience)
                    }
                    _ => Ok(refused),
                }
            }
        }
    }
}

/// The request is not granted now.
fn contended(server: &Server, key: Str<'_>) -> Reply<'static> {
    CONTENDED.add(1);
    stats::contended(server.db(), key.bytes());
    Reply::Integer(0)
}

fn granted(
    server: &Server,
    key: Str<'_>,
    candidate: &Candidate<'_>,
    was_free: bool,
    reply: Reply<'static>,
) -> Reply<'static> {
    ACQUIRED.add(1);
    // A request of the same identifier that still waits, or did a moment ago, is this one.
    line::withdraw(server, key, candidate.identifier);
    let identifier = candidate.identifier.bytes();
    let grant = Grant { identifier, now: server.moment(), waited: None, was_free };
    stats::granted(server.db(), key.bytes(), &grant);
    reply
}
