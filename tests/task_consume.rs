//! TASK.CONSUME: its options, the shape of the reply in both protocols, the order of priorities,
//! and any bytes in names, groups, consumers and payloads.

mod support;
use support::compare::*;
use support::consumers::{add_entries, priority_of};
use support::*;

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
const SYNTAX: &str = "ERR syntax error";

// ---------------------------------------------------------------------------------------------
// Options
// ---------------------------------------------------------------------------------------------

#[test]
fn options_come_in_any_order_and_case_after_the_positional_arguments() {
    let server = Server::start();
    let mut client = server.client();
    for options in [
        "2",
        "COUNT 2",
        "count 2 Block 1",
        "BLOCK 1 COUNT 2",
        "2 1",
        "2 BLOCK 1",
        "2 META",
        "2 1 META",
        "META COUNT 2",
        "BLOCK 1 Meta COUNT 2",
        "2 TIED",
        "tied COUNT 2",
        "2 1 Tied META",
        "META COUNT 2 TIED BLOCK 1",
    ] {
        assert_eq!(client.run("FLUSHALL"), ok());
        let ids = ["a", "b", "c"].map(|payload| client.publish("tasks", payload));
        let meta = options.to_lowercase().contains("meta");
        let call = format!("TASK.CONSUME g c tasks {options}");
        let read = |reply: Value| -> Vec<String> {
            if meta {
                reply.delivered().into_iter().map(|task| task.id).collect()
            } else {
                reply.task_ids().into_iter().map(str::to_owned).collect()
            }
        };
        assert_eq!(read(client.run(&call)), ids[..2], "{options}");
        assert_eq!(read(client.run(&call)), ids[2..], "{options}");
        let nothing = if meta { array([""; 0]) } else { nil_array() };
        assert_eq!(client.run(&call), nothing, "{options}");
    }
}

#[test]
fn unknown_repeated_and_invalid_options_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    client.publish("tasks", "p");
    for options in [
        "COUNT",
        "BLOCK",
        "2 COUNT",
        "2 COUNT 2",
        "2 1 COUNT 2",
        "2 1 BLOCK 1",
        "2 1 1",
        "META 2",
        "META META",
        "COUNT 2 2",
        "COUNT 2 COUNT 2",
        "BLOCK 1 BLOCK 1",
        "2 1 META META",
        "META NOACK",
        "TIED TIED",
        "2 1 TIED META tied",
        "TIED 2",
    ] {
        changes_nothing(&mut client, &format!("TASK.CONSUME g c tasks {options}"), error(SYNTAX));
    }
    for (options, refusal) in [
        ("NOACK", NOT_AN_INTEGER),
        ("2 NOACK", NOT_AN_INTEGER),
        ("COUNT x", NOT_AN_INTEGER),
        ("COUNT 0", NOT_POSITIVE),
        ("COUNT -1", NOT_POSITIVE),
        ("BLOCK x", NOT_AN_INTEGER),
        ("BLOCK -1", NEGATIVE_TIMEOUT),
        ("BLOCK 9007199254740992", "ERR invalid expire time in 'task.consume' command"),
    ] {
        changes_nothing(&mut client, &format!("TASK.CONSUME g c tasks {options}"), error(refusal));
    }
}

#[test]
fn consume_delivers_one_task_by_default() {
    in_both_protocols(|client| {
        let ids = ["1-1", "1-2", "1-3", "1-4"];
        add_entries(client, "tasks", &ids);
        // The missing group is created at the beginning of the stream.
        assert_eq!(client.run("TASK.CONSUME g c tasks").task_ids(), ["1-1"]);
        assert_eq!(client.run("TASK.CONSUME g c tasks 2").task_ids(), ["1-2", "1-3"]);
        assert_eq!(client.run("TASK.CONSUME g c tasks 2 600000").task_ids(), ["1-4"]);
        assert_eq!(client.leased_ids("tasks", "g"), ids);
    });
}

#[test]
fn consume_creates_the_queue_and_the_group() {
    in_both_protocols(|client| {
        assert!(client.run("TASK.CONSUME g c tasks").is_nil());
        assert_eq!(client.run("XLEN tasks"), int(0));
        let groups = client.run("XINFO GROUPS tasks");
        assert_eq!(groups.items().len(), 1);
        assert_eq!(groups.items()[0].get("name"), &bulk("g"));
        assert_eq!(groups.items()[0].get("last-delivered-id"), &bulk("0-0"));
    });
}

// ---------------------------------------------------------------------------------------------
// Priorities
// ---------------------------------------------------------------------------------------------

#[test]
fn higher_priorities_come_first_and_each_in_the_order_of_publication() {
    in_both_protocols(|client| {
        let priorities = [0, 5, 9, 1, 3, 2, 8, 4, 7, 6];
        for round in 0..3 {
            for priority in priorities {
                let payload = format!("{priority}-{round}");
                let id = client.publish_with("tasks", &payload, &format!("PRIORITY {priority}"));
                assert_eq!(priority_of(&id), priority, "{id}");
            }
        }
        let expected: Vec<_> =
            (0..10).rev().flat_map(|p| (0..3).map(move |round| format!("{p}-{round}"))).collect();
        let mut got = Vec::new();
        for count in [1, 4, 1, 100] {
            for task in client.consume("g", "c", "tasks", count) {
                let payload = task.fields.split(' ').next().unwrap().to_owned();
                let payload = payload.strip_prefix("payload=").unwrap().to_owned();
                // The id tells the stream of the task.
                let key = match priority_of(&task.id) {
                    0 => "tasks".to_owned(),
                    priority => format!("priority{priority}:{{tasks}}"),
                };
                let found = client.run(format!("XRANGE {key} {id} {id}", id = task.id));
                assert_eq!(found.items().len(), 1, "{} in {key}", task.id);
                assert!(payload.starts_with(&priority_of(&task.id).to_string()), "{payload}");
                got.push(payload);
            }
        }
        assert_eq!(got, expected);
        assert_eq!(client.consume("g", "c", "tasks", 100), []);
    });
}

#[test]
fn the_reply_lists_all_priorities_under_the_name_of_the_queue() {
    let server = Server::start();
    let (mut resp2, mut resp3) = (server.client(), server.client3());
    let publish = |client: &mut Client| {
        let low = client.publish("tasks", "low");
        let high = client.publish_with("tasks", "high", "PRIORITY 7");
        let entry = |id: &str, payload: &str, time: &Value| {
            let fields = array([
                bulk("payload"),
                bulk(payload),
                bulk("timestamp"),
                time.clone(),
                bulk("retry_count"),
                bulk("0"),
            ]);
            array([bulk(id), fields])
        };
        let mut time = |key: &str| {
            client.run(format!("XRANGE {key} - +")).items()[0].items()[1].get("timestamp").clone()
        };
        let (late, early) = (time("tasks"), time("priority7:{tasks}"));
        array([entry(&high, "high", &early), entry(&low, "low", &late)])
    };
    let expected = publish(&mut resp2);
    let reply = resp2.run("TASK.CONSUME g c tasks 5");
    assert_eq!(reply, array([array([bulk("tasks"), expected])]));
    assert_eq!(resp2.run("FLUSHALL"), ok());
    let expected = publish(&mut resp3);
    let reply = resp3.run("TASK.CONSUME g c tasks 5");
    assert_eq!(reply, map([(bulk("tasks"), expected)]));
}

#[test]
fn every_group_sees_every_priority() {
    let server = Server::start();
    let mut client = server.client();
    let low = client.publish("tasks", "low");
    let high = client.publish_with("tasks", "high", "PRIORITY 7");
    for group in ["g", "h"] {
        assert_eq!(client.consume_payloads(group, "tasks", 9), ["high", "low"]);
    }
    for (group, left) in [("g", 1), ("h", 0)] {
        assert_eq!(client.run(format!("TASK.ACK tasks {group} {high} {low}")), int(2));
        assert_eq!(client.run("XLEN tasks"), int(left));
        assert_eq!(client.run("XLEN priority7:{tasks}"), int(left));
    }
    // The highest COUNT.
    assert_eq!(client.consume_payloads("later", "tasks", i64::MAX), [""; 0]);
    // A priority that comes later is new to every group.
    let later = client.publish_with("tasks", "later", "PRIORITY 2");
    for group in ["g", "h", "i"] {
        assert_eq!(client.lease(group, "c", "tasks"), later);
    }
}

// ---------------------------------------------------------------------------------------------
// Replies
// ---------------------------------------------------------------------------------------------

/// Names that a C string or a text conversion would damage.
const NAMES: [&[u8]; 8] =
    [b"a\0b", b"a\0c", b"\r\n", b"a\r\nb", b"\xff\xfe", b"{\0}\xff", b"a}\0", "Ā".as_bytes()];

#[test]
fn a_plain_queue_replies_byte_for_byte_what_xreadgroup_replies() {
    in_both_protocols(|client| {
        for name in NAMES {
            for payload in any_bytes() {
                assert!(!client.cmd(&args!["TASK.PUBLISH", name, payload]).is_error());
            }
            client.cmd(&args!["TASK.PUBLISH", name, "p", i64::MAX]);
            client.cmd(&args!["XADD", name, "*", b"\0", b"\r\n", "", ""]);
            for group in [b"ours\0".as_slice(), b"theirs\0"] {
                assert_eq!(client.cmd(&args!["XGROUP", "CREATE", name, group, 0]), ok());
            }
            let consume = args!["TASK.CONSUME", b"ours\0", b"c\r\n", name];
            let read = args!["XREADGROUP", "GROUP", b"theirs\0", b"c\r\n", "COUNT"];
            // The last two find nothing, with and without waiting.
            for (options, count) in [
                ("COUNT 2", "2"),
                ("1", "1"),
                ("BLOCK 5 COUNT 100", "100"),
                ("COUNT 9", "9"),
                ("BLOCK 1", "1"),
            ] {
                let options = options.split(' ').map(Into::into).collect::<Vec<_>>();
                let ours = wire(client, &[&consume[..], &options].concat());
                let rest = args![count, "STREAMS", name, ">"];
                let theirs = wire(client, &[&read[..], &rest].concat());
                assert!(ours == theirs, "{ours}\n{theirs}");
            }
            let pending = client.cmd(&args!["XPENDING", name, b"ours\0"]);
            assert_eq!(pending.items()[0], client.cmd(&args!["XLEN", name]));
        }
    });
}

#[test]
fn a_consumer_that_waited_gets_byte_for_byte_what_xreadgroup_replies() {
    let server = Server::start();
    let mut publisher = server.client();
    for connect in [Server::client, Server::client3] {
        assert_eq!(publisher.run("FLUSHALL"), ok());
        for group in ["ours", "theirs"] {
            assert_eq!(publisher.run(format!("XGROUP CREATE tasks {group} 0 MKSTREAM")), ok());
        }
        let (mut ours, mut theirs) = (connect(&server), connect(&server));
        let mut wake = |publish: Vec<Vec<u8>>| {
            ours.send("TASK.CONSUME ours c tasks 3 600000");
            theirs.send("XREADGROUP GROUP theirs c COUNT 3 BLOCK 600000 STREAMS tasks >");
            wait_blocked(&server, 2);
            assert!(!publisher.cmd(&publish).is_error());
            let (ours, theirs) = (ours.read_raw_reply(), theirs.read_raw_reply());
            assert!(ours == theirs, "{}\n{}", escaped(&ours), escaped(&theirs));
        };
        for payload in any_bytes() {
            wake(args!["TASK.PUBLISH", "tasks", payload].to_vec());
        }
        wake(args!["XADD", "tasks", "*", b"\0", b"\r\n", "", ""].to_vec());
        wake(args!["TASK.RETRY", "gone", "1-1", "p", 0, "tasks", "dead", 3].to_vec());
    }
}

#[test]
fn with_meta_a_reply_has_one_shape_in_both_protocols() {
    let server = Server::start();
    let expected = "*2\r\n\
        *4\r\n$3\r\n1-1\r\n*4\r\n$7\r\npayload\r\n$1\r\np\r\n$5\r\na\r\nb\0\r\n$0\r\n\r\n:0\r\n:1\r\n\
        *4\r\n$3\r\n1-2\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n:0\r\n:1\r\n";
    for mut client in [server.client(), server.client3()] {
        wire_of(&mut client, "FLUSHALL");
        let nothing = escaped("*0\r\n");
        assert_eq!(wire_of(&mut client, "TASK.CONSUME g c tasks META"), nothing);
        client.cmd(&args!["XADD", "tasks", "1-1", "payload", "p", b"a\r\nb\0", ""]);
        client.run("XADD tasks 1-2 x y");
        let expected = escaped(expected);
        assert_eq!(wire_of(&mut client, "TASK.CONSUME g c tasks COUNT 5 META"), expected);
        assert_eq!(wire_of(&mut client, "TASK.CONSUME g c tasks COUNT 5 META BLOCK 1"), nothing);
        // In a transaction.
        wire_of(&mut client, "MULTI");
        wire_of(&mut client, "TASK.CONSUME g c tasks BLOCK 0 META");
        assert_eq!(wire_of(&mut client, "EXEC"), escaped("*1\r\n*0\r\n"));
    }
}

#[test]
fn any_bytes_survive_every_stage_of_a_task() {
    let server = Server::start();
    let mut client = server.client();
    let payloads =
        [b"\0\r\n\xff $-1\r\n+OK \x80".to_vec(), Vec::new(), b" ".into(), vec![b'x'; 1 << 20]];
    let payload_of = |entry: &Value| entry.items()[1].get("payload").bytes().to_vec();
    for (name, payload) in NAMES.iter().zip(payloads.iter().cycle()) {
        assert_eq!(client.run("FLUSHALL"), ok());
        for group in [b"g\0", b"h\xff"] {
            // With two groups, each copy is for one of them.
            client.cmd(&args!["TASK.CONSUME", group, "c", name]);
        }
        let consumer = b"c \r\n\xff";
        let consume = |client: &mut Client, group: &[u8]| {
            let reply = client.cmd(&args!["TASK.CONSUME", group, consumer, name, 9, "META"]);
            let [entry] = reply.items() else { panic!("not one task: {reply:?}") };
            assert!(payload_of(entry) == *payload);
            entry.items()[0].as_str().to_owned()
        };
        assert_eq!(client.cmd(&args!["TASK.POLICY", name, "LEASE", 0, "TRIES", 9]), ok());
        client.cmd(&args!["TASK.PUBLISH", name, payload, "PRIORITY", 5, "DELAY", 1]);
        eventually(SOON, "it is due", || {
            let next = client.cmd(&args!["TASK.INFO", name]).get("next_due_ms").as_int();
            next == 0
        });
        let id = consume(&mut client, b"g\0");
        assert_eq!(client.cmd(&args!["TASK.EXTEND", name, b"g\0", consumer, id]), int(1));
        let nack = args!["TASK.NACK", name, b"g\0", consumer, "FAIL", id, "DELAY", 0];
        assert_eq!(client.cmd(&nack), int(1));
        let id = consume(&mut client, b"g\0");
        let reason = b"why\0\r\n\xff";
        let nack = args!["TASK.NACK", name, b"g\0", consumer, "FATAL", id, "REASON", reason];
        assert_eq!(client.cmd(&nack), int(2));
        let info = client.cmd(&args!["TASK.INFO", name]);
        assert_eq!(info.get("dead"), &int(1));
        let keys = client.run("KEYS dead*");
        let dead = keys.items()[0].bytes();
        let letters = client.cmd(&args!["XRANGE", dead, "-", "+"]);
        assert!(payload_of(&letters.items()[0]) == *payload);
        assert_eq!(letters.items()[0].items()[1].get("reason"), &bulk(reason));
        assert_eq!(letters.items()[0].items()[1].get("group"), &bulk(b"g\0"));
        assert_eq!(client.cmd(&args!["TASK.REDRIVE", dead, name]), int(1));
        // The other group gets the published task, not the copy for the first group.
        let other = consume(&mut client, b"h\xff");
        let id = consume(&mut client, b"g\0");
        assert_ne!(other, id);
        for (group, id) in [(&b"g\0"[..], id), (b"h\xff", other)] {
            assert_eq!(client.cmd(&args!["TASK.ACK", name, group, id]), int(1));
        }
        let info = client.cmd(&args!["TASK.INFO", name]);
        for field in ["length", "delayed", "dead"] {
            assert_eq!(info.get(field), &int(0), "{field}");
        }
    }
}
