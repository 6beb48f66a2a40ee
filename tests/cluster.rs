//! Corral in a cluster: every key derived from a name lies in the name's slot, so that clients, nodes
//! and migrations treat the commands like native ones. While a slot moves or a replica takes over, no
//! lock has two holders, no task is lost, and waiting clients are redirected.

mod support;
use support::*;

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// A cluster of three nodes that tests running side by side share. Each test uses slots of its own,
/// which may move.
struct Shared(Arc<Cluster>);

impl Shared {
    #[track_caller]
    fn cluster() -> Self {
        static RUNNING: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().expect("the cluster has started");
        let cluster = running.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start(3, Server::builder()));
            *running = Arc::downgrade(&cluster);
            cluster
        });
        Self(cluster)
    }
}

impl Deref for Shared {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !thread::panicking() {
            no_panics(self);
        }
    }
}

#[track_caller]
fn no_panics(cluster: &Cluster) {
    for node in &cluster.nodes {
        assert_eq!(info(node, "corral", "corral_panics").as_deref(), Some("0"));
    }
}

type Args = Vec<Vec<u8>>;

/// A call of each command that writes, for a name. None of them waits.
fn writes(name: &[u8]) -> Vec<Args> {
    [
        &args!["LOCK.ACQUIRE", name, "me", 60_000][..],
        &args!["LOCK.EXTEND", name, "me", 60_000],
        &args!["LOCK.RELEASE", name, "me"],
        &args!["CACHE.LOCK", name, 60_000, 60_000],
        &args!["CACHE.SET", name, "v", 60_000],
        &args!["TASK.PUBLISH", name, "p"],
        &args!["TASK.CONSUME", "g", "c", name, 10],
        &args!["TASK.CONSUME", "g", "c", name, 10, 0],
        &args!["TASK.ACK", name, "g", "1-1"],
        &args!["TASK.RETRY", name, "1-1", "p", 0, name, name, 3],
    ]
    .map(<[Vec<u8>]>::to_vec)
    .to_vec()
}

/// A call of each command for a name.
fn every_command(name: &[u8]) -> Vec<Args> {
    let mut all = writes(name);
    all.extend([args!["CACHE.GET", name].to_vec(), args!["TASK.INFO", name].to_vec()]);
    // No name here contains a blank.
    let queue = std::str::from_utf8(name).expect("text");
    all.extend(writes_to_queue(queue, "1-1", queue));
    all
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// All keys of a slot at a node, with their values.
#[track_caller]
fn keys_in_slot(client: &mut Client, slot: u16) -> BTreeMap<String, Value> {
    let keys = client.run(format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
    let keys = keys.items().iter().map(Value::bytes);
    keys.map(|key| (shown(key), asking(client, &args!["DUMP", key]))).collect()
}

/// The error that redirects a client.
fn redirect(kind: &str, slot: u16, to: &Server) -> Value {
    error(format!("{kind} {slot} 127.0.0.1:{}", to.port()))
}

/// A command behind ASKING.
#[track_caller]
fn asking(client: &mut Client, command: &[Vec<u8>]) -> Value {
    assert_eq!(client.run("ASKING"), ok());
    client.cmd(command)
}

/// A consumer of the group `g` that waits at the node of a stream.
#[track_caller]
fn consumer(cluster: &Cluster, name: &str, stream: impl AsRef<[u8]>) -> Client {
    consumer_with(cluster, name, stream, "")
}

/// As [`consumer`], with options.
#[track_caller]
fn consumer_with(cluster: &Cluster, name: &str, stream: impl AsRef<[u8]>, options: &str) -> Client {
    let mut client = cluster.client_for(&stream);
    let myself = format!("CLIENT LIST ID {}", client.id());
    let mut call = args!["TASK.CONSUME", "g", name, stream.as_ref(), 1, 0].to_vec();
    call.extend(options.split_ascii_whitespace().map(Into::into));
    client.send_args(&call);
    let mut control = cluster.client_for(&stream);
    eventually(SOON, "the consumer waits", || {
        control.run(&myself).as_str().split(' ').any(|field| field == "flags=b")
    });
    client
}

/// A consumer that waited gets one task and finishes it.
#[track_caller]
fn works_off(waiter: &mut Client, stream: &str, payload: &str) {
    let reply = waiter.read();
    assert_eq!(reply.task_payloads(), [payload]);
    assert_eq!(waiter.run(format!("TASK.ACK {stream} g {}", reply.task_ids()[0])), int(1));
}

// --- Names and slots

#[test]
fn every_derived_key_lies_in_the_slot_of_its_name() {
    let cluster = Shared::cluster();
    let long = "n".repeat(5000);
    let names: [&[u8]; 14] = [
        b"plain",
        b"{tag}",
        b"a{tag}b",
        b"{",
        b"open{brace",
        b"{{",
        b"{{tag}}",
        b"{a}{b}",
        b"{tag}with}more{}",
        b"nul\0byte",
        b"\xff\xfe{",
        b"line\r\nbreak",
        b"lock:{plain}",
        long.as_bytes(),
    ];
    for name in names {
        let shape = shown(&name[..name.len().min(40)]);
        let slot = slot_of(name);
        let mut client = cluster.client_for(name);
        let keys = |client: &mut Client| Vec::from_iter(keys_in_slot(client, slot).into_keys());
        let before = keys(&mut client);
        let [acquire, extend, release, lock, set, ..] = &writes(name)[..] else {
            panic!("the commands are listed in this order");
        };
        assert_eq!(client.cmd(acquire), int(1), "{shape}");
        assert_eq!(client.cmd(acquire), int(0), "{shape}");
        assert_eq!(client.cmd(extend), int(1), "{shape}");
        let held = keys(&mut client);
        assert_eq!(held.len(), before.len() + 1, "{shape}: {held:?}");
        assert_eq!(client.cmd(release), int(1), "{shape}");

        assert_eq!(client.cmd(lock), simple("LOAD"), "{shape}");
        assert_eq!(client.cmd(lock), simple("WAIT"), "{shape}");
        assert_eq!(keys(&mut client).len(), before.len() + 1, "{shape}");
        assert_eq!(client.cmd(set), ok(), "{shape}");
        assert_eq!(keys(&mut client).len(), before.len() + 1, "{shape}");
        assert_eq!(client.cmd(&args!["CACHE.GET", name]), bulk("v"), "{shape}");
        assert_eq!(client.cmd(&args!["DEL", name]), int(1), "{shape}");

        let mut waiter = consumer(&cluster, "c", name);
        let id = client.cmd(&args!["TASK.PUBLISH", name, "p"]);
        assert!(matches!(id, Value::Bulk(_)), "{shape}: {id:?}");
        assert_eq!(waiter.read().task_ids(), [id.as_str()], "{shape}");
        let retry = args!["TASK.RETRY", name, id.as_str(), "p", 0, name, name, 3];
        assert_eq!(client.cmd(&retry), ok(), "{shape}");
        let again = client.cmd(&args!["TASK.CONSUME", "g", "c", name]);
        let again = again.task_ids()[0].to_owned();
        assert_eq!(client.cmd(&args!["TASK.ACK", name, "g", again]), int(1), "{shape}");

        // A window, two marks, a held task, a delayed one, and one that has moved.
        let last = |payload: &str| {
            let what = args!["UNIQUE", "u", 60_000, "UNTIL", "DONE", "LAST", "META"];
            [&args!["TASK.PUBLISH", name, payload][..], &what].concat()
        };
        let first = client.cmd(&last("first")).items()[0].as_str().to_owned();
        assert_eq!(client.cmd(&args!["TASK.CONSUME", "g", "c", name]).task_ids(), [&first]);
        let second = client.cmd(&last("second"));
        assert_eq!(second.items()[1], simple("queued"), "{shape}");
        let nack = args!["TASK.NACK", name, "g", "c", "SILENT", &first, "DELAY", 60_000];
        assert_eq!(client.cmd(&nack), int(1), "{shape}");
        assert_eq!(keys(&mut client).len(), before.len() + 6, "{shape}");
        let cancel = |id: &str| args!["TASK.CANCEL", name, id].to_vec();
        for id in [&first, second.items()[0].as_str()] {
            assert_eq!(client.cmd(&cancel(id)), int(1), "{shape}");
        }
        assert_eq!(keys(&mut client).len(), before.len() + 1, "{shape}");
        assert_eq!(client.cmd(&args!["DEL", name]), int(1), "{shape}");
        assert_eq!(keys(&mut client), before, "{shape}");
    }
}

#[test]
fn a_name_with_a_closing_brace_outside_a_tag_is_refused() {
    let cluster = Shared::cluster();
    let refusal = error("ERR name cannot be used in cluster mode: '}' outside a hash tag");
    for name in ["refused}", "refused:{}", "}refused{", "{}refused{tag}", "refused}}\0"] {
        let mut client = cluster.client_for(name);
        for command in every_command(name.as_bytes()) {
            // These need no derived key, or refuse the call for another reason.
            if [b"CACHE.GET".as_slice(), b"TASK.INFO", b"TASK.REDRIVE"].contains(&&*command[0]) {
                continue;
            }
            assert_eq!(client.cmd(&command), refusal, "{name}: {}", shown(&command[0]));
        }
        assert!(client.run(format!("TASK.REDRIVE {name} {name}")).is_error(), "{name}");
        // Reading a value needs no derived key.
        assert_eq!(client.cmd(&["CACHE.GET", name]), nil(), "{name}");
    }
    for node in &cluster.nodes {
        assert_eq!(node.client().run("KEYS *refused*"), array([""; 0]));
    }
}

#[test]
fn a_command_at_the_wrong_node_is_redirected() {
    let cluster = Shared::cluster();
    for name in ["wrong:1", "wrong:{two}", "wrong:3{"] {
        let slot = slot_of(name);
        let right = cluster.node_of_slot(slot);
        let moved = redirect("MOVED", slot, &cluster.nodes[right]);
        for node in (0..cluster.nodes.len()).filter(|node| *node != right) {
            let mut client = cluster.nodes[node].client();
            for command in every_command(name.as_bytes()) {
                assert_eq!(client.cmd(&command), moved, "{}", shown(&command[0]));
            }
        }
        assert_eq!(cluster.client_for(name).run(format!("CLUSTER COUNTKEYSINSLOT {slot}")), int(0));
    }
}

#[test]
fn a_retry_takes_three_streams_of_one_slot() {
    let cluster = Shared::cluster();
    let mut client = cluster.client_for("{retry}");
    client.publish("{retry}", "p");
    let id = client.lease("g", "c", "{retry}");
    let retry = |streams: [&str; 3], count: u32| {
        let [source, again, dead] = streams;
        format!("TASK.RETRY {source} {id} p {count} {again} {dead} 3")
    };
    let before = keys_in_slot(&mut client, slot_of("{retry}"));
    for streams in [
        ["{retry}", "{retry}:again", "elsewhere"],
        ["{retry}", "elsewhere", "{retry}:dead"],
        ["{retry}", "{else}", "{where}"],
        ["{retry}", "{else}", "{else}"],
    ] {
        // Whichever stream the task would go to.
        for count in [0, 3] {
            let refused = client.run(retry(streams, count));
            assert!(refused.is_error_with("CROSSSLOT "), "{streams:?}: {refused:?}");
        }
    }
    assert_eq!(keys_in_slot(&mut client, slot_of("{retry}")), before);

    let streams = ["{retry}", "{retry}:again", "{retry}:dead"];
    for count in [0, 3] {
        assert_eq!(client.run(retry(streams, count)), ok());
    }
    assert_eq!(client.run("EXISTS {retry} {retry}:again {retry}:dead"), int(3));
    assert_eq!(client.run("XLEN {retry}"), int(0));
    assert_eq!(client.run("XLEN {retry}:again"), int(1));
    assert_eq!(client.run("XLEN {retry}:dead"), int(1));
}

#[test]
fn a_consumer_of_several_queues_takes_queues_of_one_slot() {
    let cluster = Shared::cluster();
    let (here, there) = ("{several}:a", "{several}:b");
    let mut client = cluster.client_for(here);
    let mut consume = |further: &[&str], options: &str| {
        let (n, further) = (further.len(), further.join(" "));
        client.run(format!("TASK.CONSUME g c {here} {options} THEN {n} {further}"))
    };
    for options in ["COUNT 9", "BLOCK 0"] {
        for further in [&["elsewhere"][..], &[there, "elsewhere"], &["elsewhere", there]] {
            let reply = consume(further, options);
            assert!(reply.is_error_with("CROSSSLOT "), "{further:?}: {reply:?}");
        }
    }
    // A name of the same slot that has no derived keys there.
    let bad = (0..).map(|number| format!("x}}{number}"));
    let bad = bad.into_iter().find(|name| slot_of(name) == slot_of(here)).expect("one of many");
    let refused = consume(&[there, &bad], "BLOCK 0");
    assert!(refused.is_error_with("ERR name cannot be used in cluster mode"), "{refused:?}");
    let mut publisher = cluster.client_for(here);
    publisher.publish(there, "p");
    let reply = consume(&["{several}:c", there], "BLOCK 0");
    assert_eq!(reply.items()[0].items()[4], bulk(there));
    assert_eq!(publisher.run("EXISTS {several}:a {several}:c"), int(0));
    // The server finds the keys, so a client may ask any node for the slot.
    let keys = publisher.run("COMMAND GETKEYS TASK.CONSUME g c {several}:a THEN 1 {several}:b");
    assert_eq!(keys, array([here, there]));
    let other = another_node(&cluster, here);
    let moved =
        cluster.nodes[other].client().run(format!("TASK.CONSUME g c {here} THEN 1 {there}"));
    assert_eq!(moved, redirect("MOVED", slot_of(here), cluster.node_for(here)));
}

#[test]
fn a_script_and_a_transaction_of_one_slot_may_call_every_command() {
    let cluster = Shared::cluster();
    let name = "script{s}";
    let mut client = cluster.client_for(name);
    let script = "local r = {} \
        r[1] = redis.call('LOCK.ACQUIRE', KEYS[1], 'me', 60000) \
        r[2] = redis.call('LOCK.RELEASE', KEYS[1], 'me') \
        r[3] = redis.call('CACHE.LOCK', KEYS[1], 60000, 60000) \
        r[4] = redis.call('CACHE.SET', KEYS[1], 'v', 60000) \
        r[5] = redis.call('CACHE.GET', KEYS[1]) \
        return r";
    let expected = array([int(1), int(1), simple("LOAD"), ok(), bulk("v")]);
    assert_eq!(client.cmd(&["EVAL", script, "1", name]), expected);
    let lines = [
        "MULTI",
        "DEL script{s}",
        "TASK.PUBLISH script{s} p",
        "TASK.CONSUME g c script{s}",
        "EXEC",
    ];
    let replies = client.pipeline(&lines);
    assert_eq!(replies[4].items()[2].task_payloads(), ["p"]);
}

/// Calls a command by a client library that knows no Corral.
#[track_caller]
fn call<T: redis::FromRedisValue>(
    connection: &mut redis::cluster::ClusterConnection,
    line: &str,
) -> T {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(connection).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn a_generic_cluster_client_can_call_every_command() {
    let cluster = Shared::cluster();
    let nodes = cluster.nodes.iter().map(|node| format!("redis://{}", node.addr()));
    let client = redis::cluster::ClusterClient::new(nodes).expect("addresses");
    let mut connection = client.get_connection().expect("a cluster");
    type Tasks = Vec<(String, Vec<String>, i64, i64)>;
    // The names lie on all nodes; the group, which such a client might take for the key, elsewhere.
    for number in 0..12 {
        let c = &mut connection;
        let lock = format!("client:lock:{number}");
        assert_eq!(call::<i64>(c, &format!("LOCK.ACQUIRE {lock} me 60000")), 1);
        assert_eq!(call::<i64>(c, &format!("LOCK.ACQUIRE {lock} you 60000")), 0);
        assert_eq!(call::<i64>(c, &format!("LOCK.EXTEND {lock} me 60000")), 1);
        assert_eq!(call::<i64>(c, &format!("LOCK.RELEASE {lock} me")), 1);

        let key = format!("client:key:{number}");
        assert_eq!(call::<Option<String>>(c, &format!("CACHE.GET {key}")), None);
        assert_eq!(call::<String>(c, &format!("CACHE.LOCK {key} 60000 60000")), "LOAD");
        assert_eq!(call::<String>(c, &format!("CACHE.SET {key} v 60000")), "OK");
        assert_eq!(call::<String>(c, &format!("CACHE.GET {key}")), "v");

        let (stream, again, dead) =
            (format!("q{{{number}}}"), format!("again{{{number}}}"), format!("dead{{{number}}}"));
        let id: String = call(c, &format!("TASK.PUBLISH {stream} p"));
        let group = format!("group:{number}");
        let consume = format!("TASK.CONSUME {group} c {stream} 1 1000");
        let tasks: redis::streams::StreamReadReply = call(c, &consume);
        assert_eq!(tasks.keys[0].ids[0].id, id);
        let retry = format!("TASK.RETRY {stream} {id} p 0 {again} {dead} 3");
        assert_eq!(call::<String>(c, &retry), "OK");
        let tasks: redis::streams::StreamReadReply =
            call(c, &format!("TASK.CONSUME {group} c {again}"));
        let id = &tasks.keys[0].ids[0].id;
        assert_eq!(call::<i64>(c, &format!("TASK.ACK {again} {group} {id}")), 1);
        let nothing: Option<redis::streams::StreamReadReply> =
            call(c, &format!("TASK.CONSUME {group} c {again} 1 1"));
        assert!(nothing.is_none());

        let queue = format!("kinds:{{library:{number}}}");
        let dead = format!("dead::{queue}");
        assert_eq!(call::<String>(c, &format!("TASK.POLICY {queue} LEASE 60000")), "OK");
        let publish = format!("TASK.PUBLISH {queue} p PRIORITY 2 DELAY 10 UNIQUE u 60000");
        let id: String = call(c, &publish);
        assert_eq!(call::<String>(c, &publish), id);
        let consume = format!("TASK.CONSUME {{elsewhere}}:g c {queue} BLOCK 5000 META");
        let take = |c: &mut redis::cluster::ClusterConnection| -> String {
            let reply: Tasks = call(c, &consume);
            reply[0].0.clone()
        };
        let task = take(c);
        let extend = format!("TASK.EXTEND {queue} {{elsewhere}}:g c {task}");
        assert_eq!(call::<i64>(c, &extend), 1);
        let nack =
            |how: &str, task: &str| format!("TASK.NACK {queue} {{elsewhere}}:g c {how} {task}");
        assert_eq!(call::<i64>(c, &nack("SILENT", &task)), 1);
        let task = take(c);
        assert_eq!(call::<i64>(c, &nack("FATAL", &task)), 2);
        assert_eq!(call::<i64>(c, &format!("TASK.REDRIVE {dead} {queue}")), 1);
        let task = take(c);
        assert_eq!(call::<i64>(c, &format!("TASK.ACK {queue} {{elsewhere}}:g {task}")), 1);
        let far: String = call(c, &format!("TASK.PUBLISH {queue} far AT 9000000000000"));
        assert_eq!(call::<i64>(c, &format!("TASK.CANCEL {queue} {far}")), 1);
        let info: redis::Value = call(c, &format!("TASK.INFO {queue}"));
        assert!(matches!(info, redis::Value::Array(_) | redis::Value::Map(_)), "{info:?}");
    }
}

// --- Moving slots

/// A lock `lock{tag}` that `me` holds, a value and a lease `key{tag}`, and a queue `queue{tag}`
/// with one task leased to `worker` of the group `g`; all in the slot of a tag.
struct Household {
    lock: String,
    key: String,
    queue: String,
    /// The task that is leased.
    task: String,
}

impl Household {
    #[track_caller]
    fn new(cluster: &Cluster, tag: &str) -> Self {
        let mut client = cluster.client_for(tag);
        let [lock, key, queue] = ["lock", "key", "queue"].map(|what| format!("{what}{{{tag}}}"));
        assert_eq!(client.run(format!("LOCK.ACQUIRE {lock} me 600000")), int(1));
        assert_eq!(client.run(format!("CACHE.SET {key} v 600000")), ok());
        assert_eq!(client.run(format!("CACHE.LOCK {key} 600000 600000")), simple("LOAD"));
        client.publish(&queue, "leased");
        let task = client.lease("g", "worker", &queue);
        Self { lock, key, queue, task }
    }

    /// A call of each command that writes and names a key that exists.
    fn writes_to_keys(&self) -> Vec<Args> {
        let (key, queue, task) = (&self.key, &self.queue, &self.task);
        [
            &args!["CACHE.LOCK", key, 60_000, 60_000][..],
            &args!["CACHE.SET", key, "other", 60_000],
            &args!["TASK.PUBLISH", queue, "p"],
            &args!["TASK.CONSUME", "g", "other", queue],
            &args!["TASK.CONSUME", "g", "other", queue, 1, 0],
            &args!["TASK.CONSUME", "new", "other", queue],
            &args!["TASK.ACK", queue, "g", task],
            &args!["TASK.RETRY", queue, task, "p", 0, queue, queue, 3],
        ]
        .map(<[Vec<u8>]>::to_vec)
        .to_vec()
    }

    /// A call of each command that writes and names no existing key, only derived ones.
    fn writes_to_names(&self) -> Vec<Args> {
        let lock = &self.lock;
        [
            &args!["LOCK.ACQUIRE", lock, "you", 60_000][..],
            &args!["LOCK.EXTEND", lock, "me", 60_000],
            &args!["LOCK.RELEASE", lock, "me"],
        ]
        .map(<[Vec<u8>]>::to_vec)
        .to_vec()
    }

    /// Everything is as it was created, including the lease of the value, and works.
    #[track_caller]
    fn goes_on(&self, client: &mut Client) {
        self.goes_on_with(client, &simple("WAIT"));
    }

    /// As [`Household::goes_on`]; `lease` is the reply to the next client that wants to load.
    #[track_caller]
    fn goes_on_with(&self, client: &mut Client, lease: &Value) {
        let (lock, key, queue, task) = (&self.lock, &self.key, &self.queue, &self.task);
        assert_eq!(client.run(format!("LOCK.ACQUIRE {lock} you 60000")), int(0));
        assert_eq!(client.run(format!("LOCK.EXTEND {lock} me 60000")), int(1));
        assert_eq!(client.run(format!("LOCK.RELEASE {lock} me")), int(1));
        assert_eq!(client.run(format!("LOCK.ACQUIRE {lock} you 60000")), int(1));

        assert_eq!(client.run(format!("CACHE.GET {key}")), bulk("v"));
        assert_eq!(client.run(format!("CACHE.LOCK {key} 60000 60000")), *lease);
        assert_eq!(client.run(format!("CACHE.SET {key} w 60000")), ok());
        assert_eq!(client.run(format!("CACHE.LOCK {key} 60000 60000")), simple("LOAD"));

        let pending = client.run(format!("XPENDING {queue} g - + 10"));
        assert_eq!(pending.items().len(), 1);
        assert_eq!(pending.items()[0].items()[..2], [bulk(task), bulk("worker")]);
        assert_eq!(client.run(format!("TASK.ACK {queue} g {task}")), int(1));
        assert_eq!(client.run(format!("XLEN {queue}")), int(0));
        client.publish(queue, "later");
        assert_eq!(client.run(format!("TASK.CONSUME g c {queue}")).task_payloads(), ["later"]);
    }
}

/// One slot moves at a time: two nodes that migrate keys to each other block each other until that
/// times out; two that take over slots may choose the same epoch, and then one of them can lose its
/// slot again; and a node does not migrate a slot in both ways at the same time.
static MOVING: Mutex<()> = Mutex::new(());

/// Waits until no other slot moves. Keep the value until the move has ended.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    MOVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to move a slot. Keep the first value until the move has ended.
#[track_caller]
fn begin_to_move(
    cluster: &Cluster,
    slot: u16,
    to: usize,
) -> (MutexGuard<'static, ()>, Reshard<'_>) {
    (one_at_a_time(), cluster.reshard(slot, to))
}

/// A node other than that of a tag.
fn another_node(cluster: &Cluster, tag: &str) -> usize {
    (cluster.node_of_slot(slot_of(tag)) + 1) % cluster.nodes.len()
}

#[test]
fn while_a_slot_moves_neither_node_writes() {
    let cluster = Shared::cluster();
    let tag = "refusing";
    let slot = slot_of(tag);
    let home = Household::new(&cluster, tag);
    let (_way, reshard) = begin_to_move(&cluster, slot, another_node(&cluster, tag));
    let (source, target) = (&cluster.nodes[reshard.from], &cluster.nodes[reshard.to]);
    let (mut at_source, mut at_target) = (source.client(), target.client());
    let before = keys_in_slot(&mut at_source, slot);
    let is_try_again = |reply: &Value| reply.is_error_with("TRYAGAIN ");
    let both = [home.writes_to_keys(), home.writes_to_names()].concat();

    for command in &both {
        let name = shown(&command[0]);
        let at_target_unasked = at_target.cmd(command);
        assert_eq!(at_target_unasked, redirect("MOVED", slot, source), "{name}");
        let at_target = asking(&mut at_target, command);
        assert!(is_try_again(&at_target), "{name}: {at_target:?}");
    }
    for command in home.writes_to_keys() {
        let reply = at_source.cmd(&command);
        assert!(is_try_again(&reply), "{}: {reply:?}", shown(&command[0]));
    }
    // The server itself redirects a client whose key is missing.
    for command in home.writes_to_names() {
        assert_eq!(at_source.cmd(&command), redirect("ASK", slot, target));
    }
    let missing = args!["CACHE.GET", format!("missing{{{tag}}}")];
    let present = args!["CACHE.GET", home.key];
    assert_eq!(at_source.cmd(&present), bulk("v"));
    assert_eq!(at_source.cmd(&missing), redirect("ASK", slot, target));
    assert_eq!(asking(&mut at_target, &missing), nil());
    assert_eq!(keys_in_slot(&mut at_source, slot), before);
    assert_eq!(keys_in_slot(&mut at_target, slot).len(), 0);

    assert_eq!(reshard.migrate_keys(), before.len());
    for command in &both {
        let at_source = at_source.cmd(command);
        // The server does not redirect a command with several keys.
        let sent_on = at_source == redirect("ASK", slot, target);
        let name = shown(&command[0]);
        assert!(sent_on || name == "TASK.RETRY" && is_try_again(&at_source), "{name}");
        let at_target = asking(&mut at_target, command);
        assert!(is_try_again(&at_target), "{name}: {at_target:?}");
    }
    assert_eq!(at_source.cmd(&present), redirect("ASK", slot, target));
    assert_eq!(asking(&mut at_target, &present), bulk("v"));
    assert_eq!(keys_in_slot(&mut at_target, slot), before);

    reshard.finish();
    for command in &both {
        assert_eq!(
            at_source.cmd(command),
            redirect("MOVED", slot, &cluster.nodes[cluster.node_of_slot(slot)])
        );
    }
    home.goes_on(&mut at_target);
}

#[test]
fn a_canceled_move_leaves_everything_as_it_was() {
    let cluster = Shared::cluster();
    let tag = "given-up";
    let slot = slot_of(tag);
    let home = Household::new(&cluster, tag);
    let mut client = cluster.client_for(tag);
    let mut waiter = consumer(&cluster, "waiter", &home.queue);
    let (_way, reshard) = begin_to_move(&cluster, slot, another_node(&cluster, tag));
    let refused = client.cmd(&["TASK.PUBLISH", &home.queue, "p"]);
    assert!(refused.is_error_with("TRYAGAIN "), "{refused:?}");
    reshard.cancel();
    assert_eq!(waiter.read_timeout(Duration::ZERO), None);
    client.publish(&home.queue, "p");
    works_off(&mut waiter, &home.queue, "p");
    home.goes_on(&mut client);
}

/// Consumers wait, their slot moves, and they wait again at the new node.
fn wait_while(tag: &str, move_slot: impl Fn(&Cluster, u16, usize) -> bool) {
    let cluster = Shared::cluster();
    let (slot, target) = (slot_of(tag), another_node(&cluster, tag));
    let home = Household::new(&cluster, tag);
    let names = ["one", "two", "three"];
    let mut waiters = Vec::from(names.map(|name| consumer(&cluster, name, &home.queue)));
    waiters.push(consumer(&cluster, "c", format!("empty{{{tag}}}")));
    let several: Vec<_> = (0..10).map(|number| format!("{number}{{{tag}}}")).collect();
    let several = format!("THEN 10 {}", several.join(" "));
    waiters.push(consumer_with(&cluster, "d", &home.queue, &several));
    if !move_slot(&cluster, slot, target) {
        return;
    }
    for mut waiter in waiters {
        assert_eq!(waiter.read(), redirect("MOVED", slot, &cluster.nodes[target]));
        assert_eq!(waiter.run("PING"), simple("PONG"), "nothing more came");
    }
    let mut at_target = cluster.nodes[target].client();
    // It waits in many lines, and all of them have moved.
    let mut of_several = consumer_with(&cluster, "d", &home.queue, &several);
    at_target.publish(&format!("7{{{tag}}}"), "seventh");
    let reply = of_several.read();
    assert_eq!(reply.items()[0].items()[1].get("payload"), &bulk("seventh"));
    let mut waiters = names.map(|name| consumer(&cluster, name, &home.queue));
    for (number, waiter) in waiters.iter_mut().enumerate() {
        at_target.publish(&home.queue, &number.to_string());
        works_off(waiter, &home.queue, &number.to_string());
    }
    home.goes_on(&mut at_target);
}

#[test]
fn waiting_consumers_are_redirected_after_their_slot() {
    wait_while("waiting", |cluster, slot, to| {
        move_slowly(cluster, slot, to);
        true
    });
}

#[test]
fn waiting_consumers_are_redirected_after_a_slot_that_migrates_atomically() {
    wait_while("waiting-at-once", move_at_once);
}

#[test]
fn plain_entries_added_while_a_slot_moves_are_not_lost() {
    let cluster = Shared::cluster();
    let tag = "foreign";
    let home = Household::new(&cluster, tag);
    let (source, mut waiter) = (cluster.node_for(tag), consumer(&cluster, "one", &home.queue));
    let (_way, reshard) = begin_to_move(&cluster, slot_of(tag), another_node(&cluster, tag));
    let mut at_target = cluster.nodes[reshard.to].client();
    let add = args!["XADD", home.queue, "*", "payload", "foreign"];
    assert!(matches!(source.client().cmd(&add), Value::Bulk(_)));
    reshard.migrate_keys();
    assert!(matches!(asking(&mut at_target, &add), Value::Bulk(_)));
    reshard.finish();
    // The first task may have been handed over on arrival; then it is leased to the waiter.
    let reply = waiter.read();
    let mut got = if reply.is_error_with("MOVED ") { vec![] } else { reply.task_ids() };
    let rest = at_target.run(format!("TASK.CONSUME g one {} 10", home.queue));
    got.extend(rest.task_ids());
    assert_eq!(got.len(), 2);
    for id in got {
        assert_eq!(at_target.run(format!("TASK.ACK {} g {id}", home.queue)), int(1));
    }
    home.goes_on(&mut at_target);
}

/// A client that follows the cluster, as a client library does.
struct Follower {
    connections: HashMap<u16, Client>,
    port: u16,
}

impl Follower {
    fn new(node: &Server) -> Self {
        Self { connections: HashMap::new(), port: node.port() }
    }

    fn at(&mut self, port: u16) -> &mut Client {
        self.connections.entry(port).or_insert_with(|| Client::connect(port))
    }

    /// Calls a command once, and once more after an ASK. `None` after MOVED or TRYAGAIN.
    #[track_caller]
    fn try_call(&mut self, command: &str) -> Option<Value> {
        let port = self.port;
        let mut reply = self.at(port).run(command);
        if reply.is_error_with("ASK ") {
            let client = self.at(port_in(&reply));
            assert_eq!(client.run("ASKING"), ok());
            reply = client.run(command);
        }
        if reply.is_error_with("MOVED ") {
            self.port = port_in(&reply);
            return None;
        }
        (!reply.is_error_with("TRYAGAIN ")).then_some(reply)
    }

    /// Calls a command until it has an answer.
    #[track_caller]
    fn call(&mut self, command: &str) -> Value {
        eventually(SOON, command, || self.try_call(command))
    }

    /// Calls a command once at both nodes, with ASKING, whichever has the slot; returns the replies that
    /// are not redirections.
    #[track_caller]
    fn call_everywhere(&mut self, nodes: [u16; 2], command: &str) -> Vec<Value> {
        let refusals = ["MOVED ", "ASK ", "TRYAGAIN "];
        let replies = nodes.map(|port| {
            let replies = self.at(port).pipeline(&["ASKING", command]);
            replies[1].clone()
        });
        let mut replies = replies.to_vec();
        replies.retain(|reply| !refusals.iter().any(|refusal| reply.is_error_with(refusal)));
        replies
    }
}

/// The port at the end of a redirection.
#[track_caller]
fn port_in(redirect: &Value) -> u16 {
    let port = redirect.as_str().rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no redirection: {redirect:?}"))
}

/// Ends the loops of all threads of a test when one of them panics.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, SeqCst);
        }
    }
}

/// Something that one client at a time may have.
struct Prize {
    /// The command that asks for it, and its replies: granted and not granted.
    take: String,
    taken: [Value; 2],
    /// The command that gives it back.
    give: String,
    given: Value,
    /// Whether a client holds it and has not begun to give it back.
    held: AtomicBool,
    grants: AtomicUsize,
}

impl Prize {
    /// A prize in the slot of a tag, which stands for `%` in the commands.
    fn new(tag: &str, take: &str, taken: [Value; 2], give: &str, given: Value) -> Self {
        let [take, give] = [take, give].map(|command| command.replace('%', tag));
        let (held, grants) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { take, taken, give, given, held, grants }
    }

    /// Asks for it repeatedly, both as a client that follows the cluster and at both nodes at the same
    /// time. `#` in the commands stands for the competitor's name.
    fn compete(&self, name: usize, nodes: [&Server; 2], stop: &AtomicBool) {
        let _guard = StopOnPanic(stop);
        let [take, give] = [&self.take, &self.give].map(|c| c.replace('#', &name.to_string()));
        let mut follower = Follower::new(nodes[0]);
        while !stop.load(SeqCst) {
            let mut replies = follower.call_everywhere(nodes.map(Server::port), &take);
            if replies.is_empty() {
                replies.extend(follower.try_call(&take));
            }
            for reply in &replies {
                assert!(self.taken.contains(reply), "{take}: {reply:?}");
            }
            if replies.contains(&self.taken[0]) {
                self.grants.fetch_add(1, SeqCst);
                self.has_one_more_holder();
                thread::sleep(Duration::from_millis(1));
                self.give(&mut follower, &give);
            }
        }
    }

    /// Gives it back. While that is refused, no other client can get it.
    fn give(&self, follower: &mut Follower, give: &str) {
        eventually(SOON, give, || {
            self.held.store(false, SeqCst);
            let reply = follower.try_call(give);
            if reply.is_none() {
                self.has_one_more_holder();
            }
            reply.map(|reply| assert_eq!(reply, self.given, "{give}"))
        });
    }

    fn has_one_more_holder(&self) {
        assert!(!self.held.swap(true, SeqCst), "two holders: {}", self.take);
    }
}

/// Moves a slot key by key, with some time in each state.
fn move_slowly(cluster: &Cluster, slot: u16, to: usize) {
    let (_way, reshard) = begin_to_move(cluster, slot, to);
    thread::sleep(Duration::from_millis(30));
    reshard.migrate_keys();
    thread::sleep(Duration::from_millis(30));
    reshard.finish();
}

/// Has the cluster migrate a slot atomically. False if the server cannot.
fn move_at_once(cluster: &Cluster, slot: u16, to: usize) -> bool {
    let (from, new) = (cluster.node_of_slot(slot), cluster.id(to));
    let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {new}");
    let _way = one_at_a_time();
    let begun = cluster.nodes[from].client().run(migrate);
    if begun.is_error_with("ERR unknown subcommand") {
        return false;
    }
    assert_eq!(begun, ok());
    cluster.wait_owner(slot, to);
    true
}

/// Six clients compete for a lock and for a lease, and their slot moves to and fro.
fn compete_while(tag: &str, move_slot: impl Fn(&Cluster, u16, usize)) {
    let cluster = Shared::cluster();
    let slot = slot_of(tag);
    let (home, away) = (cluster.node_of_slot(slot), another_node(&cluster, tag));
    let nodes = [&cluster.nodes[home], &cluster.nodes[away]];
    let (take, give) = ("LOCK.ACQUIRE lock{%} # 600000", "LOCK.RELEASE lock{%} #");
    let lock = Prize::new(tag, take, [int(1), int(0)], give, int(1));
    let (take, give) = ("CACHE.LOCK key{%} 600000 600000", "CACHE.SET key{%} v 600000");
    let lease = Prize::new(tag, take, [simple("LOAD"), simple("WAIT")], give, ok());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _guard = StopOnPanic(&stop);
        for (name, prize) in [&lock, &lease].into_iter().cycle().take(6).enumerate() {
            let stop = &stop;
            scope.spawn(move || prize.compete(name, nodes, stop));
        }
        let wait_for_grants = || {
            for prize in [&lock, &lease] {
                let goal = prize.grants.load(SeqCst) + 5;
                eventually(SOON, "it is taken again", || {
                    stop.load(SeqCst) || prize.grants.load(SeqCst) > goal
                });
            }
        };
        for to in [away, home, away, home, away] {
            wait_for_grants();
            move_slot(&cluster, slot, to);
        }
        wait_for_grants();
        stop.store(true, SeqCst);
    });
}

#[test]
fn a_lock_and_a_lease_never_have_two_holders_while_their_slot_moves() {
    compete_while("contended", move_slowly);
}

#[test]
fn a_lock_and_a_lease_never_have_two_holders_when_their_slot_migrates_atomically() {
    compete_while("contended-at-once", |cluster, slot, to| {
        // Servers without atomic migration are tested above.
        let _moved = move_at_once(cluster, slot, to);
    });
}

/// A queue gets a second group while its slot is away: when it comes back, a task that the first
/// group has acknowledged is still there for the second.
fn a_group_is_added_while_away(tag: &str, move_slot: impl Fn(&Cluster, u16, usize)) {
    let cluster = Shared::cluster();
    let slot = slot_of(tag);
    let (home, away) = (cluster.node_of_slot(slot), another_node(&cluster, tag));
    let stream = format!("queue{{{tag}}}");
    let finish_one = |client: &mut Client| {
        client.publish(&stream, "p");
        let id = client.lease("g", "c", &stream);
        assert_eq!(client.run(format!("TASK.ACK {stream} g {id}")), int(1));
        client.run(format!("XLEN {stream}"))
    };
    let mut at_home = cluster.nodes[home].client();
    assert_eq!(finish_one(&mut at_home), int(0));
    move_slot(&cluster, slot, away);
    let create = format!("XGROUP CREATE {stream} second 0");
    assert_eq!(cluster.client_for(tag).run(create), ok());
    move_slot(&cluster, slot, home);
    assert_eq!(finish_one(&mut cluster.client_for(tag)), int(1));
    let found = cluster.client_for(tag).run(format!("TASK.CONSUME second c {stream}"));
    assert_eq!(found.task_payloads(), ["p"]);
}

#[test]
fn a_node_forgets_the_groups_of_a_queue_that_was_away() {
    a_group_is_added_while_away("groups", move_slowly);
}

#[test]
fn a_node_forgets_the_groups_of_a_queue_that_was_away_at_once() {
    a_group_is_added_while_away("groups-at-once", |cluster, slot, to| {
        // Servers without atomic migration are tested above.
        let _moved = move_at_once(cluster, slot, to);
    });
}

/// A lock, a load and a task, each leased with TIED by a connection of its own at the node of a tag.
struct Tied {
    holders: Vec<Client>,
    lock: String,
    key: String,
    queue: String,
}

impl Tied {
    #[track_caller]
    fn new(cluster: &Cluster, tag: &str) -> Self {
        let [lock, key, queue] = ["lock", "key", "queue"].map(|name| format!("{name}{{{tag}}}"));
        cluster.client_for(tag).publish(&queue, "p");
        let take = [
            format!("LOCK.ACQUIRE {lock} me 600000 TIED"),
            format!("CACHE.FETCH {key} 600000 TIED"),
            format!("TASK.CONSUME g c {queue} TIED META"),
        ];
        let holders = take.map(|take| {
            let mut holder = cluster.client_for(tag);
            assert!(!holder.run(take).is_error());
            holder
        });
        Self { holders: holders.into(), lock, key, queue }
    }

    /// Which of them are still leased, in this order.
    #[track_caller]
    fn leased(&self, client: &mut Client) -> [bool; 3] {
        let tasks = client.run(format!("XPENDING {} g - + 10", self.queue)).items().len();
        let expired = format!("XPENDING {} g IDLE 300000 - + 10", self.queue);
        [
            client.run(format!("EXISTS lock::{}", self.lock)) == int(1),
            client.run(format!("EXISTS cachelock::{}", self.key)) == int(1),
            tasks > client.run(expired).items().len(),
        ]
    }

    /// Their connections close. Waits until nothing is tied to them any more.
    #[track_caller]
    fn close(&mut self, node: &Server) {
        self.holders.clear();
        let mut client = node.client();
        for family in ["lock", "cache", "task"] {
            let field = format!("corral_{family}_ties");
            let is_none = || client.info("corral", &field).as_deref() == Some("0");
            eventually(SOON, &format!("{family}: nothing is tied"), is_none);
        }
    }
}

/// Leases that are tied at a node that no longer serves their slot end by their time.
fn tied_while(tag: &str, move_slot: impl Fn(&Cluster, u16, usize)) {
    let cluster = Shared::cluster();
    let (slot, away) = (slot_of(tag), another_node(&cluster, tag));
    let home = cluster.node_of_slot(slot);
    let mut tied = Tied::new(&cluster, tag);
    assert_eq!(tied.leased(&mut cluster.client_for(tag)), [true; 3]);
    move_slot(&cluster, slot, away);
    let moved = cluster.node_of_slot(slot) != home;
    tied.close(&cluster.nodes[home]);
    assert_eq!(tied.leased(&mut cluster.client_for(tag)), [moved; 3]);
}

#[test]
fn leases_whose_slot_has_moved_do_not_end_with_their_connection() {
    tied_while("tied", move_slowly);
}

#[test]
fn leases_whose_slot_has_migrated_atomically_do_not_end_with_their_connection() {
    tied_while("tied-at-once", |cluster, slot, to| {
        // On a server without atomic migration the slot stays.
        let _moved = move_at_once(cluster, slot, to);
    });
}

#[test]
fn while_a_slot_moves_the_leases_that_are_still_here_end_with_their_connection() {
    let cluster = Shared::cluster();
    let tag = "tied-and-moving";
    let slot = slot_of(tag);
    let mut tied = Tied::new(&cluster, tag);
    let (_way, reshard) = begin_to_move(&cluster, slot, another_node(&cluster, tag));
    tied.close(&cluster.nodes[reshard.from]);
    reshard.cancel();
    assert_eq!(tied.leased(&mut cluster.client_for(tag)), [false; 3]);
}

// --- Failover

#[test]
fn a_replica_takes_over_with_locks_leases_and_tasks() {
    let mut cluster = Cluster::start(3, Server::builder());
    let tag = "failover";
    let slot = slot_of(tag);
    let home = Household::new(&cluster, tag);
    let old = cluster.node_of_slot(slot);
    let replica = cluster.add_replica(old);
    let mut waiters = ["one", "two"].map(|name| consumer(&cluster, name, &home.queue));

    // A replica answers reads after READONLY and redirects writes.
    let mut at_replica = cluster.nodes[replica].client();
    assert_eq!(at_replica.run("READONLY"), ok());
    wait_in_sync(&cluster.nodes[old], &cluster.nodes[replica]);
    assert_eq!(at_replica.run(format!("CACHE.GET {}", home.key)), bulk("v"));
    for command in [home.writes_to_keys(), home.writes_to_names()].concat() {
        assert_eq!(at_replica.cmd(&command), redirect("MOVED", slot, &cluster.nodes[old]));
    }

    assert_eq!(at_replica.run("CLUSTER FAILOVER"), ok());
    cluster.wait_owner(slot, replica);
    for waiter in &mut waiters {
        let reply = waiter.read();
        let sent_on = reply == redirect("MOVED", slot, &cluster.nodes[replica]);
        assert!(sent_on || reply.is_error_with("UNBLOCKED "), "{reply:?}");
    }
    eventually(SOON, "the old master follows", || {
        info(&cluster.nodes[old], "replication", "role").as_deref() == Some("slave")
    });
    assert_eq!(info(&cluster.nodes[old], "corral", "corral_task_waiters").as_deref(), Some("0"));
    let mut at_new = cluster.nodes[replica].client();
    let mut waiter = consumer(&cluster, "three", &home.queue);
    at_new.publish(&home.queue, "p");
    works_off(&mut waiter, &home.queue, "p");
    // The new master does not know the loader.
    home.goes_on_with(&mut at_new, &simple("LOAD"));
    no_panics(&cluster);
}

// --- Queues with priorities, delayed tasks, dead letters and policies

/// Each command that writes to a queue and is not among [`writes`], on a task that is leased to
/// `worker` of the group `g`. None of them waits.
fn writes_to_queue(queue: &str, task: &str, dead: &str) -> Vec<Args> {
    [
        format!("TASK.PUBLISH {queue} p DELAY 60000"),
        format!("TASK.PUBLISH {queue} p PRIORITY 5"),
        format!("TASK.PUBLISH {queue} p UNIQUE other 60000"),
        format!("TASK.PUBLISH {queue} p UNIQUE other 60000 UNTIL START"),
        format!("TASK.PUBLISH {queue} p UNIQUE last 60000 UNTIL DONE LAST"),
        format!("TASK.CONSUME g other {queue} COUNT 10 BLOCK 0 META"),
        format!("TASK.EXTEND {queue} g worker {task}"),
        format!("TASK.EXTEND {queue} g worker {task} 1-1"),
        format!("TASK.RESCHEDULE {queue} {task} DELAY 0"),
        format!("TASK.NACK {queue} g worker SILENT {task}"),
        format!("TASK.NACK {queue} g worker FAIL {task} DELAY 10"),
        format!("TASK.NACK {queue} g worker SILENT {task} PAYLOAD q"),
        format!("TASK.NACK {queue} g worker FATAL {task}"),
        format!("TASK.CANCEL {queue} 9000000000000-1000000000000000000 1-1"),
        format!("TASK.CANCEL {queue} {task} FORCE"),
        format!("TASK.REDRIVE {dead} {queue}"),
        format!("TASK.REDRIVE {dead} {queue} ID 1-1"),
        format!("TASK.POLICY {queue} PAUSED 1"),
    ]
    .map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    .to_vec()
}

/// The keys of a queue, including those of the unique ids `u` and `last`.
fn keys_of_queue(queue: &str) -> Vec<String> {
    let own = |prefix: &str| {
        if queue.contains('}') {
            format!("{prefix}::{queue}")
        } else {
            format!("{prefix}:{{{queue}}}")
        }
    };
    let unique = own(&format!("unique{}", queue.len()));
    let kinds =
        ["dead", "delayed", "policy", "priority3", "taskmoved", "taskmarks", "taskheld"].map(own);
    let named = [queue.to_owned(), format!("{unique}:u"), format!("{unique}:last")];
    kinds.into_iter().chain(named).collect()
}

/// A queue with a task of every kind.
struct EveryKind {
    queue: String,
    dead: String,
    /// The id that the dead letter had.
    died: String,
    /// Leased to `worker` of the group `g`: of priority 0, and of priority 3.
    leased: [String; 2],
    /// It was put off, so it has another id by now.
    delayed: String,
    /// Leased to `worker`, and held until that is done.
    first: String,
    held: String,
}

impl EveryKind {
    /// A queue with a dead letter, two leased tasks, one that is delayed for 60 s under the unique id
    /// `u`, and one that is held under the unique id `last` until a third leased one has ended.
    #[track_caller]
    fn new(client: &mut Client, queue: &str) -> Self {
        let dead = keys_of_queue(queue)[0].clone();
        let policy = format!("TASK.POLICY {queue} LEASE 60000 TRIES 5 BACKOFF 10 10");
        assert_eq!(client.run(policy), ok());
        client.publish(queue, "dead");
        let died = client.lease("g", "worker", queue);
        let nack = format!("TASK.NACK {queue} g worker FATAL {died} REASON broken");
        assert_eq!(client.run(nack), int(2));
        let leased = [("urgent", "PRIORITY 3"), ("plain", "")].map(|(payload, options)| {
            let id = client.publish_with(queue, payload, options);
            assert_eq!(client.lease("g", "worker", queue), id);
            id
        });
        let [urgent, plain] = leased;
        let unique = "DELAY 60000 UNIQUE u 60000";
        let delayed = client.publish_with(queue, "delayed", unique);
        assert_eq!(client.publish_with(queue, "again", "UNIQUE u 60000"), delayed);
        let put_off = format!("TASK.RESCHEDULE {queue} {delayed} DELAY 70000");
        assert_eq!(client.run(put_off), int(1));
        let last = "UNIQUE last 60000 UNTIL DONE LAST";
        let first = client.publish_with(queue, "first", last);
        assert_eq!(client.lease("g", "worker", queue), first);
        let held = client.publish_with(queue, "held", last);
        let leased = [plain, urgent];
        Self { queue: queue.into(), dead, died, leased, delayed, first, held }
    }

    /// Everything is as it was created, and every command works on it. Nothing is left afterwards.
    #[track_caller]
    fn work_off(self, client: &mut Client) {
        let Self { queue, dead, died, leased, delayed, first, held } = self;
        let info = client.run(format!("TASK.INFO {queue}"));
        for (field, count) in [("length", 3), ("delayed", 1), ("held", 1), ("dead", 1)] {
            assert_eq!(info.get(field), &int(count), "{queue}: {field}");
        }
        assert_eq!(info.get("policy").get("tries"), &int(5), "{queue}");
        let again = client.publish_with(&queue, "again", "UNIQUE u 60000");
        assert_eq!(again, delayed, "{queue}");
        let [plain, urgent] = leased;
        for (task, how, retry_count) in [(plain, "SILENT", 0), (urgent, "FAIL", 1)] {
            let extend = format!("TASK.EXTEND {queue} g worker {task}");
            assert_eq!(client.run(extend), int(1), "{queue}");
            let nack = format!("TASK.NACK {queue} g worker {how} {task} DELAY 20");
            assert_eq!(client.run(nack), int(1), "{queue}");
            let consume = format!("TASK.CONSUME g worker {queue} BLOCK 10000 META");
            let reply = client.run(consume).delivered();
            assert_eq!(reply.len(), 1, "{queue}");
            let fields = &reply[0].fields;
            assert!(fields.contains(&format!("original_id={task}")), "{queue}: {fields}");
            assert!(fields.contains(&format!("retry_count={retry_count}")), "{queue}: {fields}");
            let ack = format!("TASK.ACK {queue} g {}", reply[0].id);
            assert_eq!(client.run(ack), int(1), "{queue}");
        }
        for (id, expected) in [(&delayed, "delayed"), (&first, "leased"), (&held, "held")] {
            let state = client.run(format!("TASK.STATE {queue} {id}"));
            assert_eq!(state.get("state"), &bulk(expected), "{queue}");
        }
        let last = "UNIQUE last 60000 UNTIL DONE LAST";
        assert_eq!(client.publish_with(&queue, "later", last), held, "{queue}");
        let redrive = format!("TASK.REDRIVE {dead} {queue} ID {died}");
        assert_eq!(client.run(redrive), int(1), "{queue}");
        let again = client.run(format!("TASK.CONSUME g worker {queue}"));
        assert_eq!(again.task_payloads(), ["dead"], "{queue}");
        let ack = format!("TASK.ACK {queue} g {}", again.task_ids()[0]);
        assert_eq!(client.run(ack), int(1), "{queue}");
        assert_eq!(client.run(format!("TASK.CANCEL {queue} {delayed}")), int(1), "{queue}");
        let force = format!("TASK.CANCEL {queue} {first} FORCE");
        assert_eq!(client.run(force), int(1), "{queue}");
        let later = client.consume("g", "worker", &queue, 1).remove(0);
        assert_eq!(payload_of(&later), "later", "{queue}");
        assert_eq!(field_of(&later, "original_id"), Some(&held[..]), "{queue}");
        assert_eq!(client.run(format!("TASK.ACK {queue} g {}", later.id)), int(1), "{queue}");
        let info = client.run(format!("TASK.INFO {queue}"));
        for field in ["length", "delayed", "held", "dead"] {
            assert_eq!(info.get(field), &int(0), "{queue}: {field}");
        }
        for key in keys_of_queue(&queue) {
            let follows = key.starts_with("task") || key.ends_with(":last");
            assert!(!follows || client.cmd(&["EXISTS", &key]) == int(0), "{key} is left");
        }
        for key in keys_of_queue(&queue) {
            client.cmd(&["DEL", &key]);
        }
    }
}

#[test]
fn queue_commands_work_on_names_with_and_without_a_tag() {
    let cluster = Shared::cluster();
    for queue in ["kinds", "kinds:{one}", "k{two}inds", "kinds{three}}{", "kinds{"] {
        let slot = slot_of(queue);
        let mut client = cluster.client_for(queue);
        let made = EveryKind::new(&mut client, queue);
        let mut expected = keys_of_queue(queue);
        expected.sort();
        let keys = Vec::from_iter(keys_in_slot(&mut client, slot).into_keys());
        assert_eq!(keys, expected, "{queue}");
        made.work_off(&mut client);
        assert_eq!(keys_in_slot(&mut client, slot).len(), 0, "{queue}");
    }
}

#[test]
fn dead_letters_are_not_redriven_into_another_slot() {
    let cluster = Shared::cluster();
    let mut client = cluster.client_for("{redrive}");
    let made = EveryKind::new(&mut client, "{redrive}");
    let before = keys_in_slot(&mut client, slot_of("{redrive}"));
    let dead = &made.dead;
    for (from, to) in
        [(&**dead, "elsewhere"), ("elsewhere", "{redrive}"), (dead, "{else}{redrive}")]
    {
        let refused = client.run(format!("TASK.REDRIVE {from} {to}"));
        assert!(refused.is_error_with("CROSSSLOT "), "{from} {to}: {refused:?}");
    }
    assert_eq!(keys_in_slot(&mut client, slot_of("{redrive}")), before);
    made.work_off(&mut client);
}

#[test]
fn while_a_slot_moves_neither_node_writes_to_a_queue() {
    let cluster = Shared::cluster();
    let queue = "refusing:kinds";
    let slot = slot_of(queue);
    let made = EveryKind::new(&mut cluster.client_for(queue), queue);
    let (_way, reshard) = begin_to_move(&cluster, slot, another_node(&cluster, queue));
    let (source, target) = (&cluster.nodes[reshard.from], &cluster.nodes[reshard.to]);
    let (mut at_source, mut at_target) = (source.client(), target.client());
    let before = keys_in_slot(&mut at_source, slot);
    let [plain, urgent] = &made.leased;
    let commands = [plain, urgent].map(|task| writes_to_queue(queue, task, &made.dead)).concat();
    let is_try_again = |reply: &Value| reply.is_error_with("TRYAGAIN ");
    let sent_on = redirect("ASK", slot, target);
    for migrated in [false, true] {
        for command in &commands {
            let name = shown(&command.join(&b' '));
            let reply = at_source.cmd(command);
            let refused = is_try_again(&reply) || migrated && reply == sent_on;
            assert!(refused, "{name} at the source: {reply:?}");
            let reply = asking(&mut at_target, command);
            assert!(is_try_again(&reply), "{name} at the target: {reply:?}");
        }
        let holder = if migrated { &mut at_target } else { &mut at_source };
        assert_eq!(keys_in_slot(holder, slot), before);
        if !migrated {
            assert_eq!(reshard.migrate_keys(), before.len());
        }
    }
    reshard.finish();
    made.work_off(&mut at_target);
}

/// Tasks that become due, and leases that expire, while their slot moves are handed over at the new
/// node and not before.
#[test]
fn tasks_that_become_due_while_their_slot_moves_are_delivered_at_the_new_node() {
    let cluster = Shared::cluster();
    let queue = "due:kinds";
    let slot = slot_of(queue);
    let mut client = cluster.client_for(queue);
    // The move may have to wait for others, and nothing may be due before it begins.
    let _way = one_at_a_time();
    assert_eq!(client.run(format!("TASK.POLICY {queue} LEASE 3000")), ok());
    client.publish_with(queue, "leased", "PRIORITY 4");
    client.lease("g", "worker", queue);
    let lease_ends = now_ms() + 3000;
    let mut waiter = consumer(&cluster, "waiter", queue);
    let due = id_ms(&client.publish_with(queue, "due", "DELAY 2000"));
    let reshard = cluster.reshard(slot, another_node(&cluster, queue));
    let (mut at_source, mut at_target) =
        (cluster.nodes[reshard.from].client(), cluster.nodes[reshard.to].client());
    let before = keys_in_slot(&mut at_source, slot);
    eventually(SOON, "it is due at the one node", || now_ms() > due + 150);
    assert_eq!(keys_in_slot(&mut at_source, slot), before);
    reshard.migrate_keys();
    eventually(SOON, "the lease expires at the other node", || now_ms() > lease_ends + 150);
    assert_eq!(keys_in_slot(&mut at_target, slot), before);
    assert_eq!(waiter.read_timeout(Duration::ZERO), None);
    let target = reshard.to;
    reshard.finish();
    assert_eq!(waiter.read(), redirect("MOVED", slot, &cluster.nodes[target]));
    let mut came = Vec::new();
    let consume = format!("TASK.CONSUME g c {queue} COUNT 10 BLOCK 10000 META");
    while came.len() < 2 {
        let reply = at_target.run(&consume).delivered();
        assert!(!reply.is_empty(), "{came:?}");
        for task in reply {
            assert_eq!(at_target.run(format!("TASK.ACK {queue} g {}", task.id)), int(1));
            came.push((payload_of(&task).to_owned(), task.deliveries));
        }
    }
    came.sort_unstable();
    assert_eq!(came, [("due".to_owned(), 1), ("leased".to_owned(), 2)]);
}

/// The payload of a task, which has no blank in it.
#[track_caller]
fn payload_of(task: &Delivered) -> &str {
    field_of(task, "payload").expect("a payload")
}

/// A field of a task, whose values have no blanks in them.
fn field_of<'a>(task: &'a Delivered, name: &str) -> Option<&'a str> {
    task.fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

/// While a slot moves, a plain client ends a task behind which another one is held: the new node
/// notices, and forgets what followed the first.
fn a_task_is_ended_while_its_slot_moves(queue: &str, end: &str) {
    let cluster = Shared::cluster();
    let mut client = cluster.client_for(queue);
    assert_eq!(client.run(format!("TASK.POLICY {queue} LEASE 2000 BACKOFF 0 0")), ok());
    let last = "UNIQUE last 600000 UNTIL DONE LAST";
    let first = client.publish_with(queue, "first", last);
    assert_eq!(client.lease("g", "c", queue), first);
    // It gets another id.
    assert_eq!(client.run(format!("TASK.NACK {queue} g c FAIL {first}")), int(1));
    let present = client.lease("g", "c", queue);
    let held = client.publish_with(queue, "held", last);
    let (_way, reshard) = begin_to_move(&cluster, slot_of(queue), another_node(&cluster, queue));
    reshard.migrate_keys();
    let mut at_target = cluster.nodes[reshard.to].client();
    let end = end.replace("ID", &present);
    let end: Args = end.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    assert_eq!(asking(&mut at_target, &end), int(1));
    reshard.finish();
    let consume = format!("TASK.CONSUME g c {queue} BLOCK 10000 META");
    let found = at_target.run(consume).delivered();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(payload_of(&found[0]), "held");
    assert_eq!(field_of(&found[0], "original_id"), Some(&held[..]));
    assert_eq!(at_target.run(format!("TASK.ACK {queue} g {}", found[0].id)), int(1));
    let left = || {
        assert_eq!(at_target.consume("g", "c", queue, 9), []);
        let keys = keys_of_queue(queue)
            .into_iter()
            .filter(|key| key.starts_with("task") || key.ends_with(":last"));
        keys.filter(|key| at_target.cmd(&["EXISTS", key]) == int(1)).count() == 0
    };
    eventually(SOON, "nothing follows the tasks that have ended", left);
}

#[test]
fn the_new_node_forgets_a_task_that_a_plain_client_ended_while_its_slot_moved() {
    a_task_is_ended_while_its_slot_moves("swept:acked", "XACK swept:acked g ID");
    a_task_is_ended_while_its_slot_moves("swept{deleted}", "XDEL swept{deleted} ID");
}

/// While its slot is at another node, a queue is paused and gets its first delayed and prioritized
/// tasks: when it comes back, the first node notices.
fn a_queue_changes_while_away(queue: &str, move_slot: impl Fn(&Cluster, u16, usize)) {
    let cluster = Shared::cluster();
    let slot = slot_of(queue);
    let (home, away) = (cluster.node_of_slot(slot), another_node(&cluster, queue));
    let mut at_home = cluster.nodes[home].client();
    // What the node remembers: no priorities, nothing delayed, not paused, and a lease.
    assert_eq!(at_home.run(format!("TASK.POLICY {queue} LEASE 60000 PAUSED 0")), ok());
    at_home.publish(queue, "leased");
    let leased = at_home.lease("g", "worker", queue);
    assert_eq!(at_home.run(format!("TASK.CONSUME g c {queue}")), nil_array());
    move_slot(&cluster, slot, away);
    let mut at_away = cluster.nodes[away].client();
    assert_eq!(at_away.run(format!("TASK.ACK {queue} g {leased}")), int(1));
    at_away.publish(queue, "plain");
    at_away.publish_with(queue, "urgent", "PRIORITY 8");
    at_away.publish_with(queue, "delayed", "DELAY 1 UNIQUE u 600000 UNTIL DONE");
    assert_eq!(at_away.run(format!("TASK.POLICY {queue} PAUSED 1 LEASE 1")), ok());
    move_slot(&cluster, slot, home);
    assert_eq!(at_home.run(format!("TASK.CONSUME g c {queue}")), nil_array(), "it is paused");
    assert_eq!(at_home.run(format!("TASK.POLICY {queue} PAUSED 0 LEASE 60000")), ok());
    for payload in ["urgent", "plain", "delayed"] {
        let found = at_home.run(format!("TASK.CONSUME g c {queue} META")).delivered();
        assert_eq!(found.len(), 1, "{payload}");
        assert_eq!((payload_of(&found[0]), found[0].deliveries), (payload, 1));
        assert_eq!(at_home.run(format!("TASK.ACK {queue} g {}", found[0].id)), int(1));
    }
    // It knows the mark, too, which it has not stored.
    for key in keys_of_queue(queue) {
        let follows = key.starts_with("task") || key.ends_with(":u");
        assert!(!follows || at_home.cmd(&["EXISTS", &key]) == int(0), "{key} is left");
    }
    assert_eq!(at_home.run(format!("TASK.CONSUME g c {queue}")), nil_array());
}

#[test]
fn a_node_forgets_the_state_of_a_queue_that_was_away() {
    a_queue_changes_while_away("memory:kinds", move_slowly);
}

#[test]
fn a_node_forgets_the_state_of_a_queue_that_was_away_at_once() {
    a_queue_changes_while_away("memory-at-once:kinds", |cluster, slot, to| {
        // Servers without atomic migration are tested above.
        if !move_at_once(cluster, slot, to) {
            move_slowly(cluster, slot, to);
        }
    });
}

/// A delivery: the number of the task, its retries and its deliveries.
type Seen = (usize, usize, i64);

/// Tasks of every kind are published, each of them twice. Workers acknowledge, fail or abandon them
/// while their slot moves to and fro.
fn work_of_every_kind_while(tag: &str, move_slot: impl Fn(&Cluster, u16, usize)) {
    const TASKS: usize = 400;
    const KINDS: [&str; 5] = ["", "PRIORITY 7", "DELAY 150", "DELAY 30 PRIORITY 3", "DELAY 400"];
    // Longer than any move delays a worker.
    const LEASE: u32 = 2500;
    let cluster = Shared::cluster();
    let slot = slot_of(tag);
    let (home, away) = (cluster.node_of_slot(slot), another_node(&cluster, tag));
    let stream = format!("kinds{{{tag}}}");
    let policy = format!("TASK.POLICY {stream} LEASE {LEASE} BACKOFF 50 50");
    assert_eq!(cluster.client_for(tag).run(policy), ok());
    let (ids, seen, done) =
        (Mutex::new(HashMap::new()), Mutex::new(Vec::new()), Mutex::new(vec![]));
    let (published, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let publish = || {
        let _guard = StopOnPanic(&stop);
        let mut follower = Follower::new(&cluster.nodes[home]);
        for number in 0..TASKS {
            let kind = KINDS[number % KINDS.len()];
            let command = format!("TASK.PUBLISH {stream} {number} {kind} UNIQUE u{number} 60000");
            let id = follower.call(&command);
            assert_eq!(follower.call(&command), id, "it was published before");
            ids.lock().expect("nobody panicked").insert(number, id.as_str().to_owned());
            published.store(number + 1, SeqCst);
        }
    };
    let all_done = || {
        stop.load(SeqCst) || done.lock().is_ok_and(|done: MutexGuard<Vec<_>>| done.len() >= TASKS)
    };
    let work = |name: &str| {
        let _guard = StopOnPanic(&stop);
        let mut follower = Follower::new(&cluster.nodes[away]);
        while !all_done() {
            let consume = format!("TASK.CONSUME g {name} {stream} COUNT 2 BLOCK 100 META");
            for task in follower.call(&consume).delivered() {
                let number: usize = payload_of(&task).parse().expect("a number");
                let tries = field_of(&task, "retry_count").and_then(|tries| tries.parse().ok());
                let tries = tries.expect("a number");
                let one: Seen = (number, tries, task.deliveries);
                seen.lock().expect("nobody panicked").push(one);
                let id = &task.id;
                match (number % 10, tries, task.deliveries) {
                    // The worker dies.
                    (7, 0, 1) => {}
                    (3 | 4, 0, 1) => {
                        let fail = format!("TASK.NACK {stream} g {name} FAIL {id}");
                        assert_eq!(follower.call(&fail), int(1));
                    }
                    _ => {
                        let original = field_of(&task, "original_id").unwrap_or(id).to_owned();
                        assert_eq!(follower.call(&format!("TASK.ACK {stream} g {id}")), int(1));
                        done.lock().expect("nobody panicked").push((number, original));
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        let _guard = StopOnPanic(&stop);
        scope.spawn(publish);
        for name in ["a", "b", "c"] {
            let work = &work;
            scope.spawn(move || work(name));
        }
        for (index, to) in [away, home, away].into_iter().enumerate() {
            let goal = (index + 1) * TASKS / 4;
            eventually(SOON, "some are published", || {
                stop.load(SeqCst) || published.load(SeqCst) >= goal
            });
            move_slot(&cluster, slot, to);
        }
        eventually(2 * SOON, "all are done", all_done);
        stop.store(true, SeqCst);
    });
    let done = done.into_inner().expect("nobody panicked");
    let ids = ids.into_inner().expect("nobody panicked");
    for (number, original) in &done {
        assert_eq!(original, &ids[number], "task {number} is not the one that was published");
    }
    let mut numbers: Vec<_> = done.into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..TASKS).collect::<Vec<_>>());
    let mut seen = seen.into_inner().expect("nobody panicked");
    seen.sort_unstable();
    let expected = |number: usize| -> Vec<Seen> {
        match number % 10 {
            7 => vec![(number, 0, 1), (number, 0, 2)],
            3 | 4 => vec![(number, 0, 1), (number, 1, 1)],
            _ => vec![(number, 0, 1)],
        }
    };
    assert_eq!(seen, (0..TASKS).flat_map(expected).collect::<Vec<_>>());
    let info = cluster.client_for(tag).run(format!("TASK.INFO {stream}"));
    for field in ["length", "delayed", "dead"] {
        assert_eq!(info.get(field), &int(0), "{field}");
    }
    let moved = format!("EXISTS taskmoved::{stream}");
    assert_eq!(cluster.client_for(tag).run(moved), int(0), "no present id is left");
}

#[test]
fn every_task_is_delivered_as_often_as_it_should_be_while_its_slot_moves() {
    work_of_every_kind_while("moving-kinds", move_slowly);
}

#[test]
fn every_task_is_delivered_as_often_as_it_should_be_when_its_slot_migrates_atomically() {
    work_of_every_kind_while("moving-kinds-at-once", |cluster, slot, to| {
        // Servers without atomic migration are tested above.
        let _moved = move_at_once(cluster, slot, to);
    });
}
