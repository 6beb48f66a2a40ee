//! Clients that one thread serves, each of which goes its own way: it sends, waits, sleeps.

use crate::support::Server;
use crate::wire::{Connection, encoded};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Clients that one thread serves. Each has at most one command on its way.
pub struct Swarm {
    /// How many commands were sent.
    pub sent: usize,
    members: Vec<Connection>,
    polled: Vec<libc::pollfd>,
    ready: VecDeque<usize>,
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// What happens to a member of a swarm.
pub enum Event {
    /// There is a reply, which must be taken.
    Reply(usize),
    /// It has slept enough.
    Alarm(usize),
}

impl Swarm {
    /// Connects `size` clients.
    pub fn new(server: &Server, size: usize) -> Self {
        drop(server.clients(0));
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

    /// Takes the reply that is there.
    pub fn reply<T>(&mut self, member: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        self.members[member].reply(|reply| {
            assert!(!reply.starts_with(b"-"), "the server: {}", reply.escape_ascii());
            look(reply)
        })
    }

    /// Lets a member sleep.
    pub fn sleep(&mut self, member: usize, time: Duration) {
        self.alarms.push(Reverse((Instant::now() + time, member)));
    }

    /// What happens next, if it happens before the `end`.
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

    fn poll(&mut self, patience: Duration) {
        let patience = libc::timespec {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_nsec: patience.subsec_nanos().into(),
        };
        let (polled, count) = (self.polled.as_mut_ptr(), self.polled.len() as libc::nfds_t);
        // SAFETY: there are as many entries, whose descriptors are open, and a null mask is allowed.
        let result = unsafe { libc::ppoll(polled, count, &raw const patience, std::ptr::null()) };
        assert!(result >= 0, "poll: {}", io::Error::last_os_error());
        let ready = self.polled.iter().enumerate().filter(|(_, polled)| polled.revents != 0);
        self.ready.extend(ready.map(|(member, _)| member));
    }
}
