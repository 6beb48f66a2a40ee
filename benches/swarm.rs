//! Many independent clients in one thread: each sends, waits and sleeps on its own.

use crate::support::{Server, allow_many_files};
use crate::wire::{Connection, encoded};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Clients that one thread drives. Each has at most one command in flight.
pub struct Swarm {
    /// The number of commands sent.
    pub sent: usize,
    members: Vec<Connection>,
    polled: Vec<libc::pollfd>,
    ready: VecDeque<usize>,
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// An event of a member.
pub enum Event {
    /// A reply has arrived. The caller must take it with [`Swarm::reply`].
    Reply(usize),
    /// Its sleep has ended.
    Alarm(usize),
}

impl Swarm {
    /// Connects `size` clients.
    pub fn new(server: &Server, size: usize) -> Self {
        allow_many_files();
        let mut members = Vec::with_capacity(size);
        for _ in 0..size {
            let mut member = Connection::to(server.addr(), 1024);
            member.send(&encoded(&["PING"]));
            member.expect("+PONG");
            members.push(member);
        }
        let polled = members.iter().map(|member| libc::pollfd {
            fd: member.stream.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        Self {
            sent: 0,
            polled: polled.collect(),
            members,
            ready: VecDeque::new(),
            alarms: BinaryHeap::new(),
        }
    }

    /// Sends a command.
    pub fn send(&mut self, member: usize, command: &[u8]) {
        self.sent += 1;
        self.members[member].send(command);
    }

    /// Takes the reply that has arrived.
    pub fn reply<T>(&mut self, member: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        self.members[member].reply(|reply| {
            assert!(!reply.starts_with(b"-"), "the server replied {}", reply.escape_ascii());
            look(reply)
        })
    }

    /// Puts a member to sleep.
    pub fn sleep(&mut self, member: usize, time: Duration) {
        self.alarms.push(Reverse((Instant::now() + time, member)));
    }

    /// Waits for the next event until `end`.
    pub fn next(&mut self, end: Instant) -> Option<Event> {
        loop {
            if let Some(member) = self.ready.pop_front() {
                return Some(Event::Reply(member));
            }
            let now = Instant::now();
            let wake = match self.alarms.peek() {
                Some(Reverse((at, _))) => end.min(*at),
                None => end,
            };
            if now >= end {
                return None;
            }
            if now >= wake {
                return self.alarms.pop().map(|Reverse((_, member))| Event::Alarm(member));
            }
            self.poll(wake - now);
        }
    }

    fn poll(&mut self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let (polled, count) = (self.polled.as_mut_ptr(), self.polled.len() as libc::nfds_t);
        // SAFETY: the array has `count` entries with open descriptors, and the mask may be null.
        let result = unsafe { libc::ppoll(polled, count, &raw const timeout, std::ptr::null()) };
        assert!(result >= 0, "poll: {}", io::Error::last_os_error());
        let ready = self.polled.iter().enumerate().filter(|(_, polled)| polled.revents != 0);
        self.ready.extend(ready.map(|(member, _)| member));
    }
}
