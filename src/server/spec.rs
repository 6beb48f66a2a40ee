//! The specification of a command. It is written once and feeds the registration, `COMMAND INFO`,
//! `COMMAND DOCS` and with it the hints of `redis-cli`, ACL rules and the routing of cluster clients.

use std::ffi::CStr;

/// The specification of a command.
pub struct Spec {
    /// Its name in lower case.
    pub name: &'static CStr,
    /// What it does, in one line.
    pub summary: &'static CStr,
    /// Its cost.
    pub complexity: &'static CStr,
    /// The version that introduced it.
    pub since: &'static CStr,
    /// The number of arguments including the name; negative: at least that many.
    pub arity: i32,
    /// Flags in the server's words.
    pub flags: &'static str,
    /// The ACL categories of the data types that it works on.
    pub types: &'static str,
    /// Its keys. Old clients route by the first.
    pub keys: &'static [Key],
    /// Its arguments.
    pub args: &'static [Arg],
}

impl Spec {
    /// A command of the first version; name, arity, keys and texts have to be set.
    pub const DEFAULT: Spec = Spec {
        name: c"",
        summary: c"",
        complexity: c"O(1)",
        since: c"0.1.0",
        arity: 0,
        flags: "write fast",
        types: "string",
        keys: &[],
        args: &[],
    };

    /// First key, last key and step, for clients that do not know key specifications: the keys from
    /// the first one on that stand side by side.
    pub(super) fn legacy_keys(&self) -> (i32, i32, i32) {
        let Some(first) = self.keys.first() else { return (0, 0, 0) };
        if matches!(first.access, Access::ReadAll) {
            return (first.position, -1, 1);
        }
        let has_place = |key: &&Key| !matches!(key.access, Access::UpdateBehind(_));
        let side_by_side = (first.position..).zip(self.keys.iter().take_while(has_place));
        let side_by_side = side_by_side.take_while(|(position, key)| *position == key.position);
        (first.position, side_by_side.map(|(position, _)| position).last().unwrap_or(0), 1)
    }

    /// All its ACL categories. The server assigns the list: a category that is missing here is taken
    /// away, even where a flag implies it.
    pub(super) fn categories(&self) -> String {
        let has = |wanted: &str| self.flags.split(' ').any(|flag| flag == wanted);
        // A command that may replicate writes as well, but has no write flag: replicas can run it.
        let replicates = has("may-replicate");
        let implied = [
            (has("readonly") || replicates, "read"),
            (has("write") || replicates, "write"),
            (has("fast"), "fast"),
            (!has("fast"), "slow"),
            (has("blocking"), "blocking"),
        ];
        let implied = implied.iter().filter(|(set, _)| *set).map(|(_, name)| *name);
        implied.chain([self.types]).collect::<Vec<_>>().join(" ")
    }
}

/// A key among the arguments of a command.
pub struct Key {
    /// Its position; the name of the command is 0. For [`Access::UpdateBehind`] the first position at
    /// which the keyword can stand.
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
    /// As [`Access::Update`], for keys that follow this keyword and their number.
    UpdateBehind(&'static CStr),
    /// Removes it or a part of it.
    Delete,
}

/// An argument in COMMAND DOCS.
pub struct Arg {
    /// Its name.
    pub name: &'static CStr,
    /// Its type.
    pub kind: ArgKind,
    /// Whether it is optional.
    pub optional: bool,
    /// Whether it may be repeated.
    pub multiple: bool,
    /// The keyword before it.
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
    /// A keyword without a value.
    Keyword,
    /// Arguments that appear together or not at all.
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

    /// A keyword without a value.
    pub const fn keyword(name: &'static CStr, word: &'static CStr) -> Self {
        Self::new(name, ArgKind::Keyword).after(word)
    }

    /// One of these.
    pub const fn one_of(name: &'static CStr, args: &'static [Arg]) -> Self {
        Self::new(name, ArgKind::OneOf(args))
    }

    /// Follows this keyword.
    pub const fn after(mut self, word: &'static CStr) -> Self {
        self.token = Some(word);
        self
    }

    /// Arguments that appear together or not at all.
    pub const fn block(name: &'static CStr, args: &'static [Arg]) -> Self {
        Self::new(name, ArgKind::Block(args))
    }

    /// Is optional.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// May appear several times.
    pub const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }
}
