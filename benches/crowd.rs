//! Many clients, some or all of which wait.

use crate::measure::Lab;
use crate::support::{SOON, allow_many_files, args, eventually};
use crate::wire::{Connection, encoded};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the members of a crowd wait for.
pub struct Wait {
    /// The command on which each member waits.
    pub commands: Vec<Vec<u8>>,
    /// The command that serves one of them.
    pub wake: Vec<u8>,
}

/// Connections, some of which wait while the others are idle. Members join in turn: a member that was
/// served joins again only after all idle members, so every connection takes part however few wait.
pub struct Crowd {
    members: Vec<Connection>,
    ready: Ready,
    wait: Option<Wait>,
    idle: VecDeque<usize>,
}

/// How many clients can be connected: the limit of open files, without those that a server needs itself.
pub fn most_clients() -> usize {
    const OTHERS: usize = 200;
    // Many shells set the limit to 1,024.
    allow_many_files();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call gets a valid pointer to a limit that lives on this stack.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    (if known { limit.rlim_cur as usize } else { 1024 }).saturating_sub(OTHERS)
}

/// Whether that many clients can be connected. If not, this says so.
pub fn can_connect(count: usize) -> bool {
    let most = most_clients();
    if count > most {
        eprintln!("skipped: the limit of open files allows {most} clients, and this needs {count}");
    }
    count <= most
}

/// Connects clients, and returns them with their ids.
pub fn connect(lab: &mut Lab, count: usize) -> (Vec<Connection>, Vec<String>) {
    assert!(can_connect(count), "too many clients");
    lab.client.cmd(&args!["CONFIG", "SET", "maxclients", count + 100]);
    let connect = |number: usize| {
        // An address has some 28,000 ports for outgoing connections.
        let host = [127, 0, 0, 1 + (number / PORTS) as u8];
        let mut member = Connection::to((host, lab.server.port()).into(), 128);
        // One after the other, so that the server's backlog never overflows.
        member.send(&encoded(&["CLIENT", "ID"]));
        let id = member.reply(|reply| String::from_utf8_lossy(&reply[1..]).trim().to_owned());
        (member, id)
    };
    (0..count).map(connect).unzip()
}

/// The number of connections of an address of the server.
pub const PORTS: usize = 20_000;

impl Crowd {
    /// Connects `size` clients, all of them idle.
    pub fn new(lab: &mut Lab, size: usize) -> Self {
        let (members, _) = connect(lab, size);
        Self { ready: Ready::new(&members), members, wait: None, idle: (0..size).collect() }
    }

    /// Makes `count` members wait, after the members that wait already have been served.
    pub fn gather(&mut self, lab: &mut Lab, count: usize, wait: Wait) {
        self.disperse(lab);
        self.wait = Some(wait);
        (0..count).for_each(|_| self.add_waiter());
        await_blocked(lab, count);
    }

    /// Serves all members that wait.
    pub fn disperse(&mut self, lab: &mut Lab) {
        let Some(wait) = self.wait.take() else { return };
        let waiting = self.members.len() - self.idle.len();
        lab.connections[0].send(&wait.wake.repeat(waiting));
        for _ in 0..waiting {
            lab.connections[0].expect("");
        }
        self.serve(waiting);
        await_blocked(lab, 0);
    }

    /// Waits until `count` members have been served. For each of them another member starts to wait.
    pub fn serve(&mut self, count: usize) {
        let mut served = 0;
        while served < count {
            for number in self.ready.next() {
                self.members[number].expect("*1");
                self.idle.push_back(number);
                self.add_waiter();
                served += 1;
            }
        }
    }

    fn add_waiter(&mut self) {
        if let Some(wait) = &self.wait
            && let Some(number) = self.idle.pop_front()
        {
            self.members[number].send(&wait.commands[number]);
        }
    }
}

/// Waits until that many clients are blocked.
pub fn await_blocked(lab: &mut Lab, count: usize) {
    eventually(SOON, &format!("{count} clients wait"), || {
        lab.client.info("clients", "blocked_clients") == Some(count.to_string())
    });
}

/// Finds the connections that have something to read.
pub struct Ready {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Ready {
    /// Watches these connections.
    pub fn new(connections: &[Connection]) -> Self {
        // SAFETY: the call takes no pointer, and a non-negative descriptor belongs to this process.
        let epoll = unsafe {
            let descriptor = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(descriptor >= 0, "epoll: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(descriptor)
        };
        for (number, connection) in connections.iter().enumerate() {
            let mut event =
                libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: number as u64 };
            let (epoll, socket) = (epoll.as_raw_fd(), connection.stream.as_raw_fd());
            // SAFETY: both descriptors are open, and the kernel copies the event.
            let added =
                unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
            assert!(added == 0, "epoll: {}", io::Error::last_os_error());
        }
        Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] }
    }

    /// Waits for connections that have something to read, and returns the numbers of some of them.
    pub fn next(&mut self) -> Vec<usize> {
        let (capacity, timeout) = (self.events.len() as i32, SOON.as_millis() as i32);
        let events = self.events.as_mut_ptr();
        // SAFETY: the descriptor is open, and the buffer holds that many events.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, capacity, timeout) };
        assert!(count > 0, "no client was served within {SOON:?}");
        self.events[..count as usize].iter().map(|event| event.u64 as usize).collect()
    }
}

/// One command for each member of a crowd.
pub fn commands<const N: usize>(
    size: usize,
    command: impl Fn(usize) -> [Vec<u8>; N],
) -> Vec<Vec<u8>> {
    (0..size).map(|member| encoded(&command(member))).collect()
}
