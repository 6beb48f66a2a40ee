//! Cached values: one load for all processes, stale values while it runs, and no load right after one that failed.

use crate::client::{Redis, every, lock, ms};
use redis::{Cmd, cmd};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

type Loaded = Result<Vec<u8>, String>;

pub struct Cache {
    pub redis: Arc<Redis>,
    /// Of a load. It is renewed, so it only has to be longer than a pause of this process.
    pub lease: Duration,
    /// How long a value is fresh.
    pub ttl: Duration,
    /// How long it can be used after that.
    pub stale: Duration,
    /// After a failed load.
    pub back_off: Duration,
    /// For another client's load.
    pub wait: Duration,
    /// Threads of this process that want the same value: each request that waits has a connection.
    pub calls: Mutex<HashMap<String, Arc<OnceLock<Loaded>>>>,
}

impl Cache {
    /// The value of a key, loaded if necessary. A cached value is JSON, so other languages can read it.
    pub fn get(
        &self,
        key: &str,
        load: &dyn Fn() -> Result<Value, String>,
    ) -> Result<Value, String> {
        let text = self.once(key, load)?;
        serde_json::from_slice(&text).or_else(|error| {
            eprintln!("{key} does not decode, and is loaded again: {error}");
            let invalidated = self.redis.ask::<i64>(cmd("CACHE.INVALIDATE").arg(key));
            invalidated.map_err(|error| error.to_string())?;
            let text = self.once(key, load)?;
            serde_json::from_slice(&text).map_err(|error| format!("{key}: {error}"))
        })
    }

    fn once(&self, key: &str, load: &dyn Fn() -> Result<Value, String>) -> Loaded {
        let call = lock(&self.calls).entry(key.to_owned()).or_default().clone();
        let result = call.get_or_init(|| self.fetch(key, load)).clone();
        lock(&self.calls).retain(|_, other| !Arc::ptr_eq(other, &call));
        result
    }

    fn fetch(&self, key: &str, load: &dyn Fn() -> Result<Value, String>) -> Loaded {
        type Reply = (String, Option<Vec<u8>>, Option<u64>); // status, value, token
        let mut fetch = cmd("CACHE.FETCH");
        fetch.arg(key).arg(ms(self.lease)).arg("STALE").arg(ms(self.stale));
        let reply = match self.redis.ask::<Reply>(&fetch) {
            Ok((status, ..)) if status == "WAIT" => self.redis.wait(self.wait, &mut fetch),
            reply => reply,
        };
        match reply {
            Ok((status, Some(value), _)) if status == "HIT" || status == "STALE" => Ok(value),
            Ok((_, old, Some(token))) => self.load(key, token, old, load),
            Ok((status, reason, _)) if status == "FAIL" => {
                let reason = reason.unwrap_or_default();
                Err(format!("{key}: the last load failed: {}", String::from_utf8_lossy(&reason)))
            }
            Ok(_) => Err(format!("{key}: not loaded within {:?}", self.wait)),
            Err(error) => {
                eprintln!("CACHE.FETCH: {error}"); // the server is away, or out of memory
                load().map(|value| value.to_string().into_bytes())
            }
        }
    }

    fn load(
        &self,
        key: &str,
        token: u64,
        old: Option<Vec<u8>>,
        load: &dyn Fn() -> Result<Value, String>,
    ) -> Loaded {
        let mut extend = cmd("CACHE.EXTEND");
        extend.arg(key).arg(token).arg(ms(self.lease));
        let redis = self.redis.clone();
        let renewal = every(self.lease / 3, move || redis.ask::<i64>(&extend).unwrap_or(1) == 1);
        let loaded = load();
        drop(renewal);
        let mut report = Cmd::new();
        match &loaded {
            Ok(value) => report
                .arg(&["CACHE.SET", key, &value.to_string()])
                .arg(ms(self.ttl + self.stale))
                .arg("TOKEN")
                .arg(token),
            Err(reason) => report
                .arg(&["CACHE.FAIL", key])
                .arg(token)
                .arg("BACKOFF")
                .arg(ms(self.back_off))
                .arg(&["REASON", reason]),
        };
        if let Err(error) = self.redis.ask::<redis::Value>(&report) {
            eprintln!("{key}: {error}");
        }
        match (loaded, old) {
            (Ok(value), _) => Ok(value.to_string().into_bytes()),
            (Err(reason), Some(old)) => {
                eprintln!("{key}: {reason}");
                Ok(old) // stale-if-error
            }
            (Err(reason), None) => Err(reason),
        }
    }
}
