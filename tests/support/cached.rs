//! What a test of the cache says often: the replies of `CACHE.FETCH`, loads, and clients that wait
//! for a value.

use super::client::Client;
use super::server::Server;
use super::value::{Value, array, bulk, int, nil, ok, simple};
use super::waiting::send_and_wait;
use super::{SOON, eventually};

/// `[status, value, token]` in RESP2, where nothing is to be loaded.
fn reply(status: &str, value: impl Into<Value>) -> Value {
    array([simple(status), value.into(), nil()])
}

/// The reply with a fresh value.
pub fn hit(value: impl Into<Value>) -> Value {
    reply("HIT", value)
}

/// The reply with a stale value.
pub fn stale(value: impl Into<Value>) -> Value {
    reply("STALE", value)
}

/// The reply during a back-off.
pub fn failed(reason: impl Into<Value>) -> Value {
    reply("FAIL", reason)
}

/// The reply while another client loads.
pub fn wait() -> Value {
    reply("WAIT", nil())
}

/// The token of a LOAD reply with this old value.
#[track_caller]
pub fn token_beside(reply: &Value, old: &Value) -> i64 {
    let [status, value, Value::Int(token)] = reply.items() else { panic!("no token: {reply:?}") };
    assert_eq!((status, value), (&simple("LOAD"), old));
    assert!((1..1 << 53).contains(token), "{token}");
    *token
}

/// The token of a LOAD reply without an old value.
#[track_caller]
pub fn token_in(reply: &Value) -> i64 {
    token_beside(reply, &nil())
}

/// Becomes the loader with `CACHE.FETCH args` where there is no value, and returns the token.
#[track_caller]
pub fn load(client: &mut Client, args: &str) -> i64 {
    token_in(&client.run(format!("CACHE.FETCH {args}")))
}

/// As [`load`], whether or not there is an old value.
#[track_caller]
pub fn reload(client: &mut Client, args: &str) -> i64 {
    let reply = client.run(format!("CACHE.FETCH {args}"));
    token_beside(&reply, &reply.items()[1])
}

/// Caches a value that is stale for `STALE 600000`, becomes its loader, and returns the token.
#[track_caller]
pub fn refreshing(client: &mut Client, key: &str, value: &str) -> i64 {
    assert_eq!(client.run(format!("CACHE.SET {key} {value} 300000")), ok());
    let reply = client.run(format!("CACHE.FETCH {key} 60000 STALE 600000"));
    token_beside(&reply, &bulk(value))
}

/// The token of a lease that has expired, with no request since.
#[track_caller]
pub fn late(client: &mut Client, key: &str) -> i64 {
    let token = load(client, &format!("{key} 1"));
    wait_until_gone(client, &format!("cachelock:{{{key}}}"));
    token
}

/// Waits until a key is gone.
#[track_caller]
pub fn wait_until_gone(client: &mut Client, key: &str) {
    let what = format!("{key} is gone");
    eventually(SOON, &what, || client.run(format!("EXISTS {key}")) == int(0));
}

/// What `CACHE.SET key value TOKEN token` replies.
#[track_caller]
pub fn store(client: &mut Client, key: &str, value: &str, token: i64) -> Value {
    client.run(format!("CACHE.SET {key} {value} 300000 TOKEN {token}"))
}

/// Clients that wait in this order, each with `CACHE.FETCH args BLOCK 0`.
#[track_caller]
pub fn in_line<const N: usize>(server: &Server, args: &str) -> [Client; N] {
    let mut control = server.client();
    std::array::from_fn(|_| {
        let mut client = server.client();
        let command = format!("CACHE.FETCH {args} BLOCK 0");
        send_and_wait(&mut control, "cache", &mut client, &command);
        client
    })
}

/// Checks that each of these clients gets this reply.
#[track_caller]
pub fn all_read(clients: &mut [Client], reply: &Value) {
    for client in clients {
        assert_eq!(client.read(), *reply);
    }
}
