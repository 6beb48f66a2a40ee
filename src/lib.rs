//! Corral: caching without stampedes (`CACHE.*`), reliable task queues (`TASK.*`) and distributed
//! locks (`LOCK.*`) as one loadable module for Redis and Valkey.
//!
//! This file is the table of what the module offers. [`command`] says what a command is, [`server`]
//! is the only place that talks to the server, [`waiting`] is the line in which clients wait, and
//! each family has a folder of its own.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod args;
mod cache;
mod command;
mod error;
mod family;
mod keys;
mod lock;
mod server;
mod stats;
mod task;
mod time;
mod waiting;

use command::{Entry, entry};
use family::Family;

/// Every family of commands.
const FAMILIES: [Family; 3] = [cache::FAMILY, lock::FAMILY, task::FAMILY];

/// Every command of the module.
const COMMANDS: &[Entry] = &[
    entry::<cache::extend::Extend>(),
    entry::<cache::fail::Fail>(),
    entry::<cache::fetch::Fetch>(),
    entry::<cache::get::Get>(),
    entry::<cache::info::Info>(),
    entry::<cache::invalidate::Invalidate>(),
    entry::<cache::lock::Lock>(),
    entry::<cache::mget::Mget>(),
    entry::<cache::set::Set>(),
    entry::<lock::acquire::Acquire>(),
    entry::<lock::extend::Extend>(),
    entry::<lock::info::Info>(),
    entry::<lock::release::Release>(),
    entry::<task::ack::Ack>(),
    entry::<task::cancel::Cancel>(),
    entry::<task::consume::Consume>(),
    entry::<task::extend::Extend>(),
    entry::<task::info::Info>(),
    entry::<task::nack::Nack>(),
    entry::<task::policy::SetPolicy>(),
    entry::<task::publish::Publish>(),
    entry::<task::redrive::Redrive>(),
    entry::<task::retry::Retry>(),
];

/// The module's memory is the server's, and counts as such. Unit tests have no server.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;
