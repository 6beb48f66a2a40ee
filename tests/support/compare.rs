//! Comparing replies: byte for byte, in both protocols, and that a call changes nothing.

use super::client::Client;
use super::keyspace::Keyspace;
use super::server::Server;
use super::value::{Value, ok};

/// Runs `check` with a RESP2 and a RESP3 client, each on an empty server.
pub fn in_both_protocols(check: impl Fn(&mut Client)) {
    let server = Server::start();
    for mut client in [server.client(), server.client3()] {
        assert_eq!(client.run("FLUSHALL"), ok());
        check(&mut client);
    }
}

/// The reply, byte for byte and escaped.
#[track_caller]
pub fn wire(client: &mut Client, args: &[impl AsRef<[u8]>]) -> String {
    client.send_args(args);
    escaped(client.read_raw_reply())
}

/// As [`wire`], for a command written as one line.
#[track_caller]
pub fn wire_of(client: &mut Client, line: &str) -> String {
    wire(client, &line.split(' ').collect::<Vec<_>>())
}

/// Bytes as in source code.
pub fn escaped(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().escape_ascii().to_string()
}

/// As [`changes_nothing`](super::changes_nothing), for arguments of any bytes.
#[track_caller]
pub fn cmd_changes_nothing(client: &mut Client, args: &[impl AsRef<[u8]>], reply: Value) {
    let before = Keyspace::of(client);
    let call = || args.iter().map(escaped).collect::<Vec<_>>().join(" ");
    assert_eq!(client.cmd(args), reply, "{}", call());
    assert_eq!(Keyspace::of(client), before, "{}", call());
}

/// Payloads, values, identifiers and names of any bytes, none of them empty.
pub fn any_bytes() -> Vec<Vec<u8>> {
    let words =
        "Ā 0 -1 007 3.0 1e5 123 9223372036854775807 9223372036854775808 payload * { } {} a{b}c";
    let mut all: Vec<Vec<u8>> = words.split(' ').map(Into::into).collect();
    all.extend([&b"\0"[..], b"a\0b", b"\r\n", b"$-1\r\n+OK\r\n", b" "].map(Into::into));
    all.push((0..=255).collect());
    all.push(b"\xff\xfe\x80".to_vec());
    // Around the lengths at which servers store a string differently, and a very long one.
    all.extend([1, 20, 21, 44, 45, 63, 64, 127, 128, 129, 300_000].map(|len| vec![b'x'; len]));
    all
}

/// The XADD that made an entry.
#[track_caller]
pub fn xadd(client: &mut Client, stream: &str, id: &str) -> String {
    let entries = client.cmd(&["XRANGE", stream, id, id]);
    let fields = entries.items()[0].items()[1].items();
    let fields: Vec<_> = fields.iter().map(Value::as_str).collect();
    format!("XADD {stream} {id} {}", fields.join(" "))
}
