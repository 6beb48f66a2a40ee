//! The commands, a file each.

mod ack;
mod cancel;
mod consume;
mod extend;
mod info;
mod nack;
mod policy;
mod publish;
mod redrive;
mod reschedule;
mod retry;
mod state;

pub use ack::Ack;
pub use cancel::Cancel;
pub use consume::Consume;
pub use extend::Extend;
pub use info::Info;
pub use nack::Nack;
pub use policy::SetPolicy as Policy;
pub use publish::Publish;
pub use redrive::Redrive;
pub use reschedule::Reschedule;
pub use retry::Retry;
pub use state::State;
