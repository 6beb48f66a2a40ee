//! Connections: idle ones for commands that are answered at once, and a new one for each command that waits.

use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Redis {
    client: Client,
    idle: Mutex<Vec<Connection>>,
}

impl Redis {
    pub fn open(url: &str) -> RedisResult<Self> {
        Ok(Self { client: Client::open(url)?, idle: Mutex::default() })
    }

    /// A connection whose replies take `block` longer than usual.
    pub fn connect(&self, block: Duration) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(block + Duration::from_secs(2)))?;
        connection.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok(connection)
    }

    /// Sends a command that does not wait.
    pub fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let idle = lock(&self.idle).pop();
        let mut connection = idle.map_or_else(|| self.connect(Duration::ZERO), Ok)?;
        let reply = command.query(&mut connection);
        match &reply {
            Ok(_) => lock(&self.idle).push(connection),
            Err(error) if error.is_io_error() => lock(&self.idle).clear(), // probably lost as well
            Err(_) => {}
        }
        reply
    }

    /// Sends a command with BLOCK. It has a connection of its own, so that nothing else has to wait for it.
    pub fn wait<T: FromRedisValue>(&self, block: Duration, command: &mut Cmd) -> RedisResult<T> {
        command.arg("BLOCK").arg(ms(block)).query(&mut self.connect(block)?)
    }
}

/// The data of a mutex. A thread that panicked has not left them half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Unique among processes and calls.
pub fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:?}-{}", std::process::id(), thread::current().id(), now.as_nanos())
}

/// Work that is repeated until this is dropped. Then it no longer runs.
pub struct Repeated(Option<(Sender<()>, JoinHandle<()>)>);

/// Repeats work at intervals, until it returns false.
pub fn every(interval: Duration, mut work: impl FnMut() -> bool + Send + 'static) -> Repeated {
    let (stop, stopped) = mpsc::channel();
    let thread = thread::spawn(move || {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) && work() {}
    });
    Repeated(Some((stop, thread)))
}

impl Drop for Repeated {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}
