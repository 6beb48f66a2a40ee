use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult, Value, cmd};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A connection that fails if a reply takes longer than `timeout`.
fn connect(client: &Client, timeout: Duration) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    connection.set_read_timeout(Some(timeout))?;
    Ok(connection)
}

/// Asks without waiting. A real program keeps these connections in a pool.
fn ask<T: FromRedisValue>(client: &Client, cmd: &Cmd) -> RedisResult<T> {
    cmd.query(&mut connect(client, Duration::from_secs(2))?)
}

/// Waits on a connection of its own, at most 10 s.
fn wait<T: FromRedisValue>(client: &Client, cmd: &Cmd) -> RedisResult<T> {
    cmd.query(&mut connect(client, Duration::from_secs(15))?)
}

fn id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// Sends a command at intervals until the sender is dropped or the reply is 0.
fn every(client: &Client, interval: Duration, cmd: Cmd) -> Sender<()> {
    let (sender, stopped) = mpsc::channel();
    let client = client.clone();
    thread::spawn(move || {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            if let Ok(0) = ask::<i64>(&client, &cmd) {
                break;
            }
        }
    });
    sender
}

fn cached(
    client: &Client,
    key: &str,
    load: impl Fn() -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let (lease, stale, ttl, patience) = (5_000, 60_000, 360_000, 10_000);
    let mut fetch = cmd("CACHE.FETCH");
    fetch.arg(key).arg(lease).arg("STALE").arg(stale);
    type Reply = (String, Option<Vec<u8>>, Option<u64>);
    let reply = match ask::<Reply>(client, &fetch) {
        Ok((status, ..)) if status == "WAIT" => wait(client, fetch.arg("BLOCK").arg(patience)),
        reply => reply,
    };
    let (status, old, token) = match reply {
        Ok(reply) => reply,
        Err(error) => {
            eprintln!("CACHE.FETCH {key}: {error}"); // the server is away, or out of memory
            return load();
        }
    };
    match status.as_str() {
        "HIT" | "STALE" => return Ok(old.unwrap_or_default()),
        "LOAD" => {}
        _ => return Err(format!("{key}: not loaded: {status}")),
    }
    let mut extend = cmd("CACHE.EXTEND");
    extend.arg(key).arg(token).arg(lease);
    let _renewal = every(client, Duration::from_millis(lease / 3), extend);
    let loaded = load();
    let mut report = Cmd::new();
    match &loaded {
        Ok(value) => report.arg("CACHE.SET").arg(key).arg(value).arg(ttl).arg("TOKEN").arg(token),
        Err(reason) => {
            report.arg(&["CACHE.FAIL", key]).arg(token).arg(&["BACKOFF", "1000", "REASON", reason])
        }
    };
    if let Err(error) = ask::<Value>(client, &report) {
        eprintln!("{key}: {error}");
    }
    loaded.or_else(|reason| old.ok_or(reason)) // stale-if-error
}

fn with_lock(client: &Client, name: &str, work: impl FnOnce(u64)) -> RedisResult<bool> {
    let (me, ttl, patience) = (id(), 30_000, 10_000);
    let mut acquire = cmd("LOCK.ACQUIRE");
    acquire.arg(name).arg(&me).arg(ttl).arg("FENCE");
    let mut token: u64 = ask(client, &acquire)?;
    if token == 0 {
        token = wait(client, acquire.arg("BLOCK").arg(patience))?;
    }
    if token > 0 {
        let mut extend = cmd("LOCK.EXTEND");
        extend.arg(name).arg(&me).arg(ttl);
        let _renewal = every(client, Duration::from_millis(ttl / 3), extend);
        work(token); // checks the token at the resource: this sample does not report a lost lock
    }
    let _ = ask::<i64>(client, cmd("LOCK.RELEASE").arg(name).arg(&me)); // also leaves the queue
    Ok(token > 0)
}

/// Id, fields, length of the lease before, deliveries.
type Task = (String, HashMap<String, Vec<u8>>, u64, u64);

fn worker(client: &Client, stop: &AtomicBool, handle: impl Fn(&[u8], &[u8]) -> Result<(), String>) {
    let (queue, group, me, lease) = ("mail", "workers", id(), 60_000); // the LEASE of the queue's policy
    while !stop.load(Ordering::Relaxed) {
        let mut consume = cmd("TASK.CONSUME");
        consume.arg(&[group, &me, queue, "BLOCK", "2000", "META"]);
        let tasks: Vec<Task> = wait(client, &consume).unwrap_or_else(|error| {
            eprintln!("TASK.CONSUME: {error}"); // a failover, a restart, a slot that is being moved
            thread::sleep(Duration::from_secs(1));
            Vec::new()
        });
        for (id, fields, ..) in tasks {
            let mut extend = cmd("TASK.EXTEND");
            extend.arg(&[queue, group, &me, &id]);
            let renewal = every(client, Duration::from_millis(lease / 3), extend);
            let payload = fields.get("payload").map_or(b"".as_slice(), Vec::as_slice);
            let key = fields.get("original_id").map_or(id.as_bytes(), Vec::as_slice);
            let mut report = Cmd::new();
            match handle(payload, key) {
                Ok(()) => report.arg(&["TASK.ACK", queue, group, &id]),
                Err(reason) => report // it is retried
                    .arg(&["TASK.NACK", queue, group, &me, "FAIL", &id, "REASON", &reason]),
            };
            drop(renewal);
            if let Err(error) = ask::<Value>(client, &report) {
                eprintln!("{id}: {error}"); // it is delivered again when its lease expires
            }
        }
    }
}

fn main() -> RedisResult<()> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://localhost:6379".into());
    let client = Client::open(url)?;

    let page = cached(&client, "page:1", || Ok(b"<html>".to_vec())).unwrap_or_default();
    println!("{}", String::from_utf8_lossy(&page));

    with_lock(&client, "nightly-batch", |token| {
        println!("the batch runs, with a token: {}", token > 0);
    })?;

    let mut publish = cmd("TASK.PUBLISH");
    let _: String = ask(&client, publish.arg(&["mail", "ann", "UNIQUE", &id(), "60000"]))?;
    let stop = AtomicBool::new(false); // a handler of SIGTERM sets it
    worker(&client, &stop, |payload, _key| {
        println!("sending {}", String::from_utf8_lossy(payload));
        stop.store(true, Ordering::Relaxed); // a sample ends after one task
        Ok(())
    });
    Ok(())
}
