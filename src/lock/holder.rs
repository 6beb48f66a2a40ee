//! Who holds a lock.

use crate::args::Argument;
use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Mode, OwnedStr, Server, Str};

/// The key of a lock that `identifier` holds now, else `None`. Refused while the lock's slot moves.
pub fn held_by(
    server: &Server,
    name: Str<'_>,
    identifier: Str<'_>,
) -> Result<Option<OwnedStr>, Error> {
    server.refuse_while_slot_moves(name)?;
    let key = server.key_of(Prefix::Lock, name)?;
    let holds = {
        let holder = server.call(c"GET", Mode::Read, &[key.borrow()])?;
        !holder.root().is_null() && holder.root().bytes() == identifier.bytes()
    };
    Ok(holds.then_some(key))
}
