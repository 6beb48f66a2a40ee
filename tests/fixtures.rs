//! The test fixtures, on plain servers without the module: wherever a broken fixture would let
//! other tests pass. A crash, a missing reply, a closed connection and an incomplete replication
//! stream must be noticed.

mod support;
use support::*;

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const A_MOMENT: Duration = Duration::from_millis(50);

fn plain() -> Builder {
    Server::builder().module(false)
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The message of the panic of `body`.
fn panic_of(body: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(body)).expect_err("a panic");
    *panic.downcast::<String>().expect("a formatted message")
}

#[test]
fn resp2_replies_keep_their_types() {
    let server = plain().start();
    let mut c = server.client();
    assert_eq!(c.run("SET k v"), ok());
    assert_eq!(c.run("PING"), simple("PONG"));
    assert_eq!(c.run("GET k"), bulk("v"));
    assert_eq!(c.run("GET missing"), nil());
    assert_eq!(c.run("BLPOP missing 0.01"), nil_array());
    assert_eq!(c.run("INCR n"), int(1));
    assert_eq!(c.run("MGET k missing n"), array([bulk("v"), nil(), bulk("1")]));
    assert_eq!(c.run("HSET h a 1"), int(1));
    assert_eq!(c.run("HGETALL h"), array(["a", "1"]));
    assert_eq!(c.run("HGETALL h").get("a"), &bulk("1"));
    assert_eq!(c.run("NONSENSE").as_str().split(' ').next(), Some("ERR"));
    assert!(c.run("INCR h").is_error_with("WRONGTYPE "));
    assert_eq!(
        c.run("LRANGE h x 1"),
        error("ERR value is not an integer or out of range"),
        "the whole text of an error"
    );
}

#[test]
fn resp3_replies_keep_their_types() {
    let server = plain().start();
    let mut c = server.client3();
    assert_eq!(c.run("GET missing"), null());
    assert_eq!(c.run("HSET h a 1"), int(1));
    assert_eq!(c.run("HGETALL h"), map([("a", "1")]));
    assert_eq!(c.run("HGETALL h").get("a").as_str(), "1");
    assert_eq!(c.run("HGETALL h").field("b"), None);
    assert_eq!(c.run("DEBUG PROTOCOL true"), Value::Bool(true));
    assert_eq!(c.run("DEBUG PROTOCOL false"), Value::Bool(false));
    assert_eq!(c.run("ZADD z 1.5 a"), int(1));
    assert_eq!(c.run("ZSCORE z a"), Value::Double(1.5));
    assert_eq!(c.run("DEBUG PROTOCOL set"), Value::Set(vec![int(0), int(1), int(2)]));
    assert!(matches!(c.run("DEBUG PROTOCOL bignum"), Value::BigNumber(_)));
    assert!(matches!(c.run("DEBUG PROTOCOL attrib"), Value::Attribute(..)));
    let Value::Verbatim(format, text) = c.run("DEBUG PROTOCOL verbatim") else {
        panic!("not verbatim");
    };
    assert_eq!((format.as_slice(), text.starts_with(b"This is a")), (&b"txt"[..], true));
}

#[test]
fn raw_and_inline_requests_can_be_sent_and_read() {
    let server = plain().start();
    let mut c = server.client();
    c.send_raw("SET k v\r\nGET k\r\nPING\r\nPING\r\n");
    assert_eq!(c.read(), ok());
    assert_eq!(c.read_raw_reply(), b"$1\r\nv\r\n");
    assert_eq!(c.read_raw_line(), b"+PONG\r\n");
    assert_eq!(c.read_raw(7), b"+PONG\r\n");
    assert_eq!(c.pipeline(&["INCR n", "INCR n", "GET k"]), [int(1), int(2), bulk("v")]);
    c.send_raw("*1\r\nnonsense\r\n");
    assert!(c.read().is_error_with("ERR Protocol error"));
    eventually(SOON, "the server closes", || c.is_closed());
    assert_eq!(c.try_read(SOON), Err(Silence::Closed));
}

#[test]
fn a_missing_reply_is_noticed() {
    let server = plain().start();
    let mut c = server.client();
    c.send("BLPOP list 0");
    wait_blocked(&server, 1);
    assert_eq!(c.read_timeout(Duration::ZERO), None);
    assert_eq!(c.read_timeout(A_MOMENT), None);
    assert!(!c.is_closed());
    assert_eq!(server.client().run("RPUSH list a"), int(1));
    assert_eq!(c.read(), array(["list", "a"]));
    assert_eq!(blocked_clients(&server), 0);
}

#[test]
fn a_read_from_a_closed_connection_fails_and_names_the_command() {
    let server = plain().start();
    let mut c = server.client();
    let id = c.id();
    c.send("BLPOP list 0");
    wait_blocked(&server, 1);
    assert_eq!(server.client().run(format!("CLIENT KILL ID {id}")), int(1));
    let message = panic_of(|| drop(c.read()));
    assert!(message.contains("closed") && message.contains("BLPOP list 0"), "{message}");
}

#[test]
fn pushes_do_not_come_between_a_command_and_its_reply() {
    let server = plain().start();
    let mut c = server.client3();
    assert_eq!(c.run("CLIENT TRACKING ON NOLOOP"), ok());
    assert_eq!(c.run("GET k"), null());
    assert_eq!(server.client().run("SET k v"), ok());
    assert_eq!(c.run("GET k"), bulk("v"));
    assert_eq!(c.read(), Value::Push(vec![bulk("invalidate"), array(["k"])]));
    let subscribed = Value::Push(vec![bulk("subscribe"), bulk("news"), int(1)]);
    assert_eq!(c.run("SUBSCRIBE news"), subscribed);
}

#[test]
fn an_incomplete_reply_is_not_parsed() {
    let reply = b"*3\r\n$3\r\na\r\n\r\n:-7\r\n%1\r\n+k\r\n_\r\n";
    let value = array([bulk("a\r\n"), int(-7), map([(simple("k"), null())])]);
    for end in 0..reply.len() {
        assert_eq!(parse(&reply[..end]), Ok(None), "the first {end} bytes");
    }
    assert_eq!(parse(&[reply, &b":1"[..]].concat()), Ok(Some((value, reply.len()))));
    for wrong in ["OK\r\n", ":x\r\n", "\r\n", "+OK\n", "$1\r\nabc", "$-2\r\n", "*99999999999\r\n"] {
        assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_condition_that_never_holds_fails_and_is_named() {
    let message = panic_of(|| eventually(A_MOMENT, "pigs fly", || false));
    assert!(message.contains("pigs fly"), "{message}");
}

#[test]
fn an_append_only_file_survives_a_kill_and_can_be_read() {
    let mut server = plain().aof(true).start();
    let port = server.port();
    let mut c = server.client();
    assert_eq!(c.run("SET k v PXAT 99999999999999"), ok());
    c.pipeline(&["MULTI", "INCR n", "INCR n", "EXEC"]);
    let expected = ["SET k v PXAT 99999999999999", "MULTI", "INCR n", "INCR n", "EXEC"];
    assert_eq!(aof_commands(&server), expected);

    server.kill9();
    assert!(Client::try_connect(port).is_err());
    server.restart();
    assert_eq!(server.port(), port);
    assert_eq!(server.client().run("GET n"), bulk("2"));
    assert_eq!(aof_commands(&server), expected);
    assert_eq!(aof_commands(&server)[0].name(), "SET");

    server.restart_without_module();
    assert_eq!(server.client().run("GET n"), bulk("2"));
}

#[test]
fn a_restart_waits_for_its_port() {
    let mut server = plain().start();
    server.kill9();
    let occupant = TcpListener::bind(server.addr()).expect("the port is free");
    let leaver = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(occupant);
    });
    server.restart();
    leaver.join().expect("the port is free again");
    assert_eq!(server.client().run("PING"), simple("PONG"));
}

#[test]
fn the_tap_sees_everything_that_is_replicated() {
    for diskless in ["yes", "no"] {
        let server = plain().arg("--repl-diskless-sync").arg(diskless).start();
        let mut c = server.client();
        assert_eq!(c.run("SET before v"), ok());
        let mut tap = server.replication_tap();
        assert_eq!(tap.commands(), [""; 0]);

        assert_eq!(c.cmd(&["SET", "k", "\0 \r\n"]), ok());
        assert_eq!(c.run("GET k"), bulk("\0 \r\n"));
        c.pipeline(&["MULTI", "INCR n", "DEL k", "EXEC"]);
        let expected = ["SET k \\x00 \\r\\n", "MULTI", "INCR n", "DEL k", "EXEC"];
        assert_eq!(tap.commands(), expected);
        assert_eq!(tap.commands(), [""; 0]);

        c.pipeline(&["SELECT 3", "SET short v PX 1"]);
        let commands = tap.all_commands();
        assert_eq!(commands[0], "SELECT 3");
        assert!(commands[1].text().starts_with("SET short v PXAT "), "{commands:?}");
        // Valkey 9 unlinks it.
        eventually(SOON, "the expired key is deleted", || {
            let commands = tap.commands();
            commands == ["DEL short"] || commands == ["UNLINK short"]
        });
    }
}

#[test]
fn a_paused_server_replies_after_it_is_resumed() {
    let server = plain().start();
    let mut c = server.client();
    server.pause();
    c.send("PING");
    assert_eq!(c.read_timeout(A_MOMENT), None);
    let used = server.cpu_time();
    server.resume();
    assert_eq!(c.read(), simple("PONG"));
    assert!(server.cpu_time() >= used);
    server.pause();
}

#[test]
fn a_dropped_server_is_gone() {
    let server = plain().start();
    let (pid, dir) = (server.pid(), server.dir().to_owned());
    drop(server);
    assert!(!runs(pid) && !dir.exists());

    let mut pid = 0;
    panic_of(|| {
        let server = plain().start();
        pid = server.pid();
        server.pause();
        panic!("the test fails on port {}", server.port());
    });
    assert!(pid != 0 && !runs(pid));
}

#[test]
fn a_server_outlives_the_thread_that_started_it_but_not_the_process() {
    const VICTIM: &str = "CORRAL_FIXTURES_VICTIM";
    if std::env::var_os(VICTIM).is_some() {
        let server = thread::spawn(|| plain().start()).join().expect("it starts");
        assert_eq!(server.client().run("PING"), simple("PONG"));
        std::fs::write(std::env::var_os(VICTIM).unwrap(), server.pid().to_string()).unwrap();
        thread::sleep(SOON);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let this = "a_server_outlives_the_thread_that_started_it_but_not_the_process";
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this])
        // The servers of the victim cannot remove their directories.
        .env("TMPDIR", dir.path())
        .env(VICTIM, &pid_file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid: u32 = eventually(SOON, "the victim starts a server", || {
        std::fs::read_to_string(&pid_file).ok()?.parse().ok()
    });
    assert!(runs(pid));
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(SOON, "the server dies with the process", || !runs(pid));
}

#[test]
fn a_crash_fails_the_test_that_drops_the_server() {
    let server = plain().start();
    server.client().send("DEBUG SEGFAULT");
    let message = panic_of(|| drop(server));
    assert!(message.contains("signal") && message.contains("BUG REPORT"), "{message}");

    let server = plain().start();
    server.client().send("SHUTDOWN NOSAVE");
    eventually(SOON, "it exits", || Client::try_connect(server.port()).is_err());
    let message = panic_of(|| drop(server));
    assert!(message.contains("the server was gone"), "{message}");
}

#[test]
fn an_expected_exit_does_not_fail_the_test() {
    let mut server = plain().start();
    server.client().send("SHUTDOWN NOSAVE");
    assert!(server.wait_exit().success());
    server.restart();
    server.kill9();
}

#[test]
fn slots_are_those_of_the_cluster_specification() {
    assert_eq!(slot_of("123456789"), 0x31c3);
    assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
    assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
    assert_eq!(slot_of("foo{bar}{zap}"), slot_of("bar"));
    assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"));
    assert_eq!(slot_of(""), 0);
}
