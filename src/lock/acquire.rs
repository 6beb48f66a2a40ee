//! LOCK.ACQUIRE

use super::{ACQUIRED, CONTENDED};
use crate::args::{Args, Parsed};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Mode, Reply, Server, Str, Type, words};
use crate::time::Millis;

/// `LOCK.ACQUIRE lock_name identifier ttl_ms` replies 1 and makes `identifier` the holder for
/// `ttl_ms`, or 0 if anybody holds the lock, the same identifier too.
pub struct Acquire;

/// The arguments of LOCK.ACQUIRE.
pub struct Request<'a> {
    name: Str<'a>,
    identifier: Str<'a>,
    ttl: Parsed<Str<'a>, Millis>,
}

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"lock.acquire",
        summary: c"Acquires a lock for the time of a lease, unless it is held.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: -4,
        flags: c"write deny-oom fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Insert }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"lock_name", 0), Arg::string(c"identifier"), Arg::integer(c"ttl_ms")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        let (name, identifier) = (args.name()?, args.filled("identifier")?);
        Ok(Request { name, identifier, ttl: args.lifetime()? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        server.refuse_while_slot_moves(request.name)?;
        let key = server.key_of(Prefix::Lock, request.name)?;
        let args = [key.borrow(), request.identifier, words().nx(), words().px(), request.ttl.arg];
        let granted = !server.call(c"SET", Mode::Write, &args)?.root().is_null();
        if granted {
            ACQUIRED.add(1);
        } else {
            // A key of another type is not a lock that somebody will release.
            if !matches!(server.type_of(key.borrow()), Type::String | Type::Absent) {
                return Err(Error::WrongType);
            }
            CONTENDED.add(1);
        }
        Ok(Reply::Integer(granted.into()))
    }
}
