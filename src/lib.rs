//! Corral: caching without stampedes (`CACHE.*`), reliable task queues (`TASK.*`) and distributed
//! locks (`LOCK.*`) as one loadable module for Redis and Valkey.
//!
//! This file is the table of what the module offers. Imports point downwards only: [`corral`] owns
//! the state of the families [`cache`], [`lock`] and [`task`], which let clients wait in [`waiting`]
//! and talk to the server through [`server`].

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod args;
mod cache;
mod command;
mod context;
mod corral;
mod error;
mod family;
mod interest;
mod lock;
mod names;
mod server;
mod stats;
mod task;
mod time;
mod waiting;

use corral::entry;
use server::{Build, Module};

/// The module as the server sees it.
static MODULE: Module = Module {
    name: c"corral",
    version: 200,
    build: Build { version: env!("CARGO_PKG_VERSION"), commit: env!("CORRAL_BUILD") },
    commands: &[
        entry::<cache::commands::Extend>(),
        entry::<cache::commands::Fail>(),
        entry::<cache::commands::Fetch>(),
        entry::<cache::commands::Get>(),
        entry::<cache::commands::Info>(),
        entry::<cache::commands::Invalidate>(),
        entry::<cache::commands::Lock>(),
        entry::<cache::commands::Mget>(),
        entry::<cache::commands::Set>(),
        entry::<lock::commands::Acquire>(),
        entry::<lock::commands::Extend>(),
        entry::<lock::commands::Info>(),
        entry::<lock::commands::Release>(),
        entry::<task::commands::Ack>(),
        entry::<task::commands::Cancel>(),
        entry::<task::commands::Consume>(),
        entry::<task::commands::Extend>(),
        entry::<task::commands::Info>(),
        entry::<task::commands::Nack>(),
        entry::<task::commands::Policy>(),
        entry::<task::commands::Publish>(),
        entry::<task::commands::Redrive>(),
        entry::<task::commands::Reschedule>(),
        entry::<task::commands::Retry>(),
        entry::<task::commands::State>(),
    ],
    load: corral::load,
    unload: corral::unload,
    key_changed: corral::key_changed,
    databases_changed: corral::databases_changed,
    client_gone: corral::client_gone,
    settings_changed: corral::settings_changed,
    periodic: corral::periodic,
    info: corral::info,
};

server::module::export!(&MODULE);

/// The module uses the server's allocator, so that the server counts its memory. Unit tests have no
/// server.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;
