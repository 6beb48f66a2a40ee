//! A thin RESP client over one TCP connection. It hides nothing: replies keep their wire type, raw
//! bytes can be sent and read, and no call waits longer than its time-out.

use super::value::{Value, parse};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a reply may take before the test fails.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is read at once, at least.
const READ_CHUNK: usize = 64 * 1024;

/// One connection. Dropping it closes the connection.
pub struct Client {
    stream: TcpStream,
    /// Bytes received and not yet read as replies.
    received: Vec<u8>,
    closed: bool,
    /// Pushes that came before an expected reply.
    pushes: VecDeque<Value>,
    /// The last thing sent, for panic messages.
    last_sent: String,
}

/// Why there is no reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// No complete reply came in time.
    TimedOut,
    /// The server closed the connection.
    Closed,
}

impl Client {
    /// Connects to a port of this machine, RESP2. Usually [`Server::client`](super::Server::client)
    /// is what a test wants.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|error| panic!("connect to port {port}: {error}"))
    }

    /// As [`Client::connect`], for a server that may not be running.
    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, REPLY_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            closed: false,
            pushes: VecDeque::new(),
            last_sent: "(nothing)".into(),
        })
    }

    /// Sends a command written as one line, split on blanks, and reads the reply:
    /// `client.run("LOCK.ACQUIRE job me 1000")`.
    #[track_caller]
    pub fn run(&mut self, line: impl AsRef<str>) -> Value {
        let args: Vec<&str> = line.as_ref().split_ascii_whitespace().collect();
        self.cmd(&args)
    }

    /// Sends a command and reads the reply; see [`args!`] for arguments of mixed types.
    /// Pushes that come before the reply are kept for [`Client::read`], except for the commands of
    /// publish/subscribe, whose reply *is* a push.
    #[track_caller]
    pub fn cmd(&mut self, args: &[impl AsRef<[u8]>]) -> Value {
        self.send_args(args);
        let command = args.first().map_or(&b""[..], AsRef::as_ref).to_ascii_uppercase();
        let reply_is_push = command.ends_with(b"SUBSCRIBE");
        self.reply(reply_is_push)
    }

    /// Sends a command written as one line and leaves the reply for [`Client::read`].
    #[track_caller]
    pub fn send(&mut self, line: impl AsRef<str>) {
        let args: Vec<&str> = line.as_ref().split_ascii_whitespace().collect();
        self.send_args(&args);
    }

    /// Sends a command and leaves the reply for [`Client::read`].
    #[track_caller]
    pub fn send_args(&mut self, args: &[impl AsRef<[u8]>]) {
        let mut request = Vec::new();
        encode(&mut request, args);
        self.last_sent = spell(args);
        self.write(&request);
    }

    /// Sends these bytes as they are: inline commands, half commands, nonsense.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.last_sent = bytes.escape_ascii().to_string();
        self.write(bytes);
    }

    /// As [`Client::send_raw`], for a connection that may be gone.
    pub fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.last_sent = bytes[..bytes.len().min(500)].escape_ascii().to_string();
        self.stream.write_all(bytes)
    }

    /// The connection itself, for another process.
    pub fn into_socket(self) -> OwnedFd {
        self.stream.into()
    }

    /// A description of the received bytes that are not a complete reply yet.
    pub fn unread(&self) -> String {
        let start = &self.received[..self.received.len().min(200)];
        format!("{} bytes: \"{}\"", self.received.len(), start.escape_ascii())
    }

    /// Sends a command to a server that may be about to exit.
    pub fn ask(&mut self, line: &str, timeout: Duration) -> Result<Value, Silence> {
        let request = format!("{line}\r\n");
        self.last_sent = line.into();
        self.stream.write_all(request.as_bytes()).map_err(|_| Silence::Closed)?;
        self.try_read(timeout)
    }

    /// Sends all lines in one write and reads one reply for each.
    #[track_caller]
    pub fn pipeline(&mut self, lines: &[impl AsRef<str>]) -> Vec<Value> {
        let mut request = Vec::new();
        for line in lines {
            let args: Vec<&str> = line.as_ref().split_ascii_whitespace().collect();
            encode(&mut request, &args);
        }
        self.last_sent = format!("a pipeline of {} commands", lines.len());
        self.write(&request);
        lines.iter().map(|_| self.reply(false)).collect()
    }

    /// Reads the next reply or push; panics when none comes in time.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        match self.try_read(REPLY_TIMEOUT) {
            Ok(value) => value,
            Err(silence) => self.fail(&silence),
        }
    }

    /// Reads the next reply or push, `None` if none comes within `timeout`. A part of one is kept for
    /// the next call. Panics when the server closes the connection.
    #[track_caller]
    pub fn read_timeout(&mut self, timeout: Duration) -> Option<Value> {
        match self.try_read(timeout) {
            Ok(value) => Some(value),
            Err(Silence::TimedOut) => None,
            Err(Silence::Closed) => self.fail(&Silence::Closed),
        }
    }

    /// Reads the next reply or push, or returns why there is none.
    #[track_caller]
    pub fn try_read(&mut self, timeout: Duration) -> Result<Value, Silence> {
        if let Some(push) = self.pushes.pop_front() {
            return Ok(push);
        }
        self.next_value(timeout).map(|(value, _)| value)
    }

    /// Reads the bytes of the next reply or push as they came.
    #[track_caller]
    pub fn read_raw_reply(&mut self) -> Vec<u8> {
        match self.next_value(REPLY_TIMEOUT) {
            Ok((_, raw)) => raw,
            Err(silence) => self.fail(&silence),
        }
    }

    /// Reads exactly `count` bytes, whatever they mean.
    #[track_caller]
    pub fn read_raw(&mut self, count: usize) -> Vec<u8> {
        self.read_raw_until(|received| (received.len() >= count).then_some(count))
    }

    /// Fills the buffer with what comes next, without a copy: for long replies to many clients.
    #[track_caller]
    pub fn read_exact(&mut self, buffer: &mut [u8]) {
        let ready = self.received.len().min(buffer.len());
        let (start, rest) = buffer.split_at_mut(ready);
        start.copy_from_slice(&self.received[..ready]);
        self.received.drain(..ready);
        self.stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set_read_timeout");
        if let Err(error) = self.stream.read_exact(rest) {
            panic!("no reply after {}: {error}", self.last_sent);
        }
    }

    /// Reads up to and with the next line feed.
    #[track_caller]
    pub fn read_raw_line(&mut self) -> Vec<u8> {
        self.read_raw_through(b"\n")
    }

    /// Reads up to and with the next occurrence of `mark`.
    #[track_caller]
    pub fn read_raw_through(&mut self, mark: &[u8]) -> Vec<u8> {
        self.read_raw_until(|received| {
            let found = received.windows(mark.len()).position(|window| window == mark);
            found.map(|start| start + mark.len())
        })
    }

    /// Whether the server has closed this connection. Replies that came before stay readable.
    pub fn is_closed(&mut self) -> bool {
        while !self.closed && self.fill(Duration::ZERO) {}
        self.closed
    }

    /// `CLIENT ID` of this connection.
    #[track_caller]
    pub fn id(&mut self) -> i64 {
        self.run("CLIENT ID").as_int()
    }

    /// One field of an `INFO` section.
    #[track_caller]
    pub fn info(&mut self, section: &str, field: &str) -> Option<String> {
        let text = self.cmd(&["INFO", section]);
        let text = String::from_utf8_lossy(text.bytes()).into_owned();
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::to_owned)
    }

    /// Says that nothing more will be sent, and keeps the connection open for replies.
    #[track_caller]
    pub fn end_requests(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    }

    /// Ends the connection without a word to the server, as a machine that loses its power does. The
    /// system may not permit that; then the connection is returned as it is.
    pub fn vanish(self) -> Result<(), Self> {
        const TCP_REPAIR: i32 = 19;
        let set = |option: i32| {
            let on = 1i32;
            // SAFETY: the option is an integer that lives on this stack.
            unsafe {
                libc::setsockopt(
                    self.stream.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    option,
                    (&raw const on).cast(),
                    size_of::<i32>() as libc::socklen_t,
                )
            }
        };
        // Acknowledges what has come: the server would send it again.
        assert_eq!(set(libc::TCP_QUICKACK), 0);
        // A socket in this mode is closed without a segment.
        if set(TCP_REPAIR) == 0 { Ok(()) } else { Err(self) }
    }

    /// The port of this machine's end of the connection.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().expect("a connected socket has an address").port()
    }

    #[track_caller]
    fn reply(&mut self, reply_is_push: bool) -> Value {
        loop {
            match self.next_value(REPLY_TIMEOUT) {
                Ok((push @ Value::Push(_), _)) if !reply_is_push => self.pushes.push_back(push),
                Ok((value, _)) => return value,
                Err(silence) => self.fail(&silence),
            }
        }
    }

    /// The next value off the wire, with its bytes.
    #[track_caller]
    fn next_value(&mut self, timeout: Duration) -> Result<(Value, Vec<u8>), Silence> {
        let deadline = Instant::now() + timeout;
        loop {
            match parse(&self.received) {
                Ok(Some((value, length))) => {
                    return Ok((value, self.received.drain(..length).collect()));
                }
                Ok(None) => {}
                Err(why) => panic!(
                    "out of sync after {}: {why}; received \"{}\"",
                    self.last_sent,
                    self.received[..self.received.len().min(500)].escape_ascii(),
                ),
            }
            if self.closed {
                return Err(Silence::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.fill(left) && !self.closed && left.is_zero() {
                return Err(Silence::TimedOut);
            }
        }
    }

    #[track_caller]
    fn read_raw_until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        loop {
            if let Some(end) = end(&self.received) {
                return self.received.drain(..end).collect();
            }
            if self.closed {
                self.fail(&Silence::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.fail(&Silence::TimedOut);
            }
            self.fill(left);
        }
    }

    /// Receives what comes within `timeout` (zero: what is there already), at most one chunk.
    /// Whether something came; sets `closed` at the end of the stream.
    fn fill(&mut self, timeout: Duration) -> bool {
        self.stream.set_nonblocking(timeout.is_zero()).expect("set_nonblocking");
        if !timeout.is_zero() {
            self.stream.set_read_timeout(Some(timeout)).expect("set_read_timeout");
        }
        // A long reply comes in growing chunks, for it is parsed again after each.
        let mut chunk = vec![0; self.received.len().max(READ_CHUNK)];
        let outcome = self.stream.read(&mut chunk);
        self.stream.set_nonblocking(false).expect("set_nonblocking");
        match outcome {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                return true;
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => self.closed = true,
            },
        }
        false
    }

    #[track_caller]
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("sending {}: {error}", self.last_sent);
        }
    }

    #[track_caller]
    fn fail(&self, silence: &Silence) -> ! {
        let what = match silence {
            Silence::TimedOut => "no reply in time",
            Silence::Closed => "the server closed the connection",
        };
        panic!(
            "{what} after {}; received so far: \"{}\"",
            self.last_sent,
            self.received[..self.received.len().min(500)].escape_ascii(),
        );
    }
}

/// Appends a command to a request, as an array of bulk strings.
pub fn encode(request: &mut Vec<u8>, args: &[impl AsRef<[u8]>]) {
    request.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
}

/// A command as one line for a panic message, long arguments cut.
pub fn spell(args: &[impl AsRef<[u8]>]) -> String {
    let word = |arg: &[u8]| match arg.get(..100) {
        Some(start) => format!("{}...({} bytes)", start.escape_ascii(), arg.len()),
        None => arg.escape_ascii().to_string(),
    };
    args.iter().take(50).map(|arg| word(arg.as_ref())).collect::<Vec<_>>().join(" ")
}

/// What can stand in [`args!`].
pub trait Arg {
    /// The argument's bytes.
    fn to_arg(&self) -> Vec<u8>;
}

/// The arguments of a command, of mixed types: `client.cmd(&args!["SET", key, b"a\0b", "PX", 1000])`.
macro_rules! args {
    ($($arg:expr),+ $(,)?) => {
        [$($crate::support::Arg::to_arg(&$arg)),+]
    };
}
pub(crate) use args;

impl<T: Arg + ?Sized> Arg for &T {
    fn to_arg(&self) -> Vec<u8> {
        (**self).to_arg()
    }
}

impl Arg for str {
    fn to_arg(&self) -> Vec<u8> {
        self.into()
    }
}

impl Arg for String {
    fn to_arg(&self) -> Vec<u8> {
        self.as_bytes().into()
    }
}

impl Arg for [u8] {
    fn to_arg(&self) -> Vec<u8> {
        self.into()
    }
}

impl<const N: usize> Arg for [u8; N] {
    fn to_arg(&self) -> Vec<u8> {
        self.into()
    }
}

impl Arg for Vec<u8> {
    fn to_arg(&self) -> Vec<u8> {
        self.clone()
    }
}

macro_rules! decimal_args {
    ($($number:ty),+) => {
        $(impl Arg for $number {
            fn to_arg(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
        })+
    };
}

decimal_args!(i32, i64, u16, u32, u64, usize);
