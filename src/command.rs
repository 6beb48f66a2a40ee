//! What a command is: a type that knows its specification, reads its arguments and runs.
//!
//! The specification is written once. It feeds the registration, `COMMAND INFO`, `COMMAND DOCS`
//! and with it the hints of `redis-cli`, the rules of ACLs and the routing of cluster clients.

use crate::args::Args;
use crate::error::Error;
use crate::server::register::{Handler, handler};
use crate::server::{Reply, Server};
use std::ffi::CStr;

/// A command: parse, read, decide, write, reply, in that order.
pub trait Command {
    /// What the server and its users are told about it.
    const SPEC: Spec;
    /// Its arguments, validated.
    type Request<'a>;

    /// Reads the arguments. Whatever is wrong with them is found here, before any write.
    fn parse<'a>(args: &mut Args<'a>) -> Result<Self::Request<'a>, Error>;

    /// Does the work. An error has changed nothing.
    fn run<'a>(request: Self::Request<'a>, server: &'a Server) -> Result<Reply<'a>, Error>;
}

/// A row of the command table.
pub struct Entry {
    /// Its specification.
    pub spec: Spec,
    /// Its entry from C.
    pub handler: Handler,
}

/// The row of a command.
pub const fn entry<C: Command>() -> Entry {
    Entry { spec: C::SPEC, handler: handler::<C> }
}

/// What the server and its users are told about a command.
pub struct Spec {
    /// Its name in small letters.
    pub name: &'static CStr,
    /// One line.
    pub summary: &'static CStr,
    /// Its cost.
    pub complexity: &'static CStr,
    /// The version that brought it.
    pub since: &'static CStr,
    /// The number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Flags in the server's words.
    pub flags: &'static CStr,
    /// Further ACL categories. The server derives `@read`, `@write`, `@fast`, `@slow` and
    /// `@blocking` from the flags; this names the data type.
    pub categories: &'static CStr,
    /// Its keys. Each is one argument.
    pub keys: &'static [Key],
    /// First key, last key and step for clients that know no key specifications.
    pub legacy_keys: (i32, i32, i32),
    /// Its arguments.
    pub args: &'static [Arg],
}

/// A key among the arguments of a command.
pub struct Key {
    /// Its position; the name of the command is 0.
    pub position: i32,
    /// What the command does to it.
    pub access: Access,
}

/// What a command does to a key, or to the keys that belong to a name.
#[derive(Clone, Copy)]
pub enum Access {
    /// Returns its value.
    Read,
    /// Returns its value; so does every further argument.
    ReadAll,
    /// Sets its value, whatever it was.
    Overwrite,
    /// Adds to it.
    Insert,
    /// Changes it and returns some of it.
    Update,
    /// Removes it or a part of it.
    Delete,
}

/// An argument in COMMAND DOCS.
pub struct Arg {
    /// Its name.
    pub name: &'static CStr,
    /// Its type.
    pub kind: ArgKind,
    /// Whether it may be left out.
    pub optional: bool,
    /// Whether there may be several.
    pub multiple: bool,
    /// The keyword that stands before it.
    pub token: Option<&'static CStr>,
}

/// The type of an argument in COMMAND DOCS.
#[derive(Clone, Copy)]
pub enum ArgKind {
    /// A key: the index of its entry in [`Spec::keys`].
    Key(i32),
    /// Bytes.
    String,
    /// An integer.
    Integer,
    /// Nothing but its keyword.
    Keyword,
    /// Arguments that stand or fall together.
    Block(&'static [Arg]),
    /// One of these.
    OneOf(&'static [Arg]),
}

impl Arg {
    const fn new(name: &'static CStr, kind: ArgKind) -> Self {
        Self { name, kind, optional: false, multiple: false, token: None }
    }

    /// A key: entry `index` of [`Spec::keys`].
    pub const fn key(name: &'static CStr, index: i32) -> Self {
        Self::new(name, ArgKind::Key(index))
    }

    /// Bytes.
    pub const fn string(name: &'static CStr) -> Self {
        Self::new(name, ArgKind::String)
    }

    /// An integer.
    pub const fn integer(name: &'static CStr) -> Self {
        Self::new(name, ArgKind::Integer)
    }

    /// Nothing but a keyword.
    pub const fn keyword(name: &'static CStr, word: &'static CStr) -> Self {
        Self::new(name, ArgKind::Keyword).after(word)
    }

    /// One of these.
    pub const fn one_of(name: &'static CStr, args: &'static [Arg]) -> Self {
        Self::new(name, ArgKind::OneOf(args))
    }

    /// Stands behind this keyword.
    pub const fn after(mut self, word: &'static CStr) -> Self {
        self.token = Some(word);
        self
    }

    /// Arguments that stand or fall together.
    pub const fn block(name: &'static CStr, args: &'static [Arg]) -> Self {
        Self::new(name, ArgKind::Block(args))
    }

    /// May be left out.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// May stand several times.
    pub const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }
}
