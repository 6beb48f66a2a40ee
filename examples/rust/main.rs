//! A small shop, whose queues and cached values are those of the shops in the other languages.
//!
//! ```text
//! cargo run --example shop product 7                                       a cached query
//! cargo run --example shop publish mail welcome '{"to": "ann@example.org"}'
//! cargo run --example shop worker                                          sends mails, until SIGTERM or SIGINT
//! cargo run --example shop report                                          runs under a lock
//! ```

mod cache;
mod client;
mod locks;
mod shop;
mod task;
mod worker;

use cache::Cache;
use client::Redis;
use redis::cmd;
use shop::Shop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use worker::{Running, Worker};

const URGENT: &str = "{shop}:urgent";
const MAIL: &str = "{shop}:mail";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let redis = Arc::new(Redis::open(&setting("CORRAL_URL", "redis://localhost:6379"))?);
    let shop = Arc::new(Shop { directory: setting("SHOP_DIR", ".").into() });
    let (lease, wait) = (millis("SHOP_LEASE_MS", "10000")?, Duration::from_secs(30));
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["product", id] => {
            let id: u64 = id.parse()?;
            let cache = Cache {
                redis,
                lease,
                ttl: Duration::from_secs(300),
                stale: Duration::from_secs(3_600),
                back_off: Duration::from_secs(10),
                wait,
                calls: Default::default(),
            };
            println!("{}", cache.get(&format!("product:{id}"), &|| shop.product(id))?);
        }
        ["publish", queue, task, payload] => {
            let mut publish = cmd("TASK.PUBLISH");
            publish.arg(&[&format!("{{shop}}:{queue}"), payload, "FIELDS", "1", "task", task]);
            println!("{}", redis.ask::<String>(&publish)?);
        }
        ["report"] => {
            locks::with_lock(&redis, "{shop}:report", lease, wait, |held| shop.report(held))?
        }
        ["worker"] => {
            let stop = Arc::new(AtomicBool::new(false));
            for signal in [SIGTERM, SIGINT] {
                flag::register_conditional_shutdown(signal, 1, stop.clone())?; // the second signal
                flag::register(signal, stop.clone())?;
            }
            let worker = Worker {
                redis,
                queues: vec![URGENT, MAIL],
                handlers: HashMap::from([
                    ("new_password", shop.letter("Your new password")),
                    ("welcome", shop.letter("Welcome")),
                    ("newsletter", shop.newsletter()),
                ]),
                concurrency: 4,
                stop_after: millis("SHOP_STOP_MS", "25000")?,
                running: Running::default(),
            };
            // The main thread gets the signals. In another one they would interrupt the request that waits.
            let thread = thread::spawn(move || worker.run(&stop));
            thread.join().map_err(|_| "the worker panicked")??;
        }
        _ => return Err("expected: product ID | publish QUEUE TASK JSON | report | worker".into()),
    }
    Ok(())
}

fn setting(name: &str, otherwise: &str) -> String {
    env::var(name).unwrap_or_else(|_| otherwise.into())
}

fn millis(name: &str, otherwise: &str) -> Result<Duration, std::num::ParseIntError> {
    Ok(Duration::from_millis(setting(name, otherwise).parse()?))
}
