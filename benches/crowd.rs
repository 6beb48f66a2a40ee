//! Many clients, of which some or all wait.

use crate::measure::Lab;
use crate::support::{SOON, eventually};
use crate::wire::{Connection, encoded};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the members of a crowd wait for.
pub struct Wish {
    /// What each member sends, which makes it wait.
    pub ask: Vec<Vec<u8>>,
    /// What ends the waiting of one of them.
    pub grant: Vec<u8>,
}

/// Connections, of which some wait and the others are idle. Those that were served are idle after
/// all the others, so every connection has its turn, however few of them wait.
pub struct Crowd {
    members: Vec<Connection>,
    ready: Ready,
    wish: Option<Wish>,
    idle: VecDeque<usize>,
}

impl Crowd {
    /// Connects `size` clients. None of them waits.
    pub fn new(lab: &Lab, size: usize) -> Self {
        // Raises the limit of open files, which is 1,024 in many a shell.
        drop(lab.server.clients(0));
        let connect = |_| Connection::to(lab.server.addr(), 1024);
        let members: Vec<_> = (0..size).map(connect).collect();
        Self { ready: Ready::new(&members), members, wish: None, idle: (0..size).collect() }
    }

    /// Sends everybody home and then makes `count` members wait for `wish`.
    pub fn gather(&mut self, lab: &mut Lab, count: usize, wish: Wish) {
        self.disperse(lab);
        self.wish = Some(wish);
        (0..count).for_each(|_| self.one_more());
        await_blocked(lab, count);
    }

    /// Grants everybody what they wait for.
    pub fn disperse(&mut self, lab: &mut Lab) {
        let Some(wish) = self.wish.take() else { return };
        let waiting = self.members.len() - self.idle.len();
        lab.connections[0].send(&wish.grant.repeat(waiting));
        for _ in 0..waiting {
            lab.connections[0].expect("");
        }
        self.serve(waiting);
        await_blocked(lab, 0);
    }

    /// Waits until `count` members were served. For each of them another one begins to wait.
    pub fn serve(&mut self, count: usize) {
        let mut served = 0;
        while served < count {
            for number in self.ready.next() {
                self.members[number].expect("*1");
                self.idle.push_back(number);
                self.one_more();
                served += 1;
            }
        }
    }

    fn one_more(&mut self) {
        if let Some(wish) = &self.wish
            && let Some(number) = self.idle.pop_front()
        {
            self.members[number].send(&wish.ask[number]);
        }
    }
}

fn await_blocked(lab: &mut Lab, count: usize) {
    eventually(SOON, &format!("{count} clients wait"), || {
        lab.client.info("clients", "blocked_clients") == Some(count.to_string())
    });
}

/// Tells which connections have something to read.
struct Ready {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Ready {
    fn new(connections: &[Connection]) -> Self {
        // SAFETY: the call takes no pointer, and a descriptor that is not negative is ours.
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

    /// The numbers of some connections that have something to read.
    fn next(&mut self) -> Vec<usize> {
        let (room, patience) = (self.events.len() as i32, SOON.as_millis() as i32);
        let events = self.events.as_mut_ptr();
        // SAFETY: the descriptor is open, and there is room for as many events.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, room, patience) };
        assert!(count > 0, "nobody was served within {SOON:?}");
        self.events[..count as usize].iter().map(|event| event.u64 as usize).collect()
    }
}

/// What the members of a crowd send: one command for each of them.
pub fn asks<const N: usize>(size: usize, ask: impl Fn(usize) -> [Vec<u8>; N]) -> Vec<Vec<u8>> {
    (0..size).map(|member| encoded(&ask(member))).collect()
}
