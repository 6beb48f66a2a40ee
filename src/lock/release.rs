//! LOCK.RELEASE

use super::RELEASED;
use super::holder::held_by;
use crate::args::Args;
use crate::command::{Access, Arg, Command, Key, Spec};
use crate::error::Error;
use crate::server::{Mode, Reply, Server, Str};

/// `LOCK.RELEASE lock_name identifier` replies 1 and frees the lock if `identifier` holds it,
/// else 0. It works when memory is full.
pub struct Release;

/// The arguments of LOCK.RELEASE.
pub struct Request<'a> {
    name: Str<'a>,
    identifier: Str<'a>,
}

impl Command for Release {
    const SPEC: Spec = Spec {
        name: c"lock.release",
        summary: c"Releases a lock, if the caller holds it.",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 3,
        flags: c"write fast",
        categories: c"write string fast",
        keys: &[Key { position: 1, access: Access::Delete }],
        legacy_keys: (1, 1, 1),
        args: &[Arg::key(c"lock_name", 0), Arg::string(c"identifier")],
    };
    type Request<'a> = Request<'a>;

    fn parse<'a>(args: &mut Args<'a>) -> Result<Request<'a>, Error> {
        Ok(Request { name: args.name()?, identifier: args.filled("identifier")? })
    }

    fn run<'a>(request: Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error> {
        let Some(key) = held_by(server, request.name, request.identifier)? else {
            return Ok(Reply::Integer(0));
        };
        let released = server.call(c"DEL", Mode::Write, &[key.borrow()])?.root().integer();
        RELEASED.add(released as u64);
        Ok(Reply::Integer(released))
    }
}
