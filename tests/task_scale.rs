//! Much at once: 100,000 due tasks, 20,000 expired leases, lines of 2,000 consumers. Nothing is
//! lost or delivered twice, and other clients are served all the while.

mod support;
use support::consumers::*;
use support::*;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// For how long the server may work before it serves another client. It is several times what the
/// server needs, because on a busy machine some of the time of others counts as its own. Without a
/// bound it would be half a second and more.
const TURN: Duration = Duration::from_millis(200);

/// Runs `body` while another client sends PING, and checks that the server never works for long
/// before it replies. What else the machine does meanwhile does not count.
#[track_caller]
fn others_have_their_turn<T>(server: &Server, body: impl FnOnce() -> T) -> T {
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let mut bystander = server.client();
    let (outcome, longest) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let (begin, before) = (Instant::now(), server.cpu_time());
                assert_eq!(bystander.run("PING"), simple("PONG"));
                let (waited, work) = (begin.elapsed(), server.cpu_time() - before);
                longest = longest.max(work.min(waited));
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        let until_here = StopOnDrop(&stop);
        let outcome = body();
        drop(until_here);
        (outcome, watch.join().expect("it always gets a reply"))
    });
    assert!(longest < TURN, "a client waited for {longest:?} of work");
    outcome
}

/// Lets workers wait, runs `begin`, and finishes `count` tasks: their payloads in order, each with
/// its number of deliveries.
#[track_caller]
fn work_off(server: &Server, count: usize, begin: impl FnOnce()) -> Vec<(usize, i64)> {
    const WORKERS: usize = 4;
    let done = AtomicUsize::new(0);
    let give_up = Instant::now() + 3 * SOON;
    let worker = |name: usize| {
        let mut client = server.client();
        let mut mine = Vec::new();
        while done.load(Ordering::Relaxed) < count && Instant::now() < give_up {
            let call = format!("TASK.CONSUME g w{name} q COUNT 200 BLOCK 1000 META");
            let got = client.run(call);
            let got = got.items();
            if got.is_empty() {
                continue;
            }
            let ids = got.iter().map(|task| task.items()[0].as_str());
            let ack: Vec<_> = ["TASK.ACK", "q", "g"].into_iter().chain(ids).collect();
            assert_eq!(client.cmd(&ack), int(got.len().try_into().expect("a length")));
            done.fetch_add(got.len(), Ordering::Relaxed);
            mine.extend(got.iter().map(|task| {
                let payload = task.items()[1].get("payload").as_str();
                (payload.parse().expect("a number"), task.items()[3].as_int())
            }));
        }
        mine
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|name| scope.spawn(move || worker(name))).collect();
        let mut control = server.client();
        eventually(SOON, "the workers wait", || waiters(&mut control, "task") >= WORKERS);
        begin();
        workers.into_iter().flat_map(|worker| worker.join().expect("it works")).collect()
    });
    all.sort_unstable();
    all
}

/// The numbers below `count`, each with this number of deliveries.
fn each_delivered(count: usize, times: i64) -> Vec<(usize, i64)> {
    (0..count).map(|number| (number, times)).collect()
}

#[test]
fn other_clients_are_served_while_100_000_due_tasks_are_delivered() {
    const COUNT: usize = 100_000;
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "PAUSED 1");
    publish_many(&mut client, COUNT, "DELAY 1");
    client.wait_ms(5);
    let mut elsewhere = waiter_with(&server, "TASK.CONSUME g c elsewhere BLOCK 0 META");
    let got = others_have_their_turn(&server, || {
        work_off(&server, COUNT, || {
            let due = id_ms(&client.publish_with("elsewhere", "p", "DELAY 100"));
            policy(&mut client, "PAUSED 0");
            on_time(gets(&mut elsewhere, "p").at, due);
        })
    });
    assert!(got == each_delivered(COUNT, 1), "lost, or delivered twice");
    assert_eq!((task_info(&mut client, "length"), task_info(&mut client, "delayed")), (0, 0));
}

#[test]
fn a_consumer_gets_one_of_100_000_due_tasks_at_once() {
    let server = Checked::start();
    let mut client = server.client();
    policy(&mut client, "PAUSED 1");
    publish_many(&mut client, 100_000, "DELAY 1");
    let mut waiters = line(&server, 3);
    others_have_their_turn(&server, || {
        let begin = client.time_ms();
        policy(&mut client, "PAUSED 0");
        for (number, waiter) in waiters.iter_mut().enumerate() {
            on_time(gets(waiter, &number.to_string()).at, begin);
        }
        still_wait(&server, 0);
    });
}

/// Leases the tasks 0, 1, … to a worker that has died, each `ms` ago, however long it takes to make
/// them.
#[track_caller]
fn lease_many(client: &mut Client, count: usize, ms: i64) {
    run_all(client, &["XGROUP CREATE q g 0 MKSTREAM"]);
    publish_many(client, count, "");
    let claim = "local last = '0-0' \
        for _, task in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 2000)) do \
        last = task[1] \
        redis.call('XCLAIM', KEYS[1], 'g', 'worker', 0, last, 'IDLE', ARGV[2], \
        'RETRYCOUNT', 1, 'FORCE', 'JUSTID', 'LASTID', last) end return last";
    let mut last = "0-0".to_owned();
    for _ in (0..count).step_by(2000) {
        let reply = client.cmd(&args!["EVAL", claim, 1, "q", format!("({last}"), ms]);
        reply.as_str().clone_into(&mut last);
    }
    let leased = int(count.try_into().expect("a length"));
    assert_eq!(client.run("XPENDING q g").items()[0], leased);
}

/// A lease in which any worker finishes its tasks.
const LEASE: i64 = 60_000;

#[test]
fn other_clients_are_served_while_20_000_expired_leases_are_reclaimed() {
    const COUNT: usize = 20_000;
    // Some expire while the server runs, some while it is down.
    for restarts in [false, true] {
        let mut server = durable();
        let mut client = server.client();
        policy(&mut client, "LEASE 0 PAUSED 1");
        lease_many(&mut client, COUNT, LEASE - 500);
        let end = client.time_ms() + 500;
        if restarts {
            policy(&mut client, &format!("LEASE {LEASE}"));
            server.kill9();
        }
        eventually(SOON, "the leases have expired", || now_ms() > end);
        if restarts {
            server.restart();
            client = server.client();
        }
        let got = others_have_their_turn(&server, || {
            let resume = format!("LEASE {LEASE} PAUSED 0");
            work_off(&server, COUNT, || policy(&mut client, &resume))
        });
        assert!(got == each_delivered(COUNT, 2), "lost, or delivered twice");
        assert_eq!(task_info(&mut client, "length"), 0);
    }
}

#[test]
fn copies_for_another_group_are_skipped_in_bounded_steps() {
    const COUNT: usize = 10_000;
    let server = Checked::start();
    let mut client = server.client();
    run_all(&mut client, &["XGROUP CREATE q g 0 MKSTREAM", "XGROUP CREATE q other 0"]);
    let script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'payload', i, \
        'timestamp', 0, 'retry_count', 1, 'original_id', '1-1', 'group', 'other') end \
        return redis.call('XADD', KEYS[1], '*', 'payload', 'p')";
    let add = |client: &mut Client| {
        let id = client.cmd(&args!["EVAL", script, 1, "q", COUNT]);
        assert!(matches!(id, Value::Bulk(_)), "{id:?}");
    };
    let mut waiter = waiter(&server, "c");
    policy(&mut client, "PAUSED 1");
    add(&mut client);
    others_have_their_turn(&server, || {
        policy(&mut client, "PAUSED 0");
        // How long that takes depends on the machine.
        let got = waiter.read_timeout(3 * SOON).expect("the task behind the copies");
        assert_eq!(deliveries(&got, 0)[0].text("payload"), "p");
    });
    // Without waiting, each call skips some of them.
    add(&mut client);
    others_have_their_turn(&server, || {
        eventually(SOON, "all are skipped", || {
            let found = client.run("TASK.CONSUME g c q META");
            let found = deliveries(&found, 0);
            found.first().map(|task| assert_eq!(task.text("payload"), "p"))
        });
    });
    assert_eq!(client.run("XPENDING q g").items()[0], int(2));
    let found = client.run(format!("TASK.CONSUME other c q COUNT {} META", 3 * COUNT));
    assert_eq!(found.items().len(), 2 * COUNT + 2);
}

#[test]
fn two_thousand_consumers_get_the_tasks_that_are_due_at_once() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let mut crowd = server.clients(COUNT);
    for (number, waiter) in crowd.iter_mut().enumerate() {
        waiter.send(wait_as(&format!("c{number}")));
    }
    eventually(SOON, "all of them wait", || waiters(&mut client, "task") == COUNT);
    let due = client.time_ms() + 5000;
    publish_many(&mut client, COUNT, &format!("AT {due}"));
    assert!(client.time_ms() < due, "the machine is too slow: a task is due already");
    let mut payloads = Vec::new();
    others_have_their_turn(&server, || {
        for waiter in &mut crowd {
            let reply = waiter.read();
            let got = deliveries(&reply, now_ms());
            assert_eq!(got.len(), 1);
            assert!(got[0].at >= due);
            payloads.push(got[0].text("payload").parse::<usize>().expect("a number"));
        }
    });
    payloads.sort_unstable();
    assert_eq!(payloads, (0..COUNT).collect::<Vec<_>>());
    assert_eq!(client.run("XPENDING q g").items()[0], int(COUNT.try_into().expect("a length")));
}

#[test]
fn each_of_two_thousand_queues_delivers_on_time() {
    const COUNT: usize = 2000;
    let server = Checked::start();
    let mut client = server.client();
    let mut crowd = server.clients(COUNT);
    for (number, waiter) in crowd.iter_mut().enumerate() {
        waiter.send(format!("TASK.CONSUME g c q{number} BLOCK 0 META"));
    }
    eventually(SOON, "all of them wait", || waiters(&mut client, "task") == COUNT);
    let due = client.time_ms() + 5000;
    let script = "for i = 1, #KEYS do redis.call('TASK.PUBLISH', KEYS[i], i, 'AT', ARGV[1]) end";
    let names = (0..COUNT).map(|number| format!("q{number}"));
    let call = ["EVAL".into(), script.into(), COUNT.to_string()].into_iter().chain(names);
    let call: Vec<_> = call.chain([due.to_string()]).collect();
    assert!(client.cmd(&call).is_nil());
    assert!(client.time_ms() < due, "the machine is too slow: a task is due already");
    others_have_their_turn(&server, || {
        for waiter in &mut crowd {
            let reply = waiter.read();
            let got = deliveries(&reply, now_ms());
            assert_eq!(got.len(), 1);
            assert!(got[0].at >= due, "{} ms early", due - got[0].at);
        }
    });
}
