//! The Redlock client of `examples/redlock.rs` over five real masters: when it is granted while some of
//! them are dead, slow or lose their replies; that a refusal comes in bounded time and leaves nothing
//! behind; that two clients never hold the lock; and that the validity it reports is right.

mod support;
use support::*;

#[path = "../examples/redlock.rs"]
mod redlock;
use redlock::{Error, Options, Redlock};

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A lease that does not expire during a test.
const TTL: Duration = Duration::from_secs(60);

/// One attempt, with much time for a busy machine.
const ONE_ATTEMPT: Options = Options {
    server_timeout: Duration::from_secs(10),
    attempts: 1,
    retry_delay: Duration::from_millis(5),
};

/// As [`ONE_ATTEMPT`], for tests in which some servers never reply.
const SHORT_TIMEOUT: Options = Options { server_timeout: Duration::from_secs(1), ..ONE_ATTEMPT };

fn masters(count: usize) -> Vec<Server> {
    (0..count).map(|_| Server::start()).collect()
}

fn client_of(servers: &[Server], options: Options) -> Redlock {
    let addresses = servers.iter().map(|server| server.addr().to_string());
    Redlock::new(addresses, options).expect("addresses")
}

/// Who holds the lock `job` on each of these servers.
#[track_caller]
fn holders(servers: &[Server]) -> Vec<Vec<String>> {
    servers.iter().map(|server| server.client().lock_holders("job")).collect()
}

#[track_caller]
fn assert_free(servers: &[Server]) {
    assert!(holders(servers).iter().all(Vec::is_empty), "held: {:?}", holders(servers));
}

/// How often a server has executed a command.
#[track_caller]
fn calls(server: &Server, command: &str) -> usize {
    let stats = info(server, "commandstats", &format!("cmdstat_{command}"));
    let calls = |stats: String| stats.strip_prefix("calls=")?.split(',').next()?.parse().ok();
    stats.map_or(0, |stats| calls(stats).expect("a number of calls"))
}

/// The lease without the allowance for clock drift.
fn without_drift(ttl: Duration) -> Duration {
    ttl - ttl / 100 - Duration::from_millis(2)
}

/// What happens to the replies to LOCK.ACQUIRE.
#[derive(Clone, Copy)]
enum Mishap {
    /// They are delayed by this much.
    Late(Duration),
    /// The connection breaks instead.
    Lost,
}

/// Starts a proxy in front of a server; returns its address.
fn proxy(server: &Server, mishap: Mishap) -> SocketAddr {
    let upstream = server.addr();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accept");
            let server = TcpStream::connect(upstream).expect("connect");
            let acquires = Arc::new(AtomicBool::new(false));
            let pipe = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            let seen = acquires.clone();
            thread::spawn(move || {
                relay(pipe.0, pipe.1, |request| {
                    let acquire = b"LOCK.ACQUIRE";
                    let found = request.windows(acquire.len()).any(|word| word == acquire);
                    seen.fetch_or(found, Ordering::SeqCst);
                    true
                })
            });
            thread::spawn(move || {
                relay(server, client, |_reply| match mishap {
                    _ if !acquires.swap(false, Ordering::SeqCst) => true,
                    Mishap::Late(by) => {
                        thread::sleep(by);
                        true
                    }
                    Mishap::Lost => false,
                })
            });
        }
    });
    address
}

/// Forwards bytes until one side closes or `may_pass` breaks the connection.
fn relay(
    mut from: TcpStream,
    mut to: TcpStream,
    mut may_pass: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = from.read(&mut buffer).unwrap_or(0);
        if count == 0 || !may_pass(&buffer[..count]) {
            from.shutdown(Shutdown::Both)?;
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&buffer[..count])?;
    }
}

#[test]
fn a_lock_is_held_on_all_servers_and_released_on_all() {
    let servers = masters(5);
    let mut redlock = client_of(&servers, ONE_ATTEMPT);

    let lock = redlock.acquire("job", TTL).expect("granted");
    assert_eq!(lock.agreed(), 5);
    let me = vec![lock.identifier().to_owned()];
    assert!(holders(&servers).iter().all(|holders| *holders == me));
    assert_eq!(lock.release(), 5);
    assert_free(&servers);

    let again = redlock.acquire("job", TTL).expect("granted again");
    assert_ne!(again.identifier(), me[0], "an identifier stands for one acquisition");
    drop(again);
    assert_free(&servers);
}

#[test]
fn a_lock_is_granted_while_two_of_five_servers_are_dead() {
    let mut servers = masters(5);
    servers[1].kill9();
    servers[3].kill9();
    let mut redlock = client_of(&servers, ONE_ATTEMPT);

    let lock = redlock.acquire("job", TTL).expect("granted by the majority");
    assert_eq!(lock.agreed(), 3);
    let mut rival = client_of(&servers, ONE_ATTEMPT);
    assert_eq!(rival.acquire("job", TTL).err(), Some(Error::NoMajority(0)));
    assert_eq!(lock.release(), 3);
    assert!(rival.acquire("job", TTL).is_ok());
}

#[test]
fn without_a_majority_the_lock_is_refused_soon_and_held_nowhere() {
    let mut servers = masters(5);
    servers[2..].iter_mut().for_each(Server::kill9);
    let living = &servers[..2];
    let mut redlock = client_of(&servers, Options { attempts: 4, ..ONE_ATTEMPT });

    let start = Instant::now();
    assert_eq!(redlock.acquire("job", TTL).err(), Some(Error::NoMajority(2)));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_free(living);
    for server in living {
        assert_eq!(calls(server, "lock.acquire"), 4, "each attempt asks once");
        assert_eq!(calls(server, "lock.release"), 4, "each attempt is taken back");
    }
}

#[test]
fn half_of_the_servers_are_not_a_majority() {
    let mut servers = masters(4);
    servers[0].kill9();
    servers[1].kill9();
    let mut redlock = client_of(&servers, ONE_ATTEMPT);
    assert_eq!(redlock.acquire("job", TTL).err(), Some(Error::NoMajority(2)));
    assert_free(&servers[2..]);
}

#[test]
fn racing_clients_never_hold_the_lock_together() {
    const CLIENTS: usize = 3;
    const ROUNDS: usize = 40;
    let servers = masters(5);
    let inside = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    let deadline = Instant::now() + SOON;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut redlock = client_of(&servers, ONE_ATTEMPT);
                let mut rounds = 0;
                while rounds < ROUNDS {
                    assert!(Instant::now() < deadline, "{rounds} rounds only");
                    let Ok(lock) = redlock.acquire("job", TTL) else {
                        refused.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        continue;
                    };
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    thread::yield_now();
                    assert!(lock.validity() > Duration::ZERO);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    rounds += 1;
                }
            });
        }
    });
    assert!(refused.into_inner() > 0, "they did not race");
    assert_free(&servers);
}

#[test]
fn a_refused_client_can_be_granted_by_a_later_attempt() {
    let servers = masters(5);
    let mut holder = client_of(&servers, ONE_ATTEMPT);
    let mut patient = client_of(&servers, Options { attempts: 100_000, ..ONE_ATTEMPT });
    let lock = holder.acquire("job", TTL).expect("granted");
    thread::scope(|scope| {
        let granted = scope.spawn(|| patient.acquire("job", TTL).map(|lock| lock.agreed()));
        eventually(SOON, "the second client asks", || calls(&servers[0], "lock.acquire") > 3);
        assert_eq!(lock.release(), 5);
        assert!(matches!(granted.join(), Ok(Ok(3..=5))));
    });
}

#[test]
fn validity_is_the_lease_minus_elapsed_time_and_drift() {
    const LATE: Duration = Duration::from_millis(300);
    let servers = masters(5);
    let proxies = servers.iter().map(|server| proxy(server, Mishap::Late(LATE)).to_string());
    let mut redlock = Redlock::new(proxies, ONE_ATTEMPT).expect("addresses");

    let before = Instant::now();
    let lock = redlock.acquire("job", TTL).expect("granted");
    let first = lock.validity();
    assert!(first <= without_drift(TTL) - LATE, "{first:?}");
    assert!(first >= without_drift(TTL) - before.elapsed(), "{first:?}");
    eventually(SOON, "it gets less", || lock.validity() < first);
}

#[test]
fn a_lock_is_refused_when_its_lease_expires_before_a_majority_replies() {
    let servers = masters(5);
    let late = Mishap::Late(Duration::from_millis(300));
    let proxies = servers.iter().map(|server| proxy(server, late).to_string());
    let mut redlock = Redlock::new(proxies, ONE_ATTEMPT).expect("addresses");

    assert_eq!(redlock.acquire("job", Duration::from_millis(200)).err(), Some(Error::TooLate));
    assert!(servers.iter().all(|server| calls(server, "lock.release") == 1), "all are released");
}

#[test]
fn a_lease_shorter_than_the_clock_drift_is_refused() {
    let servers = masters(5);
    let mut redlock = client_of(&servers, ONE_ATTEMPT);
    assert_eq!(redlock.acquire("job", Duration::from_millis(2)).err(), Some(Error::TooLate));
}

#[test]
fn an_extension_needs_a_majority() {
    let mut servers = masters(5);
    let mut redlock = client_of(&servers, ONE_ATTEMPT);
    let mut lock = redlock.acquire("job", TTL).expect("granted");

    let before = Instant::now();
    lock.extend(10 * TTL).expect("extended");
    let validity = lock.validity();
    assert!(validity <= without_drift(10 * TTL));
    assert!(validity >= without_drift(10 * TTL) - before.elapsed());
    for server in &servers {
        assert!(server.client().run("PTTL lock:{job}").as_int() > 5 * TTL.as_millis() as i64);
    }

    servers[0].kill9();
    servers[1].kill9();
    lock.extend(20 * TTL).expect("extended by the majority");
    assert_eq!(lock.agreed(), 3);

    servers[2].kill9();
    let validity = lock.validity();
    assert_eq!(lock.extend(40 * TTL), Err(Error::NoMajority(2)));
    assert!(lock.validity() <= validity, "what was not agreed to does not count");
    assert!(lock.validity() > 10 * TTL, "the lease goes on as it was");
    assert_eq!(lock.extend(TTL), Err(Error::NoMajority(2)));
    assert!(lock.validity() <= without_drift(TTL), "two servers have a shorter lease now");
}

#[test]
fn a_lock_that_a_majority_lost_is_lost() {
    let servers = masters(5);
    let mut redlock = client_of(&servers, ONE_ATTEMPT);
    let mut lock = redlock.acquire("job", TTL).expect("granted");
    for server in &servers[..2] {
        assert_eq!(server.client().run("FLUSHALL"), ok());
    }
    lock.extend(TTL).expect("three still know it");
    assert_eq!(lock.agreed(), 3);
    assert_free(&servers[..2]);

    assert_eq!(servers[4].client().run("FLUSHALL"), ok());
    assert_eq!(lock.extend(TTL), Err(Error::Lost));
    assert_eq!(lock.validity(), Duration::ZERO);
    drop(lock);
    assert_free(&servers);
}

#[test]
fn a_lock_cannot_be_extended_after_its_validity_has_ended() {
    let servers = masters(5);
    let mut redlock = client_of(&servers, Options { attempts: 100, ..ONE_ATTEMPT });
    let mut lock = redlock.acquire("job", Duration::from_millis(500)).expect("granted");
    for server in &servers {
        // The servers would grant it.
        let id = lock.identifier();
        assert_eq!(server.client().run(format!("SET lock:{{job}} {id}")), ok());
    }
    eventually(SOON, "the validity ends", || lock.validity().is_zero());
    assert_eq!(lock.extend(TTL), Err(Error::Lost));
    assert_eq!(lock.validity(), Duration::ZERO);
    assert_eq!(lock.release(), 5);
}

#[test]
fn a_stopped_server_delays_nobody_and_gets_its_release_when_it_resumes() {
    let servers = masters(5);
    let mut redlock = client_of(&servers, SHORT_TIMEOUT);
    eventually(SOON, "all are connected", || {
        redlock.acquire("job", TTL).is_ok_and(|lock| lock.agreed() == 5)
    });
    let before = calls(&servers[0], "lock.acquire");

    servers[0].pause();
    let start = Instant::now();
    let lock = redlock.acquire("job", TTL).expect("granted by the others");
    assert!(lock.agreed() < 5);
    drop(lock);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());

    servers[1].pause();
    servers[2].pause();
    let start = Instant::now();
    assert!(matches!(redlock.acquire("job", TTL).err(), Some(Error::NoMajority(0..=2))));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());

    servers[..3].iter().for_each(Server::resume);
    eventually(SOON, "the requests are read", || calls(&servers[0], "lock.acquire") == before + 2);
    eventually(SOON, "nothing stays held", || holders(&servers).iter().all(Vec::is_empty));
    eventually(SOON, "late replies are not taken for new ones", || {
        redlock.acquire("job", TTL).is_ok_and(|lock| {
            let me = vec![lock.identifier().to_owned()];
            lock.agreed() == 5 && holders(&servers).iter().all(|holders| *holders == me)
        })
    });
    assert_free(&servers);
}

#[test]
fn a_stopped_server_that_was_never_connected_delays_nobody() {
    let servers = masters(5);
    servers[4].pause();
    let mut redlock = client_of(&servers, SHORT_TIMEOUT);
    let start = Instant::now();
    eventually(SOON, "granted by the others", || redlock.acquire("job", TTL).is_ok());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_free(&servers[..4]);
    servers[4].resume();
    assert_free(&servers[4..]);
}

#[test]
fn a_server_whose_reply_was_lost_is_released() {
    let mut servers = masters(5);
    let mut addresses: Vec<_> = servers.iter().map(Server::addr).collect();
    addresses[0] = proxy(&servers[0], Mishap::Lost);
    let addresses = addresses.iter().map(SocketAddr::to_string);
    let mut redlock = Redlock::new(addresses, ONE_ATTEMPT).expect("addresses");

    let lock = redlock.acquire("job", TTL).expect("granted by the others");
    assert_eq!(lock.agreed(), 4);
    assert_eq!(holders(&servers[..1]), [[lock.identifier()]], "it was granted there too");
    assert_eq!(lock.release(), 5);
    assert_free(&servers);

    servers[1].kill9();
    servers[2].kill9();
    assert_eq!(redlock.acquire("job", TTL).err(), Some(Error::NoMajority(2)));
    servers.drain(1..3);
    assert_free(&servers);
}

#[test]
fn a_server_that_comes_back_counts_again_at_once() {
    let mut servers = masters(5);
    let mut redlock = client_of(&servers, ONE_ATTEMPT);
    assert!(redlock.acquire("job", TTL).is_ok_and(|lock| lock.agreed() == 5));
    for server in &mut servers[..3] {
        server.kill9();
        server.restart();
    }
    assert!(redlock.acquire("job", TTL).is_ok_and(|lock| lock.agreed() == 5));
    assert_free(&servers);
}
