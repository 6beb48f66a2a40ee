//! The loader's lease on a cached value.

use crate::error::Error;
use crate::keys::Prefix;
use crate::server::{Mode, OwnedStr, Server, Str, Type, words};
use crate::time::Millis;

/// The key of the lease on a cached value, and whether it is leased now.
pub struct Lease {
    key: OwnedStr,
    leased: bool,
}

impl Lease {
    /// Looks at the lease on `key`. Refused while its slot moves, and if the value or the lease is
    /// of a foreign type.
    pub fn of(server: &Server, key: Str<'_>) -> Result<Self, Error> {
        server.refuse_while_slot_moves(key)?;
        let lease = server.key_of(Prefix::CacheLock, key)?;
        let types = (server.type_of(key), server.type_of(lease.borrow()));
        match types {
            (Type::Absent | Type::String, Type::Absent) => Ok(Self { key: lease, leased: false }),
            (Type::Absent | Type::String, Type::String) => Ok(Self { key: lease, leased: true }),
            _ => Err(Error::WrongType),
        }
    }

    /// Takes the lease for `span`. False if somebody has it.
    pub fn take(&self, server: &Server, span: Millis) -> Result<bool, Error> {
        if self.leased {
            return Ok(false);
        }
        let token = server.now().0.saturating_mul(1000);
        let record = OwnedStr::new(format!("loading {token}").as_bytes());
        let span = OwnedStr::number(span.0);
        let args = [self.key.borrow(), record.borrow(), words().px(), span.borrow()];
        server.call(c"SET", Mode::Write, &args)?;
        Ok(true)
    }

    /// Ends the lease.
    pub fn end(&self, server: &Server) -> Result<(), Error> {
        if self.leased {
            server.call(c"DEL", Mode::Write, &[self.key.borrow()])?;
        }
        Ok(())
    }
}
