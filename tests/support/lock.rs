//! What a test of locks says often.

use super::client::Client;
use super::value::Value;

/// The error where the last fencing token cannot be followed by another.
pub const BAD_FENCE: &str = "ERR the last fencing token of this lock is not a valid token";

impl Client {
    /// The identifiers of the holders of a lock, in the order in which their leases end.
    #[track_caller]
    pub fn lock_holders(&mut self, name: &str) -> Vec<String> {
        let info = self.run(format!("LOCK.INFO {name}"));
        let id = |holder: &Value| holder.items()[0].as_str().to_owned();
        info.get("holders").items().iter().map(id).collect()
    }

    /// When the lease of a holder ends, in unix ms by the server's clock.
    #[track_caller]
    pub fn lease_end(&mut self, key: &str, identifier: &str) -> i64 {
        if self.cmd(&["TYPE", key]).as_str() == "string" {
            assert_eq!(self.cmd(&["GET", key]).as_str(), identifier);
            return self.cmd(&["PEXPIRETIME", key]).as_int();
        }
        let score = self.cmd(&["ZSCORE", key, identifier]);
        score.as_str().parse().unwrap_or_else(|_| panic!("{identifier} has no lease: {score:?}"))
    }

    /// The server's clock in unix ms.
    #[track_caller]
    pub fn time_ms(&mut self) -> i64 {
        self.run("TIME").unix_ms()
    }
}

impl Value {
    /// A reply of `TIME` in unix ms.
    #[track_caller]
    pub fn unix_ms(&self) -> i64 {
        let number = |part: usize| self.items()[part].as_str().parse::<i64>().expect("a number");
        number(0) * 1000 + number(1) / 1000
    }
}
