//! The protocol: requests that are encoded before the clock starts, and replies of which only the
//! beginning is compared with the expected one.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// The bench gives up when a reply takes longer than this.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Encoded operations. An operation consists of one command for each expected reply.
pub struct Requests {
    bytes: Vec<u8>,
    /// The end of each command in `bytes`.
    ends: Vec<usize>,
    /// The beginnings of the replies to one operation.
    expected: Vec<&'static str>,
}

impl Requests {
    /// Starts without operations. The replies to each operation must begin with `expected`, such as
    /// `:1` or `+OK`. An empty text matches everything but an error.
    pub fn expecting(expected: &[&'static str]) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), expected: expected.to_vec() }
    }

    /// Adds a command. See [`crate::support::args`] for its arguments.
    pub fn push(&mut self, args: &[impl AsRef<[u8]>]) {
        encode(&mut self.bytes, args);
        self.ends.push(self.bytes.len());
    }

    /// The same operations, each as one call of the module in `benches/relay`, whose reply is that of the
    /// last command.
    pub fn relayed(&self) -> Self {
        let commands = self.expected.len();
        let last = self.expected.last().expect("an operation has a command");
        let mut relayed = Self::expecting(&[last]);
        for operation in 0..self.operations() {
            let (mut count, mut args) = (1, Vec::new());
            for command in operation * commands..(operation + 1) * commands {
                let bytes = self.slice(command, command + 1);
                let head = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
                let size = std::str::from_utf8(&bytes[1..head - 2]).expect("a number");
                count += size.parse::<usize>().expect("a number");
                if commands > 1 {
                    args.extend(format!("${}\r\n{size}\r\n", size.len()).into_bytes());
                    count += 1;
                }
                args.extend_from_slice(&bytes[head..]);
            }
            let name = if commands > 1 { "RELAY.ALL" } else { "RELAY" };
            let head = format!("*{count}\r\n${}\r\n{name}\r\n", name.len());
            relayed.bytes.extend(head.into_bytes());
            relayed.bytes.extend(args);
            relayed.ends.push(relayed.bytes.len());
        }
        relayed
    }

    /// The number of operations.
    pub fn operations(&self) -> usize {
        self.ends.len() / self.expected.len()
    }

    /// The bytes of some operations.
    pub fn bytes_of(&self, operations: Range<usize>) -> &[u8] {
        let commands = self.expected.len();
        self.slice(operations.start * commands, operations.end * commands)
    }

    /// Sends some operations at once, and waits for their replies.
    pub fn exchange(&self, connection: &mut Connection, operations: Range<usize>) {
        connection.send(self.bytes_of(operations.clone()));
        for _ in operations {
            self.expected.iter().for_each(|expected| connection.expect(expected));
        }
    }

    /// The bytes of the commands `from..to`.
    fn slice(&self, from: usize, to: usize) -> &[u8] {
        let offset = |command: usize| match command {
            0 => 0,
            _ => self.ends[command - 1],
        };
        &self.bytes[offset(from)..offset(to)]
    }
}

/// A connection that sends encoded requests and checks the beginnings of replies.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    received: Vec<u8>,
    /// The received bytes that have not been taken are `received[start..end]`.
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects with RESP2. The receive buffer starts with `buffer` bytes and grows.
    pub fn to(address: SocketAddr, buffer: usize) -> Self {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        stream.set_read_timeout(Some(TIMEOUT)).expect("set a read timeout");
        Self { stream, received: vec![0; buffer], start: 0, end: 0 }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("cannot send to the server: {error}");
        }
    }

    /// Takes one reply and passes its bytes to `look`.
    pub fn reply<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> T {
        loop {
            let pending = &self.received[self.start..self.end];
            if let Some(length) = reply_length(pending) {
                self.start += length;
                return look(&pending[..length]);
            }
            self.fill();
        }
    }

    /// Sends a command, and passes its reply to `look`.
    pub fn ask<T>(&mut self, command: &[u8], look: impl FnOnce(&[u8]) -> T) -> T {
        self.send(command);
        self.reply(look)
    }

    /// Takes one reply, which must begin with `expected`.
    pub fn expect(&mut self, expected: &str) {
        self.reply(|reply| {
            let good = reply.starts_with(expected.as_bytes());
            assert!(
                good && (!reply.starts_with(b"-") || expected.starts_with('-')),
                "the server replied \"{}\" where \"{expected}\" was expected",
                reply[..reply.len().min(200)].escape_ascii(),
            );
        });
    }

    fn fill(&mut self) {
        self.received.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.received.len() {
            self.received.resize(self.end * 2, 0);
        }
        match self.stream.read(&mut self.received[self.end..]) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(count) => self.end += count,
            Err(error) => panic!("no reply within {TIMEOUT:?}: {error}"),
        }
    }
}

/// Sends all operations over the connections in turn, in batches of `pipeline` operations. Each
/// connection has at most one batch in flight. Returns when all replies have arrived.
pub fn drive(connections: &mut [Connection], requests: &Requests, pipeline: usize) {
    let commands = requests.ends.len();
    let batch = pipeline * requests.expected.len();
    let mut in_flight = VecDeque::with_capacity(connections.len());
    for (turn, from) in (0..commands).step_by(batch).enumerate() {
        let connection = turn % connections.len();
        if in_flight.len() == connections.len() {
            collect(connections, requests, &mut in_flight);
        }
        let to = (from + batch).min(commands);
        connections[connection].send(requests.slice(from, to));
        in_flight.push_back((connection, to - from));
    }
    while !in_flight.is_empty() {
        collect(connections, requests, &mut in_flight);
    }
}

fn collect(
    connections: &mut [Connection],
    requests: &Requests,
    in_flight: &mut VecDeque<(usize, usize)>,
) {
    let Some((connection, replies)) = in_flight.pop_front() else {
        return;
    };
    let expected = requests.expected.iter().cycle();
    for expected in expected.take(replies) {
        connections[connection].expect(expected);
    }
}

/// The length of the first reply in `bytes`, if it is complete.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut missing) = (0, 1);
    while missing > 0 {
        let line = bytes.get(at..)?;
        let length = line.iter().position(|byte| *byte == b'\n')? + 1;
        at += length;
        missing -= 1;
        let number = || {
            let text = std::str::from_utf8(&line[1..length - 2]).unwrap_or_default();
            text.parse::<i64>().unwrap_or_else(|_| panic!("not RESP2: {text:?}"))
        };
        match line[0] {
            b'$' => at += usize::try_from(number()).map_or(0, |length| length + 2),
            b'*' => missing += usize::try_from(number()).unwrap_or(0),
            b'+' | b'-' | b':' => {}
            other => panic!("not RESP2: a reply begins with {:?}", other as char),
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// The bulk strings of a reply in order, those of nested arrays included.
pub fn bulks(reply: &[u8]) -> Vec<&[u8]> {
    let (mut found, mut rest) = (Vec::new(), reply);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        if let Some(length) = line.strip_prefix(b"$")
            && let Ok(length) = String::from_utf8_lossy(length).trim().parse::<usize>()
        {
            found.push(&after[..length]);
            rest = &after[length + 2..];
        }
    }
    found
}

/// Encodes one command.
pub fn encoded(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, args);
    bytes
}

/// Appends a command as an array of bulk strings.
fn encode(bytes: &mut Vec<u8>, args: &[impl AsRef<[u8]>]) {
    bytes.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
}
