//! LOCK.EXTEND

use super::holders::Stored;
use super::line;
use super::rules::{self, Become, Extension, Held, Holders};
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Reply, Server, Str};
use crate::time::Millis;

/// `LOCK.EXTEND lock_name identifier ttl_ms [SHARED | EXCLUSIVE]` replies 1 and lets the lease end
/// `ttl_ms` from now if `identifier` still holds the lock, else 0. A lock that was lost is never
/// resurrected. SHARED turns an exclusive holder into a shared one; EXCLUSIVE turns the only shared
/// holder into an exclusive one, and never waits for others to leave.
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
        summary: c"Starts the lease of a lock anew if the caller still holds it, and can turn it \
                   from exclusive to shared or back.",
        complexity: c"O(1); O(log N) for a lock with N shared holders.",
        since: c"0.1.0",
        arity: -4,
        flags: c"write fast",
        categories: c"write string sortedset fast",
        keys: &[Key { position: 1, access: Access::Update }],
        legacy_keys: (1, 1, 1),
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
    };
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

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { name, identifier, ttl, to } = request;
        server.refuse_while_slot_moves(name)?;
        let key = server.key_of(Prefix::Lock, name)?;
        let key = key.borrow();
        let stored = Stored::at(server, key);
        let held = stored.held(identifier)?;
        // How many hold it matters for an upgrade only.
        let upgrades = held == Held::Shared && to == Become::Exclusive;
        let alone = upgrades && stored.holders()? == Holders::Shared(1);
        let extension = rules::extend(held, to, alone);
        match (extension, held) {
            (Extension::Refused, _) => return Ok(Reply::Integer(0)),
            (Extension::Renew, Held::Shared) => stored.share(identifier, ttl)?,
            (Extension::Renew, _) => stored.renew(ttl)?,
            (Extension::Downgrade, _) => stored.downgrade(identifier, ttl)?,
            (Extension::Upgrade, _) => stored.own(identifier, ttl)?,
        }
        // Readers join a writer that became one, and all wait for another deadline.
        line::serve_now(server, key);
        Ok(Reply::Integer(1))
    }
}
