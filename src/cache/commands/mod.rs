//! The commands, a file each.

mod extend;
mod fail;
mod fetch;
mod get;
mod info;
mod invalidate;
mod lock;
mod mget;
mod set;

pub use extend::Extend;
pub use fail::Fail;
pub use fetch::Fetch;
pub use get::Get;
pub use info::Info;
pub use invalidate::Invalidate;
pub use lock::Lock;
pub use mget::Mget;
pub use set::Set;
