//! LOCK.RELEASE

use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::lock::store::Stored;
use crate::lock::{Cx, LOCK, line, ties};
use crate::names;
use crate::server::{Reply, Str};

/// `LOCK.RELEASE lock_name identifier` releases the lock and replies 1 if `identifier` holds it, else
/// it replies 0. The next waiter holds the lock before the reply is sent. A waiting request of the same
/// identifier is withdrawn and answered 0. It works when memory is full.
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
        arity: 3,
        flags: "write fast",
        types: "string sortedset",
        keys: &[Key { position: 1, access: Access::Delete }],
        args: &[Arg::key(c"lock_name", 0), Arg::string(c"identifier")],
        ..Spec::DEFAULT
    };
    type Family = crate::lock::Lock;
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        Ok(Request { name: args.name()?, identifier: args.filled("identifier")? })
    }

    fn run<'a>(request: Request<'a>, cx: &'a Cx<'a>) -> Result<Reply<'a>, Error> {
        let Cx { server, family } = *cx;
        let Request { name, identifier } = request;
        names::reject_moving_slot(server, name)?;
        let key = names::key_of(server, LOCK, name)?;
        let key = key.borrow();
        let stored = Stored::at(*cx, key);
        let holding = stored.find(identifier)?;
        let held = holding.held();
        stored.remove(identifier, holding)?;
        ties::ended(*cx, key.bytes(), identifier.bytes());
        line::withdraw(*cx, key, identifier);
        if held.is_held() {
            let now = server.moment();
            family.count_release(server.db(), key.bytes(), identifier.bytes(), now);
        }
        line::serve_now(*cx, key);
        Ok(Reply::Integer(held.is_held().into()))
    }
}
