//! LOCK.EXTEND

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::lock::rules::{self, Become, Extension, Held, Holders};
use crate::lock::store::{Holding, Stored};
use crate::lock::{Cx, LOCK, line, ties};
use crate::names;
use crate::server::{Reply, Str};
use crate::time::Millis;

/// `LOCK.EXTEND lock_name identifier ttl_ms [SHARED | EXCLUSIVE]` renews the lease of a holder: it ends
/// `ttl_ms` from now, and the reply is 1. If `identifier` no longer holds the lock, the reply is 0 and
/// nothing changes. SHARED turns an exclusive holder into a shared one. EXCLUSIVE turns the only shared
/// holder into an exclusive one, and never waits for other holders to leave.
pub struct Extend;

/// The arguments of LOCK.EXTEND.
pub struct Request<'a> {
    name: Str<'a>,
    identifier: Str<'a>,
    ttl: Millis,
    to: Become,
}

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"lock.extend",
        summary:
            c"Renews the lease of a lock if the caller still holds it. Optionally turns it from \
                   exclusive to shared or back.",
        complexity: c"O(1); O(log N) for a lock with N shared holders.",
        arity: -4,
        flags: "write fast",
        types: "string sortedset",
        keys: &[Key { position: 1, access: Access::Update }],
        args: &[
            Arg::key(c"lock_name", 0),
            Arg::string(c"identifier"),
            Arg::integer(c"ttl_ms"),
            Arg::one_of(
                c"mode",
                &[Arg::keyword(c"shared", c"SHARED"), Arg::keyword(c"exclusive", c"EXCLUSIVE")],
            )
            .optional(),
        ],
        ..Spec::DEFAULT
    };
    type Family = crate::lock::Lock;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (name, identifier) = (args.name()?, args.filled("identifier")?);
        let ttl = args.lifetime()?.value;
        let to = match args.keyword() {
            None => Become::Same,
            Some(option) if option.is("SHARED") => Become::Shared,
            Some(option) if option.is("EXCLUSIVE") => Become::Exclusive,
            Some(_) => return Err(Error::Syntax),
        };
        Ok(Request { name, identifier, ttl, to })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let server = cx.server;
        let Request { name, identifier, ttl, to } = request;
        names::reject_moving_slot(server, name)?;
        let key = names::key_of(server, LOCK, name)?;
        let key = key.borrow();
        let stored = Stored::at(*cx, key);
        let holding = stored.find(identifier)?;
        let held = holding.held();
        // The number of holders matters for an upgrade only.
        let upgrades = held == Held::Shared && to == Become::Exclusive;
        let alone = upgrades && stored.holders()? == Holders::Shared(1);
        let extension = rules::extend(held, to, alone);
        match (extension, holding) {
            (Extension::Refused, _) => return Ok(Reply::Integer(0)),
            (Extension::Renew, Holding::Exclusive(lock)) => stored.renew(lock, ttl)?,
            (Extension::Downgrade, Holding::Exclusive(lock)) => {
                stored.downgrade(lock, identifier, ttl)?;
            }
            (Extension::Renew | Extension::Downgrade, _) => stored.share(identifier, ttl)?,
            (Extension::Upgrade, _) => stored.own(identifier, ttl)?,
        }
        ties::renewed(*cx, key, identifier, ttl);
        // Waiting readers can join after a downgrade, and every waiter has a new deadline.
        line::serve_now(*cx, key);
        Ok(Reply::Integer(1))
    }
}
