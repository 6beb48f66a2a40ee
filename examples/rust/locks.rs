//! A lock: waits in the server's FIFO queue, renews the lease, and tells the work when the lock is lost.

use crate::client::{Redis, every, lock, ms, new_id};
use redis::cmd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Held {
    /// Grows with every grant: what the work writes to should refuse a smaller one.
    pub fence: u64,
    /// The end of the lease, or `None` if it is lost.
    ends: Arc<Mutex<Option<Instant>>>,
}

impl Held {
    /// Call this before each step that only the holder may take.
    pub fn check(&self) -> Result<(), String> {
        let held = lock(&self.ends).is_some_and(|ends| Instant::now() < ends);
        held.then_some(()).ok_or_else(|| "the lock is lost".into())
    }
}

/// Runs work while this process holds the lock.
pub fn with_lock(
    redis: &Arc<Redis>,
    name: &str,
    ttl: Duration,
    wait: Duration,
    work: impl FnOnce(&Held) -> Result<(), String>,
) -> Result<(), String> {
    let me = new_id();
    let result = acquire(redis, name, &me, ttl, wait).and_then(|fence| {
        let ends = Arc::new(Mutex::new(Some(Instant::now() + ttl)));
        let renew = {
            let (redis, ends, name) = (redis.clone(), ends.clone(), name.to_owned());
            let mut extend = cmd("LOCK.EXTEND");
            extend.arg(&name).arg(&me).arg(ms(ttl));
            move || {
                let asked = Instant::now();
                match redis.ask::<i64>(&extend) {
                    Ok(1) => *lock(&ends) = Some(asked + ttl),
                    Ok(_) => *lock(&ends) = None,
                    Err(error) => eprintln!("{name} is not renewed: {error}"), // again, until it expires
                }
                lock(&ends).is_some()
            }
        };
        renew(); // the lease has begun before the reply arrived
        let _renewal = every(ttl / 3, renew);
        work(&Held { fence, ends })
    });
    // Also after an error: this identifier may wait in the queue, or have been granted the lock.
    if let Err(error) = redis.ask::<i64>(cmd("LOCK.RELEASE").arg(name).arg(&me)) {
        eprintln!("{name} is free when its lease expires: {error}");
    }
    result
}

fn acquire(
    redis: &Redis,
    name: &str,
    me: &str,
    ttl: Duration,
    wait: Duration,
) -> Result<u64, String> {
    let mut acquire = cmd("LOCK.ACQUIRE");
    acquire.arg(name).arg(me).arg(ms(ttl)).arg("FENCE");
    let fence = match redis.ask(&acquire) {
        Ok(0) => redis.wait(wait, &mut acquire),
        fence => fence,
    };
    match fence {
        Ok(0) => Err(format!("{name} was not granted within {wait:?}")),
        fence => fence.map_err(|error| error.to_string()),
    }
}
