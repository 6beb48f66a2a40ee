//! Every error reply of the module.
//!
//! An error text is ASCII, begins with its code and never repeats what the caller sent.

use std::fmt;

/// The error reply of a command. A command that returns an error has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An unknown argument, or one that is missing after an option.
    #[error("ERR syntax error")]
    Syntax,
    /// A name, identifier, group or consumer of length 0.
    #[error("ERR {0} must not be empty")]
    Empty(&'static str),
    /// Not a decimal signed 64-bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// A count below its minimum.
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    /// A number outside its range.
    #[error("ERR value is out of range")]
    OutOfRange,
    /// A time to live, lease or wait that is below 1, or that ends too far in the future.
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(&'static str),
    /// A wait below 0.
    #[error("ERR timeout is negative")]
    NegativeTimeout,
    /// The identifier holds the lock already, in another mode.
    #[error("ERR identifier holds this lock in another mode")]
    OtherMode,
    /// The stored fencing token is not a number below 2^53.
    #[error("ERR the last fencing token of this lock is not a valid token")]
    Fence,
    /// Not an entry id of the form `<ms>-<seq>`.
    #[error("ERR Invalid stream ID specified as stream command argument")]
    StreamId,
    /// The key holds a value of another type.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    /// The stream exists and the named group does not.
    #[error("NOGROUP No such consumer group for this stream")]
    NoGroup,
    /// The server has no memory left for what the command would store.
    #[error("OOM command not allowed when used memory > 'maxmemory'")]
    OutOfMemory,
    /// The queue holds as many tasks as its policy allows.
    #[error("TASKFULL the queue holds as many tasks as its policy allows")]
    TaskFull,
    /// The stream has the maximum number of consumer groups, or more.
    #[error("TASKGROUPS the stream has as many consumer groups as corral.task-groups allows")]
    TaskGroups,
    /// The queue has several consumer groups, so a task has no single state.
    #[error("ERR this needs a queue with at most one consumer group")]
    OneGroup,
    /// The queue has several consumer groups, and the state of a task differs between them.
    #[error("ERR the queue has several consumer groups, so GROUP must name one")]
    NameGroup,
    /// FIELDS names a field that a task, a copy or a dead letter has itself.
    #[error("ERR FIELDS names a field that tasks have themselves")]
    ReservedField,
    /// FIELDS names a field twice.
    #[error("ERR FIELDS names a field twice")]
    RepeatedField,
    /// The names and values of FIELDS are too long.
    #[error("ERR FIELDS takes at most 65536 bytes")]
    FieldBytes,
    /// More ids than one call takes.
    #[error("ERR a call takes at most 1024 ids")]
    TooManyIds,
    /// A queue that keeps finished tasks cannot be limited: it would never have room again.
    #[error("ERR LIMIT and KEEP 1 exclude each other")]
    LimitAndKeep,
    /// Dead letters would be moved to their own stream.
    #[error("ERR dead_stream and stream are the same")]
    SameStream,
    /// The name has keys in no single slot, see [`crate::names::derive`].
    #[error("ERR name cannot be used in cluster mode: '}}' outside a hash tag")]
    NameInCluster,
    /// The names of one call lie in different slots of a cluster.
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    /// The slot of the name is being moved between nodes; the client retries.
    #[error("TRYAGAIN The slot of this name is being moved to another node")]
    SlotMoves,
    /// A lease was to be tied to the connection of a caller that has none: a script, a function or
    /// another module.
    #[error("ERR TIED needs a connection")]
    NoConnection,
    /// The client's user lost the permission to run the command while it waited.
    #[error("NOPERM this user may no longer run this command")]
    NoPermission,
    /// The server rejected an inner command; its own text.
    #[error("{0}")]
    Server(ServerError),
    /// A bug of this module.
    #[error("ERR internal error")]
    Internal,
}

impl Error {
    /// Whether the cause is temporary, so that the same request can succeed later. A waiting client
    /// waits on after such an error, and gets any other one as its reply.
    pub fn passes(&self) -> bool {
        const PASSING: [&str; 11] = [
            "OOM",
            "READONLY",
            "NOREPLICAS",
            "MISCONF",
            "TRYAGAIN",
            "MOVED",
            "ASK",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "LOADING",
            "BUSY",
        ];
        match self {
            Error::SlotMoves => true,
            Error::Server(refused) => PASSING.contains(&refused.code()),
            _ => false,
        }
    }

    /// Whether a key holds a value of another type.
    pub fn is_wrong_type(&self) -> bool {
        match self {
            Error::WrongType => true,
            Error::Server(refused) => refused.code() == "WRONGTYPE",
            _ => false,
        }
    }
}

/// The error reply of an inner command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError(String);

impl ServerError {
    /// The server's text. Bytes that could break the protocol become `?`.
    pub fn new(text: &[u8]) -> Self {
        let readable = |b: &u8| {
            if matches!(b, b' '..=b'~') { char::from(*b) } else { '?' }
        };
        let text: String = text.iter().map(readable).collect();
        // Some servers report a rejected inner command without an error code.
        let has_code = text
            .split(' ')
            .next()
            .is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase()));
        Self(if has_code { text } else { format!("ERR {text}") })
    }

    /// The error code: the first word.
    pub fn code(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_keeps_its_code_and_cannot_break_the_protocol() {
        let error = ServerError::new(b"NOGROUP No such key 'a\r\n+OK\xff'");
        assert_eq!(error.code(), "NOGROUP");
        assert_eq!(error.to_string(), "NOGROUP No such key 'a??+OK?'");
        assert_eq!(ServerError::new(b"not allowed").to_string(), "ERR not allowed");
    }

    #[test]
    fn only_temporary_errors_keep_a_client_waiting() {
        let refused = |text: &[u8]| Error::Server(ServerError::new(text));
        assert!(refused(b"OOM command not allowed").passes());
        assert!(refused(b"READONLY You can't write").passes());
        assert!(Error::SlotMoves.passes());
        assert!(!refused(b"WRONGTYPE Operation").passes());
        assert!(!refused(b"ERR unknown command").passes());
        assert!(!Error::Fence.passes());
        assert!(refused(b"WRONGTYPE Operation").is_wrong_type());
    }
}
