//! The commands, a file each.

mod acquire;
mod extend;
mod info;
mod release;

pub use acquire::Acquire;
pub use extend::Extend;
pub use info::Info;
pub use release::Release;
