//! What a command is: a type that has a specification, parses its arguments and runs.

use crate::args::Args;
use crate::context::Context;
use crate::error::Error;
use crate::server::Reply;

pub use crate::server::spec::{Access, Arg, Key, Spec};

/// A command. It parses, reads, decides, writes and replies, in that order, so that a failure leaves
/// no half-done work.
pub trait Command {
    /// What the server and its users know about it.
    const SPEC: Spec;
    /// The family whose state it works on.
    type Family: 'static;
    /// Its arguments, validated.
    type Request<'a>;

    /// Parses the arguments. Invalid arguments are rejected here, before any write.
    fn parse<'a>(args: &mut Args<'a>) -> Result<Self::Request<'a>, Error>;

    /// Does the work. A command that returns an error has changed nothing.
    fn run<'a>(
        request: Self::Request<'a>,
        cx: &'a Context<'a, Self::Family>,
    ) -> Result<Reply<'a>, Error>;
}
