//! LOCK.RELEASE

use super::holders::Stored;
use super::rules::Held;
use super::{RELEASED, line, stats};
use crate::args::{Args, Argument};
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Reply, Server, Str};

/// `LOCK.RELEASE lock_name identifier` replies 1 and gives the lock up if `identifier` holds it,
/// else 0. The next in line hold it before the reply. A request of the same identifier that still
/// waits is withdrawn and answered 0. It works when memory is full.
pub struct Release;

/// The arguments of LOCK.RELEASE.
pub struct Request<'a> {
    name: Str<'a>,
    identifier: Str<'a>,
}

impl Command for Release {
    const SPEC: Spec = Spec {
        name: c"lock.release",
        summary: c"Releases a lock if the caller holds it, and withdraws its waiting request.",
        complexity: c"O(1), plus O(1) for each waiting client that is granted the lock; O(log N) \
                      for a lock with N shared holders.",
        since: c"0.1.0",
        arity: 3,
        flags: c"write fast",
        categories: c"write string sortedset fast",
        keys: &[Key { position: 1, access: Access::Delete }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"lock_name", 0), Arg::string(c"identifier")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        Ok(Request { name: args.name()?, identifier: args.filled("identifier")? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Request { name, identifier } = request;
        server.refuse_while_slot_moves(name)?;
        let key = server.key_of(Prefix::Lock, name)?;
        let key = key.borrow();
        let stored = Stored::at(server, key);
        let held = stored.held(identifier)?;
        stored.remove(identifier, held)?;
        line::withdraw(server, key, identifier);
        if held != Held::No {
            RELEASED.add(1);
            stats::released(server.db(), key.bytes(), identifier.bytes(), server.moment());
        }
        line::serve_now(server, key);
        Ok(Reply::Integer((held != Held::No).into()))
    }
}
